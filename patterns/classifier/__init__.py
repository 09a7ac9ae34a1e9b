"""The network that sorts maps into patterns: how it is built, trained and scored."""
