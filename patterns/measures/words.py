"""What was measured of a head, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.common.words import percent

from .measured import COVERS, EVEN, FALSE_DISCOVERIES, INACTIVE, LEAST, ROLES
from .pairs import CONTENT, MEASURES

ROLE_TITLES: Mapping[str, str] = {
    **{name: measure.title for name, measure in MEASURES.items()},
    "even": "everywhere alike",
    "inactive": "writes next to nothing",
}
"""By role, what a head with it attends to, or does."""

COLUMN_OF: Mapping[str, str] = {
    **{name: f"share_{name}" for name in MEASURES},
    "even": "attention_entropy",
    "inactive": "writes",
}
"""By role, the column that it goes by."""

NOTES = (
    f"A head has every role that it passes: at least {LEAST:.0%} of what chance leaves over, and above chance at a "
    f"rate of false discoveries of {FALSE_DISCOVERIES:.0%} over heads; the tests are over inputs and cover {COVERS}.",
    "Chance is even attention over the tokens that may be seen; for segments, copies and what follows a copy, permuted "
    f"tokens if that is more. Even: an entropy of {EVEN:.0%} of the largest; inactive: at most {INACTIVE:.0%} of the "
    "norm of the residual stream.",
)
"""What roles go by, in sentences."""


def chance_in(row: Mapping[str, Any], role: str) -> float | None:
    """Return the chance that a role's share is beside, in a row of measurements; None for roles without."""
    if role not in MEASURES:
        return None
    even = float(row[f"chance_{role}"])
    return max(even, float(row[f"permuted_{role}"])) if role in CONTENT else even


def sentences(row: Mapping[str, Any]) -> list[str]:
    """Say what a head does: one sentence for each of its roles, or that it has none, and how much it writes.

    Args:
        row: of :meth:`patterns.measures.measured.HeadMeasurements.frame`.
    """
    said = []
    roles = roles_in(row)
    for role in roles:
        if role in MEASURES:
            said.append(_of_share(row, role, "Puts"))
        elif role == "even":
            said.append(f"Attends to all alike: {percent(row['attention_entropy'])} of the largest entropy.")
    if not set(roles) & set(MEASURES) and "even" not in roles:
        above = {name: row[f"share_{name}"] - (chance_in(row, name) or 0) for name in MEASURES}
        known = {name: value for name, value in above.items() if value == value}
        if known:
            said.append(
                "Has no role; nearest: puts" + _of_share(row, max(known, key=lambda one: known[one]), "")
            )
    if row["writes"] == row["writes"]:
        amount = f"{percent(row['writes'])} of the norm of the residual stream."
        said.append(("Writes next to nothing, " if "inactive" in roles else "Writes ") + amount)
    return said


def _of_share(row: Mapping[str, Any], name: str, verb: str) -> str:
    chance = percent(chance_in(row, name) or 0)
    return f"{verb} {percent(row[f'share_{name}'])} of its attention on {MEASURES[name].words}, {chance} by chance."


def roles_in(row: Mapping[str, Any]) -> list[str]:
    """Return the roles of a row of measurements."""
    found = set(str(row["roles"]).split(", "))
    return [role for role in ROLES if role in found]
