"""The job of ``finetune-glue``, and the function that does it: one fine-tuning, or one a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from ..common.options import shared_out
from ..common.outputs import Output, apart
from ..evaluation import Examples
from ..tasks.rows import Rows, load_mismatched, load_rows
from ..tasks.task import Task, task_named
from ..weights import load_masks
from .loop import FineTuning, is_main_process
from .result import METRICS, FineTuneResult, SeveralSeeds
from .run import COMMAND, finetune, parse_seeds, search_of, summarise


@dataclass(frozen=True)
class FineTuneGlue:
    """One run of ``finetune-glue``.

    Raises:
        InputError: an option is out of range, or an output folder is not empty.
    """

    model: str
    """Hub id or folder."""
    task: str | Task
    """A GLUE task in any spelling, or what describes one of the user's own: see
    :func:`models.tasks.task.task_named`."""
    output: Path
    """Folder for the model; with `seeds`, for their folders ``seed_<n>``."""
    settings: FineTuning
    """How; with `seeds`, its own seed is not used."""
    data: str | None = None
    """Folder or Hub data set with the task's rows; what the task says if None, the Hub's GLUE for its nine."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    seeds: tuple[int, ...] = ()
    """Several seeds, one model each."""
    subnetwork: str | None = None
    """Masks of what is kept: a file, a search's folder or a published one."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    overwrite: bool = False
    """Whether an earlier output may be replaced."""

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
            )
            results.append(result)
            for warning in result["warnings"]:
                say(f"warning: {warning}")
        return FineTuned(results, summarise(results) if self.seeds else results[0], train, dev)


@dataclass(frozen=True)
class FineTuned:
    """What a run of ``finetune-glue`` ends with."""

    results: list[FineTuneResult]
    """What each ``metrics.json`` holds."""
    summary: FineTuneResult | SeveralSeeds
    """The same of a single run; of several seeds, see :func:`models.finetuning.run.summarise`."""
    train: Rows
    """Where it was trained."""
    dev: Rows
    """Where it was scored."""


class FineTuneOptions(TypedDict, total=False):
    """See the fields of :class:`FineTuneGlue` and :class:`models.FineTuning`."""

    data: Path | str | None
    revision: str | None
    subnetwork: Path | str | None
    device: str
    overwrite: bool
    epochs: float
    learning_rate: float
    warmup: float
    adam_epsilon: float
    weight_decay: float
    batch_size: int
    max_length: int
    max_grad_norm: float
    group_by_length: bool
    precision: str
    max_examples: int | None
    seed: int
    holdout: float
    keep: str
    checkpoint_steps: int
    report_to: tuple[str, ...] | list[str] | str


def finetune_glue(
    model: str,
    task: str,
    output: Path | str,
    *,
    seeds: Iterable[int] = (),
    progress: bool = False,
    **options: Unpack[FineTuneOptions],
) -> FineTuneResult | SeveralSeeds:
    """Fine-tune a model on a GLUE task, for one seed or several, as ``finetune-glue`` does.

    :func:`models.finetune` does it on rows that are loaded already.

    Args:
        model: Hub id or folder.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: folder for the model; with `seeds`, for their folders ``seed_<n>``. What was stopped there goes on.
        seeds: several, one model each.
        progress: show progress bars and a line an epoch on stderr.
        options: ``data``, ``revision``, ``subnetwork``, ``device``, ``overwrite``, and the fields of
            :class:`models.FineTuning` (``epochs``, ``learning_rate``, ``seed`` ...).

    Returns:
        What ``metrics.json`` holds, see :func:`models.finetune`; with `seeds` the ``mean`` and the ``std`` of each of
        the ``scores``, and ``runs``, what each holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    given = ("model", "task", "output", "seeds", "settings")
    job, settings = shared_out("finetune_glue", options, FineTuneGlue, FineTuning, given=given)
    return (
        FineTuneGlue(model, task, Path(output), FineTuning(**settings), seeds=tuple(seeds), **job)
        .run(progress)
        .summary
    )


def _nothing(message: str) -> None:
    pass
