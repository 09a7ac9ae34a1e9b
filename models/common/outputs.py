"""Where headscope writes: one rule for every command and every function that saves a folder.

- A new or empty folder is filled. It appears whole, or not at all.
- ``--overwrite`` replaces only what the same command wrote: the files that its marker in the folder lists
  (:data:`MARKER`), one by one. Everything else stays, and is named.
- An output may not be, hold, or lie in anything that is read.
- Links inside a folder are never followed.
- Who writes holds a lock, so that no two runs write to one place; what a killed run left is cleared by the next.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .errors import InputError
from .files import LITTER, as_new_file, atomic_file, new_umask, remove_litter, temporary_prefix, writable

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARKER = ".headscope.json"
"""In every folder that headscope wrote: ``{"command", "files"}``. A name that ends in a slash is a whole folder."""
LOCK = ".headscope.lock"
_ASIDE = "old"  # beside what is being made: what it replaces
_OF_OLD = re.compile(r"^\.(config|study)\.json\..*\.json$")  # left by a first write that 0.1 was killed in


@dataclass(frozen=True)
class Output:
    """A folder that is to be written.

    Raises:
        InputError: see :meth:`check`.
    """

    path: Path
    """Where; a link is followed here, and nowhere below."""
    command: str
    """Who writes: only the same may replace it."""
    overwrite: bool = False
    """Whether what it wrote there before may be replaced."""
    inputs: tuple[Path | str | None, ...] = ()
    """Files and folders that are read; what is none (a Hub id) is passed over."""
    option: str = "--output"
    """What an error calls the path."""

    def check(self) -> None:
        """Refuse what may not be written to, before any work is done.

        Raises:
            InputError: the path is a file; a folder that is not empty, unless `overwrite` is true and the same
                command wrote it; a folder that cannot be renamed as a whole; it is, holds or lies in an input; or
                it cannot be looked at.
        """
        with looked_at(self.path):
            path = _resolved(self.path)
            apart(self.path, self.inputs, self.option)
            if _holds_current(path) or path.is_mount():
                raise InputError(
                    f"{self.option} {self.path} cannot be replaced as a whole; give a new folder inside it."
                )
            if path.exists() and not path.is_dir():
                raise InputError(
                    f"{self.option} {self.path} is a file; give the name of a new or empty folder."
                )
            if is_free(path, self.command):
                return
            if not self.overwrite:
                raise InputError(
                    f"{self.option} {self.path} is not empty; give a new folder, or --overwrite to replace what "
                    f"{self.command} wrote there."
                )
            if _marked(path, self.command) is None:
                raise InputError(
                    f"{self.option} {self.path} is not replaced, since it is no earlier output of {self.command}: it "
                    f"has no {MARKER} that says so. Give a new folder, or delete this one yourself."
                )

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Yield an empty folder to write into; it becomes the output on success, and leaves no trace on failure.

        Raises:
            InputError: as :meth:`check`; or another run is writing there, or has written there meanwhile.
        """
        self.check()
        path = _resolved(self.path)
        made = [parent for parent in path.parents if not parent.exists()]
        work = path.with_name(f".{path.name}.headscope")
        done = False
        try:
            with writable(self.path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with _workplace(work, self.path) as new:
                yield new
                _finish(new, self.command)
                with writable(self.path):
                    replace(self, path=path)._publish(new, path)
            done = True
        finally:
            for parent in made if not done else ():  # one that somebody else uses by now is not empty
                with suppress(OSError):
                    parent.rmdir()

    def _publish(self, new: Path, path: Path) -> None:
        self.check()
        if is_free(path, self.command):
            if path.is_dir():
                _clear(path, [MARKER, LOCK])
                remove_litter(path)
                _remove_of_old(path)
                with suppress(OSError):
                    path.rmdir()
            try:
                new.rename(path)
            except OSError as error:
                raise InputError(
                    f"{self.option} {self.path} was made by something else meanwhile ({error.strerror}); nothing was "
                    "replaced."
                ) from error
            return
        old, ours = set(_marked(path, self.command) or ()), set(_files(new))
        foreign = sorted(name for name in ours if os.path.lexists(path / name) and not _owned(name, old))
        if foreign:
            raise InputError(
                f"{self.option} {self.path} holds {foreign[0]}, which {self.command} did not write; move it away first."
            )
        self._exchange(new, path, old, ours)
        left = sorted(
            one.name
            for one in path.iterdir()
            if one.name not in (MARKER, LOCK) and not _holds(one.name, ours)
        )
        if left:
            print(
                f"{self.path} also holds what {self.command} did not write; it stays: {', '.join(left)}.",
                file=sys.stderr,
            )

    def _exchange(self, new: Path, path: Path, old: set[str], ours: set[str]) -> None:
        """Put what was written in the place of what was listed; if that fails, all is as before."""
        aside = new.with_name(_ASIDE)
        aside.mkdir()
        moved: list[tuple[Path, Path]] = []

        def move(start: Path, end: Path, below: Path) -> None:
            _folders_to(below, end.relative_to(below).as_posix())
            start.replace(end)
            moved.append((start, end))

        # Until all is in its place, the folder says whose both are; nothing old stands beside anything new.
        write_marker(path, self.command, old | ours)
        try:
            for name in sorted(old):
                if _there(path, name):
                    move(path / name, aside / name, aside)
            _clear(path, old)  # folders that are empty now
            for name in sorted(ours):
                move(new / name, path / name, path)
        except BaseException:
            for start, end in reversed(moved):
                start.parent.mkdir(parents=True, exist_ok=True)
                end.replace(start)
            write_marker(path, self.command, old)
            raise
        write_marker(path, self.command, ours)

    def adopt(self, files: Collection[str]) -> None:
        """Take a folder inside one of headscope's own, which 0.1 did not mark, as what this command wrote.

        Args:
            files: the names that lie in it.

        Raises:
            InputError: it is a link.
        """
        if self.path.is_symlink():
            raise InputError(
                f"{self.option} {self.path} is a link, which headscope does not follow; remove it."
            )
        with writable(self.path):
            if (
                self.path.is_dir()
                and not is_free(self.path, self.command)
                and not (self.path / MARKER).exists()
            ):
                write_marker(self.path, self.command, files)

    def discard(self, lock: BaseFileLock) -> None:
        """Delete what :meth:`begin` made ready and what was written since, but nothing else."""
        _clear(self.path, _marked(self.path, self.command) or ())
        remove_litter(self.path)
        _clear(self.path, (MARKER,))
        lock.release()
        with suppress(OSError):  # somebody has it again already, or something else lies there
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def begin(self, files: Collection[str], going_on: bool) -> BaseFileLock:
        """Make ready a folder that is written bit by bit, and lock it until the lock is released or the process ends.

        Args:
            files: the names that may come to lie in it; a name that ends in a slash is a whole folder.
            going_on: whether what lies there is to be kept, since it is continued.

        Raises:
            InputError: as :meth:`check`; or another run is writing there.
        """
        if not going_on:
            self.check()
        else:
            with looked_at(self.path):
                apart(self.path, self.inputs, self.option)
        path = _resolved(self.path)
        with writable(self.path):
            path.mkdir(parents=True, exist_ok=True)
        lock = locked(path)
        with writable(self.path):
            remove_litter(path)
            _remove_of_old(path)
            if not going_on:
                _clear(path, _marked(path, self.command) or ())
                write_marker(path, self.command, files)
            elif _marked(path, self.command) is None and not os.path.lexists(path / MARKER):
                write_marker(path, self.command, files)  # begun by 0.1, which marked nothing
        return lock


def apart(path: Path | str, inputs: Sequence[Path | str | None], option: str = "--output") -> None:
    """Refuse an output that is, holds or lies in something that is read.

    Raises:
        InputError: naming both.
    """
    whole = _resolved(Path(path))
    for given in inputs:
        other = _existing(given)
        if other is None:
            continue
        for related, how in (
            (whole == other, "is"),
            (whole.is_relative_to(other), "lies in"),
            (other.is_relative_to(whole), "holds"),
        ):
            if related:
                raise InputError(f"{option} {path} {how} {given}, which is read; give a place apart from it.")


def _existing(given: Path | str | None) -> Path | None:
    """Return where an input lies, links followed; None for a Hub id, which may be no possible name of a file.

    What is given as a path is one, and may come to be there only later.
    """
    try:
        return Path(given).resolve(strict=not isinstance(given, Path)) if given and str(given) else None
    except (OSError, ValueError, RuntimeError):
        return None


def is_free(path: Path, command: str) -> bool:
    """Return whether nothing lies in a folder but what a first write of `command` that was killed has left."""
    if not path.is_dir():
        return not os.path.lexists(path)
    names = {entry.name for entry in path.iterdir() if not is_litter(entry.name)}
    return not names or (
        names <= {MARKER, LOCK} and (MARKER not in names or _marked(path, command) is not None)
    )


def write_marker(path: Path, command: str, files: Collection[str]) -> None:
    """Say in a folder who wrote it, and which of its files are theirs."""
    from .provenance import headscope_version

    told = {"command": command, "headscope": headscope_version(), "files": sorted(files)}
    with atomic_file(path / MARKER) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def locked(path: Path, wait: float = 0) -> BaseFileLock:
    """Lock a folder; the lock ends with its ``release()``, or with the process.

    Args:
        path: an existing folder.
        wait: seconds to wait for somebody else.

    Raises:
        InputError: somebody else is writing to it, or it cannot be locked.
    """
    from filelock import FileLock, Timeout

    if (path / LOCK).is_symlink():
        raise InputError(f"{path / LOCK} is a link, which headscope does not make; remove it.")
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=wait, poll_interval=0.05)
    except Timeout as error:
        raise InputError(
            f"Another run is writing to {path}; wait until it has ended, or give another place."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be locked: {error.strerror or error}.") from error
    return lock


@contextmanager
def looked_at(path: Path | str) -> Iterator[None]:
    """Turn what the system says of a path that cannot be looked at into a sentence.

    Raises:
        InputError: naming it; a long name is cut.
    """
    try:
        yield
    except OSError as error:
        told = str(path)
        told = told if len(told) <= 100 else f"{told[:97]}..."
        raise InputError(f"{told} cannot be used: {error.strerror or error}.") from error


@contextmanager
def _workplace(work: Path, path: Path) -> Iterator[Path]:
    """Yield an empty folder inside `work`, which is locked meanwhile and gone afterwards."""
    if work.is_symlink():
        raise InputError(f"{work} is a link, which headscope does not make; remove it.")
    with writable(path):
        for _ in range(100):
            work.mkdir(exist_ok=True)
            lock = locked(work)
            if (work / LOCK).exists():
                break
            lock.release()  # the run before was just clearing up
    try:
        new = work / "new"
        with writable(path):
            for left in (new, work / _ASIDE):  # of a run that was killed
                if os.path.lexists(left):
                    left.unlink() if left.is_symlink() else shutil.rmtree(left)
            new.mkdir()
        yield new
    finally:
        if os.name == "nt":  # where an open file cannot be removed
            lock.release()
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _finish(new: Path, command: str) -> None:
    """Give what was written the modes of ordinary new files, and mark it."""
    new.chmod(0o777 & ~new_umask())
    for file in new.rglob("*"):
        if (
            file.is_file() and not file.is_symlink()
        ):  # some libraries write 0600, and a colleague could not read it
            as_new_file(file)
        if file.name in (MARKER, LOCK) and file.parent != new:  # of a part that was saved on its own
            file.unlink()
    write_marker(new, command, _files(new))


def _files(folder: Path) -> list[str]:
    """Return the files below a folder, relative to it; links are not followed."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(name for name in found if name not in (MARKER, LOCK))


def _marked(path: Path, command: str) -> list[str] | None:
    """Return the files that a folder's marker lists, if it is of this command."""
    file = path / MARKER
    if file.is_symlink() or not file.is_file() or file.stat().st_size > 2**26:
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        names = [str(name) for name in told["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    safe = all(
        PurePosixPath(name).parts  # of the folder itself there are none
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name in names
    )
    return names if told.get("command") == command and safe else None


def _clear(path: Path, names: Collection[str]) -> None:
    """Delete what is listed and is there, and the folders that become empty; nothing behind a link."""
    parents = set()
    for name in names:
        where = path / name
        if _there(path, name):
            if not where.is_dir() or where.is_symlink():
                where.unlink()
            elif name.endswith("/"):
                shutil.rmtree(where)
        parents |= {path / parent for parent in where.relative_to(path).parents} - {path}
    for parent in sorted(parents, key=lambda one: -len(one.parts)):
        with suppress(OSError):  # not empty
            parent.rmdir()


def _there(path: Path, name: str) -> bool:
    """Return whether something listed lies in a folder, and not behind a link."""
    where = path / name
    linked = any((path / parent).is_symlink() for parent in where.relative_to(path).parents)
    return os.path.lexists(where) and not linked


def _folders_to(path: Path, name: str) -> None:
    for parent in reversed((path / name).relative_to(path).parents):
        where = path / parent
        if where.is_symlink():
            raise InputError(f"{where} is a link, which headscope does not follow; remove it.")
        where.mkdir(exist_ok=True)


def _owned(name: str, listed: Collection[str]) -> bool:
    return name in listed or any(one.endswith("/") and name.startswith(one) for one in listed)


def _holds(top: str, names: Collection[str]) -> bool:
    return any(PurePosixPath(name).parts[0] == top for name in names)


def is_litter(name: str) -> bool:
    """Return whether a file of this name is something temporary that a killed run has left."""
    return name.startswith(LITTER) or bool(_OF_OLD.match(name))


def _remove_of_old(path: Path) -> None:
    for entry in path.iterdir():
        if _OF_OLD.match(entry.name) and entry.is_file():
            entry.unlink()


def _resolved(path: Path) -> Path:
    """Return the absolute path, links followed.

    Raises:
        InputError: it is relative to a current folder that is gone, or links go in a circle.
    """
    try:
        return Path(path).resolve()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} lies in the current folder, which was deleted; change into another."
        ) from error
    except RuntimeError as error:
        raise InputError(f"{path} leads in a circle of links.") from error


def _holds_current(path: Path) -> bool:
    with suppress(FileNotFoundError):  # the current folder was deleted
        return Path.cwd().is_relative_to(path)
    return False


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside another one; it is gone afterwards, and one of a killed run is cleared."""
    remove_litter(folder)
    with writable(folder):
        made = Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
