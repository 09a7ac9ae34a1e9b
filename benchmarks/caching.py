"""What a benchmark has computed from annotated maps, kept on disk so that nothing is done twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotations.dataset import AnnotatedMaps, digests
from models.common.files import atomic_file

Arrays = dict[str, npt.NDArray[np.floating]]
ROOT = Path(__file__).parents[1]
SHIPPED = (*sorted((ROOT / "patterns/classifier").glob("*.py")), ROOT / "patterns/maps/images.py")
"""The code of the shipped classifiers."""


def cached(
    folder: Path,
    name: str,
    settings: object,
    code: Sequence[Path],
    maps: Sequence[AnnotatedMaps],
    make: Callable[[], Arrays],
) -> Arrays:
    """Return what `make` makes, from the folder if it was made before.

    Args:
        folder: of the cache; it is made.
        name: what files begin with.
        settings: whatever the result depends on besides, with a ``repr`` that says it.
        code: files by which it is made: another result after a change of one.
        maps: that it is made from, with their labels.
        make: arrays by name.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for source in code:
        digest.update(source.read_bytes())
    for some in maps:
        digest.update("".join(digests(some)).encode() + repr(some.labels).encode())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{digest.hexdigest()[:16]}.npz"
    if not file.is_file():
        found = make()
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **found)  # type: ignore[arg-type]
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)
