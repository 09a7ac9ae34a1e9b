"""What a task is: its texts, its labels, its metric and where its rows lie. GLUE's nine, and those of a user's own."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..common.errors import InputError, one_line
from ..common.reading import read_text, reading
from .measures import check_metric

HUB_DATASET = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """A task of classifying one text or two, or of giving them a number."""

    name: str
    columns: tuple[str, ...]
    """The one or two text columns, in the order in which the model reads them."""
    labels: tuple[str, ...] = ()
    """Label names, in the order of the numbers 0, 1, ... that may stand for them; empty for a regression."""
    metric: str = "accuracy"
    """What pruning goes by: one of :mod:`models.tasks.measures`, or any of scikit-learn's scorers by its name."""
    also: tuple[str, ...] = ()
    """Metrics that are reported besides that one and accuracy."""
    label: str = "label"
    """The column of the labels."""
    span: tuple[float, float] = (-math.inf, math.inf)
    """The lowest and highest label of a regression."""
    data: str | None = None
    """Folder or Hub data set of the rows, where nothing else is said."""
    config: str | None = None
    """Which of the Hub data set's."""
    train: str = "train"
    """The split to learn from."""
    validation: str = "validation"
    """The split that decides and is reported on."""
    mismatched: str | None = None
    """A second dev split, of other genres than the training rows'."""
    tsv_columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the files that the GLUE authors distribute call the columns."""
    tsv_only: bool = False
    """Whether those names mean that in .tsv files alone: elsewhere a column ``score`` may have another range."""
    tsv_header: tuple[str, ...] = ()
    """The columns of their files, where these have no header line."""
    own: bool = False
    """Whether it is a task of the user's own, none of GLUE's nine."""

    def __str__(self) -> str:
        return self.name

    @property
    def numbered(self) -> bool:
        """Whether numbers are names of labels (one to five stars), so that none is a place in their order."""
        return any(_NUMBER.fullmatch(name.strip()) for name in self.labels)

    def source(self, data: str | Path | None) -> str | None:
        """Return where the rows lie: in `data` if given, else where the task says; None if it says nothing."""
        return self.data if data is None else str(data)

    @property
    def mismatched_name(self) -> str:
        """What GLUE's tables call the scores on :attr:`mismatched`: ``mnli-mm``."""
        return f"{self.name}-mm"

    def split(self, name: str) -> str:
        """Return what the task's data call a split: of ``train`` and ``validation``, other names may be given."""
        return {"train": self.train, "validation": self.validation}.get(name, name)

    def record(self) -> dict[str, Any] | None:
        """Return what defines a task of the user's own, ready for JSON and for :func:`task_named`; None for GLUE's."""
        if not self.own:
            return None
        found: dict[str, Any] = {}
        for key, attribute in _KEYS.items():
            value = getattr(self, attribute)
            if key == "range":  # JSON has no infinity
                value = None if self.labels else [one if math.isfinite(one) else None for one in value]
            if value not in (None, ()):
                found[key] = list(value) if isinstance(value, tuple) else value
        return found

    def meaning(self) -> dict[str, Any] | None:
        """Return what of :meth:`record` decides a result, given the rows themselves."""
        record = self.record()
        return record and {key: record[key] for key in _MEANING if key in record}


_KEYS = {
    "name": "name",
    "texts": "columns",
    "label": "label",
    "labels": "labels",
    "range": "span",
    "metric": "metric",
    "data": "data",
    "config": "config",
    "train": "train",
    "validation": "validation",
}
"""Keys of a task's file, and the fields of :class:`Task` that they set."""
MISMATCHED = "mismatched_"
"""Begins the names of scores on rows of other genres: ``mismatched_accuracy``."""
MNLI_MISMATCHED = ("mnlimm", "mnlimismatched")
"""Plain spellings of MNLI's rows of other genres, which are a split and no task."""
_OF_MNLI = (
    " MNLI's mismatched rows are a split of mnli: --split validation_mismatched of a command that takes it, and "
    "mismatched = true in a study's file; finetune-glue scores both."
)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_MEANING = ("texts", "label", "labels", "range", "metric")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola",
            ("sentence",),
            ("unacceptable", "acceptable"),
            metric="matthews",
            tsv_header=("source", "label", "star", "sentence"),
        ),
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task(
            "mrpc",
            ("sentence1", "sentence2"),
            ("not_equivalent", "equivalent"),
            also=("f1",),
            tsv_columns={"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
        ),
        Task(
            "stsb",
            ("sentence1", "sentence2"),
            metric="pearson_spearman",
            span=(0.0, 5.0),
            tsv_columns={"score": "label"},
            tsv_only=True,
        ),
        Task(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            also=("f1",),
            tsv_columns={"is_duplicate": "label"},
        ),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            mismatched="validation_mismatched",
            tsv_columns={"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
    )
}


def task_named(given: str | Path | Mapping[str, Any] | Task) -> Task:
    """Return a task: one of GLUE's by any common spelling (``SST-2``, ``sst2``, ``STS-B``, ``MNLI-m``), or one's own.

    One's own is described by a TOML file, of which this is the path, or by a mapping with its keys::

        name = "stars"                      # what results call it; without it, the file is called so
        texts = ["review"]                  # the one or two text columns, in the order in which the model reads them
        label = "rating"                    # the label column; "label" without it
        labels = ["bad", "fair", "good"]    # names, in the order of the numbers 0, 1, 2 that may stand for them
        metric = "f1_macro"                 # what pruning goes by; "accuracy" without it
        data = "reviews"                    # folder, from the file's own folder, or Hub data set; --data comes first
        config = "en"                       # which of the Hub data set's
        train = "train"                     # its split to learn from
        validation = "test"                 # its split that decides and is reported on

    A regression has ``range = [0, 5]`` (``[-inf, inf]`` if there is none) in the place of ``labels``, and a metric of
    its own: ``pearson_spearman`` (without it), ``pearson``, ``spearman``, or one of scikit-learn's, ``r2`` say.

    Raises:
        InputError: it is none of these, or the file or mapping is not what it should be.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, Mapping):
        return _task_of(given, "The task", None)
    if not isinstance(given, str | Path):
        raise InputError(
            f"A task is given by its name, a TOML file or a mapping, not by a {type(given).__name__}."
        )
    if (key := plain_name(str(given))) in TASKS:
        return TASKS[key]
    path = Path(given)
    if path.suffix.lower() != ".toml":
        raise InputError(
            f"Unknown task {one_line(str(given), 60)!r}; give one of the nine GLUE tasks ({', '.join(TASKS)}), or a "
            ".toml file that describes a task of your own." + (_OF_MNLI if key in MNLI_MISMATCHED else "")
        )
    text = read_text(path, "a task's TOML file", most=2**20)
    with reading(path, "TOML"):
        table = tomllib.loads(text)
    return _task_of({"name": path.stem} | table, str(path), path.parent)


def plain_name(name: str) -> str:
    """Return the name of one of GLUE's tasks, if it is a spelling of one."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return {"mnlim": "mnli", "mnlimatched": "mnli", "sst": "sst2", "sts": "stsb"}.get(key, key)


def plain_label(name: str) -> str:
    """Return what of a label's name counts: of a number its value, else letters and digits, in any case; or all of it.

    So -1 and 1 differ, and 1.5 and 15, while 1 and 1.0 are the same.
    """
    if _NUMBER.fullmatch(name.strip()):
        return f"{float(name):.17g}"
    return re.sub(r"[\W_]", "", name.casefold()) or name.strip()


def _task_of(table: Mapping[str, Any], where: str, home: Path | None) -> Task:
    """Build a task from a table.

    Args:
        table: with the keys of :data:`_KEYS`.
        where: what to call it in an error.
        home: where a relative folder of data starts.
    """
    for key in table:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, 1, 0.0)[0]
            raise InputError(f"{where}: unknown key {one_line(repr(key), 60)}; the nearest is {near!r}.")
    values: dict[str, Any] = {_KEYS[key]: _CHECKS[key](key, value, where) for key, value in table.items()}
    name = values.setdefault("name", "")
    if not re.fullmatch(r"\w[\w-]{0,63}", name, re.ASCII):
        raise InputError(
            f"{where}: name = {name!r}: give 1 to 64 letters, digits, _ and -; results and folders are called so."
        )
    if plain_name(name) in TASKS:
        raise InputError(f"{where}: name = {name!r} is one of GLUE's; give the task a name of its own.")
    if not values.get("columns"):
        raise InputError(
            f'{where}: texts is missing; name the one or two text columns, e.g. texts = ["sentence"].'
        )
    if values.get("label", Task.label) in values["columns"]:
        raise InputError(
            f"{where}: {values.get('label', Task.label)!r} is a text and the label; name two columns."
        )
    if bool(values.get("labels")) == ("span" in values):
        raise InputError(
            f'{where}: give either labels, the names of the classes (labels = ["no", "yes"]), or for a regression '
            "range, the lowest and highest label (range = [0, 5], or [-inf, inf])."
        )
    if "labels" not in values:
        values.setdefault("metric", "pearson_spearman")
    if home is not None and "data" in values and (home / values["data"]).is_dir():
        values["data"] = str((home / values["data"]).resolve())
    task = Task(**values, own=True)
    check_metric(task.metric, len(task.labels), where)
    return task


def _text(key: str, value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} = {one_line(repr(value), 60)}: give text.")
    return value


def _texts(key: str, value: Any, where: str) -> tuple[str, ...]:
    right = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not right or not all(isinstance(one, str) and one.strip() for one in value):
        raise InputError(f"{where}: {key} = {one_line(repr(value), 60)}: give a list of texts.")
    return tuple(value)


def _columns(key: str, value: Any, where: str) -> tuple[str, ...]:
    given = _texts(key, value, where)
    if len(given) not in (1, 2) or len(set(given)) < len(given):
        raise InputError(f"{where}: {key} = {list(given)}: name one text column, or two.")
    return given


def _labels(key: str, value: Any, where: str) -> tuple[str, ...]:
    given = _texts(key, value, where)
    plain = [plain_label(name) for name in given]
    if len(given) < 2 or len(set(plain)) < len(given):
        raise InputError(
            f"{where}: {key} = {one_line(repr(list(given)), 80)}: give two names or more that differ in more than "
            "case and punctuation."
        )
    return given


def _span(key: str, value: Any, where: str) -> tuple[float, float]:
    right = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 2
    if not right or not all(
        one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in value
    ):
        raise InputError(
            f"{where}: {key} = {one_line(repr(value), 60)}: give two numbers, [lowest, highest]."
        )
    low, high = (
        end if one is None else float(one) for one, end in zip(value, (-math.inf, math.inf), strict=True)
    )
    if not low < high:
        raise InputError(f"{where}: {key} = {list(value)}: the first must be the lower one.")
    return low, high


_CHECKS = dict.fromkeys(_KEYS, _text) | {"texts": _columns, "labels": _labels, "range": _span}
