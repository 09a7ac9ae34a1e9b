"""Survivors of several searches: ``compare-survivors``."""
