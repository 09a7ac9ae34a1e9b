"""Freed memory is kept, which the number of page faults shows; in processes of their own, since it is for good."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="could not import glibc's mallopt")
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
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
print(kept, faults[-1] - faults[5])
"""


def run(how: str, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_memory_is_not_faulted_in_again() -> None:
    (_, usual), (kept, faults) = run("leave"), run("keep")
    assert kept
    blocks = 6 * 36_000_000 / resource.getpagesize()
    if not HUGE.is_file() or "[always]" not in HUGE.read_text():
        assert usual > 0.9 * blocks
    assert faults < 0.2 * blocks


def test_what_the_user_has_tuned_is_left_alone() -> None:
    assert run("keep", MALLOC_ARENA_MAX="2")[0] is False
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] is False
