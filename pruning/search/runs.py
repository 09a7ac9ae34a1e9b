"""Finished searches on disk, whatever wrote them, grouped by task and by how they were found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.common.errors import InputError, one_line
from models.common.files import read_json
from models.common.reading import check_fields, open_safetensors, reason, regular_file
from models.subnetwork import Subnetwork
from models.tasks.task import TASKS, Task, plain_name, task_named
from models.weights import SUBNETWORK_FILE

from .folder import CONFIG, check_search
from .subject import BELOW_MAJORITY

_SETTINGS = ("threshold", "split", "holdout")  # what seeds must have in common to be compared
_PUBLISHED = ("head_mask.npy", "mlp_mask.npy")
_SEED_FOLDER = re.compile(r"seed_(\d+)")
_PUBLISHED_METHOD = re.compile(r"(heads_mlps|heads|mlps)(_\w+)?")


@dataclass(frozen=True)
class Run:
    """What one search kept, and of what."""

    source: Path
    """The search's folder, the folder of masks, or the file."""
    subnetwork: Subnetwork
    task: str
    """Its name."""
    seed: int
    method: str
    """How it was found, as far as that is known: ``prune-heads heads-and-mlps``, ``heads_mlps``; or empty."""
    model: str | None = None
    """The checkpoint that was pruned, where the run says so."""
    revision: str | None = None
    sha256: str | None = None
    """Digest of that checkpoint's weights when it was pruned."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of a search: what all seeds should have in common."""
    task_definition: Mapping[str, object] | None = None
    """Of a task of the user's own: see :meth:`models.tasks.task.Task.record`."""
    untestable: bool = False
    """Whether the search's threshold lies below what always saying the commonest label scores."""


@dataclass(frozen=True)
class Group:
    """The runs of one task that were found in the same way, one a seed, by seed."""

    name: str
    """The task's name; with the method where there is more than one."""
    task: str
    method: str
    runs: tuple[Run, ...]

    @property
    def described(self) -> Task:
        """The task itself.

        Raises:
            InputError: it is none of GLUE's, and no run says what it is.
        """
        told = next((run.task_definition for run in self.runs if run.task_definition), None)
        if told is None and self.task not in TASKS:
            raise InputError(
                f"No run of {self.task} says what that task is; give --task with the .toml file that describes it."
            )
        return task_named(told or self.task)

    @property
    def subnetworks(self) -> list[Subnetwork]:
        """What each run kept, in the order of the seeds."""
        return [run.subnetwork for run in self.runs]

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return [run.seed for run in self.runs]

    @property
    def untestable(self) -> str:
        """Why nothing can be said of these survivors, where that is so: anything holds the threshold of a search."""
        seeds = [str(run.seed) for run in self.runs if run.untestable]
        if not seeds:
            return ""
        of = "" if len(seeds) == len(self.runs) else f" of seed {', '.join(seeds)}"
        return f"the threshold{of} lies below the commonest label's score, so anything may survive"


def find_groups(sources: Sequence[Path | str], task: str | None = None) -> tuple[list[Group], list[str]]:
    """Find and read the searches in files and folders, and return them by task with what to warn of.

    Args:
        sources: search folders (``config.json``, ``subnetwork.safetensors``), folders of published masks
            (``head_mask.npy``, ``mlp_mask.npy``), subnetworks' files, or folders that hold such things below.
            A run's task and seed are in its config, its file's metadata, or its path, ``<TASK>/seed_<n>``.
        task: only runs of this task; those that do not say their task are taken to be of it.

    Raises:
        InputError: nothing found, a run is unreadable or does not say its task or seed, two have the same task,
            method and seed, or they are of models of different sizes.
    """
    wanted = task_named(task) if task else None
    places, warnings = [], []
    for source in map(Path, sources):
        found, lacking = _find(source)
        places += found
        warnings += [f"{message}; it was left out." for message in lacking]
    unique = {place.resolve(): place for place in places}
    runs = [run for place in unique.values() if (run := _read(place, wanted)) is not None]
    if not runs:
        raise InputError(f"None of the {len(unique)} runs found is of the task {wanted}.")
    _check_same_model(runs)
    groups = _grouped(runs)
    return groups, [*warnings, *(message for group in groups for message in _differences(group))]


def _find(source: Path) -> tuple[list[Path], list[str]]:
    """Return the files and folders of runs at or below `source`, and what is wrong with searches that are none."""
    if source.exists() and not source.is_dir():
        regular_file(source, "a search's folder, a folder of masks, or a subnetwork's .safetensors file")
        beside = source.name == SUBNETWORK_FILE and _is_search(source.parent)
        return [source.parent if beside else source], []
    if not source.is_dir():
        raise InputError(
            f"{source} does not exist; give a search's folder, a folder of masks, or a subnetwork's .safetensors file."
        )
    found: list[Path] = []
    lacking: list[str] = []
    for name, folders, files in os.walk(source, onerror=_unreadable):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        folder = Path(name)
        if _is_search(folder):
            if SUBNETWORK_FILE in files:
                found.append(folder)
            else:
                lacking.append(_lack(folder))
            folders.clear()
        elif set(_PUBLISHED) & set(files):
            found.append(folder)
        else:
            paths = (folder / file for file in sorted(files) if file.endswith(".safetensors"))
            found += [path for path in paths if not path.name.startswith(".") and _is_subnetwork(path)]
    if found:
        return found, lacking
    if lacking:
        raise InputError(f"{lacking[0]}.")
    raise InputError(
        f"{source} holds no subnetwork: neither {SUBNETWORK_FILE} nor {' and '.join(_PUBLISHED)}, there or below."
    )


def _is_search(folder: Path) -> bool:
    """Whether the folder's config is a search's; a model's folder has a config too."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    config = read_json(path, "a search's config")
    return isinstance(config, dict) and "command" in config


def _unreadable(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read: {reason(error)}; what it holds would be left out."
    ) from error


def _lack(folder: Path) -> str:
    if read_json(folder / CONFIG, "a search's config")["command"] == "prune-weights":
        return f"{folder} is a search of single weights, which keeps no whole heads; compare those of prune-heads"
    return f"{folder} is an unfinished search: it has no {SUBNETWORK_FILE} yet"


def _is_subnetwork(path: Path) -> bool:
    """Whether a file holds masks rather than, say, a model's weights.

    Raises:
        InputError: it cannot be read, so that it may be either.
    """
    if path.name == SUBNETWORK_FILE:
        return True  # reading it will tell what is wrong with it
    with open_safetensors(path, "a subnetwork or other weights") as file:
        return {"heads", "mlps"} <= set(file.keys())


def _read(place: Path, wanted: Task | None) -> Run | None:
    """Read one run; None if it is of another task than the one wanted."""
    config: Mapping[str, Any] = {}
    if place.is_dir() and _is_search(place):
        check_search(place)
        config = check_fields(
            place / CONFIG, read_json(place / CONFIG, "a search's config"), {"command": "text"}
        )
        subnetwork = Subnetwork.load(place / SUBNETWORK_FILE)
        method = " ".join(str(config[key]) for key in ("command", "what") if config.get(key))
        if config.get("protocol") not in (None, "corrected"):
            method += f" {config['protocol']}"
    else:
        subnetwork = Subnetwork.load(place)
        method = subnetwork.metadata.get("method", "") or _method_in(place)
    told = subnetwork.metadata | {key: value for key, value in config.items() if value is not None}
    task = _task(place, told, wanted)
    if wanted and task != wanted.name:
        return None
    definition = config.get("task_definition")
    if wanted is not None and wanted.own:
        definition = wanted.record()
    elif definition is not None:
        definition = task_named(check_fields(place / CONFIG, definition, {})).record()
    elif config and task not in TASKS:
        raise InputError(
            f"{place}: Unknown task {one_line(repr(task), 60)}: it is none of GLUE's, and the search's config does not "
            "describe it; give --task with the .toml file that does."
        )
    model, revision, sha256 = (
        str(told[key]) if told.get(key) else None for key in ("model", "revision", "model_sha256")
    )
    settings = {key: config[key] for key in _SETTINGS if key in config}
    return Run(
        place,
        subnetwork,
        task,
        _seed(place, told),
        method,
        model,
        revision,
        sha256,
        settings,
        definition,
        subnetwork.metadata.get(BELOW_MAJORITY) == "yes",
    )


def _task(place: Path, told: Mapping[str, Any], wanted: Task | None) -> str:
    if "task" in told:
        name = str(told["task"])
        return TASKS[plain].name if (plain := plain_name(name)) in TASKS else name
    folder = _seed_folder(place)
    if folder is not None and (plain := plain_name(folder.parent.name)) in TASKS:
        return plain
    if wanted is None:
        raise InputError(
            f"{place} does not say its task; give --task, or name its folders <TASK>/seed_<n>, e.g. QQP/seed_42."
        )
    return wanted.name


def _seed(place: Path, told: Mapping[str, Any]) -> int:
    if "seed" in told:
        seed = told["seed"]
        if type(seed) is int or (isinstance(seed, str) and re.fullmatch(r"-?\d{1,18}", seed)):
            return int(seed)
        raise InputError(f"{place}: its seed is {one_line(repr(seed), 60)}, not a whole number.")
    folder = _seed_folder(place)
    if folder is None:
        raise InputError(f"{place} does not say its seed; name its folder seed_<n>, e.g. QQP/seed_42.")
    return int(folder.name.removeprefix("seed_"))


def _seed_folder(place: Path) -> Path | None:
    """The innermost folder ``seed_<n>`` on the path, a file's own name included."""
    whole = place.resolve()
    return next(
        (path for path in (whole.with_suffix(""), *whole.parents) if _SEED_FOLDER.fullmatch(path.name)), None
    )


def _method_in(place: Path) -> str:
    """``heads_mlps`` of the published ``masks/heads_mlps/QQP/seed_42``."""
    folder = _seed_folder(place)
    name = folder.parents[1].name if folder is not None and len(folder.parents) > 1 else ""
    return name if _PUBLISHED_METHOD.fullmatch(name) else ""


def _check_same_model(runs: Sequence[Run]) -> None:
    first, shape = runs[0], runs[0].subnetwork.heads.shape
    for run in runs:
        if run.subnetwork.heads.shape != shape:
            one, other = (
                " x ".join(map(str, mask.shape)) for mask in (first.subnetwork.heads, run.subnetwork.heads)
            )
            raise InputError(
                f"{first.source} is of a model of {one} heads (layers x heads), but {run.source} of one of {other}; "
                "compare searches of one model."
            )


def _grouped(runs: Sequence[Run]) -> list[Group]:
    """In GLUE's order of tasks, then others by their names."""
    together: dict[tuple[str, str], dict[int, Run]] = {}
    order = list(TASKS)

    def place(name: str) -> int:
        return order.index(name) if name in order else len(order)

    for run in sorted(runs, key=lambda run: (place(run.task), run.task, run.method, run.seed)):
        seeds = together.setdefault((run.task, run.method), {})
        if run.seed in seeds:
            raise InputError(
                f"{seeds[run.seed].source} and {run.source} are both of {run.task} with seed {run.seed}"
                f"{f' ({run.method})' if run.method else ''}; give one run a seed."
            )
        seeds[run.seed] = run
    several = len({method for _, method in together}) > 1
    return [
        Group(f"{task}, {method}" if several and method else task, task, method, tuple(seeds.values()))
        for (task, method), seeds in together.items()
    ]


def _differences(group: Group) -> list[str]:
    """What the searches of a group should have had in common and have not."""
    messages = []
    for key in _SETTINGS:
        values = {str(run.settings[key]) for run in group.runs if key in run.settings}
        if len(values) > 1:
            messages.append(f"The searches of {group.name} differ in {key}: {', '.join(sorted(values))}.")
    if why := group.untestable:
        messages.append(f"{group.name} is not testable: {why}.")
    if len(group.runs) == 1:
        messages.append(f"There is one seed of {group.name}: what it kept counts as super-survivors.")
    return messages
