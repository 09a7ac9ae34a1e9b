"""What the commands of this room do, as functions: the same options, under the same names with underscores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from models.common.options import FIGURES, Options, Part

if TYPE_CHECKING:
    from models.tasks.task import Task

    from .comparison.job import ComparedHeads, CompareHeads
    from .cross.job import CrossMeasured
    from .job import Classified, ClassifyHeads


_FIGURES = {"figures": Part(FIGURES)}
CLASSIFY_HEADS = Options("patterns.job:ClassifyHeads", parts=_FIGURES, hidden=("classifiers",))
COMPARE_HEADS = Options(
    "patterns.comparison.job:CompareHeads", parts=_FIGURES, arguments={"models": "MODEL..."}
)


class ClassifyOptions(TypedDict, total=False):
    """See the fields of :class:`patterns.job.ClassifyHeads`."""

    revision: str | None
    data: Path | str | None
    text: Path | str | None
    split: str
    examples: int
    maps: tuple[str, ...] | list[str] | str
    annotations: Path | str | None
    subnetwork: Path | str | None
    subnetwork_mode: str
    stack: str | None
    classifiers: Mapping[str, str | None] | None
    batch_size: int
    max_length: int
    seed: int
    device: str
    dtype: str
    device_map: str | None
    output: Path | str | None
    overwrite: bool
    figure_format: tuple[str, ...] | list[str] | str
    figure_width: float | None
    push_to_hub: str | None
    save_maps: bool
    control: bool
    measure: bool


def classify_checkpoint(
    model: str, task: str | Task | None = None, *, progress: bool = False, **options: Unpack[ClassifyOptions]
) -> Classified:
    """Classify the attention of every head of a checkpoint on rows of a task, as ``classify-heads`` does.

    :func:`patterns.classify_heads` does it for a model and rows that are loaded already.

    Args:
        model: Hub id or folder.
        task: a GLUE task in any spelling, or what describes one of one's own (docs/guides/own-task.md); None
            with the option ``text``, a file of one text a line, or of two with a tab between them.
        progress: show progress bars on stderr.
        options: the fields of :class:`patterns.job.ClassifyHeads` (``data``, ``examples``, ``maps``, ``control``,
            ``output`` ...).

    Returns:
        ``patterns`` (:class:`patterns.HeadPatterns`), ``summary`` (what ``summary.json`` holds) and ``rows``.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: ClassifyHeads = CLASSIFY_HEADS.job("classify_checkpoint", options, model=model, task=task)
    return job.run(progress)


def compare_heads(*models: Path | str, progress: bool = False, **options: Any) -> ComparedHeads:
    """Compare the same heads of several models on the same inputs, as ``compare-heads`` does.

    Args:
        models: Hub ids or folders of models of one shape; one with the option ``revisions``.
        progress: show progress bars on stderr.
        options: the fields of :class:`patterns.comparison.job.CompareHeads` (``task``, ``data``, ``revisions``,
            ``examples``, ``maps``, ``output`` ...).

    Returns:
        ``pairs``, ``summary`` (what ``summary.json`` holds), ``patterns`` of each model; ``to_frame()``, ``plot()``.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: CompareHeads = COMPARE_HEADS.job("compare_heads", options, models=models)
    return job.run(progress)


def measure_cross_attention(
    model: str, task: str | Task | None = None, *, progress: bool = False, **options: Unpack[ClassifyOptions]
) -> CrossMeasured:
    """Measure the cross-attention of every head of an encoder-decoder, as ``classify-heads --stack cross`` does.

    Its maps are not classified: the patterns are defined by a map's diagonal, and these have none to speak of.

    Args:
        model: Hub id or folder.
        task: as in :func:`patterns.classify_checkpoint`.
        progress: show progress bars on stderr.
        options: those of :func:`patterns.classify_checkpoint` that have a meaning where nothing is classified.

    Returns:
        ``attention`` (:class:`patterns.cross.attention.CrossAttention`), ``summary`` (what ``summary.json`` holds) and
        ``rows``.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .cross.job import MeasureCross

    asked = CLASSIFY_HEADS.job(
        "measure_cross_attention", {"stack": "cross", **options}, model=model, task=task
    )
    return MeasureCross(asked).run(progress)
