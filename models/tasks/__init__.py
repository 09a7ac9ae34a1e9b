"""A task's rows and labels, the inputs made of them, and the metrics."""
