"""What a result says about where it comes from.

A file that headscope did not write cannot be verified; so every result that was made from one holds its SHA-256, by
which it can be told later whether it was this one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NotRequired, TypedDict

from .reading import file_digest
from .session import SESSION

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "pandas",
    "scikit-learn",
)

_NAMED = 20  # more files are counted


class SourceRecord(TypedDict):
    """What a result says of a file or folder that was read."""

    source: str
    files: NotRequired[list[str] | int]
    """Names in a folder; of many, how many there are."""
    sha256: str


class Provenance(TypedDict):
    """What every result says of the run that made it."""

    headscope: str
    python: str
    packages: dict[str, str]
    platform: str
    threads: int
    command: list[str]
    environment: NotRequired[dict[str, str]]
    """The variables ``HEADSCOPE_...`` that options were taken from, where there are some."""
    time: str


def headscope_version() -> str:
    """Return the installed version of headscope."""
    try:
        return version("headscope")
    except PackageNotFoundError:
        return "not installed"


def source_record(source: Path | str, files: Iterable[Path] | None = None) -> SourceRecord:
    """Return what a result says of a file, or of what was read in a folder: ``source``, ``files``, ``sha256``.

    Of a file it is what ``sha256sum`` prints; of several, the SHA-256 of what ``sha256sum`` prints of all of them in
    the order of their names, so that ``cd SOURCE; sha256sum NAMES | sha256sum`` repeats it.

    Args:
        source: the file or folder.
        files: which of a folder were read; those of them that are not there are left out.
    """
    source = Path(source)
    if files is None:
        return {"source": str(source), "sha256": file_digest(source)}
    there = sorted((path.relative_to(source).as_posix(), path) for path in files if path.is_file())
    lines = "".join(f"{file_digest(path)}  {name}\n" for name, path in there)
    return {
        "source": str(source),
        "files": [name for name, _ in there] if len(there) < _NAMED else len(there),
        "sha256": hashlib.sha256(os.fsencode(lines)).hexdigest(),
    }


def provenance() -> Provenance:
    """Return the versions, the platform, the command and the time of this run, ready for JSON."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    found: Provenance = {
        "headscope": headscope_version(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": [sys.argv[0].rsplit("/", 1)[-1], *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if SESSION.values:
        found["environment"] = dict(SESSION.values)
    return found
