"""What survives pruning under every seed, and what under none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_, or_

from models.common.errors import InputError
from models.subnetwork import Subnetwork


def super_survivors(subnetworks: Sequence[Subnetwork]) -> Subnetwork:
    """Return the heads and MLPs that every subnetwork keeps (Prasanna et al. 2020, section 5).

    Raises:
        InputError: there is no subnetwork, or they are of models of different sizes.
    """
    return reduce(and_, _some(subnetworks))


def never_survivors(subnetworks: Sequence[Subnetwork]) -> Subnetwork:
    """Return the heads and MLPs that no subnetwork keeps.

    Raises:
        InputError: as :func:`super_survivors`.
    """
    return ~reduce(or_, _some(subnetworks))


def _some(subnetworks: Sequence[Subnetwork]) -> list[Subnetwork]:
    given = list(subnetworks)
    if not given:
        raise InputError("Survivors need at least one subnetwork; none was given.")
    return given
