"""A study on disk: which steps are done, whether they are still what they were, and who is at work on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from models.common.errors import InputError
from models.common.files import differences, read_json, write_json
from models.common.outputs import is_litter, looked_at
from models.common.reading import check_fields, file_digest, json_digest
from models.finetuning.result import METRICS as METRICS

from .plan import Plan, Step
from .records import StepResult

STUDY = "study.json"
"""What the folder's study is; a report needs nothing else."""
REPORT = "report"
_LOCKS = (".lock", ".locks")
_REPAIR = "run-study --repair does the step again"
_RECORD: dict[str, Any] = {
    "digest": "text",
    "files": "texts by name",
    "config": {},
    "inputs": "texts by name",
    "seconds": "number",
}
_SCORE = {"metric": "text", "score": "score"}
_FIELDS: dict[str, dict[str, Any]] = {
    "fine-tune": {**_SCORE, "baselines": {"majority": "numbers", "random": "numbers"}},
    "pruned": {**_SCORE, "subnetwork": {"encoder_share": "number"}},
    "fine-tuned": _SCORE,
}
"""Of each kind of step, what is read of its result."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with a step's folder."""

    step: Step
    what: str
    changed: bool = False
    """Whether it is whole, but of another config."""


class StudyFolder:
    """The folder of one study.

    ``<task>/seed_<n>/<step>`` is a finished step. Beside it, hidden, lie a step in the making, whose name has the
    step's identity in it, and the error of one that failed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()

    def check(self) -> None:
        """Refuse a folder that holds something else than a study.

        Raises:
            InputError: it does, or it is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output {self.path} is a file; give the name of a folder.")
        with looked_at(self.path):
            there = {file.name: file for file in self.path.iterdir()} if self.path.is_dir() else {}
            folders = [file for file in there.values() if file.is_dir()]
            inside = [file for folder in folders for file in folder.iterdir()]
            links = [file for file in (*there.values(), *inside) if file.is_symlink()]
        if STUDY not in there and not all(name in _LOCKS or is_litter(name) for name in there):
            raise InputError(f"--output {self.path} is not empty and holds no study; give a new folder.")
        if links:
            raise InputError(
                f"{links[0]} is a link, which headscope does not follow; put what it leads to in its place."
            )

    @property
    def stop_file(self) -> Path:
        """The file that tells workers to begin no further step; it names the run that it is for."""
        return self.path / ".stop"

    def of(self, step: Step) -> Path:
        """Return the folder of a step."""
        return self.path / step.path

    def in_the_making(self, step: Step, identity: str) -> Path:
        """Return the folder in which a step is made."""
        final = self.of(step)
        return final.with_name(f".{final.name}.{identity[:12]}")

    def starts_file(self, step: Step, identity: str) -> Path:
        """Return what says how often a step in the making was begun."""
        return self.in_the_making(step, identity) / "starts.json"

    def error_file(self, step: Step) -> Path:
        """Return where the error of a failed step is told."""
        final = self.of(step)
        return final.with_name(f".{final.name}.error.json")

    def is_done(self, step: Step) -> bool:
        """Whether a step has come to its end; see :meth:`damage` for whether it is still what it was."""
        return (self.of(step) / METRICS).is_file()

    def read(self, step: Step) -> StepResult:
        """Return what a finished step's ``metrics.json`` holds.

        Raises:
            InputError: it cannot be read.
        """
        file = self.of(step) / METRICS
        found = check_fields(
            file,
            read_json(file, "the result of a study's step"),
            {**_FIELDS.get(step.kind, {}), "step": _RECORD},
        )
        known = found["step"].pop("checksum", None)
        if known not in (None, json_digest(found)):
            raise InputError(f"{file} is not what was written there; {_REPAIR}.")
        return cast("StepResult", found)

    def file(self, step: Step, name: str) -> Path:
        """Return the path of one of a finished step's files, which is what was written.

        Raises:
            InputError: it is missing, or something else.
        """
        path, known = self.of(step) / name, self.read(step)["step"]["files"]
        if name not in known or not path.is_file():
            raise InputError(f"{path} is missing; {_REPAIR}.")
        if checksum(path) != known[name]:
            raise InputError(f"{path} is not what was written there; {_REPAIR}.")
        return path

    def verified(self, step: Step) -> Path:
        """Return the folder of a finished step whose files are all what was written.

        Raises:
            InputError: as :meth:`file`.
        """
        for name in self.read(step)["step"]["files"]:
            self.file(step, name)
        return self.of(step)

    def error(self, step: Step) -> dict[str, str] | None:
        """Return how a step failed, or None."""
        file = self.error_file(step)
        if not file.is_file():
            return None
        return check_fields(file, read_json(file, "the error of a study's step"), {"error": "text"})

    def damage(self, plan: Plan, step: Step) -> Damage | None:
        """Compare a finished step with its checksums and with the plan; None if all is well."""
        folder = self.of(step)
        if not folder.exists():
            return None
        if not self.is_done(step):
            return Damage(step, f"it has no {METRICS}")
        try:
            record = self.read(step)["step"]
            files, config, inputs = record["files"], record["config"], record["inputs"]
        except (InputError, KeyError):
            return Damage(step, f"its {METRICS} cannot be read, or is not what was written")
        if told := _changes(config, plan.configs[step.path]):
            return Damage(step, told, changed=True)
        for name, known in files.items():
            if not (folder / name).is_file():
                return Damage(step, f"{name} is missing")
            if checksum(folder / name) != known:
                return Damage(step, f"{name} is not what was written")
        for path, digest in inputs.items():
            if path not in plan.by_path or self.digest(plan.by_path[path]) not in (None, digest):
                return Damage(step, f"it was made from another {path}")
        return None

    def digest(self, step: Step) -> str | None:
        """Return what a finished step's outputs are known by to those that read them; None if it is not done."""
        if not self.is_done(step):
            return None
        try:
            return self.read(step)["step"]["digest"]
        except (InputError, KeyError):
            return None

    def seal(
        self, step: Step, made: Path, result: Mapping[str, object], digest: str, record: Mapping[str, object]
    ) -> None:
        """Finish a step: checksums of its files go into ``metrics.json``, and its folder gets its name.

        Args:
            step: which.
            made: the folder with its files.
            result: what ``metrics.json`` shall hold.
            digest: what its outputs are known by.
            record: what is told of the step besides.
        """
        for left in made.rglob(".*"):  # half-written files of a process that was killed
            left.unlink()
        files = {
            str(file.relative_to(made)): checksum(file)
            for file in sorted(made.rglob("*"))
            if file.is_file() and file != made / METRICS
        }
        told = {"name": step.name, **record, "digest": digest, "files": files}
        checksum_of_all = json_digest({**result, "step": told})
        write_json(made / METRICS, {**result, "step": {**told, "checksum": checksum_of_all}})
        final = self.of(step)
        self.remove(step)
        final.parent.mkdir(parents=True, exist_ok=True)
        made.replace(final)
        self.error_file(step).unlink(missing_ok=True)

    def remove(self, step: Step) -> None:
        """Delete a step's folder: it is there or not, never in part."""
        if self.of(step).exists():
            aside = Path(tempfile.mkdtemp(prefix=".removed.", dir=self.of(step).parent))
            self.of(step).replace(aside / step.name)
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process; another one is refused. It is free again when the process is gone.

        Raises:
            InputError: another process has it, or it cannot be written to.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"Another run-study is at work on {self.path}; wait until it has ended, or give another --output."
            ) from error
        except OSError as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror or error}.") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def step_locked(self, step: Step) -> Iterator[None]:
        """Wait until no other process is at this step: the worker of a study that was killed may still be."""
        from filelock import FileLock

        locks = self.path / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{step.path.replace('/', '.')}.lock"):
            yield


def checksum(path: Path) -> str:
    """Return a file's SHA-256."""
    return file_digest(path)


def _changes(there: object, here: Mapping[str, object]) -> str:
    """Return in words where two steps' configs differ; what follows from their inputs only if there is nothing else."""
    if not isinstance(there, dict):
        return "its config cannot be read"
    plain = [{k: v for k, v in _flat(config).items() if k[:7] != "inputs."} for config in (there, here)]
    return differences(*plain) or ("its inputs have changed" if there != here else "")


def _flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
