"""The job of ``compare-survivors``: from several searches to who survives, how reliably, and with what patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from models.checkpoints import (
    Checkpoint,
    ModelRecord,
    check_loading,
    load_checkpoint,
    model_record,
    pick_device,
    precision_of,
)
from models.common.commands import say
from models.common.errors import InputError
from models.common.files import write_json
from models.common.outputs import Output
from models.common.papers import Figures, write_latex
from models.common.progress import part
from models.common.provenance import provenance, source_record
from models.common.results import Tabular
from models.families.family import check_stack
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
from .consistency import COCHRAN, shared_by_pairs, stability_frame, stable, survivors_frame
from .summary import LookedAt, Summary, TaskSummary, patterns_frame, patterns_of
from .survivor_patterns import (
    INTERVALS,
    Measured,
    PatternComparison,
    Source,
    Uncorrected,
    adjust,
    compare,
    measure,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

REPORT, SUMMARY = "report.html", "summary.json"
SURVIVORS, STABILITY, PATTERNS, SURVIVAL = (
    "survivors.parquet",
    "stability.csv",
    "patterns.csv",
    "survival.csv",
)
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
    dtype: str = "float32"
    device_map: str | None = None
    stack: str | None = None
    output: Path | None = None
    overwrite: bool = False
    figures: Figures = field(default_factory=Figures)
    """How figures are written."""

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
        check_loading(self.dtype, self.device_map, self.device)
        check_stack(self.stack)
        if self.stack not in (None, "encoder"):
            raise InputError(
                f"--stack {self.stack}: of an encoder-decoder, searches find out which of the encoder's heads survive, "
                "and nothing of the others; leave it out."
            )
        looking = {
            "--model": self.model,
            "--dtype": None if self.dtype == "float32" else self.dtype,
            "--device-map": self.device_map,
            "--stack": self.stack,
        }
        if self.data is None and (given := [name for name, value in looking.items() if value is not None]):
            raise InputError(f"{given[0]} needs --data DIR, the examples to look at models with.")
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
            looks: dict[str, ExampleMaps] = {}
            if folder is not None:
                looks = {group.task: ExampleMaps(seed=self.seed) for group in groups}
            summary: Summary = {
                "tasks": {group.name: self._task(group) for group in groups},
                "shared_heads": shared_by_pairs(groups, self.seed),
                "seed": self.seed,
                "notes": {"cochran_q": COCHRAN},
                "provenance": {**provenance()},
                "warnings": warnings,
            }
            looked = None if self.data is None else self._patterns(groups, announce, looks)
            if looked is not None:
                summary = self._with(summary, looked)
            done = Compared(groups, summary)
            if folder is not None:
                with part(f"written to {self.output}"):
                    figures = self.figures.drawn(done.figures)
                    write_results(folder, done, figures, self.figures)
                    self._write_report(folder / REPORT, done, looked, looks, figures)
        return done

    def _task(self, group: Group) -> TaskSummary:
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
            **stable(group, self.seed),
        }

    def _patterns(
        self,
        groups: list[Group],
        announce: Callable[[str], None] | None,
        looks: Mapping[str, ExampleMaps],
    ) -> _Looked:
        """Look at the heads of each task's models and compare."""
        models = {group.name: [self._model_of(run) for run in group.runs] for group in groups}
        rows = {
            name: load_rows(task, self.data, self.split)
            for name, task in {group.task: group.described for group in groups}.items()
        }
        device = pick_device(self.device)
        classifiers = load_classifiers(check_kinds(self.maps))
        cache: dict[tuple[Source, str], HeadPatterns] = {}
        loader = _Loader(device, self.dtype, self.device_map)
        measured: dict[str, Measured] = {}
        found: dict[tuple[str, str], Uncorrected] = {}
        warnings: list[str] = []
        for group in groups:
            drawn = select_rows(rows[group.task].numbered(), group.described, self.examples, self.seed)
            one = measured[group.name] = measure(
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
                stack=self.stack,
            )
            warnings += [*self._caveats(group, rows[group.task], one), *one.warnings]
            for kind, labels in one.labels.items():
                found[group.name, kind] = compare(
                    group, labels, self.permutations, self.seed, one.alone.get(kind)
                )
        patterns: dict[str, dict[str, PatternComparison]] = {}
        for (name, kind), comparison in zip(found, adjust(list(found.values())), strict=True):
            patterns.setdefault(name, {})[kind] = comparison
        return _Looked(
            measured,
            patterns,
            {
                "models": loader.records,
                "data": {name: one.record() for name, one in rows.items()},
                "classifiers": classifier_records(classifiers),
                "device": str(device),
                "device_map": self.device_map,
                "dtype": ", ".join(sorted(loader.precisions)),
            },
            list(dict.fromkeys(warnings)),
        )

    def _with(self, summary: Summary, looked: _Looked) -> Summary:
        """Return a summary with what was found by looking at heads."""
        for name, measured in looked.measured.items():
            task = summary["tasks"][name]
            task["examples"] = int(next(iter(measured.labels.values())).shape[1])
            task["models"] = [model.name for model in measured.models]
            task["inputs"] = dict(measured.patterns[0].inputs)
            task["patterns"] = looked.patterns[name]
        return {
            "tasks": summary["tasks"],
            "shared_heads": summary["shared_heads"],
            "seed": summary["seed"],
            "notes": {**summary["notes"], "intervals": INTERVALS},
            "provenance": {**summary["provenance"], **looked.provenance},
            "split": self.split,
            "subnetwork_mode": self.subnetwork_mode,
            "maps": list(looked.provenance["classifiers"]),
            "warnings": [*summary["warnings"], *looked.warnings],
        }

    def _write_report(
        self,
        path: Path,
        done: Compared,
        looked: _Looked | None,
        looks: Mapping[str, ExampleMaps],
        figures: Mapping[str, Figure],
    ) -> None:
        from models.common.pages import options_of

        from .report import heads_view, write_comparison

        options = {name: value for name, value in options_of(self).items() if name != "runs"}
        views = []
        if looked is not None:
            views = [
                heads_view(
                    group,
                    looked.measured[group.name],
                    looked.patterns[group.name],
                    looks[group.task],
                    options,
                )
                for group in done.groups
            ]
        table = patterns_frame(done.patterns) if done.patterns else None
        write_comparison(path, self.runs, options, done.groups, done.summary, views, table, figures)

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
class _Looked:
    """What looking at the heads of all tasks gave."""

    measured: Mapping[str, Measured]
    """By task."""
    patterns: Mapping[str, dict[str, PatternComparison]]
    """By task and kind of maps."""
    provenance: LookedAt
    warnings: list[str]


@dataclass(frozen=True)
class Compared(Tabular):
    """What a run of ``compare-survivors`` ends with."""

    groups: list[Group]
    """The runs, by task."""
    summary: Summary
    """What ``summary.json`` holds."""

    @property
    def patterns(self) -> dict[str, dict[str, PatternComparison]]:
        """By task and kind of maps, what :func:`pruning.comparison.survivor_patterns.adjust` returned; empty without
        data."""
        return patterns_of(self.summary)

    def to_frame(self) -> pd.DataFrame:
        """Return a row a task and head or MLP: what ``survivors.parquet`` holds."""
        return survivors_frame(self.groups)

    def figures(self) -> dict[str, Figure]:
        """Draw what there is to draw, by the names of the files in an output folder, without their endings."""
        from .figures import PATTERNS_FIGURE, SURVIVAL_FIGURE

        drawn = {SURVIVAL_FIGURE: self.plot()}
        return drawn | ({PATTERNS_FIGURE: self.plot_patterns()} if self.patterns else {})

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


def write_results(
    folder: Path, done: Compared, figures: Mapping[str, Figure], written: Figures | None = None
) -> None:
    """Write tables, figures by the names of their files, and the summary of one run into an existing folder."""
    done.to_frame().to_parquet(folder / SURVIVORS, index=False)
    tables = {
        SURVIVAL: done.to_frame(),
        STABILITY: stability_frame(done.summary["tasks"], done.summary["shared_heads"]),
        **({PATTERNS: patterns_frame(done.patterns)} if done.patterns else {}),
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
        write_latex(table, (folder / name).with_suffix(".tex"))
    for name, figure in figures.items():
        (written or Figures()).write(figure, folder, name)
    write_json(folder / SUMMARY, done.summary)


class _Loader:
    """Loads checkpoints and keeps the last, as one model may be looked at for many runs."""

    def __init__(self, device: torch.device, dtype: str, device_map: str | None) -> None:
        self._device, self._dtype, self._device_map = device, dtype, device_map
        self._last: tuple[Source, Checkpoint] | None = None
        self.records: list[ModelRecord] = []
        """One of each checkpoint, in the order of loading."""
        self.precisions: set[str] = set()
        """In which they compute."""

    def __call__(self, model: Source) -> Checkpoint:
        if self._last is None or self._last[0] != model:
            self._last = None  # not two models in memory
            checkpoint = load_checkpoint(
                model.name,
                model.revision,
                self._device,
                dtype=self._dtype,
                device_map=self._device_map,
                quantised=True,
            )
            self.precisions.add(precision_of(checkpoint.model))
            if (record := model_record(checkpoint)) not in self.records:
                self.records.append(record)
            self._last = model, checkpoint
        return self._last[1]
