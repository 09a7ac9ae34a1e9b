"""What a comparison of heads found, in words."""

from __future__ import annotations

from models.common.words import interval, percent

from ..taxonomy import INTERPRETABLE
from .records import Change, KindChanges, PairRecord


def ends_words(ends: list[float | None]) -> str:
    """`[0.101, 0.15]` as `[10.1, 15.0]`, in percent; nothing where an end is not known."""
    low, high = ends
    return "" if low is None or high is None else interval(low, high)


def points_words(change: Change) -> str:
    """A change of a share in percentage points, with its interval: ``-8.7 [-9.1, -8.0]``."""
    if change["change"] is None:
        return "-"
    return f"{100 * change['change']:+.1f} {ends_words(change['ci95'])}".strip()


def pair_words(one: PairRecord) -> list[str]:
    """Say what changed between two models, a sentence a kind of maps."""
    return [_kind_words(one, kind, found) for kind, found in one["maps"].items()]


def _kind_words(one: PairRecord, kind: str, found: KindChanges) -> str:
    agreed = f"{percent(found['agreement'])} {ends_words(found['agreement_ci95'])}".strip()
    changed = len(found["changed"])
    return (
        f"{one['a']} to {one['b']}, {kind} maps: {agreed} keep their pattern; {changed} of {one['heads']} heads have "
        f"another dominant one; heterogeneous maps change by {points_words(found['patterns'][INTERPRETABLE])} points."
    )


def changed_words(found: KindChanges, most: int = 12) -> str:
    """Name the heads with another dominant pattern, ``layer.head``; of many, the number by layer."""
    heads = found["changed"]
    if not heads:
        return "No head has another dominant pattern."
    if len(heads) <= most:
        return "Other dominant pattern: " + ", ".join(f"{layer}.{head}" for layer, head in heads) + "."
    layers = sorted({layer for layer, _ in heads})
    told = ", ".join(f"{sum(1 for one, _ in heads if one == layer)} in layer {layer}" for layer in layers)
    return f"Other dominant pattern: {told}."
