"""The whole grid of task, seed, method and subnetwork: ``run-study``."""
