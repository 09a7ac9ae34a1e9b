"""The tables of ``ablate-patterns``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .groups import Bools, Group
from .records import AblationSummary, GroupRecord

if TYPE_CHECKING:
    import pandas as pd

    from patterns import HeadPatterns


def groups_frame(found: Sequence[GroupRecord]) -> pd.DataFrame:
    """Return a row a group: what ``groups.csv`` holds."""
    import pandas as pd

    rows = []
    for one in found:
        together, each = one["together"], one["one_by_one"]
        random = together["random"]
        row: dict[str, Any] = {name: one[name] for name in ("kind", "sort", "name", "heads")}
        row |= {name: together[name] for name in ("score", "drop", "loss_increase")}
        row["drop_low"], row["drop_high"] = together["drop_ci95"]
        row |= {
            "random_mean": random["mean"] if random else None,
            "random_low": random["ci95"][0] if random else None,
            "random_high": random["ci95"][1] if random else None,
            "random_as_large": random["as_large"] if random else None,
            **_test(together),
            "alone_mean_drop": each["mean_drop"] if each else None,
            "alone_others": each["others"] if each else None,
            "alone_by_layers": each["by_layers"] if each else None,
            "alone_difference": each["difference"] if each else None,
            "alone_low": each["ci95"][0] if each else None,
            "alone_high": each["ci95"][1] if each else None,
            **{f"alone_{name}": value for name, value in _test(each).items()},
        }
        rows.append(row)
    return pd.DataFrame(rows).convert_dtypes()


def _test(one: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        name: one[name] if one else None for name in ("p_value", "smallest_p", "p_holm", "verdict", "why")
    }


def draws_frame(
    groups: Sequence[Group],
    drawn: Mapping[str, Bools],
    measured: Mapping[bytes, tuple[float, float]],
    score: float,
    loss: float,
) -> pd.DataFrame:
    """Return a row a random set: what ``draws.parquet`` holds."""
    import pandas as pd

    rows = []
    for group in groups:
        for number, heads in enumerate(drawn.get(group.key, ()), start=1):
            one = measured[heads.tobytes()]
            rows.append(
                {
                    "kind": group.kind,
                    "sort": group.sort,
                    "name": group.name,
                    "draw": number,
                    "heads": " ".join(f"{layer}.{head}" for layer, head in np.argwhere(heads)),
                    "score": one[0],
                    "drop": score - one[0],
                    "loss_increase": one[1] - loss,
                }
            )
    columns = ["kind", "sort", "name", "draw", "heads", "score", "drop", "loss_increase"]
    numbers = {"draw": "int64", **dict.fromkeys(("score", "drop", "loss_increase"), "float64")}
    return pd.DataFrame(rows, columns=columns).astype(numbers)  # where no group has heads, too


def singles_frame(
    patterns: HeadPatterns,
    candidates: Bools,
    singles: npt.NDArray[np.float64],
    summary: AblationSummary,
) -> pd.DataFrame:
    """Return a row a kind and head: what ``single_heads.parquet`` holds.

    Args:
        patterns: what heads show.
        candidates: ``[L, H]``, the heads that were closed.
        singles: ``[L, H, 2]``, score and loss with each head closed alone.
        summary: with nothing closed.
    """
    frame = patterns.to_frame()[["kind", "layer", "head", "dominant", "dominant_share"]]
    layers, heads = frame["layer"].to_numpy(), frame["head"].to_numpy()
    found = singles[layers, heads]
    frame = frame.assign(
        score=found[:, 0],
        drop=summary["score"] - found[:, 0],
        loss_increase=found[:, 1] - summary["loss"],
    )
    return frame[candidates[layers, heads]].reset_index(drop=True)
