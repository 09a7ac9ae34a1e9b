"""What a study is about: a TOML file read into frozen dataclasses, and refused where it cannot be meant."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from models.common.errors import InputError
from models.common.reading import read_text, reading
from models.finetuning.settings import FineTuning
from models.tasks.measures import range_of
from models.tasks.task import MNLI_MISMATCHED, Task, plain_name, task_named
from patterns.distribution import check_seed
from patterns.maps.attention import check_kinds
from patterns.taxonomy import KINDS

from ..ablation.closing import check_way
from ..ablation.groups import check_grouping
from ..magnitude import MagnitudePruning
from ..structured import WHAT, StructuredSearch

SEARCHES = (*WHAT, "weights")
"""The three structured searches, and the search by magnitude."""
STRUCTURED = ("good", "random", "bad", "super-good", "super-random", "super-bad")
"""Subnetworks of heads and MLPs; the super ones are of all seeds of a task."""
_LARGEST = 2**20  # bytes of a study's file
MAGNITUDE = ("good", "random", "bad")
"""Subnetworks of single weights."""


Record = Mapping[str, Any]


@dataclass(frozen=True)
class Subnetworks:
    """Which subnetworks are evaluated, each pruned and fine-tuned again.

    Raises:
        InputError: a name is unknown, or a number out of range.
    """

    structured: tuple[str, ...] = STRUCTURED
    """Of those that the search for heads and MLPs leads to: some of :data:`STRUCTURED`."""
    magnitude: tuple[str, ...] = MAGNITUDE
    """Of those that the search by magnitude leads to: some of :data:`MAGNITUDE`."""
    random_draws: int = 1
    """How many random subnetworks of heads and MLPs there are for each good one."""
    fine_tune: bool = True
    """Whether they are fine-tuned again, from the pre-trained weights; else they are evaluated pruned only."""

    def __post_init__(self) -> None:
        _check_names("subnetworks.structured", self.structured, STRUCTURED)
        _check_names("subnetworks.magnitude", self.magnitude, MAGNITUDE)
        if self.random_draws < 1:
            raise InputError(f"random_draws={self.random_draws}: give at least 1.")


@dataclass(frozen=True)
class HeadMaps:
    """Whose attention patterns are looked at, and on what.

    Raises:
        InputError: a kind is unknown, or a number out of range.
    """

    maps: tuple[str, ...] = KINDS
    """Kinds of maps; none for no patterns."""
    examples: int = 100
    """Dev rows of each task to draw at random, the same for all its models."""
    pretrained: bool = True
    """Whether the model before fine-tuning is looked at too."""
    permutations: int = 9999
    """Of each permutation test of the report."""

    def __post_init__(self) -> None:
        if self.maps:
            check_kinds(self.maps)
        for name in ("examples", "permutations"):
            if getattr(self, name) < 1:
                raise InputError(f"patterns.{name}={getattr(self, name)}: give at least 1.")


ABLATED = ("full", "good")
"""Models in which the heads of each pattern may be closed: fine-tuned ones, and what their searches keep of them."""


@dataclass(frozen=True)
class Ablation:
    """In which models the heads of each pattern are closed, and how; in none unless the study says so.

    Scores are of the study's dev rows, of those that no search has seen where there are some.

    Raises:
        InputError: a name is unknown, or a number out of range.
    """

    models: tuple[str, ...] = ()
    """Some of :data:`ABLATED`."""
    maps: tuple[str, ...] = ("norm",)
    """By which maps heads have a pattern."""
    groups: tuple[str, ...] = ("pattern",)
    """What heads are put into groups by: pattern, role."""
    by: str = "dominant"
    """When a head belongs to a pattern: dominant or share."""
    share: float = 0.5
    """Least share of a head's maps, with ``by = "share"``."""
    how: str = "zero"
    """What a closed head's output is: zero, mean or resample."""
    draws: int = 100
    """Random sets of as many heads, for each group."""
    alone: bool = True
    """Whether each head is closed alone, too."""

    def __post_init__(self) -> None:
        _check_names("ablation.models", self.models, ABLATED)
        check_kinds(self.maps)
        check_grouping(self.groups, self.by, self.share)
        check_way(self.how)
        if self.draws < 1:
            raise InputError(f"ablation.draws={self.draws}: give at least 1.")


Scores = Mapping[str, float]


@dataclass(frozen=True)
class Reference:
    """What somebody published: scores that stand as lines beside those of the study.

    Raises:
        InputError: the name is empty, or no source is given.
    """

    name: str
    """What the lines are called: ``biLSTM + GloVe``."""
    source: str
    """Where the scores were published, which stands below the figure."""
    scores: Scores
    """By task, in the units of the score that the study reports of it; tasks that the study leaves out are not drawn.
    """

    def __post_init__(self) -> None:
        for name in ("name", "source"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip() or "\n" in text:
                raise InputError(
                    f"references.{name} = {text!r}: say in a line what the scores are of, and where they stand."
                )
        scores = self.scores if isinstance(self.scores, Mapping) else {}
        known = [type(score) in (int, float) and math.isfinite(score) for score in scores.values()]
        if not known or not all(known):
            raise InputError(
                f"references.scores = {self.scores!r}: give a score for each task, such as {{ sst2 = 0.9 }}."
            )


@dataclass(frozen=True)
class Study:
    """One study: the grid task x seed x search x subnetwork, and how each step of it is done.

    Raises:
        InputError: a value is out of range, a name unknown, or a combination impossible.
    """

    model: str
    """The pre-trained model: Hub id or folder."""
    tasks: tuple[str, ...]
    """GLUE tasks in any spelling, and .toml files that describe others; they are kept by their names."""
    seeds: tuple[int, ...]
    """Of the fine-tunings."""
    data: str | None = None
    """Folder or Hub data set; what each task says if None, the Hub's GLUE for its nine."""
    own_tasks: tuple[Record, ...] = ()
    """What describes those tasks that are none of GLUE's, see :func:`models.tasks.task.task_named`; read from the
    files."""
    output: str | None = None
    """Folder of the study; ``--output`` comes first."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    threads: int = 1
    """Of each worker. Results are the same bit for bit only with as many threads."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    max_length: int = 128
    """Tokens; longer inputs are cut."""
    batch_size: int = 32
    """Inputs per pass where nothing is trained."""
    dev_examples: int | None = None
    """Dev rows to draw at random, the same for every seed, for searches and scores; all if None."""
    holdout: float = 0.0
    """Share of these rows that nothing is selected on; all scores reported are of them then."""
    mismatched: bool = False
    """Whether MNLI's models and subnetworks are scored on its dev rows of other genres too, as GLUE reports both; what
    is searched and tested is of the matched ones."""
    seed: int = 0
    """Of all draws: random and bad subnetworks, rows for patterns, resamples."""
    keep_models: bool = False
    """Whether the models of subnetworks fine-tuned again are kept, not only their scores."""
    searches: tuple[str, ...] = SEARCHES
    """Some of :data:`SEARCHES`."""
    threshold: float = 0.9
    """Share of the full model's score that a search has to hold."""
    references: tuple[Reference, ...] = ()
    """Published scores, of which each is a table ``[[references]]``."""
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    structured: StructuredSearch = field(default_factory=StructuredSearch)
    magnitude: MagnitudePruning = field(default_factory=MagnitudePruning)
    subnetworks: Subnetworks = field(default_factory=Subnetworks)
    patterns: HeadMaps = field(default_factory=HeadMaps)
    ablation: Ablation = field(default_factory=Ablation)

    def __post_init__(self) -> None:
        own = {task.name: task for task in map(task_named, self.own_tasks)}
        tasks = [own.get(str(task)) or task_named(task) for task in self.tasks]
        records = tuple(record for task in tasks if (record := task.record()))
        object.__setattr__(self, "tasks", tuple(task.name for task in tasks))
        object.__setattr__(self, "own_tasks", records)
        for name in ("tasks", "seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise InputError(f"{name} = {list(given)}: give each of them once, and at least one.")
        for seed in (*self.seeds, self.seed):
            check_seed(seed)
        _check_names("searches", self.searches, SEARCHES)
        for name, least in (("threads", 1), ("batch_size", 1), ("max_length", 4)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}: give at least {least}.")
        if self.dev_examples is not None and self.dev_examples < 2:
            raise InputError(f"dev_examples = {self.dev_examples}: give at least 2.")
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout = {self.holdout}: give a share from 0 (none) to below 1.")
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold = {self.threshold}: give a share above 0 and up to 1.")
        given = [
            from_table(Reference, one) if isinstance(one, Mapping) else one
            for one in _listed(self.references)
        ]
        if not all(isinstance(one, Reference) for one in given):
            raise InputError("references: each is a Reference, or a table with its name, source and scores.")
        if len({one.name for one in given}) < len(given):
            raise InputError("references: two of them have one name; give each its own.")
        object.__setattr__(self, "references", tuple(map(self._checked, given)))
        self._check_combination()

    def _checked(self, reference: Reference) -> Reference:
        """Return a reference with its tasks by the names that tables have of them."""
        found: dict[str, float] = {}
        for given, score in reference.scores.items():
            other = plain_name(given) in MNLI_MISMATCHED
            task = self.task("mnli" if other else given)  # which refuses a name that is none
            name = task.mismatched_name if other else task.name
            if task.own and name not in self.tasks:
                raise InputError(
                    f"references.scores of {reference.name!r}: {given} is none of the study's tasks."
                )
            if name in found:
                raise InputError(f"references.scores of {reference.name!r}: {name} has two; give one.")
            low, high = range_of(task.metric)
            if not low <= score <= high:
                raise InputError(
                    f"references.scores of {reference.name!r}: {given} = {score}; its score is {task.metric}, from "
                    f"{low:g} to {high:g}."
                )
            found[name] = float(score)
        return replace(reference, scores=found)

    def _check_combination(self) -> None:
        if self.mismatched:
            names = [one.mismatched_name for name in self.tasks if (one := self.task(name)).mismatched]
            if not names:
                raise InputError(
                    f"mismatched = true: none of tasks = {list(self.tasks)} has rows of other genres, which mnli alone "
                    "has; add it, or leave mismatched out."
                )
            if both := set(names) & set(self.tasks):
                raise InputError(
                    f"mismatched = true: a task of your own is called {both.pop()}, as the scores on mnli's other rows "
                    "are; give it another name."
                )
        chosen = self.subnetworks
        for part, search in (("structured", "heads-and-mlps"), ("magnitude", "weights")):
            if getattr(chosen, part) and search not in self.searches:
                raise InputError(
                    f"subnetworks.{part} = {list(getattr(chosen, part))} come from the search {search!r}, which "
                    f"searches = {list(self.searches)} leaves out; add it, or set subnetworks.{part} = []."
                )
        if "good" in self.ablation.models and "heads-and-mlps" not in self.searches:
            raise InputError(
                f"ablation.models = {list(self.ablation.models)}: good ones come from the search 'heads-and-mlps', "
                f"which searches = {list(self.searches)} leaves out; add it, or leave good out."
            )
        supers = [name for name in chosen.structured if name.startswith("super-")]
        if supers and len(self.seeds) < 2:
            raise InputError(
                f"subnetworks.structured has {supers[0]}, what all seeds keep, but there is one seed; "
                "give two seeds or more, or leave the super ones out."
            )

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """What is read, and the study's folder may not lie in."""
        return self.model, *(self.task(name).source(self.data) for name in self.tasks)

    def task(self, name: str) -> Task:
        """Return one of the study's tasks by its name."""
        return task_named(next((record for record in self.own_tasks if record["name"] == name), name))

    def splits(self, name: str) -> tuple[str, ...]:
        """Return the splits of one of its tasks that are read."""
        others = self.task(name).mismatched if self.mismatched else None
        return ("train", "validation", *([others] if others else []))

    def fine_tuning_of(self, seed: int) -> FineTuning:
        """Return how the models of one seed are fine-tuned."""
        return replace(self.fine_tuning, seed=seed, holdout=self.holdout, max_length=self.max_length)


ELSEWHERE: Mapping[Any, Mapping[str, str]] = {
    FineTuning: {
        "seed": "seeds stands at the top of the file",
        "holdout": "it stands at the top of the file, for all steps",
        "max_length": "it stands at the top of the file, for all steps",
    },
    StructuredSearch: {
        "what": "searches stands at the top of the file",
        "threshold": "it stands at the top of the file, for both methods",
    },
    MagnitudePruning: {"threshold": "it stands at the top of the file, for both methods"},
}
"""Fields of a study's parts that stand for all of it at the top of its file."""


def read_study(path: Path | str, **replaced: Any) -> Study:
    """Read a study's TOML file.

    Args:
        path: of the file.
        replaced: values that come before those in the file; None for those that do not.

    Raises:
        InputError: it is missing or no TOML, a key is unknown, or a value is not what it should be.
    """
    text = read_text(path, "a study's TOML file", most=_LARGEST)
    with reading(path, "TOML"):
        table = tomllib.loads(text)
    table |= {key: value for key, value in replaced.items() if value is not None}
    try:
        study: Study = from_table(Study, table)
        return study
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def from_table(cls: type, table: Mapping[str, Any], where: str = "") -> Any:
    """Build a dataclass from a table of its fields, tables within for dataclasses within.

    Raises:
        InputError: a key is unknown (the nearest known one is named) or missing, or a value of another type.
    """
    known = {one.name: one for one in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if elsewhere := ELSEWHERE.get(cls, {}).get(key):
            raise InputError(f"{where}{key} is not set here: {elsewhere}.")
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)[0]
            raise InputError(f"unknown key {where}{key}; the nearest is {where}{near}.")
        default = known[key].default_factory
        if default is not MISSING and is_dataclass(default):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}{key} is a table: write [{where}{key}].")
            values[key] = from_table(default, value, f"{where}{key}.")
        else:
            values[key] = _value(f"{where}{key}", value, str(known[key].type))
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{where}{name} is missing.")
    return cls(**values)


def _listed(given: Any) -> Sequence[Any]:
    """Return what should be a list, or one of them in a list."""
    return given if isinstance(given, list | tuple) else (given,)


def non_defaults(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, ready for JSON.

    So an option that is added later does not change what stands for earlier settings.
    """
    found: dict[str, Any] = {}
    for one in fields(value):
        given = getattr(value, one.name)
        if is_dataclass(given):
            if inner := non_defaults(given):
                found[one.name] = inner
        elif one.default is MISSING or given != one.default:
            found[one.name] = list(given) if isinstance(given, tuple) else given
    return found


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "Record": ((Mapping,), "a table"),
}


_TABLES: Mapping[str, type] = {"Reference": Reference}
"""By annotation, what a table of an array of tables becomes."""


def _value(name: str, value: Any, annotation: str) -> Any:
    """Check one value against its annotation, ``int | None`` or ``tuple[str, ...]``; TOML has no None."""
    plain = annotation.removesuffix(" | None")
    if plain in _TABLES:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} = {value!r}: each is a table; write [[{name}]].")
        return from_table(_TABLES[plain], value, f"{name}.")
    if plain == "Scores":
        if not isinstance(value, Mapping) or not value:
            raise InputError(f"{name} = {value!r}: give a score for each task, such as {{ sst2 = 0.9 }}.")
        return {str(task): float(_value(f"{name}.{task}", score, "float")) for task, score in value.items()}
    if plain.startswith("tuple["):
        inner = plain.removeprefix("tuple[").partition(",")[0]
        if inner in _TABLES and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise InputError(f"{name}: each is a table of its own; write [[{name}]].")
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(f"{name} = {value!r}: give a list, such as [{_example(inner)}].")
        return tuple(_value(name, one, inner) for one in value)
    types, words = _TYPES[plain]
    if value is None and annotation.endswith(" | None"):
        return None
    if not isinstance(value, types) or (isinstance(value, bool) and plain != "bool"):
        raise InputError(f"{name} = {value!r}: give {words}.")
    return value


def _example(inner: str) -> str:
    return '"qqp", "mrpc"' if inner == "str" else "1337, 42"


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.0)[0]
            raise InputError(f"{what} has {name!r}; the nearest is {near!r} (of {', '.join(known)}).")
    if len(set(given)) < len(given):
        raise InputError(f"{what} = {list(given)}: give each of them once.")
