"""Tidy tables of a study, from its finished steps alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.tasks.measures import range_of
from models.tasks.task import MISMATCHED

from ...comparison.consistency import (
    SharedHeads,
    Stable,
    shared_by_pairs,
    stability_frame,
    stable,
    subnetwork_in,
    survivors_frame,
)
from ...comparison.summary import patterns_frame
from ...comparison.survivor_patterns import PatternComparison, Uncorrected, adjust, compare
from ...search.runs import Group, Run
from ..config import Reference
from ..plan import PRETRAINED, WAVES, WEIGHTS, Plan, Step, search_step
from .closing import AblatedModel
from .tables import SEARCH, SEARCH_WEIGHTS, StudyTables

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("structured", "magnitude")
STATES = ("pruned", "fine-tuned")
"""A subnetwork is scored without any training, and fine-tuned again from the pre-trained weights."""
FULL = "full"
MODELS = ("fine-tuned", "pre-trained")
"""Whose patterns are looked at."""
_BASELINES = ("majority", "guessing")
_SIZES = ("encoder_share", "heads", "mlps", "topped_up_heads", "topped_up_mlps")
LOW = 0.2
"""A head matters little whose importance is less than a fifth of the way from the least to the most important one."""
MIN_VALUES = 3
"""Below so many seeds (or tasks) there are points and no interval."""


@dataclass(frozen=True)
class StudyData:
    """What the finished steps of a study say together."""

    tables: StudyTables

    @property
    def plan(self) -> Plan:
        """The study's."""
        return self.tables.plan

    @property
    def done(self) -> list[Step]:
        """The finished steps, in the plan's order."""
        return self.tables.done

    def groups(self, search: str = SEARCH) -> list[Group]:
        """Return the finished searches of one name by task; none for those that keep no whole heads."""
        return self._groups.get(search, [])

    @cached_property
    def _groups(self) -> dict[str, list[Group]]:
        """The same by the searches' names."""
        kept = dict(iter(self.tables.kept.groupby("path", sort=False)))
        runs: dict[tuple[str, str], list[Run]] = {}
        for step in self.done:
            if step.path in kept and step.seed is not None:
                part = kept[step.path]
                run = Run(
                    Path(step.path),
                    subnetwork_in(part),
                    step.task,
                    step.seed,
                    str(part["method"].iloc[0]),
                    task_definition=self.plan.study.task(step.task).record(),
                    untestable=self._below_majority[step.path],
                )
                runs.setdefault((step.name, step.task), []).append(run)
        found: dict[str, list[Group]] = {}
        for (search, task), of_task in runs.items():
            by_seed = tuple(sorted(of_task, key=lambda run: run.seed))
            found.setdefault(search, []).append(Group(task, task, by_seed[0].method, by_seed))
        return found

    @cached_property
    def _below_majority(self) -> dict[str, bool]:
        steps = self.tables.steps
        return dict(zip(steps["path"], steps["below_majority"], strict=True))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per task, seed, method, subnetwork, draw and state; the full model's method is empty.

        Scores on MNLI's rows of other genres are rows of a task ``mnli-mm``, as in GLUE's tables. No comparison is of
        them: the subnetworks are those of ``mnli``, and would be counted twice.

        Columns: ``task, seed, method, subnetwork, draw`` (0 if there is only one)``, state, metric, score,
        encoder_share, heads, mlps, topped_up_heads, topped_up_mlps, majority, guessing``: the last two are what
        always saying the commonest label scores, and drawing labels at random.
        """
        import pandas as pd

        rows: list[dict[str, object]] = []
        models: list[tuple[str, int | None]] = []
        by_path = {str(row["path"]): row for row in self.tables.steps.to_dict(orient="records")}
        baselines: dict[tuple[str, int | None], dict[str, float]] = {}
        for step in self.done:
            if step.kind not in ("fine-tune", "pruned", "fine-tuned"):
                continue
            found, task = by_path[step.path], self.plan.study.task(step.task)
            row: dict[str, object] = {"task": step.task, "seed": step.seed, "metric": found["metric"]}
            scored = {task.name: ""}
            if step.settings.get("mismatched"):
                scored[task.mismatched_name] = MISMATCHED
            if step.drawn is None:
                row |= {"method": "", "subnetwork": FULL, "draw": 0, "state": FULL, "encoder_share": 1.0}
                for name, prefix in scored.items():
                    baselines[name, step.seed] = {key: found[prefix + key] for key in _BASELINES}
            else:
                of = step.drawn
                row |= {"method": of.method, "subnetwork": of.kind, "draw": of.draw}
                row["state"] = STATES[0] if step.kind == "pruned" else STATES[1]
                sized = by_path.get(step.path if step.kind == "pruned" else step.inputs[0], {})
                row |= {name: sized.get(name) for name in _SIZES}
            for name, prefix in scored.items():
                rows.append(row | {"task": name, "score": found[f"{prefix}score"]})
                models.append((name, step.seed))
        names = ["task", "seed", "method", "subnetwork", "draw", "state", "metric"]
        columns = [*names, "score", *_SIZES, *_BASELINES]
        told = [row | baselines.get(model, {}) for row, model in zip(rows, models, strict=True)]
        frame = pd.DataFrame(told, columns=columns)
        return frame.astype(dict.fromkeys(columns[len(names) :], "float64"))

    @cached_property
    def score_summary(self) -> pd.DataFrame:
        """Mean scores over seeds, of each seed's draws first; ``low`` and ``high`` are a 95% interval over seeds.

        Columns: ``task, method, subnetwork, state, metric, seeds, mean, std, low, high, of_full`` (share of the full
        model's mean)``, encoder_share, majority, guessing, points``: the interval is :func:`t_interval`'s, which has
        none below three seeds; ``points`` are the seeds' scores.
        """
        import pandas as pd

        keys = ["task", "method", "subnetwork", "state", "metric"]
        rows = []
        by_seed = self.by_seed
        for names, part in by_seed.groupby(keys, sort=False):
            full = by_seed[(by_seed["task"] == names[0]) & (by_seed["state"] == FULL)]
            values = part["score"].to_numpy()
            low, high = t_interval(values, range_of(str(names[-1])))
            rows.append(
                dict(zip(keys, names, strict=True))
                | {"seeds": len(values), "mean": values.mean(), "std": _std(values), "low": low, "high": high}
                | {"of_full": _ratio(values.mean(), full["score"].mean())}
                | {name: part[name].mean() for name in ("encoder_share", "majority", "guessing")}
                | {"points": ", ".join(f"{value:.3f}" for value in values)}
            )
        columns = [*keys, "seeds", "mean", "std", "low", "high", "of_full", "encoder_share"]
        return pd.DataFrame(rows, columns=[*columns, "majority", "guessing", "points"])

    @property
    def drawn_references(self) -> list[Reference]:
        """Those published scores that are of a task whose scores there are."""
        tasks = set(self.scores["task"])
        return [one for one in self.plan.study.references if tasks & set(one.scores)]

    @property
    def references(self) -> pd.DataFrame:
        """The published scores that stand beside the study's: ``task, name, score, source``."""
        import pandas as pd

        rows = [
            {"task": task, "name": one.name, "score": score, "source": one.source}
            for one in self.plan.study.references
            for task, score in one.scores.items()
        ]
        return pd.DataFrame(rows, columns=["task", "name", "score", "source"])

    @cached_property
    def by_seed(self) -> pd.DataFrame:
        """Scores with the draws of one seed averaged."""
        keys = ["task", "method", "subnetwork", "state", "metric", "seed"]
        return self.scores.groupby(keys, sort=False, as_index=False)[
            ["score", "encoder_share", "majority", "guessing"]
        ].mean()

    @cached_property
    def untestable(self) -> set[tuple[str, str]]:
        """The tasks and methods of which a search's threshold lies below the commonest label's score."""
        methods = {SEARCH_WEIGHTS: METHODS[1], SEARCH: METHODS[0]}
        return {
            (step.task, methods[step.name])
            for step in self.done
            if step.name in methods and self._below_majority[step.path]
        }

    @cached_property
    def survivors(self) -> pd.DataFrame:
        """One row per task, search and head or MLP: see :func:`pruning.comparison.consistency.survivors_frame`."""
        import pandas as pd

        groups = [group for name in self._searches for group in self.groups(name)]
        return survivors_frame(groups) if groups else pd.DataFrame()

    @cached_property
    def joint_survivors(self) -> pd.DataFrame:
        """Likewise of one search alone: that for heads and MLPs together, or else the first there is."""
        import pandas as pd

        names = [SEARCH, *self._searches]
        groups = next((groups for name in names if (groups := self.groups(name))), None)
        return survivors_frame(groups) if groups else pd.DataFrame()

    @cached_property
    def weight_survival(self) -> pd.DataFrame:
        """Share of the weights of each head and MLP that magnitude pruning keeps, over seeds.

        Columns: ``task, what, layer, head`` (-1 for an MLP)``, seeds, mean, std``.
        """
        table = self.tables.kept_weights
        if not len(table):
            return table
        of = table["path"].map({step.path: step.task for step in self.done})
        keys = ["task", "component", "layer", "head"]
        found = table.assign(task=of).groupby(keys, sort=False)["kept_share"].agg(["count", "mean", "std"])
        names = {"component": "what", "count": "seeds"}
        return found.reset_index().rename(columns=names)

    @cached_property
    def importance_summary(self) -> pd.DataFrame:
        """Whether many heads and MLPs matter alike, by task: ``task, component, seeds, median, low, low_std``.

        ``median`` is of the normalised importance in the full model, from 0 (the least important one) to 1 (the most);
        ``low`` the share of those below :data:`LOW`, each a mean over seeds, ``low_std`` its standard deviation.
        """
        import pandas as pd

        table = self.tables.importance
        rows = []
        for (task, component), part in table.groupby(["task", "component"], sort=False):
            of_seeds = part.dropna(subset="normalized").groupby("seed")["normalized"]  # of what is there
            low = of_seeds.apply(lambda values: float((values < LOW).mean())).to_numpy()
            told = {"task": task, "component": component, "seeds": len(low)}
            rows.append(told | {"median": of_seeds.median().mean(), "low": low.mean(), "low_std": _std(low)})
        return pd.DataFrame(rows, columns=["task", "component", "seeds", "median", "low", "low_std"])

    @cached_property
    def timings(self) -> pd.DataFrame:
        """How long steps took: ``wave, step, task, steps, seconds, cpu_seconds, hours``.

        ``seconds`` are a mean of what passed on the clock, as many steps as there were being at work side by side;
        ``cpu_seconds`` of what the worker computed; ``hours`` the sum of the first over all steps.
        """
        import pandas as pd

        steps = self.tables.times.assign(
            wave=[step.wave for step in self.done],
            step=[step.alike for step in self.done],
            task=[step.task for step in self.done],
        )
        found = steps.groupby(["wave", "step", "task"], sort=False)
        table = found.agg(
            steps=("path", "size"),
            seconds=("seconds", "mean"),
            cpu_seconds=("cpu_seconds", "mean"),
            hours=("seconds", lambda of: of.sum() / 3600),
        ).reset_index()
        order = {wave: place for place, wave in enumerate(WAVES)}
        return pd.DataFrame(
            table.sort_values("wave", key=lambda of: of.map(order), kind="stable", ignore_index=True)
        )

    @cached_property
    def stability(self) -> dict[str, Stable]:
        """By task, how far its seeds agree: see :func:`pruning.comparison.consistency.stable`."""
        return {group.name: stable(group, self.plan.study.seed) for group in self.groups()}

    @cached_property
    def shared(self) -> list[SharedHeads]:
        """How many heads tasks share, see :func:`pruning.comparison.consistency.shared_by_pairs`."""
        return shared_by_pairs(self.groups(), self.plan.study.seed)

    @cached_property
    def stability_frame(self) -> pd.DataFrame:
        """The two above as one table, see :func:`pruning.comparison.consistency.stability_frame`."""
        return stability_frame(self.stability, self.shared)

    @cached_property
    def patterns(self) -> dict[tuple[str, str], dict[str, PatternComparison]]:
        """By task and model (one of :data:`MODELS`) and kind of maps, what
        :func:`pruning.comparison.survivor_patterns.adjust` says."""
        study = self.plan.study
        found: dict[tuple[str, str, str], Uncorrected] = {}
        for group in self.groups():
            for model in MODELS:
                labels = self._labels(group, pretrained=model == MODELS[1])
                if labels:
                    runs = [run for run in group.runs if run.seed in labels]
                    part = Group(group.name, group.task, group.method, tuple(runs))
                    for kind, values in _stacked([labels[run.seed] for run in runs]).items():
                        found[group.name, model, kind] = compare(
                            part, values, study.patterns.permutations, study.seed
                        )
        nested: dict[tuple[str, str], dict[str, PatternComparison]] = {}
        for (task, model, kind), one in zip(found, adjust(list(found.values())), strict=True):
            nested.setdefault((task, model), {})[kind] = one
        return nested

    @cached_property
    def named_patterns(self) -> dict[str, dict[str, PatternComparison]]:
        """The same by what stands beside it on a page: ``qqp fine-tuned``."""
        return {f"{task} {model}": found for (task, model), found in self.patterns.items()}

    @cached_property
    def patterns_frame(self) -> pd.DataFrame:
        """The same as a table, see :func:`pruning.comparison.summary.patterns_frame`."""
        return patterns_frame(self.named_patterns)

    @cached_property
    def ablated(self) -> list[AblatedModel]:
        """Every ablation that is done."""
        tables, found = self.tables, []
        metrics = dict(zip(tables.steps["path"], tables.steps["metric"], strict=True))
        for step in self.done:
            if step.kind == "ablation":
                low, high = range_of(str(metrics[step.path]))
                of = str(step.settings["of"])
                parts = (
                    table[(table["task"] == step.task) & (table["seed"] == step.seed) & (table["of"] == of)]
                    for table in (tables.ablation, tables.ablation_draws, tables.ablation_heads)
                )
                found.append(AblatedModel(step.task, of, (low - high, high - low), *parts))
        return found

    def _labels(self, group: Group, pretrained: bool) -> dict[int, pd.DataFrame]:
        """By seed, the pattern of every map; before fine-tuning, the same ones for every seed."""
        maps = self.tables.maps
        found = {}
        for seed in group.seeds:
            place = f"{group.task}/{PRETRAINED if pretrained else f'seed_{seed}'}/patterns"
            if len(of_model := maps[maps["path"] == place]):
                found[seed] = of_model
        return found

    @property
    def _searches(self) -> list[str]:
        return [search_step(name) for name in self.plan.study.searches if name != WEIGHTS]

    @cached_property
    def warnings(self) -> list[str]:
        """What the steps warned of, once each, with the task and seeds."""
        found: dict[tuple[str, str], list[str]] = {}
        for path, message in self.tables.warnings[["path", "message"]].itertuples(index=False):
            step = self.plan.by_path[path]
            found.setdefault((step.task, message), []).append(f"{step.place}/{step.name}")
        return [f"{task} ({', '.join(where)}): {message}" for (task, message), where in found.items()]


def t_interval(values: npt.NDArray[np.floating], span: tuple[float, float]) -> tuple[float, float]:
    """Return a 95% interval of the mean by Student's t that lies within the range of what is measured.

    See :func:`within_range`. NaN for fewer than three values, of which the points say more than an interval of one
    degree of freedom, and for values that are all the same, whose spread is not known.

    Args:
        values: one a seed, or a task.
        span: lowest and highest value that there can be.
    """
    from scipy.stats import t

    if len(values) < MIN_VALUES:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return within_range(float(values.mean()), half, span)


def within_range(mean: float, half: float, span: tuple[float, float]) -> tuple[float, float]:
    """Return ``mean`` give or take ``half`` on the logit scale of a range, by the delta method (Oehlert 1992).

    On shares this is the logit interval (Agresti 2013, section 1.4), on coefficients from -1 to 1 Fisher's z (1921)
    with the spread that there is. In the middle of the range it is hardly another one than ``mean - half`` to ``mean +
    half``; it never leaves the range and always holds the mean. A range with one end is taken on the logarithmic scale
    of the distance from it, one without ends as it is. NaN where the width is 0, or the mean an end.
    """
    low, high = span
    ends = [end for end in span if math.isfinite(end)]
    if len(ends) < 2:
        away = abs(mean - ends[0]) if ends else math.inf
        if not (half > 0 and away > 0):
            return float("nan"), float("nan")
        if not ends:
            return mean - half, mean + half
        near, far = away * math.exp(-half / away), away * math.exp(half / away)
        return (low + near, low + far) if math.isfinite(low) else (high - far, high - near)
    place = (mean - low) / (high - low)
    if not (half > 0 and 0 < place < 1):
        return float("nan"), float("nan")
    step = half / (high - low) / (place * (1 - place))
    middle = np.log(place / (1 - place))
    lowest, highest = (low + (high - low) / (1 + np.exp(-(middle + side * step))) for side in (-1, 1))
    return float(lowest), float(highest)


def _std(values: npt.NDArray[np.floating]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _stacked(tables: Sequence[pd.DataFrame]) -> Mapping[str, npt.NDArray[np.int8]]:
    """Return by kind the labels ``[S, E, L, H]`` of the examples that all tables have.

    Raises:
        InputError: there is no such example.
    """
    from patterns.distribution import EMPTY
    from patterns.taxonomy import PATTERNS

    number = {pattern.value: i for i, pattern in enumerate(PATTERNS)} | {None: EMPTY}
    common = sorted(set.intersection(*(set(table["example"]) for table in tables)))
    if not common:
        raise InputError("The models of a task have no example in common whose patterns are known.")
    found: dict[str, list[npt.NDArray[np.int8]]] = {}
    for table in tables:
        for kind, part in table[table["example"].isin(common)].groupby("kind", sort=False):
            part = part.sort_values(["example", "layer", "head"])
            shape = (len(common), part["layer"].max() + 1, part["head"].max() + 1)
            named = part["label"].astype(object).where(part["label"].notna(), None)
            labels = np.array([number[name] for name in named], dtype=np.int8).reshape(shape)
            found.setdefault(str(kind), []).append(labels)
    return {kind: np.stack(labels) for kind, labels in found.items()}
