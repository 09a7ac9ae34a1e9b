"""What happens to the score when the heads of a pattern are closed: ``ablate-patterns``."""
