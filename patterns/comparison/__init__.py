"""The same heads in several models: ``compare-heads``."""
