"""Which maps to label next: ``annotate-maps sample``."""
