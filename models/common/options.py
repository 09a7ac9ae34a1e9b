"""One statement of every option: the fields of the dataclass that is the job.

A field's name, type, default and docstring are what the command shows and reads, what the function of Python takes, and
what a study's TOML file may say. They are read from where they stand without importing the module, since a job needs
torch, which takes seconds to load, and ``--help`` must not.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from .errors import InputError

SHARED: Mapping[str, str] = {
    "model": "Hub id or folder of the model under study.",
    "revision": "Branch, tag or commit of a Hub model.",
    "task": "A GLUE task in any spelling (SST-2, sst2, QQP), or a .toml file that describes a task of your own.",
    "data": "Folder with <task>/<split>.* or <split>.* (jsonl, json, parquet, csv, tsv, also with .gz; or what "
    "save_to_disk wrote), or a Hub data set. Default: what the task's file says, of GLUE nyu-mll/glue from the Hub.",
    "split": "Which split of the data.",
    "maps": "Kinds of maps: raw, norm, or raw,norm.",
    "seed": "Seed of everything random.",
    "device": "auto, cpu, cuda, cuda:1, ..., or mps.",
    "dtype": "Precision of the model: float32, bfloat16, float16, or auto (that of its files). Probabilities are "
    "computed in float32 always, but from scores in this precision: bfloat16 and float16 move them.",
    "device_map": "auto: spread a large model over all devices, memory and the disk (accelerate); instead of --device.",
    "stack": "Of an encoder-decoder (T5, BART), whose heads: encoder (the default) or decoder.",
    "max_length": "Tokens; longer inputs are cut.",
    "batch_size": "Inputs per forward pass.",
    "output": "New or empty folder for tables, figures and summary.json.",
    "overwrite": "Delete an earlier output in the output folder and write anew.",
}
"""What an option means wherever a field of its name has no docstring of its own."""

FIGURES = "models.common.papers:Figures"
"""Where the options are of every command that draws; a :class:`Part` of its job."""

REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """A field of a job, as it stands in the source."""

    name: str
    type: str
    default: Any
    """:data:`REQUIRED` if there is none."""
    help: str
    """The first paragraph of the docstring."""


@dataclass(frozen=True)
class Part:
    """A dataclass that is a field of a job, whose own fields are options of the command, too."""

    where: str
    """Module and class: ``pruning.structured:StructuredSearch``."""
    shown: tuple[str, ...] = ()
    """Fields that the command has options for; all if empty."""


@dataclass(frozen=True)
class Options:
    """The options of a command, and of the function that does the same in Python."""

    where: str
    """Module and class of the job: ``patterns.job:ClassifyHeads``."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """By the name of the job's field."""
    hidden: tuple[str, ...] = ()
    """Fields that the command fills in itself, or that only Python has."""
    named: Mapping[str, str] = field(default_factory=dict)
    """What an option is called where that is not the field's name: ``--train-examples``."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Fields that are given by position, and what ``--help`` calls them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that a value is taken from if the option is not given."""
    described: Mapping[str, str] = field(default_factory=dict)
    """Help that is made of a table, in the place of the docstring's."""

    def parameters(self) -> list[inspect.Parameter]:
        """Return what Typer makes the command's options of."""
        found = []
        for option in options_of(self.where):
            part = self.parts.get(option.name)
            if part is None:
                found += [option] if option.name not in self.hidden else []
                continue
            found += [one for one in options_of(part.where) if not part.shown or one.name in part.shown]
        return [self._parameter(option) for option in found]

    def _parameter(self, option: Option) -> inspect.Parameter:
        taken = _taken(option)
        about: dict[str, Any] = {"help": self.described.get(option.name, option.help)}
        if option.name in self.arguments:
            declared = typer.Argument(metavar=self.arguments[option.name], **about)
        else:
            word = f"--{option.name.replace('_', '-')}"
            if option.type == "bool" and option.default:
                word = f"{word}/--no-{word[2:]}"
            word = self.named.get(option.name, word)
            declared = typer.Option(word, envvar=self.environment.get(option.name), **about)
        return inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=taken.shown(option.default),
            annotation=Annotated[taken.type, declared],
        )

    def job(self, function: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Make the job of what was given; what was not is as the fields say.

        A path may be text, and several values a list or as the command takes them: ``"raw,norm"``.

        Args:
            function: what was called, for the message.
            options: by the names of fields, of the job's own and of its parts'.
            given: fields that the caller filled in.

        Raises:
            InputError: an option is a field of none; or as the job says.
        """
        self.check(function, options, given)
        left, filled = dict(options), dict(given)

        def fields(where: str) -> dict[str, Any]:
            found = {}
            for option in options_of(where):
                if option.name in filled:
                    found[option.name] = filled.pop(option.name)
                elif option.name in left:
                    found[option.name] = _taken(option).read(left.pop(option.name))
            return found

        values = {
            name: _loaded(part.where)(**fields(part.where))
            for name, part in self.parts.items()
            if name not in filled
        } | fields(self.where)
        return _loaded(self.where)(**values, **filled)

    def check(self, function: str, options: Iterable[str], given: Iterable[str] = ()) -> None:
        """Check that options are fields of the job or of its parts.

        Raises:
            InputError: one is a field of none.
        """
        owners = [self.where, *(part.where for part in self.parts.values())]
        known = {option.name for where in owners for option in options_of(where)} - {*given, *self.parts}
        for name in options:
            if name not in known:
                raise InputError(f"{function}() has no option {name!r}; it has {', '.join(sorted(known))}.")


Maker: TypeAlias = Callable[..., Any]
"""Makes a command's job of the options; takes the fields that the command fills in itself."""


def takes(options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of its job; its first parameter is a :data:`Maker`, the others are its own."""

    def taking(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for one in list(inspect.signature(function).parameters.values())[1:]
        ]
        parameters = [*options.parameters(), *own]

        def command(**values: Any) -> None:
            others = {one.name: values.pop(one.name) for one in own}
            given = {name: value for name, value in values.items() if value not in (None, [], ())}
            function(partial(options.job, function.__name__, given), **others)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return taking


@dataclass(frozen=True)
class _Taken:
    """How a value of some type is given on the command line and in Python."""

    type: Any
    """Typer's."""
    read: Callable[[Any], Any]
    """From what was given to what the field holds."""
    shown: Callable[[Any], Any] = lambda default: default
    """From the field's default to the command's."""


def listed(words: str) -> tuple[str, ...]:
    """Return the parts of a list with commas, such as ``raw, norm``."""
    return tuple(word.strip() for word in words.split(","))


def paths(value: Any) -> tuple[Path, ...]:
    """Return one path or several as a tuple."""
    return (Path(value),) if isinstance(value, str | Path) else tuple(map(Path, value))


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Return the seeds in ``["1337,42", "86"]``, in order.

    Raises:
        InputError: one is not a whole number or stands twice.
    """
    try:
        seeds = [int(part) for word in words for part in word.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"--seeds {' '.join(words)}: give whole numbers, such as 1337,42,86.") from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(words)}: give each seed once.")
    return seeds


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _path(value: Any) -> Any:
    return None if value is None else Path(value)


def _words(value: Any) -> tuple[Any, ...]:
    return listed(value) if isinstance(value, str) else tuple(value)


def _whole_numbers(value: Any) -> tuple[int, ...]:
    texts = [value] if isinstance(value, str | int) else value
    return tuple(parse_seeds([str(one) for one in texts])) if texts else ()


def _if_any(default: Any) -> Any:
    return default or (default if default is REQUIRED else None)


_TAKEN: Mapping[str, _Taken] = {
    "str": _Taken(str, _text),
    "str | None": _Taken(str | None, _text),
    "str | Task": _Taken(str, _text),
    "str | Task | None": _Taken(str | None, _text),
    "int": _Taken(int, _as_it_is),
    "int | None": _Taken(int | None, _as_it_is),
    "float": _Taken(float, _as_it_is),
    "float | None": _Taken(float | None, _as_it_is),
    "bool": _Taken(bool, _as_it_is),
    "Path": _Taken(Path, _path),
    "Path | None": _Taken(Path | None, _path),
    "tuple[Path, ...]": _Taken(list[Path], paths, _if_any),
    "tuple[str | Path, ...]": _Taken(list[str], tuple, _if_any),
    "tuple[str, ...]": _Taken(list[str], _words, _if_any),
    "tuple[int, ...]": _Taken(list[str], _whole_numbers, _if_any),
}
"""By a field's type."""

_WORDS_WITH_COMMAS = _Taken(str, _words, ",".join)
"""Several words of which some are there without being asked for: ``raw,norm``."""

_NO_OPTION = _Taken(str, _as_it_is)
"""A type of Python's own, which no command reads."""


def _taken(option: Option) -> _Taken:
    if option.type == "tuple[str, ...]" and option.default not in ((), REQUIRED):
        return _WORDS_WITH_COMMAS
    return _TAKEN.get(option.type, _NO_OPTION)


def _loaded(where: str) -> Any:
    module, name = where.split(":")
    return getattr(import_module(module), name)


@cache
def options_of(where: str) -> tuple[Option, ...]:
    """Return the fields of a dataclass, read from its source.

    Args:
        where: module and class, ``patterns.job:ClassifyHeads``.
    """
    module, name = where.split(":")
    (found,) = (node for node in _source(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    options = []
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value)).split("\n\n")[0]
        options.append(
            Option(
                node.target.id,
                ast.unparse(node.annotation),
                REQUIRED if node.value is None else _value(module, node.value),
                _plain(text) or SHARED.get(node.target.id, ""),
            )
        )
    return tuple(options)


def _plain(text: str) -> str:
    """Return a docstring's paragraph without its marks."""
    return re.sub(r"`+", "", re.sub(r":\w+:(`)", r"\1", " ".join(text.split())))


@cache
def _source(module: str) -> ast.Module:
    found = find_spec(module)
    return ast.parse(Path(str(getattr(found, "origin", None))).read_bytes())


def _value(module: str, node: ast.expr) -> Any:
    """Return a default: a literal, or a name that stands for one, there or where it is imported from.

    What is computed (``field(default_factory=...)``) is no default that a command could show: None.
    """
    if not isinstance(node, ast.Name):
        return None if isinstance(node, ast.Call) else ast.literal_eval(node)
    for stands in _source(module).body:
        if isinstance(stands, ast.Assign) and any(ast.unparse(one) == node.id for one in stands.targets):
            return _value(module, stands.value)
        if isinstance(stands, ast.AnnAssign) and ast.unparse(stands.target) == node.id and stands.value:
            return _value(module, stands.value)
        if isinstance(stands, ast.ImportFrom) and any(one.name == node.id for one in stands.names):
            home = module.split(".")[: -stands.level] if stands.level else []
            return _value(".".join([*home, *filter(None, [stands.module])]), node)
    raise NotImplementedError(f"{module}: the default {node.id} stands nowhere as a literal.")
