"""How far those who labelled agree: ``annotate-maps agreement``."""
