"""Files that are either whole or absent: write beside the target, then rename. Folders: see
:mod:`models.common.outputs`."""

import errno
import json
import math
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError
from .reading import read_json as read_json
from .reading import reason as reason

LITTER = ".headscope-"
"""What the name of everything temporary begins with; then come the machine, the process and something random."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, delete it otherwise.

    Raises:
        InputError: `path` is a folder, a device or a pipe, or its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():  # /dev/null would be replaced by a file
        raise InputError(f"{path} is a device or a pipe, not a file; give the name of a file.")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_litter(path.parent)
        handle, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        as_new_file(temporary)
        with writable(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_prefix() -> str:
    """Return what the name of a temporary file or folder of this process begins with."""
    return f"{LITTER}{_machine()}-{os.getpid()}-"


def remove_litter(folder: Path) -> None:
    """Delete what processes of this machine that are gone have left in a folder; others may still be at work."""
    mine = f"{LITTER}{_machine()}-"
    for entry in os.scandir(folder):
        if not entry.name.startswith(mine):
            continue
        number = entry.name.removeprefix(mine).split("-")[0]
        if number.isdecimal() and int(number) != os.getpid() and not _is_alive(int(number)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    Path(entry.path).unlink()


@cache
def _machine() -> str:
    """Name this machine, and what of it sees the same process numbers: containers may share a folder."""
    seen = Path("/proc/self/ns/pid")
    inside = str(seen.readlink()) if seen.is_symlink() else ""
    return f"{zlib.crc32((platform.node() + inside).encode()):08x}"


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused rather than written as invalid JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def known(value: float) -> float | None:
    """Return a number as JSON has it: None, written as null, for NaN."""
    return None if math.isnan(value) else float(value)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in words where two configs differ, as JSON has them; nothing if they do not."""
    here = json.loads(json.dumps(here))
    return "; ".join(
        f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    )


_FULL = re.compile(
    r"No space left|PytorchStreamWriter failed writing|iostream error|unexpected pos \d+ vs \d+"
)
"""What libraries say of a full disk; PyTorch knows no more than that a write came short."""


def disk_is_full(error: Exception) -> bool:
    """Return whether a library failed because there is no room left; each has its own type for it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or bool(_FULL.search(str(error)))


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what the system says of a path that cannot be written into a sentence; a full disk passes."""
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise
        told = str(path)
        told = told if len(told) <= 100 else f"{told[:97]}..."
        raise InputError(f"{told} cannot be written: {error.strerror or error}.") from error


def new_umask() -> int:
    """Return the process's mask for the modes of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_new_file(path: Path) -> None:
    """Give a mkstemp file (mode 0600) the mode that an ordinary new file would have."""
    path.chmod(0o666 & ~new_umask())
