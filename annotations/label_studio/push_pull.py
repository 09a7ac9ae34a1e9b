"""The jobs of ``annotate-maps push`` and ``pull``: maps to a Label Studio project, and their labels back."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from models.common.errors import InputError
from models.common.progress import progress_bar
from patterns import Pattern
from patterns.maps import store

from ..dataset import digest
from ..folders import read_kinds
from .import_export import Taken, map_index, take
from .matching import DIGEST_FIELD, ID_FIELD
from .pulled import record, withdraw
from .reading import read_export
from .server import DEFAULT_URL, LabelStudio, LostReplyError, Token
from .tasks import (
    GUIDELINE,
    Prediction,
    choices_of,
    labelling_config,
    picture,
    read_predictions,
    read_tokens,
    result,
    task_data,
)

_BATCH = 50  # tasks per request, about 600 KB: a lost reply puts little in doubt


class Project(TypedDict):
    """A project of a server."""

    id: int
    title: str
    url: str


class PushedProject(Project):
    """The project that maps were pushed to."""

    new: bool


class Pushed(TypedDict):
    """What came of a push."""

    project: PushedProject
    maps: int
    added: int
    there: int
    """Before."""
    predictions: int
    """Added."""
    lost_replies: int
    duplicates: int
    """Maps that the project had more than once."""
    notes: list[str]


class Pulled(Taken):
    """What came of a pull."""

    project: Project
    withdrawn: int
    """Labels of earlier pulls that are deleted in the project."""
    deleted_tasks: int
    """Tasks with labels of earlier pulls that are deleted in the project; the labels stay."""


@dataclass(frozen=True)
class Push:
    """One run of ``annotate-maps push``.

    Raises:
        InputError: an option is out of range, or the folder holds no maps.
    """

    folder: Path
    """Folder of maps to annotate."""
    project: str
    """Title of the project, made if it is not there; or its number."""
    token: Token
    """Whose name the tasks are added in."""
    url: str = DEFAULT_URL
    """Address of the Label Studio server."""
    blind: bool = False
    """Show neither what the classifier says nor where a map comes from."""
    annotators_per_map: int | None = None
    """People to label each map. Default: as the project has it, 1 for a new one."""
    timeout: float = 60.0
    """Seconds to wait for a reply."""
    patience: float = 30.0
    """Seconds in which a request whose reply was lost may still take effect."""

    def __post_init__(self) -> None:
        if not (3 <= len(self.project.strip()) <= 50 or self.project.strip().isdecimal()):
            raise InputError(f"--project {self.project!r}: a title has 3 to 50 characters.")
        if self.annotators_per_map is not None and not 1 <= self.annotators_per_map <= 100:
            raise InputError(f"--annotators-per-map {self.annotators_per_map}: give 1 or more, at most 100.")
        _check_seconds(timeout=self.timeout, patience=self.patience)
        read_kinds(self.folder)

    def run(self, progress: bool = False) -> Pushed:
        """Add the maps that the project does not have yet.

        Raises:
            InputError: the server, the project or the folder is not what it should be, or the server stopped
                answering; what has arrived stays, and the same command goes on from there.
        """
        predictions = {} if self.blind else read_predictions(self.folder)
        # A project shows and sorts by the predictions of one version only, so raw and norm maps share theirs.
        version = " + ".join(sorted({said.classifier_version for said in predictions.values()}))
        tokens = read_tokens(self.folder)
        with LabelStudio(self.url, self.token, self.timeout) as server:
            notes = []
            project, is_new = self._project(server, bool(predictions))
            called = choices_of(project)
            number, where = project["id"], f"{server.url}/projects/{project['id']}/data"
            there, last = _present(server, number)
            missing = self._missing(there, project["title"])
            kinds = read_kinds(self.folder)
            arrived, lost, predicted = 0, 0, 0
            bar = progress_bar(total=len(missing), what="pushing", unit=" maps", shown=progress, leave=False)
            with bar:
                rows = (row for row in store.iter_maps(self.folder) if row.id in missing)
                while batch := list(itertools.islice(rows, _BATCH)):
                    tasks = [self._task(row, tokens, predictions, version, called) for row in batch]
                    predicted += sum("predictions" in task for task in tasks)
                    try:
                        lost += self._deliver(server, number, tasks, last)
                    except (LostReplyError, InputError) as error:
                        raise InputError(
                            f"{error} {arrived} of {len(missing)} maps had arrived; push again, it goes on from there."
                        ) from None
                    arrived += len(batch)
                    bar.update(len(batch))
            if predicted and (shown := project.get("model_version")) not in (None, "", version):
                server.change_project(number, {"model_version": version})
                notes.append(f"what the earlier classifier ({shown}) says is no longer shown.")
            duplicates = self._tidy(server, number, last, missing, there, lost > 0)
        if self.blind and not is_new and there:
            notes.append("what was pushed earlier without --blind keeps what it shows of the maps.")
        return {
            "project": {"id": number, "title": project["title"], "url": where, "new": is_new},
            "maps": len(kinds),
            "added": len(missing),
            "there": len(kinds) - len(missing),
            "predictions": predicted,
            "lost_replies": lost,
            "duplicates": duplicates,
            "notes": notes,
        }

    def _project(self, server: LabelStudio, predicted: bool) -> tuple[dict[str, Any], bool]:
        title = self.project.strip()
        shown = {} if not (predicted or self.blind) else {"show_collab_predictions": not self.blind}
        project = server.find_project(title)
        if project is None:
            if not 3 <= len(title) <= 50:
                raise InputError(f"{server.url} has no project {title}; give a title of 3 to 50 characters.")
            settings = {
                "title": title,
                "label_config": labelling_config(),
                "expert_instruction": GUIDELINE,
                "maximum_annotations": self.annotators_per_map or 1,
                "enable_empty_annotation": False,
                # Lowest score first: a prediction's score is its margin.
                "sampling": "Uncertainty sampling" if predicted else "Sequential sampling",
                **shown,
            }
            return server.create_project(settings), True
        choices_of(project)
        wanted: dict[str, Any] = dict(shown)
        if self.annotators_per_map is not None:
            wanted["maximum_annotations"] = self.annotators_per_map
        if changes := {name: value for name, value in wanted.items() if project.get(name) != value}:
            server.change_project(project["id"], changes)
        return project, False

    def _task(
        self,
        row: store.MapRow,
        tokens: Mapping[str, Sequence[str]],
        predictions: Mapping[str, Prediction],
        version: str,
        called: tuple[str, str, Mapping[Pattern, str]],
    ) -> dict[str, Any]:
        """Return a map as a task; `called`: see :func:`~annotations.label_studio.tasks.choices_of`."""
        control, image, names = called
        task: dict[str, Any] = {
            "data": {"image": picture(row, tokens.get(row.id)), **task_data(row, self.blind)}
        }
        if said := predictions.get(row.id):
            choice = result(names[said.label], control, image)
            task["predictions"] = [{"model_version": version, "score": said.margin, "result": choice}]
        return task

    def _missing(self, there: Mapping[str, Sequence[Any]], title: str) -> set[str]:
        """Return the ids of the maps that the project does not have."""
        missing = set()
        for row in store.iter_maps(self.folder):
            held = there.get(row.id, ())
            if not held:
                missing.add(row.id)
            elif any(task[1] not in (None, digest(row.map)) for task in held):
                raise InputError(
                    f"project {title!r} has another map of the id {row.id}; give a new --project."
                )
        return missing

    def _deliver(self, server: LabelStudio, number: int, batch: list[dict[str, Any]], last: int) -> int:
        """Send tasks until they are there, each once; return how many replies were lost."""
        lost = 0
        while True:
            try:
                server.add_tasks(number, batch)
                return lost
            except LostReplyError as error:
                reason = error
            # The server may be at it still, so what is there is asked before anything is sent again.
            end = time.monotonic() + self.patience
            while True:
                there, _ = _present(server, number, last)
                batch = [task for task in batch if task["data"][ID_FIELD] not in there]
                if not batch:
                    return lost + 1
                if time.monotonic() > end:
                    break
                time.sleep(min(1.0, self.patience / 10))
            lost += 1
            if lost == 3:
                raise reason

    def _tidy(
        self,
        server: LabelStudio,
        number: int,
        last: int,
        sent: set[str],
        there: Mapping[str, Any],
        lost: bool,
    ) -> int:
        """Check that everything arrived, remove what arrived twice after all, and count older duplicates."""
        if sent:
            now, _ = _present(server, number, last)
            if missing := [id for id in sent if id not in now]:
                raise InputError(f"{len(missing)} maps did not arrive, {missing[0]} among them; push again.")
            for id in sent:
                # Only what this run sent itself, and nobody has labelled.
                for copy, _, labelled in sorted(now[id], key=lambda held: held[0])[1:] if lost else ():
                    if not labelled:
                        server.delete_task(copy)
        return sum(len(held) > 1 for held in there.values())


def _present(
    server: LabelStudio, number: int, after: int = 0
) -> tuple[dict[str, list[tuple[int, Any, bool]]], int]:
    """Return (number, digest, whether anybody labelled it) of each task by the id of its map; the last number."""
    found: dict[str, list[tuple[int, Any, bool]]] = {}
    last = after
    for task in server.tasks(number, after):
        last = max(last, task["id"])
        data = task.get("data") or {}
        if ID_FIELD in data:
            labelled = bool(task.get("total_annotations") or task.get("cancelled_annotations"))
            found.setdefault(str(data[ID_FIELD]), []).append((task["id"], data.get(DIGEST_FIELD), labelled))
    return found, last


@dataclass(frozen=True)
class Pull:
    """One run of ``annotate-maps pull``.

    Raises:
        InputError: the folder holds no maps.
    """

    folder: Path
    """Folder of maps that were pushed."""
    project: str
    """Title or number of the project."""
    token: Token
    """Who reads."""
    url: str = DEFAULT_URL
    """Address of the Label Studio server."""
    timeout: float = 60.0
    """Seconds to wait for a reply."""

    def __post_init__(self) -> None:
        _check_seconds(timeout=self.timeout)
        read_kinds(self.folder)

    def run(self, progress: bool = False) -> Pulled:
        """Add the project's labels to the folder.

        Raises:
            InputError: the server, the project or the folder is not what it should be; the folder stays as it was.
        """
        with (
            LabelStudio(self.url, self.token, self.timeout) as server,
            tempfile.TemporaryDirectory() as scratch,
        ):
            project = server.find_project(self.project.strip())
            if project is None:
                raise InputError(f"{server.url} has no project {self.project!r}; push the maps first.")
            control, _, _ = choices_of(project)
            names = {str(number): name for number, name in server.users().items()}
            path = Path(scratch) / f"project {project['id']}"
            server.export(project["id"], path)
            reading = read_export(
                path,
                map_index(self.folder),
                control=control,
                annotators=names,
                server=server.place,
                progress=progress,
            )
            where: Project = {
                "id": project["id"],
                "title": project["title"],
                "url": f"{server.url}/projects/{project['id']}/data",
            }
        # When it was made tells it from one of the same number on another server, or on this one after a reset.
        known = f"{project['id']} of {project.get('created_at') or server.place}"
        labels: list[pd.DataFrame] = []

        def before(frame: pd.DataFrame) -> None:
            labels.append(frame.assign(task=pd.array(reading.tasks_of, dtype="Int64")))
            record(self.folder, known, labels[0])

        taken = take(self.folder, reading, f"project {project['title']!r}", before)
        withdrawn, deleted = withdraw(self.folder, known, labels[0], reading.numbers_of_tasks)
        return {"project": where, **taken, "withdrawn": withdrawn, "deleted_tasks": deleted}


def _check_seconds(**seconds: float) -> None:
    for name, value in seconds.items():
        if not 0 < value <= 86400:
            raise InputError(f"{name}={value}: give seconds, above 0 and up to 86400.")
