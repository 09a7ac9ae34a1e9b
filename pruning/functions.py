"""What the commands of this room do, as functions: the same options, under the same names with underscores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from models.common.options import FIGURES, Options, Part
from models.common.results import Result

if TYPE_CHECKING:
    from .ablation.job import AblatePatterns
    from .ablation.outcome import Ablated
    from .comparison.job import Compared, CompareSurvivors
    from .search.heads_job import PruneHeads
    from .search.records import HeadsSummary, WeightsSummary
    from .search.weights_job import PruneWeights
    from .study.config import Study
    from .study.job import RunStudy
    from .study.report.outcome import Studied

_Searched = TypeVar("_Searched", "HeadsSummary", "WeightsSummary")

_SUBJECT = Part("pruning.search.subject:Subject")
PRUNE_HEADS = Options(
    "pruning.search.heads_job:PruneHeads",
    parts={"subject": _SUBJECT, "search": Part("pruning.structured:StructuredSearch")},
)
PRUNE_WEIGHTS = Options(
    "pruning.search.weights_job:PruneWeights",
    parts={"subject": _SUBJECT, "search": Part("pruning.magnitude:MagnitudePruning")},
)
_FIGURES = {"figures": Part(FIGURES)}
ABLATE_PATTERNS = Options("pruning.ablation.job:AblatePatterns", parts=_FIGURES)
COMPARE_SURVIVORS = Options(
    "pruning.comparison.job:CompareSurvivors", parts=_FIGURES, arguments={"runs": "RUN..."}
)
RUN_STUDY = Options("pruning.study.job:RunStudy", parts=_FIGURES, hidden=("study", "output", "source"))


def prune_heads(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> Result[HeadsSummary]:
    """Find the heads and MLPs that a fine-tuned model needs, as ``prune-heads`` does, or go on finding them.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.search.subject.Subject` (``data``, ``examples``, ``holdout``,
            ``device`` ...), :class:`pruning.StructuredSearch` (``what``, ``threshold``, ``head_step`` ...) and
            :class:`pruning.search.heads_job.PruneHeads` (``compaction``, ``overwrite``).

    Returns:
        What ``summary.json`` holds; the figure is of the scores.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: PruneHeads = PRUNE_HEADS.job("prune_heads", options, model=model, task=task, output=Path(output))
    return _searched(job.run(progress))


def prune_weights(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> Result[WeightsSummary]:
    """Find the weights that a fine-tuned model needs, by magnitude, as ``prune-weights`` does.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: the search's folder; a search with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.search.subject.Subject`,
            :class:`pruning.magnitude.MagnitudePruning` (``threshold``, ``fraction``, ``criterion`` ...) and
            :class:`pruning.search.weights_job.PruneWeights` (``overwrite``).

    Returns:
        What ``summary.json`` holds; the figure is of the scores.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: PruneWeights = PRUNE_WEIGHTS.job(
        "prune_weights", options, model=model, task=task, output=Path(output)
    )
    return _searched(job.run(progress))


def _searched(found: _Searched) -> Result[_Searched]:
    shown = ("full_score", "threshold_score", "score", "majority_score")
    return Result(found, f"{found['task']}: {found['metric']} of a search", shown)


def ablate_patterns(
    model: str, task: str, output: Path | str, *, progress: bool = False, **options: Any
) -> Ablated:
    """Tell what the heads of each pattern are worth to a fine-tuned model's task, as ``ablate-patterns`` does.

    Args:
        model: folder or Hub id of a model fine-tuned on the task.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`.
        output: the ablation's folder; one with the same options that was stopped there is continued.
        progress: show progress bars on stderr.
        options: the fields of :class:`pruning.ablation.job.AblatePatterns` (``how``, ``by``, ``draws``,
            ``subnetwork`` ...).

    Returns:
        What ``summary.json`` holds; its table has a row a group.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .ablation.outcome import Ablated

    job: AblatePatterns = ABLATE_PATTERNS.job(
        "ablate_patterns", options, model=model, task=task, output=Path(output)
    )
    return Ablated(job.run(progress), job.output)


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
    job: CompareSurvivors = COMPARE_SURVIVORS.job("compare_survivors", options, runs=runs)
    return job.run()


def run_study(
    study: Study | Path | str,
    output: Path | str | None = None,
    *,
    model: str | None = None,
    data: str | None = None,
    **options: Any,
) -> Studied:
    """Run a whole lottery study, or go on with one, as ``run-study`` does.

    Args:
        study: a :class:`pruning.Study`, its TOML file, or the folder of a study that was begun.
        output: folder of the study; as the study says, or the folder given, if None.
        model: Hub id or folder of the pre-trained model, instead of the study's.
        data: folder or Hub data set, instead of the study's.
        options: the fields of :class:`pruning.RunStudy` (``jobs``, ``backend``, ``only``, ``force`` ...).

    Returns:
        ``done`` and ``steps``, ``failed`` and ``left``; ``report``: what the report says, None until all is done. Its
        scores are the table and the figure.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .study.job import study_of
    from .study.report.outcome import Studied
    from .study.report.pages import write_report

    RUN_STUDY.check("run_study", options, given=("study", "output"))
    chosen, folder = study_of(study, output, model=model, data=data)
    file = Path(study) if isinstance(study, str | Path) and Path(study).is_file() else None
    job: RunStudy = RUN_STUDY.job("run_study", {"source": file, **options}, study=chosen, output=folder)
    done = job.run()
    whole = not (done["failed"] or done["left"] or job.only)
    report = write_report(folder, job.figures) if whole else None
    return Studied({**done, "report": report.record if report else None})
