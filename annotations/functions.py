"""What the commands of this room do, as functions: the same options, under the same names with underscores.

Each takes the fields of its job as options, with the defaults that stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from models.common.options import FIGURES, Options, Part, paths
from models.common.results import Result

from .sampling.strategies import STRATEGIES

if TYPE_CHECKING:
    from models.tasks.task import Task

    from .agreement.job import MeasureAgreement
    from .agreement.outcome import Agreed
    from .label_studio.import_export import Export, Exported, Import, Imported
    from .label_studio.push_pull import Pull, Pulled, Push, Pushed
    from .sampling.job import SampleMaps, SampleReport
    from .status import Status
    from .training.job import EvaluateClassifier, TrainClassifier
    from .training.outcome import Evaluated, Trained

SAMPLE = Options(
    "annotations.sampling.job:SampleMaps",
    hidden=("classifiers",),
    described={
        "strategy": "; ".join(f"{name}: {one.help}" for name, one in STRATEGIES.items())
        + ". In our simulation the last teaches a classifier the most for each label; uncertain and balanced, "
        "hardly more than random."
    },
)
PUSH = Options(
    "annotations.label_studio.push_pull:Push",
    hidden=("token", "patience"),
    arguments={"folder": "DIR"},
    environment={"url": "LABEL_STUDIO_URL"},
)
PULL = Options(
    "annotations.label_studio.push_pull:Pull",
    hidden=("token",),
    arguments={"folder": "DIR"},
    environment={"url": "LABEL_STUDIO_URL"},
)
IMPORT = Options(
    "annotations.label_studio.import_export:Import",
    hidden=("annotators",),
    arguments={"source": "FILE", "folder": "DIR"},
)
EXPORT = Options(
    "annotations.label_studio.import_export:Export", arguments={"folder": "DIR", "output": "OUTPUT"}
)
AGREEMENT = Options(
    "annotations.agreement.job:MeasureAgreement",
    parts={"figures": Part(FIGURES)},
    arguments={"folders": "DIR..."},
)
TRAIN = Options(
    "annotations.training.job:TrainClassifier",
    parts={
        "training": Part("patterns.classifier.training:Training", ("epochs", "generated", "trees", "seed"))
    },
)
EVALUATE = Options("annotations.training.job:EvaluateClassifier")


_TAKEN = ("taken", "added", "known", "replaced")


class SampleOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.sampling.job.SampleMaps`."""

    text: Path | str | None
    strategy: str
    count: int
    maps: tuple[str, ...] | list[str] | str
    examples: int
    data: Path | str | None
    revision: str | None
    split: str
    exclude: tuple[Path | str, ...] | list[Path | str] | Path | str
    classifiers: Mapping[str, str | None]
    base_model: str
    batch_size: int
    max_length: int
    seed: int
    device: str
    dtype: str
    device_map: str | None
    stack: str | None
    overwrite: bool


def sample_maps(
    model: str,
    task: str | Task | None,
    output: Path | str,
    *,
    progress: bool = False,
    **options: Unpack[SampleOptions],
) -> Result[SampleReport]:
    """Choose maps of a model that are worth labelling, as ``annotate-maps sample`` does.

    Args:
        model: Hub id or folder.
        task: a GLUE task in any spelling, or what describes one's own: see :func:`models.tasks.task.task_named`; None
            with the option ``text``, a file of one text a line, or of two with a tab between them.
        output: new or empty folder for the maps.
        progress: show progress bars on stderr.
        options: the fields of :class:`annotations.sampling.job.SampleMaps` (``strategy``, ``count``, ``data`` ...).

    Returns:
        What ``sample.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: SampleMaps = SAMPLE.job("sample_maps", options, model=model, task=task, output=Path(output))
    return Result(job.run(progress), "Candidates, and maps chosen", ("candidates", "maps"))


class PushOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.label_studio.push_pull.Push`."""

    url: str
    blind: bool
    annotators_per_map: int | None
    timeout: float
    patience: float


def push_maps(
    folder: Path | str,
    project: str,
    *,
    token: str | None = None,
    progress: bool = False,
    **options: Unpack[PushOptions],
) -> Result[Pushed]:
    """Send maps to a Label Studio project to be labelled, as ``annotate-maps push`` does.

    Args:
        folder: of the maps.
        project: title of the project, made if it is not there; or a project's number.
        token: of Label Studio; what the environment variable ``LABEL_STUDIO_API_KEY`` holds if None.
        progress: show a progress bar on stderr.
        options: the fields of :class:`annotations.label_studio.push_pull.Push` (``url``, ``blind``,
        ``annotators_per_map`` ...).

    Returns:
        See :meth:`annotations.label_studio.push_pull.Push.run`.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .label_studio.server import token_of

    job: Push = PUSH.job("push_maps", options, folder=Path(folder), project=project, token=token_of(token))
    return Result(job.run(progress), "Maps pushed", ("maps", "added", "there", "predictions", "duplicates"))


class PullOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.label_studio.push_pull.Pull`."""

    url: str
    timeout: float


def pull_labels(
    folder: Path | str,
    project: str,
    *,
    token: str | None = None,
    progress: bool = False,
    **options: Unpack[PullOptions],
) -> Result[Pulled]:
    """Bring the labels of a Label Studio project into the folder of the maps, as ``annotate-maps pull`` does.

    Args:
        folder: of the maps.
        project: title or number of the project.
        token: of Label Studio; what the environment variable ``LABEL_STUDIO_API_KEY`` holds if None.
        progress: show a progress bar on stderr.
        options: the fields of :class:`annotations.label_studio.push_pull.Pull` (``url``, ``timeout``).

    Returns:
        See :func:`annotations.label_studio.import_export.summary`.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .label_studio.server import token_of

    job: Pull = PULL.job("pull_labels", options, folder=Path(folder), project=project, token=token_of(token))
    return Result(job.run(progress), "Labels pulled", (*_TAKEN, "withdrawn"))


class ImportOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.label_studio.import_export.Import`."""

    control: str
    id_field: str | None
    annotators: Mapping[str, str]


def import_labels(
    source: Path | str, folder: Path | str, *, progress: bool = False, **options: Unpack[ImportOptions]
) -> Result[Imported]:
    """Read labels, and maps where there are some, into a folder, as ``annotate-maps import`` does.

    Args:
        source: JSON, JSON_MIN, CSV or TSV of Label Studio; or a folder of annotated maps, ours or as published.
        folder: of the maps that were labelled.
        progress: show a progress bar on stderr.
        options: the fields of :class:`annotations.label_studio.import_export.Import` (``control``, ``id_field``,
        ``annotators``).

    Returns:
        See :func:`annotations.label_studio.import_export.summary`.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: Import = IMPORT.job("import_labels", options, source=Path(source), folder=Path(folder))
    return Result(job.run(progress), "Labels imported", _TAKEN)


class ExportOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.label_studio.import_export.Export`."""

    format: str
    pictures: bool
    overwrite: bool
    push_to_hub: str | None


def export_maps(folder: Path | str, output: Path | str, **options: Unpack[ExportOptions]) -> Result[Exported]:
    """Write maps and labels in another format, as ``annotate-maps export`` does.

    Args:
        folder: of annotated maps.
        output: the file or, for published and dataset, the folder.
        options: the fields of :class:`annotations.label_studio.import_export.Export` (``format``, ``pictures``,
        ``overwrite``).

    Returns:
        See :meth:`annotations.label_studio.import_export.Export.run`.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    job: Export = EXPORT.job("export_maps", options, folder=Path(folder), output=Path(output))
    return Result(job.run(), "Written", ("maps", "labels"))


def labelling_status(folder: Path | str) -> Result[Status]:
    """Return what is labelled and what is open in a folder of maps, as ``annotate-maps status`` says it.

    Returns:
        See :func:`annotations.status.status`.

    Raises:
        InputError: there are no maps, or a file is not what it should be.
    """
    from .status import status

    shown = ("maps", "labelled", "open", "undecided", "patterns")
    return Result(status(folder), "Maps by state, and by the label of the majority", shown)


class AgreementOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.agreement.job.MeasureAgreement`."""

    maps: str | None
    output: Path | str | None
    seed: int
    overwrite: bool
    figure_format: tuple[str, ...] | list[str] | str
    figure_width: float | None


def measure_agreement(*folders: Path | str, **options: Unpack[AgreementOptions]) -> Agreed:
    """Say how far annotators agree, where they differ, and which labels follow, as ``annotate-maps agreement`` does.

    Args:
        folders: of annotated maps, taken together.
        options: the fields of :class:`annotations.agreement.job.MeasureAgreement` (``maps``, ``output``, ``seed``,
            ``overwrite``).

    Returns:
        What ``agreement.json`` holds, see :func:`annotations.agreement.statistics.agreement`.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .agreement.outcome import Agreed

    job: MeasureAgreement = AGREEMENT.job("measure_agreement", options, folders=paths(folders))
    return Agreed(job.run())


class TrainOptions(TypedDict, total=False):
    """See the fields of :class:`annotations.training.job.TrainClassifier` and
    :class:`patterns.classifier.training.Training`."""

    other_kind: float | None
    folds: int
    note: str
    overwrite: bool
    push_to_hub: str | None
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    balance: float
    generated: float
    trees: int
    size: int
    stages: tuple[tuple[int, ...], ...]
    seed: int


def train_classifier(
    *annotations: Path | str,
    output: Path | str,
    maps: str = "raw",
    progress: bool = False,
    **options: Unpack[TrainOptions],
) -> Trained:
    """Train a pattern classifier and score it on heads it has not seen, as ``train-classifier`` does.

    Args:
        annotations: folders of annotated maps.
        output: new or empty folder for the classifier.
        maps: the kind of maps that it is for: raw or norm.
        progress: show progress bars on stderr.
        options: the fields of :class:`annotations.training.job.TrainClassifier` (``folds``, ``other_kind``, ``note``,
            ``overwrite``) and of :class:`patterns.classifier.training.Training` (``epochs``, ``trees``, ``seed``
            ...).

    Returns:
        What ``training.json`` holds.

    Raises:
        HeadscopeError: an option is unknown or out of range, or as the command ends with exit code 2.
    """
    from .training.outcome import Trained

    job: TrainClassifier = TRAIN.job(
        "train_classifier", options, annotations=paths(annotations), maps=maps, output=Path(output)
    )
    return Trained(job.run(progress), "Scores out of fold, with 95% intervals")


def evaluate_classifier(
    *annotations: Path | str, classifier: str = "raw", maps: str | None = None
) -> Evaluated:
    """Score a pattern classifier on annotated maps, as ``evaluate-classifier`` does.

    Args:
        annotations: folders of annotated maps.
        classifier: ``raw`` or ``norm`` (shipped), a folder or a Hub id.
        maps: kind of maps to score on; the classifier's own if None.

    Returns:
        See :meth:`annotations.training.job.EvaluateClassifier.run`.

    Raises:
        HeadscopeError: as the command ends with exit code 2.
    """
    from .training.outcome import Evaluated

    job: EvaluateClassifier = EVALUATE.job(
        "evaluate_classifier", {}, annotations=paths(annotations), classifier=classifier, maps=maps
    )
    return Evaluated(job.run(), f"Scores of {classifier}, with 95% intervals")
