"""The job of ``compare-survivors``: from several searches to who survives, how reliably, and with what patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoints import Checkpoint, load_checkpoint, model_record, pick_device
from models.common.commands import say
from models.common.errors import InputError
from models.common.files import write_json
from models.common.outputs import Output
from models.common.provenance import provenance, source_record
from models.isolating import check_mode
from models.subnetwork import mask_files
from models.tasks.rows import Rows, load_rows, select_rows
from patterns import HeadPatterns
from patterns.classifier.network import classifier_records, load_classifiers
from patterns.distribution import check_seed
from patterns.heads import check_sizes
from patterns.maps.attention import check_kinds
from patterns.maps.examples import ExampleMaps
from patterns.taxonomy import KINDS

from ..search.runs import Group, Run, find_groups
from .consistency import COCHRAN, shared_by_pairs, stability_frame, stability_of, survivors_frame
from .survivor_patterns import INTERVALS, SIDES, Measured, Source, adjust, compare, measure

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from patterns.report.view import HeadsView

REPORT = "report.html"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class CompareSurvivors:
    """One run of ``compare-survivors``.

    Raises:
        InputError: an option is out of range or of no effect, or the output folder is not empty.
    """

    runs: tuple[str | Path, ...]
    """Folders of finished searches, of published masks, or folders that hold such; a subnetwork's file."""
    model: str | None = None
    """Look at these models instead of those that the runs name; {task} and {seed} are filled in."""
    data: str | None = None
    """Look at patterns too, on examples from this folder (as in classify-heads) or Hub data set, e.g. nyu-mll/glue."""
    task: str | None = None
    """Only this task (GLUE's, or a .toml file); runs that do not say theirs are taken to be of it."""
    maps: tuple[str, ...] = KINDS
    examples: int = 100
    """Rows of each task to draw at random.

    The same for all its seeds.
    """
    split: str = "validation"
    subnetwork_mode: str = "select"
    """select: the full model is observed, and its heads are told apart; gate, compact: super-survivors are looked at
    where the rest is silenced or removed.

    The latter is what Prasanna et al. (2020) did.
    """
    permutations: int = 9999
    """Of each permutation test."""
    batch_size: int = 16
    seed: int = 0
    device: str = "auto"
    output: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Give at least one search's folder.")
        check_kinds(self.maps)
        check_seed(self.seed)
        check_sizes(self.batch_size, 128)
        for name in ("examples", "permutations"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give at least 1.")
        check_mode(self.subnetwork_mode)
        if self.model is not None and self.data is None:
            raise InputError("--model needs --data DIR, the examples to look at it with.")
        if self.output is not None:
            self._output(self.output).check()

    def _output(self, path: Path) -> Output:
        inputs = (*self.runs, self.model, self.data)
        return Output(path, "compare-survivors", self.overwrite, inputs)

    def run(self, announce: Callable[[str], None] | None = None) -> Compared:
        """Do it; with an output folder, everything is written there at once or not at all.

        Args:
            announce: called with a line about each checkpoint before it is run, and then there is a progress bar.

        Raises:
            HeadscopeError: a run, a model or the data is not what it should be.
        """
        groups, warnings = find_groups(self.runs, self.task)
        with ExitStack() as stack:
            folder = None
            if self.output is not None:  # before hours of work that could not be written
                folder = stack.enter_context(self._output(self.output).making())
            summary: dict[str, Any] = {
                "tasks": {group.name: self._task(group) for group in groups},
                "shared_heads": shared_by_pairs(groups, self.seed),
                "seed": self.seed,
                "notes": {"cochran_q": COCHRAN},
                "provenance": provenance(),
            }
            looks: dict[str, ExampleMaps] = {}
            views: list[HeadsView] = []
            if folder is not None:
                looks = {group.task: ExampleMaps(seed=self.seed) for group in groups}
            if self.data is not None:
                warnings += self._patterns(groups, summary, announce, looks, views)
            summary["warnings"] = warnings
            done = Compared(groups, summary)
            if folder is not None:
                write_results(folder, done)
                from models.common.pages import options_of

                from .report import write_comparison

                table = patterns_frame(done.patterns) if done.patterns else None
                options = {"runs": self.runs, **options_of(self)}
                write_comparison(folder / REPORT, options, groups, summary, views, table)
        return done

    def _task(self, group: Group) -> dict[str, Any]:
        return {
            "task": group.task,
            "method": group.method,
            "seeds": group.seeds,
            "untestable": group.untestable or None,
            "runs": [
                {
                    "seed": run.seed,
                    **source_record(run.source, mask_files(run.source)),
                    "heads": run.subnetwork.n_heads,
                    "mlps": run.subnetwork.n_mlps,
                    "model": run.model,
                }
                for run in group.runs
            ],
            **{what: stability_of(group, what, self.seed) for what in ("heads", "mlps")},
        }

    def _patterns(
        self,
        groups: list[Group],
        summary: dict[str, Any],
        announce: Callable[[str], None] | None,
        looks: Mapping[str, ExampleMaps],
        views: list[HeadsView],
    ) -> list[str]:
        """Measure and compare; add to the summary and to the views what that gives, and return what to warn of."""
        models = {group.name: [self._model_of(run) for run in group.runs] for group in groups}
        rows = {
            name: load_rows(task, self.data, self.split)
            for name, task in {group.task: group.described for group in groups}.items()
        }
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps))
        cache: dict[tuple[Source, str], HeadPatterns] = {}
        loader = _Loader(device)
        comparisons = []
        warnings: list[str] = []
        for group in groups:
            drawn = select_rows(rows[group.task].numbered(), group.described, self.examples, self.seed)
            measured = measure(
                group,
                models[group.name],
                loader,
                drawn,
                classifiers,
                cache,
                batch_size=self.batch_size,
                seed=self.seed,
                announce=announce,
                mode=self.subnetwork_mode,
                examples=looks.get(group.task),
            )
            warnings += [*self._caveats(group, rows[group.task], measured), *measured.warnings]
            found = {
                kind: compare(group, labels, self.permutations, self.seed, measured.alone.get(kind))
                for kind, labels in measured.labels.items()
            }
            comparisons += list(found.values())
            if looks:
                from models.common.pages import options_of

                from .report import heads_view

                views.append(heads_view(group, measured, found, looks[group.task], options_of(self)))
            summary["tasks"][group.name] |= {
                "examples": int(next(iter(measured.labels.values())).shape[1]),
                "models": [model.name for model in measured.models],
                "inputs": dict(measured.patterns[0].inputs),
                "patterns": found,
            }
        adjust(comparisons)
        summary["notes"] |= {"intervals": INTERVALS}
        summary |= {"split": self.split, "subnetwork_mode": self.subnetwork_mode, "maps": list(classifiers)}
        summary["provenance"] |= {
            "models": loader.records,
            "data": {name: one.record() for name, one in rows.items()},
            "classifiers": classifier_records(classifiers),
            "device": str(device),
        }
        return list(dict.fromkeys(warnings))

    def _model_of(self, run: Run) -> Source:
        if self.model is None and run.model is None:
            raise InputError(
                f"{run.source} does not say which model it is of; give --model, e.g. models/{{task}}/seed_{{seed}}."
            )
        name = (self.model or run.model or "").replace("{task}", run.task).replace("{seed}", str(run.seed))
        # Found out before hours are spent on the models before it.
        if not Path(name).is_dir() and not _HUB_ID.fullmatch(name):
            given = "--model gives" if self.model else f"{run.source} is of"
            raise InputError(f"{given} {name}, which is no folder here and no Hub id; give --model.")
        return Source(
            name, None if self.model else run.revision
        )  # --model is another's, so its revision is too

    def _caveats(self, group: Group, rows: Rows, measured: Measured) -> list[str]:
        messages = rows.shortage(self.examples)
        if rows.unread:
            say(f"read {rows.source}; not read: {', '.join(rows.unread)}")
        if len(group.runs) > 1 and measured.n_models == 1:
            messages.append(
                f"{group.name}: one model, {measured.models[0].name}, was looked at for all {len(group.runs)} seeds, "
                "so the intervals do not cover how models differ over seeds."
            )
        return messages


@dataclass(frozen=True)
class Compared:
    """What a run of ``compare-survivors`` ends with."""

    groups: list[Group]
    """The runs, by task."""
    summary: dict[str, Any]
    """What ``summary.json`` holds."""

    @property
    def patterns(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By task and kind of maps, what :func:`pruning.comparison.survivor_patterns.compare` found; empty without
        data."""
        return {name: task["patterns"] for name, task in self.summary["tasks"].items() if "patterns" in task}

    def plot(self) -> Figure:
        """Draw how often each head survives, one panel a task."""
        from .figures import survival_maps

        return survival_maps(self.groups)

    def plot_patterns(self) -> Figure:
        """Draw the patterns of the heads that survive under every seed beside those of all heads.

        Raises:
            InputError: no patterns were looked at, which needs data.
        """
        from .figures import pattern_bars

        if not self.patterns:
            raise InputError("No patterns were looked at; give data=, the rows to look at them with.")
        return pattern_bars(self.patterns)


def write_results(folder: Path, done: Compared) -> None:
    """Write tables, figures and the summary of one run into an existing folder."""
    from models.common.drawing import save_figure

    from .figures import pattern_bars, survival_maps

    survivors_frame(done.groups).to_parquet(folder / "survivors.parquet", index=False)
    frame = stability_frame(done.summary["tasks"], done.summary["shared_heads"])
    frame.to_csv(folder / "stability.csv", index=False)
    save_figure(survival_maps(done.groups), folder / "survival.png")
    if done.patterns:
        patterns_frame(done.patterns).to_csv(folder / "patterns.csv", index=False)
        save_figure(pattern_bars(done.patterns), folder / "patterns.png")
    write_json(folder / "summary.json", done.summary)


def patterns_frame(patterns: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """Return one row per task, kind, set of heads and pattern: what ``patterns.csv`` holds.

    Columns: ``task, kind, heads, n_heads, pattern, share, low, high``; the 95% interval is known for
    heterogeneous only.
    """
    import pandas as pd

    rows = []
    for task, kinds in patterns.items():
        for kind, found in kinds.items():
            for side in SIDES:
                if (part := found[side]) is None:
                    continue
                for pattern, share in part["distribution"].items():
                    low, high = (
                        part["interpretable_ratio_ci95"] if pattern == "heterogeneous" else (None, None)
                    )
                    row = {"task": task, "kind": kind, "heads": side, "n_heads": part["heads"]}
                    rows.append(row | {"pattern": pattern, "share": share, "low": low, "high": high})
    return pd.DataFrame(rows)


class _Loader:
    """Loads checkpoints and keeps the last, as one model may be looked at for many runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: tuple[Source, Checkpoint] | None = None
        self.records: list[dict[str, Any]] = []
        """One of each checkpoint, in the order of loading."""

    def __call__(self, model: Source) -> Checkpoint:
        if self._last is None or self._last[0] != model:
            self._last = None  # not two models in memory
            checkpoint = load_checkpoint(model.name, model.revision, self._device)
            if (record := model_record(checkpoint)) not in self.records:
                self.records.append(record)
            self._last = model, checkpoint
        return self._last[1]
