"""How far the seeds of each task agree, and what tasks have in common, each beside its chance level."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.files import known
from models.subnetwork import Subnetwork

from ..search.runs import Group
from ..stability import (
    NULLS,
    WHAT,
    Chance,
    CochranQ,
    What,
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

PAIRS: tuple[Literal["same-seed", "all"], ...] = ("same-seed", "all")
"""Which searches of two tasks are compared: those of one seed, or every one with every other."""
TESTED: tuple[Literal["super_survivors", "fleiss_kappa"], ...] = ("super_survivors", "fleiss_kappa")
_COUNTED: tuple[Literal["never_survivors", "unstable_share"], ...] = ("never_survivors", "unstable_share")
"""Beside their chance level, and without a test: they follow from how far the seeds agree."""
_DESCRIBED: tuple[Literal["mean_survival", "mean_std"], ...] = ("mean_survival", "mean_std")


class Level(TypedDict):
    """What a statistic is by chance, ready for JSON; None is no number."""

    mean: float | None
    ci95: list[float | None]
    p_value: float | None
    draws: int


class CochranRecord(TypedDict):
    """What :func:`pruning.stability.cochran_q` returned, ready for JSON."""

    statistic: float
    p_value: float
    df: int


class Stability(TypedDict):
    """Who survives under all seeds and under none, and how far the seeds agree, ready for JSON."""

    all: int
    super_survivors: int
    never_survivors: int
    super_survivors_list: list[list[int]] | list[int]
    """[layer, head] of each head, or the layer of each MLP."""
    never_survivors_list: list[list[int]] | list[int]
    unstable_share: float
    """Of heads (or MLPs) that some seeds keep and others do not: neither super- nor never-survivors."""
    mean_survival: float
    mean_std: float | None
    fleiss_kappa: float | None
    cochran_q: CochranRecord | None
    chance: dict[str, dict[str, Level]]
    """By statistic and null."""


class SharedPart(TypedDict):
    """How many heads pairs of searches share."""

    pairs: int
    mean: float
    std: float | None
    chance: dict[str, Level]
    """By null."""


SharedHeads = TypedDict(
    "SharedHeads", {"tasks": list[str], "same-seed": SharedPart | None, "all": SharedPart | None}
)
"""How many heads two tasks share by each way of :data:`PAIRS`; None: they have no seed in common."""


class Stable(TypedDict):
    """What :func:`stability_of` says of heads, and of MLPs."""

    heads: Stability
    mlps: Stability


def nulls_of(what: str) -> tuple[str, ...]:
    """Return the nulls that say something: a layer has one MLP, so within a layer there is nothing to draw."""
    masks = np.zeros((1, 2, 2) if what == "heads" else (1, 2), dtype=bool)
    return tuple(name for name, null in NULLS.items() if null.draws(masks))


def random_masks(group: Group, what: str, null: str, draws: int = DRAWS, seed: int = 0) -> Masks:
    """Return random masks ``[D, S, N]`` of the same sizes, as :func:`pruning.stability.randomised` draws them.

    They depend on `seed`, the task and the method, not on which other tasks there are.
    """
    masks = stacked(group.subnetworks, what)
    of = zlib.crc32(f"{group.task}/{group.method}/{what}/{null}".encode())
    groups = NULLS[null].groups(masks)
    drawn = np.broadcast_to(groups, (draws, *groups.shape))
    return np.random.default_rng([seed, of]).permuted(drawn, axis=-1).reshape(draws, len(masks), -1)


def stability_of(group: Group, what: What, seed: int = 0) -> Stability:
    """Return, ready for JSON, who survives under all seeds and under none, and how far the seeds agree.

    What takes two seeds, or some but not all kept, is None where there is less.
    """
    subnetworks = group.subnetworks
    always, never = super_survivors(subnetworks), never_survivors(subnetworks)
    mean = survival_mean(subnetworks, what)
    kept, pruned = (int(getattr(found, what).sum()) for found in (always, never))
    unstable = (mean.size - kept - pruned) / mean.size
    observed = {"super_survivors": float(kept)}
    several = len(subnetworks) > 1
    if several:
        observed["fleiss_kappa"] = fleiss_kappa(subnetworks, what)
    chance: dict[str, dict[str, Level]] = {}
    for null in nulls_of(what):
        drawn = random_masks(group, what, null, seed=seed)
        values = {
            "super_survivors": drawn.all(axis=1).sum(axis=-1).astype(float),
            "fleiss_kappa": kappas(drawn),
        }
        for name, value in observed.items():
            chance.setdefault(name, {})[null] = _level(beside_chance(value, values[name], null))
        never_kept = (~drawn).all(axis=1).sum(axis=-1).astype(float)
        counted = (
            ("never_survivors", float(pruned), never_kept),
            ("unstable_share", unstable, (mean.size - values["super_survivors"] - never_kept) / mean.size),
        )
        for name, value, by_chance in counted:
            level = _level(beside_chance(value, by_chance, null))
            chance.setdefault(name, {})[null] = {**level, "p_value": None}
    return {
        "all": int(mean.size),
        "super_survivors": kept,
        "never_survivors": pruned,
        "super_survivors_list": _places(getattr(always, what)),
        "never_survivors_list": _places(getattr(never, what)),
        "unstable_share": unstable,
        "mean_survival": float(mean.mean()),
        "mean_std": float(survival_std(subnetworks, what).mean()) if several else None,
        "fleiss_kappa": known(observed["fleiss_kappa"]) if several else None,
        "cochran_q": _cochran(cochran_q(subnetworks, what)) if several else None,
        "chance": chance,
    }


def stable(group: Group, seed: int = 0) -> Stable:
    """Return :func:`stability_of` heads and of MLPs."""
    return {"heads": stability_of(group, "heads", seed), "mlps": stability_of(group, "mlps", seed)}


def kappas(masks: Masks) -> Floats:
    """Return Fleiss' kappa of each of D sets of masks, ``[D, S, N]``; NaN as :func:`pruning.stability.fleiss_kappa`."""
    S = masks.shape[1]
    kept = masks.sum(axis=1, dtype=float)  # [D, N]
    with np.errstate(divide="ignore", invalid="ignore"):
        agree = ((kept * (kept - 1) + (S - kept) * (S - kept - 1)) / (S * (S - 1))).mean(axis=1)
        share = kept.mean(axis=1) / S
        by_chance = share**2 + (1 - share) ** 2
        return (agree - by_chance) / (1 - by_chance)


def shared_by_pairs(groups: Sequence[Group], seed: int = 0) -> list[SharedHeads]:
    """Return how many heads every two tasks (of one method) share, by seeds they both have and by all pairs."""
    if len(groups) < 2:
        return []
    drawn = {
        (group.name, null): random_masks(group, "heads", null, seed=seed).astype(np.float32)
        for group in groups
        for null in NULLS
    }

    def part(one: Group, other: Group, pairs: str) -> SharedPart | None:
        same = pairs == "same-seed"
        left, right = (
            _paired(one, other) if same else (list(range(len(group.runs))) for group in (one, other))
        )
        if not left:
            return None  # no seed in common
        shared = shared_heads(
            [one.subnetworks[i] for i in left], [other.subnetworks[i] for i in right], pairs
        )
        by_chance = {
            null: _shared(drawn[one.name, null][:, left], drawn[other.name, null][:, right], pairs)
            for null in NULLS
        }
        return {
            "pairs": len(left) if same else len(left) * len(right),
            "mean": shared.mean,
            "std": known(shared.std),
            "chance": {
                null: _level(beside_chance(shared.mean, values, null)) for null, values in by_chance.items()
            },
        }

    return [
        {
            "tasks": [one.name, other.name],
            "same-seed": part(one, other, "same-seed"),
            "all": part(one, other, "all"),
        }
        for one, other in combinations(groups, 2)
        if one.method == other.method
    ]


def _paired(one: Group, other: Group) -> tuple[list[int], list[int]]:
    """Positions of the seeds that both have."""
    both = [seed for seed in one.seeds if seed in other.seeds]
    return [one.seeds.index(seed) for seed in both], [other.seeds.index(seed) for seed in both]


def _shared(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], pairs: str) -> Floats:
    """Mean number of shared heads in each draw; the mean over all pairs is the product of the means."""
    if pairs == "same-seed":
        return (left * right).sum(axis=-1).mean(axis=1, dtype=float)
    return (left.mean(axis=1, dtype=float) * right.mean(axis=1, dtype=float)).sum(axis=-1)


def kept_frame(group: Group) -> pd.DataFrame:
    """Return one row per seed and head or MLP: ``method, what, layer, head`` (-1 for an MLP)``, kept``."""
    import pandas as pd

    frames = []
    for run in group.runs:
        for what, mask in (("head", run.subnetwork.heads), ("mlp", run.subnetwork.mlps)):
            places = np.indices(mask.shape).reshape(mask.ndim, -1)
            told = {"method": group.method, "what": what, "layer": places[0]}
            frames.append(
                pd.DataFrame({**told, "head": places[1] if what == "head" else -1, "kept": mask.ravel()})
            )
    return pd.concat(frames, ignore_index=True)


def subnetwork_in(kept: pd.DataFrame) -> Subnetwork:
    """Return the subnetwork of one run that :func:`kept_frame` tells of.

    Raises:
        InputError: a head or MLP is missing or there twice.
    """

    def mask(what: str, keys: list[str]) -> Masks:
        part = kept[kept["what"] == what].sort_values(keys)
        shape = tuple(part[keys].max() + 1) if len(part) else (0,) * len(keys)
        if len(part) != math.prod(shape) or part.duplicated(keys).any():
            raise InputError(f"A table of what is kept has not each {what} of each layer once.")
        return part["kept"].to_numpy(dtype=bool).reshape(shape)

    return Subnetwork(mask("head", ["layer", "head"]), mask("mlp", ["layer"]))


def survivors_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Return one row per task, method and head or MLP.

    Columns: ``task, method, what, layer, head`` (-1 for an MLP)``, seeds, kept, mean, std, super, never``.
    """
    import pandas as pd

    frames = []
    for group in groups:
        for what in WHAT:
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


def stability_frame(tasks: Mapping[str, Stable], shared: Sequence[SharedHeads]) -> pd.DataFrame:
    """Return one row per statistic and null: what ``stability.csv`` holds.

    Columns: ``task, other`` (of a pair)``, what, statistic, value, std, p_value`` (Cochran's Q only)``, null,
    chance, chance_low, chance_high, chance_p``.
    """
    import pandas as pd

    columns = ["task", "other", "what", "statistic", "value", "std", "p_value"]
    columns += ["null", "chance", "chance_low", "chance_high", "chance_p"]
    rows: list[dict[str, object]] = []

    def add(start: dict[str, object], chance: Mapping[str, Level]) -> None:
        for null, level in chance.items():
            low, high = level["ci95"]
            rows.append(
                start
                | {"null": null, "chance": level["mean"], "chance_low": low, "chance_high": high}
                | {"chance_p": level["p_value"]}
            )
        if not chance:
            rows.append(start | {"null": "", **dict.fromkeys(columns[8:])})

    for name, task in tasks.items():
        for what in WHAT:
            part = task[what]
            start: dict[str, object] = {"task": name, "other": "", "what": what}
            for tested in (*TESTED, *_COUNTED):
                add(start | {"statistic": tested, "value": part[tested]}, part["chance"].get(tested, {}))
            for described in _DESCRIBED:
                add(start | {"statistic": described, "value": part[described]}, {})
            q = part["cochran_q"]
            value, p_value = (q["statistic"], q["p_value"]) if q else (None, None)
            add(start | {"statistic": "cochran_q", "value": value, "p_value": p_value}, {})
    for pair in shared:
        for pairs in PAIRS:
            if of_pairs := pair[pairs]:
                one, other = pair["tasks"]
                start = {"task": one, "other": other, "what": "heads", "statistic": f"shared, {pairs} pairs"}
                add(start | {"value": of_pairs["mean"], "std": of_pairs["std"]}, of_pairs["chance"])
    return pd.DataFrame(rows, columns=columns)


def _places(mask: Masks) -> list[list[int]] | list[int]:
    """[layer, head] of each head that is True, or the layer of each MLP."""
    found: list[list[int]] | list[int]
    found = (np.argwhere(mask) if mask.ndim > 1 else np.flatnonzero(mask)).tolist()
    return found


def _level(chance: Chance) -> Level:
    return {
        "mean": known(chance.mean),
        "ci95": [known(bound) for bound in chance.ci95],
        "p_value": known(chance.p_value),
        "draws": chance.draws,
    }


def _cochran(q: CochranQ) -> CochranRecord | None:
    """None where it has no value."""
    return None if math.isnan(q.p_value) else {"statistic": q.statistic, "p_value": q.p_value, "df": q.df}
