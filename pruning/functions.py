"""What the commands of this room do, as functions: the same options, under the same names with underscores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.common.options import shared_out

if TYPE_CHECKING:
    from .comparison.job import Compared
    from .search.records import HeadsSummary, WeightsSummary
    from .study.config import Study
    from .study.records import StudyDone

_GIVEN = ("model", "task", "output", "subject", "search")


def prune_heads(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> HeadsSummary:
    """Find the heads and MLPs that a fine-tuned model needs, as ``prune-heads`` does, or go on finding them.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.search.subject.Subject` (``data``, ``examples``, ``holdout``,
        ``device`` ...),
            :class:`pruning.StructuredSearch` (``what``, ``threshold``, ``head_step`` ...) and
            :class:`pruning.search.heads_job.PruneHeads` (``compaction``, ``overwrite``).

    Returns:
        What ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .search.heads_job import PruneHeads
    from .search.subject import Subject
    from .structured import StructuredSearch

    subject, search, job = shared_out(
        "prune_heads", options, Subject, StructuredSearch, PruneHeads, given=_GIVEN
    )
    return PruneHeads(Subject(model, task, **subject), Path(output), StructuredSearch(**search), **job).run(
        progress
    )


def prune_weights(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> WeightsSummary:
    """Find the weights that a fine-tuned model needs, by magnitude, as ``prune-weights`` does.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.search.subject.Subject` and
        :class:`pruning.search.weights_job.PruneWeights`
            (``threshold``, ``fraction``, ``max_steps``, ``last_bias``, ``overwrite``).

    Returns:
        What ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .search.subject import Subject
    from .search.weights_job import PruneWeights

    subject, job = shared_out("prune_weights", options, Subject, PruneWeights, given=_GIVEN)
    return PruneWeights(Subject(model, task, **subject), Path(output), **job).run(progress)


def compare_survivors(*runs: Path | str, **options: Any) -> Compared:
    """Tell which heads survive under every seed, as ``compare-survivors`` does.

    Args:
        runs: searches, or folders that hold some.
        options: the fields of :class:`pruning.comparison.job.CompareSurvivors` (``data``, ``model``, ``output`` ...).

    Returns:
        The runs by task, and what ``summary.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .comparison.job import CompareSurvivors

    (job,) = shared_out("compare_survivors", options, CompareSurvivors, given=("runs",))
    return CompareSurvivors(runs, **job).run()


def run_study(
    study: Study | Path | str,
    output: Path | str | None = None,
    *,
    model: str | None = None,
    data: str | None = None,
    **options: Any,
) -> StudyDone:
    """Run a whole lottery study, or go on with one, as ``run-study`` does.

    Args:
        study: a :class:`pruning.Study`, its TOML file, or the folder of a study that was begun.
        output: folder of the study; as the study says, or the folder given, if None.
        model: Hub id or folder of the pre-trained model, instead of the study's.
        data: folder or Hub data set, instead of the study's.
        options: the fields of :class:`pruning.RunStudy` (``jobs``, ``backend``, ``only``, ``force`` ...).

    Returns:
        ``done`` and ``steps``, ``failed`` and ``left``; ``report``: what the report says, None until all is done.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .study.job import RunStudy, study_of
    from .study.report.pages import write_report

    (others,) = shared_out("run_study", options, RunStudy, given=("study", "output"))
    chosen, folder = study_of(study, output, model=model, data=data)
    file = Path(study) if isinstance(study, str | Path) and Path(study).is_file() else None
    asked: dict[str, Any] = {"source": file, **others}
    job = RunStudy(chosen, folder, **asked)
    done = job.run()
    whole = not (done["failed"] or done["left"] or job.only)
    return {**done, "report": write_report(folder) if whole else None}
