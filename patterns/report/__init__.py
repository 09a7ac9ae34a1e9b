"""The page that shows every head."""
