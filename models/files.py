"""Files that are either whole or absent: write beside the target, then rename."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError
from .reading import read_json as read_json
from .reading import reason as reason


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, delete it otherwise.

    Raises:
        InputError: `path` is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _as_new_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused rather than written as invalid JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def known(value: float) -> float | None:
    """Return a number as JSON has it: None, written as null, for NaN."""
    return None if math.isnan(value) else float(value)


def check_output(path: Path, overwrite: bool = False, marker: str | None = None) -> None:
    """Refuse an output folder that holds something, unless it may be replaced.

    With `marker`, the name of a file that an earlier output has, only an earlier output may be replaced.

    Raises:
        InputError: `path` is a file, or a folder that is not empty and `overwrite` is false, or one that
            cannot be renamed as a whole: the current folder, one above it, or a mount point.
    """
    path = Path(path)
    whole = path.resolve()
    if Path.cwd().is_relative_to(whole) or path.is_mount():
        raise InputError(f"--output {path} cannot be replaced as a whole; give a new folder inside it.")
    if path.exists() and not path.is_dir():
        raise InputError(f"--output {path} is a file; give the name of a new or empty folder.")
    filled = path.is_dir() and any(path.iterdir())
    if filled and overwrite and marker and not (path / marker).is_file():
        raise InputError(
            f"--output {path} is no earlier output of this command (it has no {marker}), so it is not replaced; "
            "give a new folder."
        )
    if filled and not overwrite:
        raise InputError(f"--output {path} is not empty; give a new folder, or --overwrite to replace it.")


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` on success; on failure leave no trace.

    Raises:
        InputError: as :func:`check_output`.
    """
    check_output(path, overwrite)
    path = Path(path).resolve()  # behind a link, the folder is replaced and the link stays
    made = [parent for parent in path.parents if not parent.exists()]
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():  # some libraries write 0600, and a colleague could not read the result
                _as_new_file(file)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old)
            try:
                temporary.replace(path)
            except BaseException:
                old.replace(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # a parent that somebody else uses by now is not empty
            for parent in made:
                parent.rmdir()
        raise


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in words where two configs differ, as JSON has them; nothing if they do not."""
    here = json.loads(json.dumps(here))
    return "; ".join(
        f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    )


def disk_is_full(error: Exception) -> bool:
    """Return whether a library failed because there is no room left; each has its own type for it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_new_file(path: Path) -> None:
    """Give a mkstemp file (mode 0600) the mode that an ordinary new file would have."""
    path.chmod(0o666 & ~_umask())
