"""What ``finetune-glue`` does, as a function: the same options, under the same names with underscores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from ..common.options import FIGURES, Options, Part

if TYPE_CHECKING:
    from .job import FineTuneGlue
    from .outcome import Tuned, TunedSeeds

FINETUNE = Options(
    "models.finetuning.job:FineTuneGlue",
    parts={"settings": Part("models.finetuning.settings:FineTuning"), "figures": Part(FIGURES)},
    named={
        "max_examples": "--train-examples",
        "group_by_length": "--group-by-length/--random-order",
    },
)


class FineTuneOptions(TypedDict, total=False):
    """See the fields of :class:`FineTuneGlue` and :class:`models.FineTuning`."""

    data: Path | str | None
    revision: str | None
    subnetwork: Path | str | None
    device: str
    overwrite: bool
    figure_format: tuple[str, ...] | list[str] | str
    figure_width: float | None
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
) -> Tuned | TunedSeeds:
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
        the ``scores``, and ``runs``, what each holds. Its table has a row an epoch, or a seed.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: FineTuneGlue = FINETUNE.job(
        "finetune_glue", options, model=model, task=task, output=Path(output), seeds=tuple(seeds)
    )
    return job.run(progress).summary
