"""The type of a pruned model; it lives in :mod:`models`, where subnetworks are gated and compacted."""

from models.subnetwork import Mask, Subnetwork

__all__ = ["Mask", "Subnetwork"]
