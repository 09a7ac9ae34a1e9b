"""What the commands of this room do, as functions: the same options, under the same names with underscores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import InputError

if TYPE_CHECKING:
    from .comparison import Compared


def prune_heads(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> dict[str, Any]:
    """Find the heads and MLPs that a fine-tuned model needs, as ``prune-heads`` does, or go on finding them.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.subject.Subject` (``data``, ``examples``, ``holdout``, ``device`` ...),
            :class:`pruning.StructuredSearch` (``what``, ``threshold``, ``head_step`` ...) and
            :class:`pruning.heads.PruneHeads` (``compaction``, ``overwrite``).

    Returns:
        What ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .heads import PruneHeads
    from .structured import StructuredSearch
    from .subject import Subject

    subject, search, job = _shared_out("prune_heads", options, Subject, StructuredSearch, PruneHeads)
    return PruneHeads(Subject(model, task, **subject), Path(output), StructuredSearch(**search), **job).run(
        progress
    )


def prune_weights(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> dict[str, Any]:
    """Find the weights that a fine-tuned model needs, by magnitude, as ``prune-weights`` does.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.subject.Subject` and :class:`pruning.weight_search.PruneWeights`
            (``threshold``, ``fraction``, ``max_steps``, ``last_bias``, ``overwrite``).

    Returns:
        What ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .subject import Subject
    from .weight_search import PruneWeights

    subject, job = _shared_out("prune_weights", options, Subject, PruneWeights)
    return PruneWeights(Subject(model, task, **subject), Path(output), **job).run(progress)


def compare_survivors(*runs: Path | str, **options: Any) -> Compared:
    """Tell which heads survive under every seed, as ``compare-survivors`` does.

    Args:
        runs: searches, or folders that hold some.
        options: the fields of :class:`pruning.comparison.CompareSurvivors` (``data``, ``model``, ``output`` ...).

    Returns:
        The runs by task, and what ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .comparison import CompareSurvivors

    (job,) = _shared_out("compare_survivors", options, CompareSurvivors)
    return CompareSurvivors(runs, **job).run()


_GIVEN = frozenset({"model", "task", "output", "subject", "search", "runs"})


def _shared_out(function: str, options: dict[str, Any], *jobs: type[Any]) -> Sequence[dict[str, Any]]:
    """Give each dataclass those options that are fields of it.

    Raises:
        InputError: one is a field of none.
    """
    own = _GIVEN - ({"model", "task", "output"} if function == "compare_survivors" else set())
    known = [{field.name for field in fields(job)} - own for job in jobs]
    for name in options:
        if not any(name in names for names in known):
            choices = ", ".join(sorted(set().union(*known)))
            raise InputError(f"{function}() has no option {name!r}; it has {choices}.")
    return [{name: value for name, value in options.items() if name in names} for names in known]
