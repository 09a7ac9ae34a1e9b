"""How far long work is: a bar with rate and time left on a terminal, elsewhere a line a minute; seconds of parts."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tqdm import tqdm

from .commands import say
from .session import SESSION

EVERY = 60.0
"""Seconds from one line to the next where nobody watches."""


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    what: str,
    unit: str,
    shown: bool,
    total: int | None = None,
    **more: Any,
) -> tqdm[Any]:
    """Return what tells how far work is, to be updated or to go through `items` with.

    On a terminal it is a bar. Elsewhere it is a line a minute, and one at the end of what took longer than that. With
    ``--quiet`` it is nothing.

    Args:
        items: what is gone through, if the bar is to count that.
        what: is being done.
        unit: what is counted, in the singular.
        shown: whether it was asked for.
        total: how many there are.
        more: what tqdm takes besides.
    """
    shown = shown and not SESSION.quiet and bool(sys.stderr)
    kind = tqdm if not shown or sys.stderr.isatty() else _Lines
    return kind(items, desc=what, unit=unit, total=total, disable=not shown, **more)


class _Lines(tqdm):
    """Says in a line what a bar would show."""

    def __init__(self, *args: Any, **options: Any) -> None:
        given = {
            "file": io.StringIO(),  # what only makes sense where a line can be overwritten
            "mininterval": EVERY,
            "miniters": 1,
            "delay": EVERY,
            "leave": True,
            "bar_format": "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} so far, {remaining} left{postfix}",
        }
        super().__init__(*args, **(options | given))

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Say how far it is."""
        if msg is None:
            say(str(self))


@contextmanager
def part(what: str) -> Iterator[list[str]]:
    """Say how many seconds a part of the work took, where ``--verbose`` asks for it.

    Yields:
        A list for what else is known of it when it is done: where something was read, how much it was.
    """
    begun, found = time.perf_counter(), list[str]()
    yield found
    if SESSION.verbose:
        say(f"{time.perf_counter() - begun:9.2f} s  {', '.join(filter(None, [what, *found]))}")


_P = ParamSpec("_P")
_R = TypeVar("_R")


def timed(told: Callable[[Any], str]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function a :func:`part`; `told` says what it was, of what the function returned."""

    def timing(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with part("") as found:
                result = function(*args, **kwargs)
                if SESSION.verbose:
                    found.append(told(result))
            return result

        return wrapped

    return timing
