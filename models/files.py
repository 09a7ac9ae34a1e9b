"""Files that are either whole or absent: write beside the target, then rename."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, delete it otherwise."""
    path = Path(path)
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


def check_output(path: Path, overwrite: bool = False) -> None:
    """Refuse an output folder that holds something, unless it may be replaced.

    Raises:
        InputError: `path` is a file, or a folder that is not empty and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"--output {path} is a file; give the name of a new or empty folder.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"--output {path} is not empty; give a new folder, or --overwrite to replace it.")


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` on success; on failure leave no trace.

    Raises:
        InputError: as :func:`check_output`.
    """
    path = Path(path)
    check_output(path, overwrite)
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
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path, what: str = "a JSON file") -> Any:
    """Read JSON.

    Raises:
        InputError: the file is missing or is not JSON; `what` says what it should have been.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; it should be {what}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as {what}: {error}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_new_file(path: Path) -> None:
    """Give a mkstemp file (mode 0600) the mode that an ordinary new file would have."""
    path.chmod(0o666 & ~_umask())
