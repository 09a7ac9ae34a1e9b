"""Freed memory is kept; in processes of their own, since it is for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/maps").is_file(),
    reason="could not import glibc's mallopt, or this is not Linux",
)
CODE = """
import sys
from pathlib import Path
import torch
from models.common.memory import keep_freed_memory

def mapped(address):
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(first, 16) <= address < int(last, 16) for first, last in ranges)

kept = sys.argv[1] == "keep" and keep_freed_memory()
block = torch.ones(9_000_000)
address = block.data_ptr() + 18_000_000  # its middle
assert mapped(address)
del block
print(kept, mapped(address))
"""


def run(how: str, **environment: str) -> tuple[bool, bool]:
    """Return whether the process was told to keep memory, and whether a freed block is still the process's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    told, mapped = (word == "True" for word in done.stdout.split())
    return told, mapped


@pytest.mark.slow
def test_freed_memory_is_kept() -> None:
    assert run("leave") == (False, False)
    assert run("keep") == (True, True)


@pytest.mark.slow
def test_what_the_user_has_tuned_is_left_alone() -> None:
    assert run("keep", MALLOC_ARENA_MAX="2") == (False, False)
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2") == (False, False)
