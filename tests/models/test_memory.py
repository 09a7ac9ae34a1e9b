"""Freed memory is kept, which the number of page faults shows; in processes of their own, since it is for good."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="could not import mallopt")
CODE = """
import resource, sys
import torch
from models.memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
faults = []
for _ in range(12):
    block = torch.ones(9_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    del block
print(kept, faults[-1] - faults[5], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(how: str, **environment: str) -> tuple[bool, int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, faults, peak = done.stdout.split()
    return kept == "True", int(faults), int(peak)


def test_memory_is_not_faulted_in_again() -> None:
    _, usual, peak = run("leave")
    kept, faults, kept_peak = run("keep")
    if not kept:
        pytest.skip("could not import mallopt: another C library")
    assert usual > 6 * 8000  # 36 MB in pages of 4 kB
    assert faults < usual / 5
    assert kept_peak < 1.1 * peak


def test_what_the_user_has_tuned_is_left_alone() -> None:
    assert run("keep", MALLOC_ARENA_MAX="2")[0] is False
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] is False
