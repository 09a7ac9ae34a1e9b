"""What is known of each architecture family, as data, and the tap for those that compute attention on their own."""
