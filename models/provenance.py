"""What a result says about where it comes from."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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


def headscope_version() -> str:
    """Return the installed version of headscope."""
    try:
        return version("headscope")
    except PackageNotFoundError:
        return "not installed"


def provenance() -> dict[str, Any]:
    """Return the versions, the platform, the command and the time of this run, ready for JSON."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "headscope": headscope_version(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": [sys.argv[0].rsplit("/", 1)[-1], *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
