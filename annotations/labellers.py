"""Who labelled: which annotators are passes of one labeller, such as a model that was asked several times.

Where passes agree, that says how steady their labeller is, and is more than different people would reach. So a folder
of annotated maps says it in ``annotators.json``, ``{"passes": {LABELLER: [ANNOTATOR, ...]}}``. Annotators that the file
does not name are different people, unless their own names say it: ``NAME, pass 1``, ``NAME, pass 2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from models.common.errors import InputError, is_unicode
from models.common.files import write_json
from models.common.reading import read_json

ANNOTATORS = "annotators.json"
Passes: TypeAlias = Mapping[str, Sequence[str]]
"""By labeller, the annotators that are its passes."""

_NAMED = re.compile(
    r"(?P<labeller>.*?)[\s,;:#(_-]*\bpass(?:[\s_-]*\d+|[\s_-]+[a-z])\)?", re.IGNORECASE | re.DOTALL
)


def checked(passes: Any, where: str) -> dict[str, tuple[str, ...]]:
    """Return passes as a table of their own.

    Raises:
        InputError: it is no table of lists of names, or an annotator stands in two of them.
    """
    right = isinstance(passes, Mapping) and all(
        _is_name(labeller) and isinstance(names, list | tuple) and all(map(_is_name, names))
        for labeller, names in passes.items()
    )
    if not right:
        raise InputError(
            f'{where}: the passes should be a table of lists of annotators, {{"LABELLER": ["ANNOTATOR", ...]}}.'
        )
    return united([passes], where)


def united(several: Iterable[Passes], where: str) -> dict[str, tuple[str, ...]]:
    """Return all passes together.

    Raises:
        InputError: an annotator is a pass of two labellers.
    """
    of: dict[str, str] = {}
    for passes in several:
        for labeller, names in passes.items():
            for name in names:
                if of.setdefault(name, labeller) != labeller:
                    raise InputError(
                        f"{where}: {name} is a pass of {of[name]} and of {labeller}; keep one of the two."
                    )
    return {one: tuple(name for name in of if of[name] == one) for one in dict.fromkeys(of.values())}


def read_passes(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return what a folder of annotated maps says of passes; nothing if it has no such file.

    Raises:
        InputError: the file is not what it should be.
    """
    path = Path(folder) / ANNOTATORS
    if not path.exists():
        return {}
    table = read_json(path, "a table of annotators")
    if not isinstance(table, dict) or set(table) != {"passes"}:
        raise InputError(f'{path} should hold {{"passes": {{...}}}} and nothing else.')
    return checked(table["passes"], str(path))


def write_passes(folder: Path, passes: Passes) -> None:
    """Write what :func:`read_passes` reads; nothing where there is nothing to say."""
    if passes:
        write_json(folder / ANNOTATORS, {"passes": {one: list(names) for one, names in passes.items()}})


def passes_among(annotators: Iterable[str], told: Passes) -> dict[str, list[str]]:
    """Return by labeller the annotators that are its passes, two or more, as told or as their names say.

    Args:
        annotators: those who labelled.
        told: what their folder says of them; it comes before what a name says.
    """
    labeller_of = {name: labeller for labeller, names in told.items() for name in names}
    found: dict[str, list[str]] = {}
    for name in annotators:
        match = _NAMED.fullmatch(name.strip())
        labeller = labeller_of.get(name, match and match["labeller"].strip())
        if labeller is not None:
            found.setdefault(labeller, []).append(name)
    return {labeller: names for labeller, names in found.items() if len(names) > 1}


def notes_on(passes: Passes) -> list[str]:
    """Return a sentence for each labeller with several passes."""
    return [
        f"{', '.join(names)} are passes of one labeller{f', {labeller}' if labeller else ''}: where they agree, that "
        "says how steady it is, not how far different people would agree."
        for labeller, names in passes.items()
    ]


def labelled_by(annotators: Iterable[str], passes: Passes) -> str:
    """Return who labelled, in numbers: ``3 annotators``, ``3 passes of one labeller and 1 annotator``."""
    others = len(set(annotators)) - sum(map(len, passes.values()))
    words = [
        f"{len(names)} {'of another' if number else 'passes of one labeller'}"
        for number, names in enumerate(passes.values())
    ]
    if others or not words:
        words.append(f"{others} annotator{'' if others == 1 else 's'}")
    return " and ".join(words)


def who_labelled(annotators: Iterable[str], passes: Passes) -> str:
    """Return who labelled, by name: ``ann, bob and 2 passes of one labeller, gpt (x, y)``."""
    in_passes = {name for names in passes.values() for name in names}
    alone = ", ".join(name for name in annotators if name not in in_passes)
    several = (
        f"{len(names)} passes of one labeller{f', {labeller}' if labeller else ''} ({', '.join(names)})"
        for labeller, names in passes.items()
    )
    return " and ".join(filter(None, (alone, *several)))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)
