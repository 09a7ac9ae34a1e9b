"""Tidy tables of a study, from its finished steps alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.reading import read_frame
from models.tasks.measures import range_of

from ...comparison.consistency import shared_by_pairs, stability_frame, stability_of, survivors_frame
from ...comparison.survivor_patterns import adjust, compare
from ...search.folder import IMPORTANCE, IMPORTANCE_COLUMNS, SURVIVAL, SURVIVAL_COLUMNS
from ...search.runs import Group, find_groups
from ..folder import StudyFolder
from ..plan import Plan, Step

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("structured", "magnitude")
STATES = ("pruned", "fine-tuned")
"""A subnetwork is scored without any training, and fine-tuned again from the pre-trained weights."""
FULL = "full"
MODELS = ("fine-tuned", "pre-trained")
"""Whose patterns are looked at."""
_SEARCH = "search-heads-and-mlps"
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
        if not steps or search == "search-weights":
            return []
        folders = [self.folder.verified(step) for step in steps]
        return sorted(find_groups(folders)[0], key=lambda group: self.plan.study.tasks.index(group.task))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per task, seed, method, subnetwork, draw and state; the full model's method is empty.

        Columns: ``task, seed, method, subnetwork, draw`` (0 if there is only one)``, state, metric, score,
        encoder_share, heads, mlps, topped_up_heads, topped_up_mlps, majority, guessing``: the last two are what
        always saying the commonest label scores, and drawing labels at random.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        baselines: dict[tuple[str, int | None], dict[str, Any]] = {}
        sizes: dict[str, dict[str, Any]] = {}
        for step in self.done:
            if step.kind not in ("fine-tune", "pruned", "fine-tuned"):
                continue
            found = self.folder.read(step)
            metric = found["metric"]
            row: dict[str, Any] = {"task": step.task, "seed": step.seed}
            if step.kind == "fine-tune":
                always = found["baselines"]
                baselines[step.task, step.seed] = {
                    "majority": always["majority"][metric],
                    "guessing": always["random"][metric],
                }
                row |= {"method": "", "subnetwork": FULL, "draw": 0, "state": FULL, "encoder_share": 1.0}
            else:
                how = step.settings
                row |= {"method": how["method"], "subnetwork": how["subnetwork"], "draw": how.get("draw", 0)}
                row["state"] = STATES[0] if step.kind == "pruned" else STATES[1]
                if step.kind == "pruned":
                    about = found["subnetwork"]
                    sizes[step.path] = {
                        "encoder_share": about["encoder_share"],
                        "heads": about.get("heads", {}).get("kept"),
                        "mlps": about.get("mlps", {}).get("kept"),
                        "topped_up_heads": about.get("topped_up_heads"),
                        "topped_up_mlps": about.get("topped_up_mlps"),
                    }
                row |= sizes.get(step.path if step.kind == "pruned" else step.inputs[0], {})
            rows.append(row | {"metric": metric, "score": found["score"]})
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
        told = [row | baselines.get((row["task"], row["seed"]), {}) for row in rows]
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
        methods = {"search-weights": METHODS[1], _SEARCH: METHODS[0]}
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
    def weight_survival(self) -> pd.DataFrame:
        """Share of the weights of each head and MLP that magnitude pruning keeps, over seeds.

        Columns: ``task, what, layer, head`` (-1 for an MLP)``, seeds, mean, std``.
        """
        import pandas as pd

        frames = []
        for step in self.done:
            if step.name == "search-weights":
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
    def stability(self) -> dict[str, dict[str, Any]]:
        """By task, what :func:`pruning.comparison.consistency.stability_of` says of heads and of MLPs."""
        return {
            group.name: {what: stability_of(group, what, self.plan.study.seed) for what in ("heads", "mlps")}
            for group in self.groups()
        }

    @cached_property
    def shared(self) -> list[dict[str, Any]]:
        """How many heads tasks share, see :func:`pruning.comparison.consistency.shared_by_pairs`."""
        return shared_by_pairs(self.groups(), self.plan.study.seed)

    @cached_property
    def stability_frame(self) -> pd.DataFrame:
        """The two above as one table, see :func:`pruning.comparison.consistency.stability_frame`."""
        return stability_frame(self.stability, self.shared)

    @cached_property
    def patterns(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By task and model (``qqp fine-tuned``) and kind, what
        :func:`pruning.comparison.survivor_patterns.compare` says."""
        study, found = self.plan.study, {}
        for group in self.groups():
            for model in MODELS:
                labels = self._labels(group, pretrained=model == MODELS[1])
                if labels:
                    runs = [run for run in group.runs if run.seed in labels]
                    part = Group(group.name, group.task, group.method, tuple(runs))
                    stacked = _stacked([labels[run.seed] for run in runs])
                    found[f"{group.name} {model}"] = {
                        kind: compare(part, values, study.patterns.permutations, study.seed)
                        for kind, values in stacked.items()
                    }
        adjust([one for kinds in found.values() for one in kinds.values()])
        return found

    def _labels(self, group: Group, pretrained: bool) -> dict[int, pd.DataFrame]:
        """By seed, the pattern of every map; before fine-tuning, the same ones for every seed."""
        steps = [step for step in self.done if step.name == "patterns" and step.task == group.task]
        tables = {step.seed: self.folder.file(step, "maps.parquet") for step in steps}
        wanted = {seed: tables.get(None if pretrained else seed) for seed in group.seeds}
        return {seed: read_frame(path, _MAPS_COLUMNS) for seed, path in wanted.items() if path is not None}

    @property
    def _searches(self) -> list[str]:
        return [f"search-{name}" for name in self.plan.study.searches if name != "weights"]

    @cached_property
    def warnings(self) -> list[str]:
        """What the steps warned of, once each, with the task and seeds."""
        found: dict[tuple[str, str], list[str]] = {}
        for step in self.done:
            if step.kind != "fine-tuned":
                for message in self.folder.read(step).get("warnings", ()):
                    found.setdefault((step.task, message), []).append(
                        f"{step.path.split('/')[1]}/{step.name}"
                    )
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
