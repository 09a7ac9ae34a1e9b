"""How far long work is: rate and time left on a terminal, elsewhere a line a minute, with --quiet nothing."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from models.common import progress
from models.common.progress import progress_bar
from models.common.session import SESSION, Session

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds, that pass when a step is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def steps(clock: Clock, seconds: float, number: int = 100, shown: bool = True, **more: Any) -> None:
    bar = progress_bar(total=number, what="working", unit="step", shown=shown, **more)
    for _ in range(number):
        clock.now += seconds
        bar.update(1)
    bar.close()


def test_without_a_terminal_it_is_a_line_a_minute_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, 2.0)  # 200 seconds
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "working: 30 of 100,  2.00s/step, 01:00 so far, 02:20 left",
        "working: 60 of 100,  2.00s/step, 02:00 so far, 01:20 left",
        "working: 90 of 100,  2.00s/step, 03:00 so far, 00:20 left",
        "working: 100 of 100,  2.00s/step, 03:20 so far, 00:00 left",
    ]


def test_what_is_done_within_a_minute_is_not_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps(clock, 0.5, leave=False)
    assert capsys.readouterr().err == ""


def test_going_through_items_tells_the_same(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for item in progress_bar(range(4), what="working", unit="step", shown=True):
        clock.now += 40
        seen.append(item)
    assert seen == [0, 1, 2, 3]
    assert capsys.readouterr().err.splitlines()[0].startswith("working: 2 of 4, 40.00s/step")


def test_what_nobody_asked_for_or_wants_to_hear_is_not_told(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(clock, 2.0, shown=False)
    before = Session(**vars(SESSION))
    SESSION.set(Session(quiet=True))
    try:
        steps(clock, 2.0)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", terminal := Terminal())
            steps(clock, 2.0)
    finally:
        SESSION.set(before)
    assert capsys.readouterr().err == terminal.getvalue() == ""


def test_a_terminal_has_a_bar_with_rate_and_time_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    steps(clock, 2.0)
    assert "50/100 [01:40<01:40,  2.00s/step]" in terminal.getvalue()


def test_without_a_stderr_nothing_is_told(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    steps(clock, 2.0)


def test_all_bars_are_made_in_one_place() -> None:
    for room in ("models", "patterns", "annotations", "pruning"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
                if path != Path(progress.__file__):
                    assert "tqdm" not in names, path
