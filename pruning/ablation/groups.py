"""Which heads belong together: those that show a pattern, or have a role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from patterns import HeadPatterns
from patterns.distribution import counts
from patterns.measures.measured import ROLES
from patterns.taxonomy import PATTERNS, TITLES

Bools = npt.NDArray[np.bool_]

BY = ("dominant", "share")
"""When a head belongs to a pattern: it is the most frequent one of its maps, or has a given share of them."""


@dataclass(frozen=True, eq=False)
class Group:
    """Heads that have something in common."""

    kind: str
    """Of which maps."""
    sort: str
    """One of :data:`SORTS`."""
    name: str
    title: str
    heads: Bools
    """``[L, H]``."""

    @property
    def key(self) -> str:
        """What tells it from all others: ``norm/pattern/vertical``."""
        return f"{self.kind}/{self.sort}/{self.name}"


@dataclass(frozen=True)
class Sort:
    """A way to put heads into groups."""

    heads: Callable[[HeadPatterns, str, str, float], Mapping[str, Bools]]
    """From patterns, a kind of maps, one of :data:`BY` and the share of it to heads ``[L, H]``, by the group's name."""
    titles: Mapping[str, str]
    """What a group is called, where that is not its name."""
    measured: bool = False
    """Whether it takes what heads were measured to do."""


def _by_pattern(patterns: HeadPatterns, kind: str, by: str, share: float) -> Mapping[str, Bools]:
    """Heads by pattern; those without a map that has one are in no group.

    Of equally frequent patterns the earlier one is dominant, as in ``heads.parquet``.
    """
    number = counts(patterns.labels[kind])  # [L, H, 5]
    seen = number.sum(axis=-1)
    there = patterns.heads & (seen > 0)
    if by == "dominant":
        dominant = number.argmax(axis=-1)
        return {pattern.value: there & (dominant == i) for i, pattern in enumerate(PATTERNS)}
    of_head = number / np.maximum(seen, 1)[..., None]
    return {pattern.value: there & (of_head[..., i] >= share) for i, pattern in enumerate(PATTERNS)}


def _by_role(patterns: HeadPatterns, kind: str, by: str, share: float) -> Mapping[str, Bools]:
    """Heads by role, of which a head has every one that it passes; `by` and `share` are of patterns."""
    assert patterns.measured is not None
    return {role: patterns.measured.has_role(kind, role, patterns.heads) for role in ROLES}


SORTS: Mapping[str, Sort] = {
    "pattern": Sort(_by_pattern, {pattern.value: title for pattern, title in TITLES.items()}),
    "role": Sort(_by_role, {role: f"role {role.replace('_', ' ')}" for role in ROLES}, measured=True),
}
"""What heads are put into groups by; one more is an entry here."""


def check_grouping(sorts: Sequence[str], by: str, share: float) -> None:
    """Refuse what is no way to put heads into groups.

    Raises:
        InputError: naming the option, and what there is.
    """
    for sort in sorts:
        if sort not in SORTS:
            raise InputError(f"--groups {sort}: give one or more of {', '.join(SORTS)}.")
    if not sorts or len(set(sorts)) < len(sorts):
        raise InputError(f"--groups {','.join(sorts)}: give each of them once, and at least one.")
    if by not in BY:
        raise InputError(f"--by {by}: give {' or '.join(BY)}.")
    if not 0 < share <= 1:
        raise InputError(f"--share {share}: give a share above 0 and up to 1.")


def groups_of(patterns: HeadPatterns, sorts: Sequence[str], by: str, share: float) -> list[Group]:
    """Return the groups of a model's heads, empty ones too.

    Args:
        patterns: what the heads show.
        sorts: some of :data:`SORTS`.
        by: one of :data:`BY`.
        share: of a head's maps, where `by` says so.
    """
    return [
        Group(kind, name, member, SORTS[name].titles.get(member, member), heads)
        for name in sorts
        for kind in patterns.kinds
        for member, heads in SORTS[name].heads(patterns, kind, by, share).items()
    ]
