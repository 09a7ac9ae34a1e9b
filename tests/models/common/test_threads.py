"""Commands share the machine: threads wait without spinning, and there are as many as a container may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.common import threads
from models.common.threads import WAITING, share_the_machine


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WAITING, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what the function sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_QUOTAS", ())


def test_threads_wait_without_spinning_unless_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    share_the_machine()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_containers_quota_is_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(threads, "_QUOTAS", (tmp_path / "none", tmp_path / "cpu.max"))
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    share_the_machine()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_the_machine()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_quota_that_does_not_bind_leaves_the_number_to_the_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(threads, "_QUOTAS", (tmp_path / "cpu.max",))
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    share_the_machine()
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.slow
def test_a_command_sets_it_before_anything_loads_torch() -> None:
    code = (
        "import sys\n"
        "from models.common import commands\n"
        "seen = []\n"
        "commands.share_the_machine = lambda: seen.append('torch' in sys.modules)\n"
        "from patterns.cli import classify_heads\n"
        "for words, times in ((['--version'], []), (['--help'], []), (['--model', 'm', '--task', 'none'], [False])):\n"
        "    sys.argv = ['classify-heads', *words]\n"
        "    try:\n"
        "        classify_heads()\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    assert seen == times, (words, seen)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
