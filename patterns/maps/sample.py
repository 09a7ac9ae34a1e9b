"""A folder of maps that ``annotate-maps sample`` drew at random and people labelled, read for an estimate.

An estimate is unbiased only if which maps have labels does not depend on what they show. So whatever is not a random
sample of the maps of the very model and rows that are looked at is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints import ModelRecord
from models.common.errors import InputError
from models.common.reading import check_fields, read_json
from models.tasks.rows import RowsRecord

from ..taxonomy import KINDS, PATTERNS, Pattern
from .labels import ANNOTATIONS, SAMPLE, majority, read_annotations, votes
from .store import MapRow, map_files, read_maps

RANDOM = "random"
"""The strategy of ``annotate-maps sample`` that gives every map the same chance."""

MOST_MISSING = 0.1
"""Share of the maps up to the last labelled one that may be without a label."""

USUAL = {"dtype": "float32", "stack": "encoder"}
"""What a sample is of that does not say so."""

_OPTION = "--annotations"


@dataclass(frozen=True)
class Population:
    """The maps that a sample has to be of."""

    model: ModelRecord
    task: str
    """Its name."""
    split: str | None
    """None of a file of texts."""
    data: RowsRecord
    max_length: int
    dtype: str = USUAL["dtype"]
    """Precision in which the model computes."""
    stack: str | None = None
    """Of an encoder-decoder, whose maps; the encoder's if None."""


@dataclass(frozen=True)
class LabelledSample:
    """The labelled maps of a random sample, by kind in the order in which they were drawn."""

    rows: Mapping[str, list[MapRow]]
    labels: Mapping[str, list[Pattern]]
    warnings: tuple[str, ...]
    """What of the sample is not labelled."""


def sample_files(folder: Path) -> list[Path]:
    """Return the files that :func:`read_sample` reads."""
    return [*map_files(folder), folder / ANNOTATIONS, folder / SAMPLE]


def read_sample(folder: Path, of: Population) -> LabelledSample:
    """Read the labelled maps of a random sample.

    Args:
        folder: one that ``annotate-maps sample --strategy random`` wrote, labelled since.
        of: what it has to be a sample of.

    Raises:
        InputError: it is no folder of ``annotate-maps sample``; it is not a random sample, or one of another model,
            other rows or another length; nothing is labelled, or labels are missing that may be missing for what the
            maps show; or a file is damaged.
    """
    if not (folder / SAMPLE).is_file():
        raise InputError(
            f"{_OPTION} {folder} does not say how its maps were chosen (no {SAMPLE}), so no share can be estimated "
            "from them; give a folder that annotate-maps sample --strategy random wrote."
        )
    record = check_fields(
        folder / SAMPLE,
        read_json(folder / SAMPLE, "what annotate-maps sample wrote"),
        {
            "strategy": "text",
            "count": "count",
            "max_length": "count",
            "task": "text",
            "model": {"name": "text"},
            "data": {"source": "text"},
            "exclude": {"found": "count"},
        },
    )
    check_fields(folder / SAMPLE, record, {name: "text" for name in USUAL if name in record})
    _check_random(folder, record)
    _check_population(folder, record, of)
    rows = read_maps(folder)
    if len(rows) != record["count"]:
        raise InputError(
            f"{_OPTION} {folder} holds {len(rows)} maps, but {SAMPLE} tells of {record['count']}: what was added or "
            "taken away was not drawn at random."
        )
    labels = _labels(folder, rows)
    found: dict[str, list[MapRow]] = {}
    said: dict[str, list[Pattern]] = {}
    warnings = []
    for kind in KINDS:
        mine = [row for row in rows if row.kind == kind]
        last = max((i for i, row in enumerate(mine) if row.id in labels), default=-1)
        drawn = mine[: last + 1]
        if not drawn:
            continue
        found[kind] = [row for row in drawn if row.id in labels]
        said[kind] = [labels[row.id] for row in found[kind]]
        if missing := len(drawn) - len(found[kind]):
            warnings.append(_missing(folder, kind, missing, len(drawn)))
    if not found:
        raise InputError(
            f"{_OPTION} {folder}: no map has a label yet; label some of them, the first ones first."
        )
    return LabelledSample(found, said, tuple(warnings))


def _check_random(folder: Path, record: Mapping[str, Any]) -> None:
    if record["strategy"] != RANDOM:
        raise InputError(
            f"{_OPTION} {folder} was sampled with --strategy {record['strategy']}, which chooses maps by what they "
            "show, so their shares are not those of the model; give a sample of --strategy random."
        )
    if number := record["exclude"]["found"]:
        raise InputError(
            f"{_OPTION} {folder} was sampled with --exclude, which left {number} places out, so it is not a "
            "random sample of all maps; sample anew without --exclude."
        )


def _check_population(folder: Path, record: Mapping[str, Any], of: Population) -> None:
    model, data = record["model"], record["data"]
    if not _same(model, of.model, "name"):
        raise InputError(
            f"{_OPTION} {folder} is a sample of another model: {model['name']}, whose weights or settings are not "
            f"those of {of.model['name']}; sample the model that is looked at."
        )
    here = (of.task, of.split)
    if (record["task"], record.get("split")) != here or not _same(data, of.data, "source"):
        there = _rows(data, record["task"], record.get("split"))
        raise InputError(
            f"{_OPTION} {folder} is a sample of maps of other texts: {there}, not {_rows(of.data, *here)} as it is "
            "now; sample those that are looked at."
        )
    if record["max_length"] != of.max_length:
        raise InputError(
            f"{_OPTION} {folder} was sampled with --max-length {record['max_length']}, not {of.max_length}, and a "
            "text that is cut has other maps; give the same."
        )
    for name, now in (("stack", of.stack or USUAL["stack"]), ("dtype", of.dtype)):
        if (there := record.get(name, USUAL[name])) != now:
            raise InputError(
                f"{_OPTION} {folder} was sampled with --{name} {there}, not {now}, which has other maps; give the "
                "same."
            )


def _rows(data: Mapping[str, Any], task: str, split: str | None) -> str:
    source: str = data["source"]
    return source if split is None else f"{source} ({task}, split {split})"


def _same(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> bool:
    """Whether two records are of the same thing: by its digests, else by its name and commit."""
    digests = [key for key in ("sha256", "files") if there.get(key) and here.get(key)]
    if "sha256" not in digests:
        digests += [name, "revision"]
    return all(there.get(key) == here.get(key) for key in digests)


def _labels(folder: Path, rows: list[MapRow]) -> dict[str, Pattern]:
    """Return the label of most annotators by map, of those that have one."""
    path = folder / ANNOTATIONS
    table = read_annotations(path)
    for column, allowed, what in (
        ("id", {row.id for row in rows}, "is for a map that is not in the folder"),
        ("label", set(PATTERNS), "is no pattern"),
    ):
        if wrong := [value for value in table[column] if value not in allowed]:
            raise InputError(f"{path}: an annotation {what}: {wrong[0]}.")
    each = {id: majority(said.values()) for id, said in votes(table).items()}
    return {id: label for id, label in each.items() if label is not None}


def _missing(folder: Path, kind: str, missing: int, drawn: int) -> str:
    """Return a warning about maps that were passed over; an InputError if they are many."""
    what = f"{missing} of the first {drawn} {kind} maps of {folder} have no label, or annotators tie"
    if missing > MOST_MISSING * drawn:
        raise InputError(
            f"{_OPTION}: {what}. Maps that are passed over are mostly hard ones, and without them the estimate is not "
            "one of all maps; label them, in the order of the folder (what comes after the last label does not matter)."
        )
    return (
        f"{what}: if they were passed over for what they show, the estimate is off by up to "
        f"{100 * missing / drawn:.1f} points."
    )
