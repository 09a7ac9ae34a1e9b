"""Numbers as a reader sees them."""

from __future__ import annotations

import math


def percent(share: float) -> str:
    """`0.1234` as `12.3%`."""
    return f"{100 * share:.1f}%"


def interval(lo: float, hi: float) -> str:
    """`0.101, 0.15` as `[10.1, 15.0]`, in percent; nothing where a bound is nan."""
    return "" if math.isnan(lo) or math.isnan(hi) else f"[{100 * lo:.1f}, {100 * hi:.1f}]"
