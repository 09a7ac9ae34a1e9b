"""``train-classifier`` and ``evaluate-classifier``."""
