"""Functions that do what a command does take its options by name: the fields of the dataclasses that make its job."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .commands import listed
from .errors import InputError


def shared_out(
    function: str, options: Mapping[str, Any], *jobs: type[Any], given: Collection[str] = ()
) -> Sequence[dict[str, Any]]:
    """Give each dataclass those options that are fields of it.

    A path may be given as text, several values as a list, or as the command takes them: ``"raw,norm"``.

    Args:
        function: what was called, for the message.
        options: by name.
        jobs: the dataclasses.
        given: fields that the function fills in itself.

    Raises:
        InputError: an option is a field of none.
    """
    known = [
        {field.name: str(field.type) for field in fields(job) if field.name not in given} for job in jobs
    ]
    for name in options:
        if not any(name in types for types in known):
            choices = ", ".join(sorted(set().union(*known)))
            raise InputError(f"{function}() has no option {name!r}; it has {choices}.")
    return [
        {name: _READ.get(types[name], _as_it_is)(value) for name, value in options.items() if name in types}
        for types in known
    ]


def paths(value: Any) -> tuple[Path, ...]:
    """Return one path or several as a tuple."""
    return (Path(value),) if isinstance(value, str | Path) else tuple(map(Path, value))


def _as_it_is(value: Any) -> Any:
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {
    "str | None": lambda value: str(value) if isinstance(value, Path) else value,
    "Path | None": lambda value: None if value is None else Path(value),
    "tuple[Path, ...]": paths,
    "tuple[str, ...]": lambda value: listed(value) if isinstance(value, str) else tuple(value),
}
"""How a value is brought to the type of its field."""
