"""The jobs of ``annotate-maps import`` and ``export``: labels from files, and to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd

from models.common.errors import InputError
from models.common.hub import check_repository, publish
from models.common.outputs import Output, apart
from models.common.provenance import SourceRecord, source_record
from patterns.maps import store

from ..dataset import AnnotatedMaps, digest, records_of
from ..folders import AddedSummary, add_annotations, add_maps, read_kinds
from ..formats import EXPORT, LAYOUTS, find_published, read_published, write_published
from ..labellers import read_passes, united, write_passes
from ..table import ANNOTATION_SCHEMA, ANNOTATIONS, read_annotations
from . import writing as exporting
from .matching import CONTROL, NO_ID, NO_LABEL, MapIndex
from .reading import Reading, number_name, number_of, read_export
from .tasks import read_tokens

FORMATS = ("label-studio", "json-min", "csv", "tsv", "published", "dataset")


class Taken(TypedDict):
    """What labels were taken, what was left, and why."""

    folder: str
    tasks: int
    """Or maps, that were read."""
    unlabelled: int
    """Of these."""
    taken: int
    """Labels."""
    added: int
    """Of these."""
    known: int
    """Before."""
    replaced: int
    """Annotators' labels that are another now."""
    new_maps: int
    left: dict[str, int]
    """By reason."""
    about: dict[str, dict[str, int]]
    """By reason, the texts in question."""
    notes: dict[str, int]
    """What else is worth knowing, and of how many."""


class Imported(Taken):
    """What came of an import."""

    source: SourceRecord


class Exported(TypedDict):
    """What was written."""

    output: str
    format: str
    maps: int
    labels: int
    left: dict[str, int]
    """Why how many maps were not."""
    published: NotRequired[str]
    """Address of the commit on the Hub."""


@dataclass(frozen=True)
class Import:
    """One run of ``annotate-maps import``.

    Raises:
        InputError: the file is not there, or the folder is missing although the file holds no maps.
    """

    source: Path
    """JSON, JSON_MIN, CSV or TSV of Label Studio; or a folder of annotated maps, ours or as published."""
    folder: Path
    """Folder of the maps that were labelled; made if the source holds maps."""
    control: str = CONTROL
    """Name of the choices in the labelling configuration."""
    id_field: str | None = None
    """Field of a task that holds the map's id, if push did not make the task."""
    annotators: Mapping[str, str] = field(default_factory=dict)
    """Names of annotators that the file gives as numbers, by number."""

    def __post_init__(self) -> None:
        if not self.source.exists():
            raise InputError(f"{self.source} does not exist; give an export, or a folder of annotated maps.")
        if not self._published() and not self.source.is_dir():
            if not self.folder.is_dir():
                raise InputError(
                    f"{self.folder} is no folder; {self.source.name} holds labels without maps, so give the folder "
                    "of the maps that were labelled."
                )
            read_kinds(self.folder)

    def _published(self) -> bool:
        return self.source.name in {layout.label_file for layout in LAYOUTS.values()}

    def run(self, progress: bool = False) -> Imported:
        """Add the file's labels, and the maps that it holds, to the folder.

        Raises:
            InputError: a file is not what it should be; the folder stays as it was.
        """
        if self._published() or self.source.is_dir():
            home = self.source.parent if self._published() else self.source
            (record,) = records_of([home])
            return {**self._maps(), "source": record}
        reading = read_export(
            self.source,
            map_index(self.folder),
            control=self.control,
            id_field=self.id_field,
            annotators=self.annotators,
            progress=progress,
        )
        return {**take(self.folder, reading, str(self.source)), "source": source_record(self.source)}

    def _maps(self) -> Taken:
        if self._published():
            kind = next(kind for kind, layout in LAYOUTS.items() if layout.label_file == self.source.name)
            other = AnnotatedMaps(*read_published(self.source.parent, kind), read_passes(self.source.parent))
        else:
            other = AnnotatedMaps.load(self.source)
        reading = Reading(tasks=len(other))
        said = other.annotations
        reading.unlabelled = len(other) - said["id"].nunique()
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            other.save(self.folder)
            return summary(
                self.folder, reading, AddedSummary(added=len(said)), taken=len(said), maps=len(other)
            )
        if find_published(self.folder):
            raise InputError(
                f"{self.folder} is a published layout; give a folder that headscope saved, or a new one."
            )
        held = AnnotatedMaps.load(self.folder)
        same = _same_maps(held, other)
        if same:
            other = AnnotatedMaps(
                [row for row in other.rows if row.id not in same],
                said[~said["id"].isin(list(same))],
                other.passes,
            )
        passes = held.merge(other).passes  # refuses two maps of one id, and a pass of two labellers
        known = set(read_kinds(self.folder))
        new = [row for row in other.rows if row.id not in known]
        add_maps(self.folder, new)
        if passes != held.passes:
            write_passes(self.folder, passes)
        said = said.assign(id=said["id"].map(lambda id: same.get(str(id), id)))
        return summary(
            self.folder, reading, add_annotations(self.folder, said), taken=len(said), maps=len(new)
        )


def _same_maps(held: AnnotatedMaps, other: AnnotatedMaps) -> dict[str, str]:
    """Return, for maps whose ids are new, the id under which the very same map is there: layouts pad ids."""
    ids = {row.id for row in held.rows}
    by_cells: dict[tuple[str, int, str], list[str]] = {}
    for row in held.rows:
        by_cells.setdefault((row.kind, row.n_tokens, digest(row.map)), []).append(row.id)
    found = {}
    for row in other.rows:
        twins = by_cells.get((row.kind, row.n_tokens, digest(row.map)), [])
        if row.id not in ids and len(twins) == 1:
            found[row.id] = twins[0]
    return found


@dataclass(frozen=True)
class Export:
    """One run of ``annotate-maps export``.

    Raises:
        InputError: the format is unknown, or the output is there already.
    """

    folder: Path
    """Folder of annotated maps, ours or as published."""
    output: Path
    """File or, for the last two formats, folder."""
    format: str = "label-studio"
    """label-studio (its JSON), json-min, csv, tsv, published, or dataset (Parquet)."""
    pictures: bool = True
    """Put the pictures into label-studio's tasks."""
    overwrite: bool = False
    push_to_hub: str | None = None
    """ORG/NAME: publish a dataset in this data set repository of the Hub, which load_dataset reads."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format}: choose one of {', '.join(FORMATS)}.")
        if self.push_to_hub is not None and self.format != "dataset":
            raise InputError(
                f"--push-to-hub {self.push_to_hub} publishes --format dataset, not {self.format}; give that format."
            )
        if self.format in ("published", "dataset"):
            Output(self.output, EXPORT, self.overwrite, (self.folder,), "OUTPUT").check()
        elif self.output.is_dir():
            raise InputError(f"{self.output} is a folder; give the name of a file.")
        elif self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output} exists; give a new name, or --overwrite to replace it.")
        apart(self.output, (self.folder,), "OUTPUT")

    def run(self) -> Exported:
        """Write the maps and their labels.

        Raises:
            InputError: the folder is not what it should be, or an id does not fit the published layout.
        """
        if self.push_to_hub is not None:
            check_repository(self.push_to_hub, "--push-to-hub")
        maps, left = AnnotatedMaps.load(self.folder), {}
        labels = len(maps.annotations)
        if self.format == "label-studio":
            exporting.write_json(self.output, maps, read_tokens(self.folder), self.pictures)
        elif self.format == "json-min":
            exporting.write_json_min(self.output, maps)
        elif self.format in ("csv", "tsv"):
            exporting.write_table(self.output, maps, "," if self.format == "csv" else "\t")
        elif self.format == "dataset":
            maps.save(self.output, self.overwrite)
        else:
            # The layout has one label a map, and no annotators.
            open_ids = set(maps.annotations["id"])
            ties = sum(
                row.id in open_ids and label is None
                for row, label in zip(maps.rows, maps.labels, strict=True)
            )
            whole, maps = maps, maps.labelled()
            if not len(maps):
                raise InputError(
                    f"{self.folder} has no map with a label; label some, or choose another --format."
                )
            left = {"no label of the majority": ties, "unlabelled": len(whole) - len(maps) - ties}
            labels = len(maps)
            by_id = dict(zip((row.id for row in maps.rows), maps.labels, strict=True))
            write_published(self.output, maps.rows, by_id, self.overwrite)
        done: Exported = {
            "output": str(self.output),
            "format": self.format,
            "maps": len(maps),
            "labels": labels,
            "left": {why: number for why, number in left.items() if number},
        }
        if self.push_to_hub is not None:
            done["published"] = publish(self.output, self.push_to_hub, "dataset", "--push-to-hub")
        return done


def map_index(folder: Path) -> MapIndex:
    """Return the maps of a folder as what annotations may be for."""
    return MapIndex({row.id: digest(row.map) for row in store.iter_maps(folder)})


def take(
    folder: Path, reading: Reading, source: str, first: Callable[[pd.DataFrame], None] | None = None
) -> Taken:
    """Add what was read to the folder and say what came of it.

    Args:
        folder: of the maps; without a label that is for one of them it stays as it was.
        reading: what was read.
        source: what to call it in an error.
        first: is given the labels, with the names that annotators have in the folder, before they are added.

    Raises:
        InputError: it holds labels and none of them is for a map of the folder, or who made them cannot be told.
    """
    if not reading.annotations and (why := {w: n for w, n in reading.left.items() if w not in NO_LABEL}):
        reasons = "; ".join(
            f"{number} {what}" + (f" ({', '.join(reading.details[what])})" if what in reading.details else "")
            for what, number in why.items()
        )
        advice = "; if another field of the tasks' data holds the maps' ids, name it with --id-field"
        raise InputError(
            f"{source}: none of its labels could be taken: {reasons}{advice if NO_ID in why else ''}."
        )
    frame = pd.DataFrame(reading.annotations, columns=ANNOTATION_SCHEMA.names)
    there = read_annotations(folder / ANNOTATIONS)
    frame, renamed = one_name(frame, there, reading.numbers, source)
    told = {
        labeller: [renamed.get(name, name) for name in names] for labeller, names in reading.passes.items()
    }
    passes = united((held := read_passes(folder), told), source)
    for before, after in renamed.items():
        reading.notes[f"{before} is {after}"] = int((frame["annotator"] == after).sum())
    if passes != held:
        write_passes(folder, passes)
    if first is not None:
        first(frame)
    return summary(folder, reading, add_annotations(folder, frame), taken=len(frame))


def one_name(
    new: pd.DataFrame, there: pd.DataFrame, numbers: Mapping[str, str], source: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give an annotator one name, where one export has a number and another the e-mail address.

    Two names are one person's if they gave a map the same label at the same time, and either the export says which
    number the address has, or that time tells people apart (:func:`_telling_times`) and nothing speaks against it. A
    time that the labels of several have (a script's, or a day) is no sign: two people agree on many a map. A number
    alone and one of a server, ``user 3 of HOST``, or of the same server under another address, are names like these;
    the same numbers of two servers are two people.

    Args:
        new: labels that are to come in, columns as :data:`~annotations.table.ANNOTATION_SCHEMA`.
        there: those of the folder.
        numbers: by name, the name of its number ("user 3"), as far as the export or the caller tells.
        source: what to call the export in an error.

    Returns:
        The new labels under the names that the folder has, and each new name that was changed with what it is now.

    Raises:
        InputError: a name may be another's, and nothing tells whether it is.
    """
    if not len(new) or not len(there):
        return new, {}
    new = new.assign(
        time=pd.to_datetime(new["time"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    )
    timed, known = new.dropna(subset="time"), there.dropna(subset="time")
    telling = _telling_times(timed) & _telling_times(known)
    both = timed.merge(known, on=["id", "time"], suffixes=("", "_there"))
    pairs = both.assign(
        same=both["label"] == both["label_there"], alone=both["time"].isin(list(telling))
    ).loc[both["annotator"] != both["annotator_there"]]
    owned = set(numbers.values())
    same: list[tuple[bool, str, str]] = []
    for names, found in pairs.groupby(["annotator", "annotator_there"]):
        here, other = map(str, names)
        digits = {n for one in (here, other) if (n := number_of(one))}
        bare = other == number_name(number_of(other))
        number, name = (other, here) if bare or not number_of(here) else (here, other)
        agreed, against = int(found["same"].sum()), int((~found["same"]).sum())
        if not agreed or len(digits) != 1:
            continue
        digit = digits.pop()
        plain = number_name(digit)
        told = numbers.get(name) == plain
        if (told and agreed > against) or (not against and (found["same"] & found["alone"]).any()):
            same.append((told, here, other))
        elif not against and name not in numbers and plain not in owned:
            raise InputError(
                f"{source}: {name} and {number} may be one person, but their labels carry the same time as others'; "
                f"say who it is: --annotator {digit}={name}, or the name of somebody else."
            )
    renamed: dict[str, str] = {}
    for told, here, other in sorted(same, reverse=True):  # what the export says first
        if here not in renamed and other not in renamed.values():
            renamed[here] = other
        elif not told and renamed.get(here) != other:
            raise InputError(
                f"{source}: {here} would be one person with two of the folder's annotators, or two with one; "
                "name each with --annotator, as 3=ann@example.org."
            )
    return new.assign(annotator=new["annotator"].replace(renamed)), renamed


def _telling_times(labels: pd.DataFrame) -> set[Any]:
    """Return the times that one label alone has, or one annotator alone to a fraction of a second."""
    by_time = labels.groupby("time")["annotator"].agg(["size", "nunique"])
    fraction = by_time.index != pd.DatetimeIndex(by_time.index).floor("s")
    return set(by_time.index[(by_time["size"] == 1) | ((by_time["nunique"] == 1) & fraction)])


def summary(
    folder: Path, reading: Reading, added: AddedSummary, *, taken: int, maps: int | None = None
) -> Taken:
    """Return what was taken, what was left, and why."""
    left = reading.left + type(reading.left)(added.left)
    return {
        "folder": str(folder),
        "tasks": reading.tasks,
        "unlabelled": reading.unlabelled,
        "taken": taken - sum(added.left.values()),
        "added": added.added,
        "known": added.known,
        "replaced": added.replaced,
        "new_maps": maps or 0,
        "left": dict(left.most_common()),
        "about": {why: dict(texts.most_common()) for why, texts in reading.details.items()},
        "notes": dict(reading.notes),
    }
