"""Tidy tables of a study, from its finished steps alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.reading import read_frame
from models.tasks.measures import range_of
from models.tasks.task import MISMATCHED
from patterns.report.summary import MAPS

from ...ablation.folder import DRAWS, SINGLE
from ...ablation.folder import GROUPS as ABLATED_GROUPS
from ...comparison.consistency import (
    SharedHeads,
    Stable,
    shared_by_pairs,
    stability_frame,
    stable,
    survivors_frame,
)
from ...comparison.summary import patterns_frame
from ...comparison.survivor_patterns import PatternComparison, Uncorrected, adjust, compare
from ...search.folder import IMPORTANCE, IMPORTANCE_COLUMNS, SURVIVAL, SURVIVAL_COLUMNS
from ...search.runs import Group, find_groups
from ..folder import StudyFolder
from ..plan import JOINT, WEIGHTS, Plan, Step, search_step
from ..records import PrunedStepResult, ScoredResult, SubnetworkRecord, TunedResult
from .closing import AblatedModel

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("structured", "magnitude")
STATES = ("pruned", "fine-tuned")
"""A subnetwork is scored without any training, and fine-tuned again from the pre-trained weights."""
FULL = "full"
MODELS = ("fine-tuned", "pre-trained")
"""Whose patterns are looked at."""
_SEARCH, _SEARCH_WEIGHTS = search_step(JOINT), search_step(WEIGHTS)
_DRAWS_COLUMNS = {**dict.fromkeys(("kind", "sort", "name", "heads"), "O"), "drop": "f"}
_SINGLE_COLUMNS = {"kind": "O", "layer": "iu", "dominant": "O", "drop": "f"}
_MAPS_COLUMNS = {"example": "iu", "kind": "O", "layer": "iu", "head": "iu", "label": "O"}
MIN_VALUES = 3
"""Below so many seeds (or tasks) there are points and no interval."""


@dataclass(frozen=True)
class StudyData:
    """What the finished steps of a study say."""

    plan: Plan
    folder: StudyFolder

    @cached_property
    def done(self) -> list[Step]:
        """The finished steps, in the plan's order."""
        return [step for step in self.plan.steps if self.folder.is_done(step)]

    def groups(self, search: str = _SEARCH) -> list[Group]:
        """Return the finished searches of one name by task; none for those that keep no whole heads."""
        steps = [step for step in self.done if step.name == search]
        if not steps or search == _SEARCH_WEIGHTS:
            return []
        folders = [self.folder.verified(step) for step in steps]
        return sorted(find_groups(folders)[0], key=lambda group: self.plan.study.tasks.index(group.task))

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
        baselines: dict[tuple[str, int | None], dict[str, float]] = {}
        sizes: dict[str, dict[str, object]] = {}
        models: list[tuple[str, int | None]] = []
        for step in self.done:
            if step.kind not in ("fine-tune", "pruned", "fine-tuned"):
                continue
            # By its kind, it was looked at when it was read.
            found = cast("ScoredResult", self.folder.read(step))
            metric, task = found["metric"], self.plan.study.task(step.task)
            row: dict[str, object] = {"task": step.task, "seed": step.seed}
            if step.drawn is None:
                always = cast("TunedResult", found)["baselines"]
                for name, key in ((task.name, metric), (task.mismatched_name, MISMATCHED + metric)):
                    if key in always["majority"]:
                        baselines[name, step.seed] = {
                            "majority": always["majority"][key],
                            "guessing": always["random"][key],
                        }
                row |= {"method": "", "subnetwork": FULL, "draw": 0, "state": FULL, "encoder_share": 1.0}
            else:
                of = step.drawn
                row |= {"method": of.method, "subnetwork": of.kind, "draw": of.draw}
                row["state"] = STATES[0] if step.kind == "pruned" else STATES[1]
                if step.kind == "pruned":
                    sizes[step.path] = _size(cast("PrunedStepResult", found)["subnetwork"])
                row |= sizes.get(step.path if step.kind == "pruned" else step.inputs[0], {})
            scored = {task.name: found["score"]}
            if step.settings.get("mismatched"):
                scored[task.mismatched_name] = found["scores"][MISMATCHED + metric]
            for name, score in scored.items():
                rows.append(row | {"task": name, "metric": metric, "score": score})
                models.append((name, step.seed))
        columns = [
            "task",
            "seed",
            "method",
            "subnetwork",
            "draw",
            "state",
            "metric",
            "score",
            "encoder_share",
        ]
        columns += ["heads", "mlps", "topped_up_heads", "topped_up_mlps", "majority", "guessing"]
        told = [row | baselines.get(model, {}) for row, model in zip(rows, models, strict=True)]
        frame = pd.DataFrame(told, columns=columns)
        return frame.astype(dict.fromkeys(columns[7:], "float64"))

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
        methods = {_SEARCH_WEIGHTS: METHODS[1], _SEARCH: METHODS[0]}
        return {
            (step.task, methods[step.name])
            for step in self.done
            if step.name in methods and self.folder.read(step).get("testable") is False
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

        names = [_SEARCH, *self._searches]
        groups = next((groups for name in names if (groups := self.groups(name))), None)
        return survivors_frame(groups) if groups else pd.DataFrame()

    @cached_property
    def weight_survival(self) -> pd.DataFrame:
        """Share of the weights of each head and MLP that magnitude pruning keeps, over seeds.

        Columns: ``task, what, layer, head`` (-1 for an MLP)``, seeds, mean, std``.
        """
        import pandas as pd

        frames = []
        for step in self.done:
            if step.name == _SEARCH_WEIGHTS:
                frame = read_frame(self.folder.file(step, SURVIVAL), SURVIVAL_COLUMNS)
                frames.append(frame.assign(task=step.task, seed=step.seed))
        if not frames:
            return pd.DataFrame()
        keys = ["task", "component", "layer", "head"]
        found = pd.concat(frames).groupby(keys, sort=False)["kept_share"].agg(["count", "mean", "std"])
        names = {"component": "what", "count": "seeds"}
        return found.reset_index().rename(columns=names)

    @cached_property
    def importance(self) -> pd.DataFrame:
        """Importances in the full model, which decide what goes first.

        Columns: ``task, seed, component, layer, head`` (-1 for an MLP)``, importance, normalized``.
        """
        import pandas as pd

        frames = []
        for step in self.done:
            if step.name == _SEARCH:
                frame = read_frame(self.folder.file(step, IMPORTANCE), IMPORTANCE_COLUMNS)
                frame = frame[frame["iteration"] == 0].drop(columns=["iteration", "kept"])
                frame.insert(0, "task", step.task)
                frame.insert(1, "seed", step.seed)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

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
    def ablation(self) -> pd.DataFrame:
        """What closing each group of heads costs: ``groups.csv`` of every step that did, with its task and seed."""
        import pandas as pd

        frames = [
            pd.read_csv(self.folder.file(step, ABLATED_GROUPS)).assign(
                task=step.task, seed=step.seed, of=str(step.settings["of"])
            )
            for step in self.done
            if step.kind == "ablation"
        ]
        if not frames:
            return pd.DataFrame()
        table = pd.concat(frames, ignore_index=True)
        first = ["task", "seed", "of"]
        return table[[*first, *table.columns.drop(first)]]

    @cached_property
    def ablated(self) -> list[AblatedModel]:
        """Every ablation that is done."""
        import pandas as pd

        found = []
        for step in self.done:
            if step.kind == "ablation":
                low, high = range_of(str(self.folder.read(step).get("metric")))
                found.append(
                    AblatedModel(
                        step.task,
                        str(step.settings["of"]),
                        (low - high, high - low),
                        pd.read_csv(self.folder.file(step, ABLATED_GROUPS)),
                        read_frame(self.folder.file(step, DRAWS), _DRAWS_COLUMNS),
                        read_frame(self.folder.file(step, SINGLE), _SINGLE_COLUMNS)
                        if SINGLE in self.folder.read(step)["step"]["files"]
                        else pd.DataFrame(columns=list(_SINGLE_COLUMNS)),
                    )
                )
        return found

    def _labels(self, group: Group, pretrained: bool) -> dict[int, pd.DataFrame]:
        """By seed, the pattern of every map; before fine-tuning, the same ones for every seed."""
        steps = [step for step in self.done if step.name == "patterns" and step.task == group.task]
        tables = {step.seed: self.folder.file(step, MAPS) for step in steps}
        wanted = {seed: tables.get(None if pretrained else seed) for seed in group.seeds}
        return {seed: read_frame(path, _MAPS_COLUMNS) for seed, path in wanted.items() if path is not None}

    @property
    def _searches(self) -> list[str]:
        return [search_step(name) for name in self.plan.study.searches if name != WEIGHTS]

    @cached_property
    def warnings(self) -> list[str]:
        """What the steps warned of, once each, with the task and seeds."""
        found: dict[tuple[str, str], list[str]] = {}
        for step in self.done:
            if step.kind != "fine-tuned":
                for message in self.folder.read(step).get("warnings", ()):
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


def _size(about: SubnetworkRecord) -> dict[str, object]:
    """What the table of scores says of a subnetwork."""
    return {
        "encoder_share": about.get("encoder_share"),
        "heads": about["heads"]["kept"] if "heads" in about else None,
        "mlps": about["mlps"]["kept"] if "mlps" in about else None,
        "topped_up_heads": about.get("topped_up_heads"),
        "topped_up_mlps": about.get("topped_up_mlps"),
    }


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
