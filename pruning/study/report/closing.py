"""Does the pattern of a head matter: the ablations of a study's models, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patterns.taxonomy import INTERPRETABLE, TITLES

from ...permutation import ShiftTest, difference_test

if TYPE_CHECKING:
    import pandas as pd

BESIDE, ALONE = "closed together - random sets", "closed one at a time - other heads of their layers"
"""What is compared."""
_PATTERN = "pattern"


@dataclass(frozen=True)
class AblatedModel:
    """One ablation of a study."""

    task: str
    of: str
    """``full`` or ``good``."""
    span: tuple[float, float]
    """Lowest and highest drop that there can be."""
    groups: pd.DataFrame
    """What ``groups.csv`` holds."""
    draws: pd.DataFrame
    """What ``draws.parquet`` holds."""
    singles: pd.DataFrame
    """What ``single_heads.parquet`` holds; empty if no head was closed alone."""


@dataclass(frozen=True)
class Closed:
    """One comparison of one task, or of all (None)."""

    comparison: str
    task: str | None
    models: int
    span: tuple[float, float]
    test: ShiftTest | None
    """None: no model has such heads beside others."""


def comparisons(models: Sequence[AblatedModel], permutations: int, seed: int) -> Iterator[Closed]:
    """Yield what closing the heads of each pattern costs beside chance, of each task's models and of all.

    Closed together, a pattern's heads stand beside the random sets of every model: were they any heads of their layers,
    each would be as likely to be the group, whatever its drop, so group and sets are exchanged within models. Closed
    one at a time, heterogeneous heads stand beside the others of the same layer of the same model, and heads are
    exchanged within these. Both are of these models and inputs. Every model counts alike in the first, every head in
    the second.

    Args:
        models: of a study.
        permutations: of each test.
        seed: of the tests.
    """
    for of in dict.fromkeys(one.of for one in models):
        alike = [one for one in models if one.of == of]
        for kind in dict.fromkeys(name for one in alike for name in one.groups["kind"]):
            where = f"{kind} maps, {of} models"
            questions: list[tuple[str, Callable[[AblatedModel], _Strata]]] = [
                (f"{where}: {title}, {BESIDE}", partial(_beside, kind=kind, pattern=pattern.value))
                for pattern, title in TITLES.items()
            ]
            title = TITLES[INTERPRETABLE]
            questions.append((f"{where}: {title}, {ALONE}", partial(_alone, kind=kind)))
            for comparison, strata in questions:
                found = [(one, strata(one)) for one in alike]
                for task in (*dict.fromkeys(one.task for one in alike), None):
                    own = [(one, of_one) for one, of_one in found if of_one and task in (None, one.task)]
                    span = max(
                        (one.span for one in alike if task in (None, one.task)), key=lambda ends: ends[1]
                    )
                    test = _test([part for _, of_one in own for part in of_one], permutations, seed)
                    yield Closed(comparison, task, len(own), span, test)


_Strata = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]
"""Drops, and which of them are the group's, within each of which they are exchanged."""


def _beside(model: AblatedModel, kind: str, pattern: str) -> _Strata:
    """A group among its random sets; none where there is but one set to draw."""
    own, drawn = (
        table[(table["kind"] == kind) & (table["sort"] == _PATTERN) & (table["name"] == pattern)]
        for table in (model.groups, model.draws)
    )
    if drawn["heads"].nunique() < 2:
        return []
    drops = np.append(own["drop"].to_numpy(dtype=float), drawn["drop"].to_numpy(dtype=float))
    return [(drops, np.arange(len(drops)) < 1)]


def _alone(model: AblatedModel, kind: str) -> _Strata:
    """Heads of each layer, those whose dominant pattern is the heterogeneous one and others; none where no layer has
    both."""
    layers = [
        (layer["drop"].to_numpy(dtype=float), (layer["dominant"] == INTERPRETABLE.value).to_numpy())
        for _, layer in model.singles[model.singles["kind"] == kind].groupby("layer")
    ]
    return layers if any(of.any() and not of.all() for _, of in layers) else []


def _test(strata: _Strata, permutations: int, seed: int) -> ShiftTest | None:
    if not strata:
        return None
    width = max(len(drops) for drops, _ in strata)
    drops, of = np.full((len(strata), width), np.nan), np.zeros((len(strata), width), dtype=bool)
    for row, (values, own) in enumerate(strata):
        drops[row, : len(values)], of[row, : len(values)] = values, own
    return difference_test(of, drops, permutations, seed)
