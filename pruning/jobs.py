"""What the commands of this room do, as functions: the same options, under the same names with underscores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import InputError
from models.options import shared_out

if TYPE_CHECKING:
    from .comparison import Compared
    from .study_config import Study

_GIVEN = ("model", "task", "output", "subject", "search")


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

    subject, search, job = shared_out(
        "prune_heads", options, Subject, StructuredSearch, PruneHeads, given=_GIVEN
    )
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

    subject, job = shared_out("prune_weights", options, Subject, PruneWeights, given=_GIVEN)
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

    (job,) = shared_out("compare_survivors", options, CompareSurvivors, given=("runs",))
    return CompareSurvivors(runs, **job).run()


def run_study(
    study: Study | Path | str,
    output: Path | str | None = None,
    *,
    model: str | None = None,
    data: str | None = None,
    **options: Any,
) -> dict[str, Any]:
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
    from .study_report import write_report
    from .study_run import RunStudy

    (others,) = shared_out("run_study", options, RunStudy, given=("study", "output"))
    chosen, folder = study_of(study, output, model=model, data=data)
    file = Path(study) if isinstance(study, str | Path) and Path(study).is_file() else None
    job = RunStudy(chosen, folder, **({"source": file} | others))
    done = job.run()
    whole = not (done["failed"] or done["left"] or job.only)
    return {**done, "report": write_report(folder) if whole else None}


def study_of(
    given: Study | Path | str, output: Path | str | None, *, model: str | None = None, data: str | None = None
) -> tuple[Study, Path]:
    """Return the study that is meant, and its folder; see :func:`run_study`.

    Raises:
        InputError: the file or the folder is none of a study, or nothing says where to write.
    """
    from .study_config import Study, read_study
    from .study_run import read_plan

    replaced: dict[str, Any] = {}
    replaced |= {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    if isinstance(given, Study):
        study = replace(given, **replaced)
    elif not Path(given).is_dir():
        study = read_study(given, model=model, data=data)
    else:
        plan = read_plan(Path(given))
        study, output = replace(plan.study, **replaced), output or given
        if model is not None:
            study = replace(study, revision=None)
        elif Path(output) != Path(given):  # a branch may have moved since
            study = replace(study, revision=plan.materials.model.get("revision") or study.revision)
    return study, study_folder(study, output)


def study_folder(study: Study, output: Path | str | None) -> Path:
    """Return the folder of a study, as given or as its file says.

    Raises:
        InputError: neither says it.
    """
    if output is None and study.output is None:
        raise InputError("Give --output DIR, the folder of the study, or set output in the file.")
    return Path(output or study.output or ".")
