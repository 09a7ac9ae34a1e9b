"""The job of ``finetune-glue``: one fine-tuning, or one a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.options import parse_seeds
from ..common.outputs import Output, apart
from ..common.papers import Figures
from ..evaluation import Examples
from ..tasks.rows import Rows, load_mismatched, load_rows
from ..tasks.task import Task, task_named
from ..weights import load_masks
from .loop import is_main_process
from .outcome import Tuned, TunedSeeds
from .result import METRICS, FineTuneResult
from .run import COMMAND, CURVE, finetune, search_of, summarise
from .settings import FineTuning


@dataclass(frozen=True)
class FineTuneGlue:
    """One run of ``finetune-glue``.

    Raises:
        InputError: an option is out of range, or an output folder is not empty.
    """

    model: str
    task: str | Task
    output: Path
    """New or empty folder for the model; seed_<n> inside with --seeds."""
    settings: FineTuning
    """How; with `seeds`, its own seed is not used."""
    data: str | None = None
    revision: str | None = None
    seeds: tuple[int, ...] = ()
    """Several seeds, one model each: 1337 42 86, or 1337,42,86."""
    subnetwork: str | None = None
    """Masks: a file, a search's folder or a published one. Heads and MLPs are cut out of the model before training;
    single weights are held at 0."""
    device: str = "auto"
    overwrite: bool = False
    figures: Figures = field(default_factory=Figures)
    """How the learning curve is written."""

    def __post_init__(self) -> None:
        data = task_named(self.task).source(self.data)
        if self.seeds:
            parse_seeds([str(seed) for seed in self.seeds])
        for _, folder in self.runs:
            apart(folder, (self.model, data, self.subnetwork))
            if self.overwrite or not (folder / METRICS).is_file():
                Output(folder, COMMAND, self.overwrite).check()

    @property
    def runs(self) -> list[tuple[FineTuning, Path]]:
        """The settings and the folder of each fine-tuning."""
        if not self.seeds:
            return [(self.settings, self.output)]
        return [(replace(self.settings, seed=seed), self.output / f"seed_{seed}") for seed in self.seeds]

    def run(self, progress: bool = False, announce: Callable[[str], None] | None = None) -> FineTuned:
        """Fine-tune, or go on with what was stopped; see :func:`models.finetune`.

        Args:
            progress: show progress bars and a line an epoch on stderr.
            announce: called with each seed before its turn, and with each warning.

        Raises:
            HeadscopeError: the model, the data or the subnetwork is not what it should be.
        """
        say = announce if announce and is_main_process() else _nothing
        task = task_named(self.task)
        masks = load_masks(self.subnetwork) if self.subnetwork else None
        train, dev = (load_rows(task, self.data, split) for split in ("train", "validation"))
        mismatched = load_mismatched(task, self.data)
        results: list[FineTuneResult] = []
        tokenised: dict[str, Examples] = {}
        for settings, folder in self.runs:
            if self.seeds:
                say(f"seed {settings.seed}")
            result = finetune(
                self.model,
                task,
                train,
                dev,
                settings,
                folder,
                self.revision,
                self.device,
                masks,
                progress=progress,
                overwrite=self.overwrite,
                mismatched_rows=mismatched,
                tokenised=tokenised,
                search=search_of(self.subnetwork) if self.subnetwork else None,
                figures=self.figures,
            ).record
            if not all((folder / name).is_file() for name in self.figures.names(CURVE)):
                say(
                    f"{folder} was there already, with its learning curve in another format; --overwrite does it anew"
                )
            results.append(result)
            for warning in result["warnings"]:
                say(f"warning: {warning}")
        title = f"{task.name}: {results[0]['metric']}"
        found = TunedSeeds(summarise(results), title) if self.seeds else Tuned(results[0])
        return FineTuned(results, found, train, dev)


@dataclass(frozen=True)
class FineTuned:
    """What a run of ``finetune-glue`` ends with."""

    results: list[FineTuneResult]
    """What each ``metrics.json`` holds."""
    summary: Tuned | TunedSeeds
    """The same of a single run; of several seeds, see :func:`models.finetuning.run.summarise`."""
    train: Rows
    """Where it was trained."""
    dev: Rows
    """Where it was scored."""


def _nothing(message: str) -> None:
    pass
