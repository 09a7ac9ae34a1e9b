"""The searches for subnetworks: ``prune-heads`` and ``prune-weights``."""
