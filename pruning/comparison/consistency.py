"""How far the seeds of each task agree, and what tasks have in common, each beside its chance level."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.common.files import known

from ..search.runs import Group
from ..stability import (
    NULLS,
    Chance,
    beside_chance,
    cochran_q,
    fleiss_kappa,
    shared_heads,
    stacked,
    survival_mean,
    survival_std,
)
from ..survivors import never_survivors, super_survivors

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]

DRAWS = 1000
COCHRAN = "Cochran's Q tests whether the seeds keep equally many heads (or MLPs), not whether they keep the same ones."


def nulls_of(what: str) -> tuple[str, ...]:
    """Return the nulls that say something: a layer has one MLP, so within a layer there is nothing to draw."""
    return NULLS if what == "heads" else NULLS[:1]


def random_masks(group: Group, what: str, null: str, draws: int = DRAWS, seed: int = 0) -> Masks:
    """Return random masks ``[D, S, N]`` of the same sizes, as :func:`pruning.stability.randomised` draws them.

    They depend on `seed`, the task and the method, not on which other tasks there are.
    """
    masks = stacked(group.subnetworks, what)
    of = zlib.crc32(f"{group.task}/{group.method}/{what}/{null}".encode())
    rows = masks if null == "size-per-layer" else masks.reshape(len(masks), -1)
    drawn = np.broadcast_to(rows, (draws, *rows.shape))
    return np.random.default_rng([seed, of]).permuted(drawn, axis=-1).reshape(draws, len(masks), -1)


def stability_of(group: Group, what: str, seed: int = 0) -> dict[str, Any]:
    """Return, ready for JSON, who survives under all seeds and under none, and how far the seeds agree.

    What takes two seeds, or some but not all kept, is None where there is less.
    """
    subnetworks = group.subnetworks
    always, never = super_survivors(subnetworks), never_survivors(subnetworks)
    mean = survival_mean(subnetworks, what)
    result: dict[str, Any] = {
        "all": int(mean.size),
        "super_survivors": int(getattr(always, what).sum()),
        "never_survivors": int(getattr(never, what).sum()),
        "super_survivors_list": _places(getattr(always, what)),
        "never_survivors_list": _places(getattr(never, what)),
        "mean_survival": float(mean.mean()),
        "mean_std": None,
        "fleiss_kappa": None,
        "cochran_q": None,
        "chance": {},
    }
    observed = {"super_survivors": float(result["super_survivors"])}
    if len(subnetworks) > 1:
        result["mean_std"] = float(survival_std(subnetworks, what).mean())
        observed["fleiss_kappa"] = fleiss_kappa(subnetworks, what)
        result["fleiss_kappa"] = known(observed["fleiss_kappa"])
        q = cochran_q(subnetworks, what)
        if not math.isnan(q.p_value):
            result["cochran_q"] = q._asdict()
    for null in nulls_of(what):
        drawn = random_masks(group, what, null, seed=seed)
        values = {
            "super_survivors": drawn.all(axis=1).sum(axis=-1).astype(float),
            "fleiss_kappa": kappas(drawn),
        }
        for name, value in observed.items():
            result["chance"].setdefault(name, {})[null] = _level(beside_chance(value, values[name], null))
    return result


def kappas(masks: Masks) -> Floats:
    """Return Fleiss' kappa of each of D sets of masks, ``[D, S, N]``; NaN as :func:`pruning.stability.fleiss_kappa`."""
    S = masks.shape[1]
    kept = masks.sum(axis=1, dtype=float)  # [D, N]
    with np.errstate(divide="ignore", invalid="ignore"):
        agree = ((kept * (kept - 1) + (S - kept) * (S - kept - 1)) / (S * (S - 1))).mean(axis=1)
        share = kept.mean(axis=1) / S
        by_chance = share**2 + (1 - share) ** 2
        return (agree - by_chance) / (1 - by_chance)


def shared_by_pairs(groups: Sequence[Group], seed: int = 0) -> list[dict[str, Any]]:
    """Return how many heads every two tasks (of one method) share, by seeds they both have and by all pairs."""
    if len(groups) < 2:
        return []
    drawn = {
        (group.name, null): random_masks(group, "heads", null, seed=seed).astype(np.float32)
        for group in groups
        for null in NULLS
    }
    found = []
    for one, other in combinations(groups, 2):
        if one.method != other.method:
            continue
        entry: dict[str, Any] = {"tasks": [one.name, other.name]}
        for pairs in ("same-seed", "all"):
            places = (
                _paired(one, other)
                if pairs == "same-seed"
                else (list(range(len(g.runs))) for g in (one, other))
            )
            left, right = places
            if not left:
                entry[pairs] = None  # no seed in common
                continue
            shared = shared_heads(
                [one.subnetworks[i] for i in left], [other.subnetworks[i] for i in right], pairs
            )
            entry[pairs] = {
                "pairs": len(left) if pairs == "same-seed" else len(left) * len(right),
                "mean": shared.mean,
                "std": known(shared.std),
                "chance": {
                    null: _level(
                        beside_chance(
                            shared.mean,
                            _shared(drawn[one.name, null][:, left], drawn[other.name, null][:, right], pairs),
                            null,
                        )
                    )
                    for null in NULLS
                },
            }
        found.append(entry)
    return found


def _paired(one: Group, other: Group) -> tuple[list[int], list[int]]:
    """Positions of the seeds that both have."""
    both = [seed for seed in one.seeds if seed in other.seeds]
    return [one.seeds.index(seed) for seed in both], [other.seeds.index(seed) for seed in both]


def _shared(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], pairs: str) -> Floats:
    """Mean number of shared heads in each draw; the mean over all pairs is the product of the means."""
    if pairs == "same-seed":
        return (left * right).sum(axis=-1).mean(axis=1, dtype=float)
    return (left.mean(axis=1, dtype=float) * right.mean(axis=1, dtype=float)).sum(axis=-1)


def survivors_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Return one row per task, method and head or MLP.

    Columns: ``task, method, what, layer, head`` (-1 for an MLP)``, seeds, kept, mean, std, super, never``.
    """
    import pandas as pd

    frames = []
    for group in groups:
        for what in ("heads", "mlps"):
            masks = stacked(group.subnetworks, what)
            kept = masks.sum(axis=0)
            places = np.indices(kept.shape).reshape(kept.ndim, -1)
            several = len(masks) > 1
            frames.append(
                pd.DataFrame(
                    {
                        "task": group.task,
                        "method": group.method,
                        "what": what.removesuffix("s"),
                        "layer": places[0],
                        "head": places[1] if what == "heads" else -1,
                        "seeds": len(masks),
                        "kept": kept.ravel(),
                        "mean": masks.mean(axis=0).ravel(),
                        "std": masks.std(axis=0, ddof=1).ravel() if several else np.full(kept.size, np.nan),
                        "super": (kept == len(masks)).ravel(),
                        "never": (kept == 0).ravel(),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def stability_frame(
    tasks: Mapping[str, Mapping[str, Any]], shared: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Return one row per statistic and null: what ``stability.csv`` holds.

    Columns: ``task, other`` (of a pair)``, what, statistic, value, std, p_value`` (Cochran's Q only)``, null,
    chance, chance_low, chance_high, chance_p``.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def add(start: dict[str, Any], chance: Mapping[str, Any]) -> None:
        for null, level in (chance or {"": None}).items():
            low, high = (level or {}).get("ci95") or (None, None)
            of = {key: (level or {}).get(key) for key in ("mean", "p_value")}
            rows.append(
                start
                | {"null": null, "chance": of["mean"], "chance_low": low, "chance_high": high}
                | {"chance_p": of["p_value"]}
            )

    for name, task in tasks.items():
        for what in ("heads", "mlps"):
            part = task[what]
            start = {"task": name, "other": "", "what": what}
            for statistic in ("super_survivors", "fleiss_kappa"):
                add(
                    start | {"statistic": statistic, "value": part[statistic]},
                    part["chance"].get(statistic, {}),
                )
            for statistic in ("never_survivors", "mean_survival", "mean_std"):
                add(start | {"statistic": statistic, "value": part[statistic]}, {})
            q = part["cochran_q"] or {}
            add(
                start | {"statistic": "cochran_q", "value": q.get("statistic"), "p_value": q.get("p_value")},
                {},
            )
    for pair in shared:
        for pairs in ("same-seed", "all"):
            if part := pair[pairs]:
                one, other = pair["tasks"]
                start = {"task": one, "other": other, "what": "heads", "statistic": f"shared, {pairs} pairs"}
                add(start | {"value": part["mean"], "std": part["std"]}, part["chance"])
    columns = ["task", "other", "what", "statistic", "value", "std", "p_value"]
    columns += ["null", "chance", "chance_low", "chance_high", "chance_p"]
    return pd.DataFrame(rows, columns=columns)


def _places(mask: Masks) -> list[Any]:
    """[layer, head] of each head that is True, or the layer of each MLP."""
    return (np.argwhere(mask) if mask.ndim > 1 else np.flatnonzero(mask)).tolist()


def _level(chance: Chance) -> dict[str, Any]:
    values = asdict(chance)
    return {
        "mean": known(values["mean"]),
        "ci95": [known(bound) for bound in values["ci95"]],
        "p_value": known(values["p_value"]),
        "draws": values["draws"],
    }
