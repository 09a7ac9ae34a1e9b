"""The report of a model's heads: grids, every head with example maps, galleries, and what is behind them as tables."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import matplotlib
import numpy as np
import numpy.typing as npt

from models.common import palette
from models.common.errors import InputError
from models.common.files import known
from models.common.pages import PageText, Section, command_line, write_page
from models.common.reading import read_frame
from models.common.words import percent

from ..maps.examples import DRAWN, SURE, UNSURE, ExampleMap, Input
from ..maps.rendering import visible
from ..measures.words import NOTES as MEASURED_NOTES
from ..measures.words import ROLE_TITLES, roles_in, sentences
from ..result import estimate_sentences
from ..taxonomy import ABBREVIATIONS, COLOURS, KINDS, MEANINGS, PATTERNS, TITLES
from .view import HeadsView, distribution_row, ink_on

TEMPLATE, SCRIPT = "patterns/report/templates/heads.html", "patterns/report/templates/heads.js"

_MAPS_BYTES = 3_000_000  # of a page, as base64; the rest of a BERT-base report is below 1 MB
_SIDES = (64, 48, 40, 32, 24, 16)
_STRIP = 240  # examples in the strip of a head; its counts are over all of them

_SAMPLING = (
    "model",
    "revision",
    "task",
    "text",
    "data",
    "split",
    "maps",
    "examples",
    "batch_size",
    "max_length",
    "seed",
    "dtype",
    "device_map",
    "stack",
    *(f"{kind}_classifier" for kind in KINDS),
)
"""Options of a run that ``annotate-maps sample`` has too."""


def write_report(
    path: Path,
    views: Sequence[HeadsView],
    *,
    sections: Sequence[Section] = (),
    **page: Unpack[PageText],
) -> None:
    """Write a report with the heads of one or several models.

    Args:
        path: of the HTML file.
        views: at least one.
        sections: behind the heads.
        page: what :func:`models.common.pages.write_page` takes besides.
    """
    inks = {p.value: ink_on(p, 1.0, palette.LIGHT) for p in PATTERNS}
    write_page(
        path,
        template=TEMPLATE,
        scripts=(SCRIPT,),
        sections=sections,
        views=views,
        data=page_data(views),
        distributions=[view.distributions() for view in views],
        profiles=[view.profiles() for view in views],
        survival=any(view.survives is not None for view in views),
        colourings=views[0].colourings(),
        measured_notes=MEASURED_NOTES,
        patterns=[(p.value, TITLES[p], ABBREVIATIONS[p], COLOURS[p], inks[p]) for p in PATTERNS],
        inks=inks,
        meanings=MEANINGS,
        **page,
    )


def page_data(views: Sequence[HeadsView]) -> dict[str, object]:
    """Return what the page's script reads: heads, maps and inputs of each view, ready for JSON.

    Cells of maps and labels of examples are bytes, together compressed, in ``blob``; the numbers of heads are those of
    ``heads.parquet``.
    """
    every = [
        [pair for pair in view.maps.of_heads() if _shown(view, pair[0])] if view.maps else []
        for view in views
    ]
    side = _finest([one for found in every for one, _ in found])
    inputs: dict[int, tuple[int, Input]] = {}
    blob: list[bytes] = []
    offset = 0

    def put(values: npt.NDArray[np.uint8]) -> int:
        nonlocal offset
        start = offset
        blob.append(values.tobytes())
        offset += values.size
        return start

    def number(input: Input) -> int:
        return inputs.setdefault(id(input), (len(inputs), input))[0]

    shown = [_view_data(view, found, side, number, put) for view, found in zip(views, every, strict=True)]
    return {
        "patterns": [
            {"name": p.value, "title": TITLES[p], "letter": ABBREVIATIONS[p], "colour": COLOURS[p]} for p in PATTERNS
        ],
        "border": palette.BORDER,
        "borderText": palette.BORDER_TEXT,
        "scale": _scale(),
        "views": shown,
        "inputs": [
            {
                "source": one.source,
                "example": one.example,
                "tokens": [visible(token) for token in one.tokens],
                "borders": list(one.borders),
            }
            for _, one in inputs.values()
        ],
        "blob": base64.b64encode(zlib.compress(b"".join(blob), 9)).decode(),
    }  # fmt: skip


def _view_data(
    view: HeadsView,
    maps: Sequence[tuple[ExampleMap, Collection[str]]],
    side: int,
    number: Callable[[Input], int],
    put: Callable[[npt.NDArray[np.uint8]], int],
) -> dict[str, object]:
    """Return what the page's script reads of one view.

    Args:
        view: which.
        maps: those to look at, and what each was kept for.
        side: of a map, in cells.
        number: of an input, in the list of all.
        put: keeps bytes, and says where.
    """
    patterns = view.patterns
    strip = np.argsort(patterns.n_tokens, kind="stable")
    strip = strip[np.linspace(0, len(strip) - 1, min(len(strip), _STRIP)).round().astype(int)]
    return {
        "name": view.name,
        "kinds": list(patterns.kinds),
        "shape": list(view.shape),
        "seeds": view.seeds,
        "annotate": view.annotate,
        "heads": _heads_data(view),
        "maps": [_map_data(one, why, side, number, put) for one, why in maps],
        "examples": len(patterns.examples),
        "strip": len(strip),
        "tokens": patterns.n_tokens[strip].tolist(),
        "labels": {
            kind: put(np.ascontiguousarray(np.moveaxis(labels[strip], 0, -1)).astype(np.uint8))  # EMPTY: 255
            for kind, labels in patterns.labels.items()
        },
    }


def _heads_data(view: HeadsView) -> list[dict[str, object]]:
    """Return what the page's script reads of each head; with sentences and numbers where it was measured."""
    heads = [
        {str(key): _plain(value) for key, value in row.items()}
        for row in view.plain_frame.drop(columns=[f"mean_prob_{p}" for p in PATTERNS]).to_dict("records")
    ]
    if colourings := view.colourings():
        for head, row in zip(heads, view.frame.to_dict("records"), strict=True):
            numbers = {str(key): value for key, value in row.items()}
            head["said"] = sentences(numbers)
            known_numbers = ((name, _plain(numbers[name])) for name in colourings)
            head["measured"] = {name: value and round(value, 4) for name, value in known_numbers}
    return heads


def _map_data(
    one: ExampleMap,
    why: Collection[str],
    side: int,
    number: Callable[[Input], int],
    put: Callable[[npt.NDArray[np.uint8]], int],
) -> dict[str, object]:
    """Return what the page's script reads of one map; see :func:`_view_data`."""
    place, cells = number(one.input), one.averaged(side)
    return {
        "kind": one.kind,
        "layer": one.layer,
        "head": one.head,
        "pattern": one.pattern,
        "probabilities": [round(float(p), 4) for p in one.probabilities],
        "input": place,
        "why": [role for role in (SURE, DRAWN, UNSURE) if role in why],
        "side": len(cells),
        "peak": float(f"{one.peak:.4g}"),
        "at": put(cells),
    }


def read_importance(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    """Return ``[L, H]``, each head's importance in the full model, normalised by layer, from what a search wrote.

    Args:
        path: of ``importance.parquet``; None is returned if there is no such file.
        shape: layers and heads per layer.
    """
    if not path.is_file():
        return None
    columns = {"iteration": "iu", "component": "O", "layer": "iu", "head": "iu", "normalized": "f"}
    frame = read_frame(path, columns, "the importances of a search")
    first = frame[(frame["component"] == "head") & (frame["iteration"] == frame["iteration"].min())]
    values = np.full(shape, np.nan)
    if not (first["layer"].between(0, shape[0] - 1) & first["head"].between(0, shape[1] - 1)).all():
        raise InputError(f"{path} is not of a model of {shape[0]} layers with {shape[1]} heads each.")
    values[first["layer"], first["head"]] = first["normalized"]
    return values


def sampling_command(
    options: Mapping[str, object], strategy: str = "uncertain-diverse", **more: object
) -> str:
    """Return the command that samples maps of a model for annotation.

    Args:
        options: of the run that is reported; those that ``annotate-maps sample`` has too are passed on.
        strategy: which maps; by default the least certain, from which a classifier learns most.
        more: options of ``annotate-maps sample``.
    """
    shared = {name: value for name, value in options.items() if name in _SAMPLING}
    return command_line(
        ["annotate-maps", "sample"], shared | {"strategy": strategy, **more, "output": "my-maps"}
    )


def head_findings(view: HeadsView) -> list[str]:
    """Say in sentences what a reader should take away of one view."""
    patterns, said_of_heads = view.patterns, []
    whose = "" if view.survives is None else " of all heads"
    said_of_heads += estimate_sentences(patterns, whose)
    if view.to_estimate:
        said_of_heads.append(
            'These shares are the classifier\'s alone, right or wrong; the command below "Share of maps" begins an '
            "estimate from labels of this model's own maps."
        )
    said = ", as the classifier has it" if said_of_heads else ""
    control = patterns.control
    for kind in patterns.kinds:
        row = distribution_row(kind, patterns.distribution(kind), patterns.interpretable_ratio_ci95(kind))
        most = max(PATTERNS, key=lambda p: patterns.distribution(kind)[p])
        share = percent(patterns.distribution(kind)[most])
        said_of_heads.append(
            f"{row.ratio}{' ' + row.words if row.words else ''} of the {kind} maps{whose} are heterogeneous{said}, "
            f"at most which could be interpretable; {share} are {TITLES[most]}."
        )
        if control is not None:
            of_control = distribution_row(
                kind, control.distribution(kind), control.interpretable_ratio_ci95(kind)
            )
            said_of_heads.append(
                f"The control, the same architecture with its weights redrawn, has {of_control.ratio} "
                f"{of_control.words} heterogeneous {kind} maps without having learned anything."
            )
        if empty := patterns.empty_maps(kind):
            said_of_heads.append(f"{empty} {kind} maps are zero in every cell and left out.")
    frame = view.frame
    if len(patterns.kinds) > 1:
        wide = frame.pivot(index=["layer", "head"], columns="kind", values="dominant").dropna()
        differ = int((wide["raw"] != wide["norm"]).sum())
        said_of_heads.append(
            f"By norms, {differ} of {len(wide)} heads have another dominant pattern than by attention alone."
        )
    steady = frame[frame["dominant_share"] >= 0.9].groupby("kind").size()
    words = " and ".join(f"{int(steady.get(kind, 0))} by {kind} maps" for kind in patterns.kinds)
    said_of_heads.append(f"Heads that show one pattern in at least 90% of their maps: {words}.")
    return said_of_heads + role_findings(view)


def role_findings(view: HeadsView) -> list[str]:
    """Say which roles heads have, where they were measured."""
    if view.patterns.measured is None:
        return []
    found = []
    for kind, frame in view.frame.groupby("kind", sort=False):
        roles = [roles_in({"roles": one}) for one in frame["roles"]]
        numbers = {title: sum(role in one for one in roles) for role, title in ROLE_TITLES.items()}
        words = ", ".join(f"{title} {number}" for title, number in numbers.items() if number)
        some = sum(map(bool, roles))
        found.append(
            f"By {kind} maps {some} of {len(frame)} heads have a role, each all that it passes"
            + (f": {words}." if words else ".")
        )
    return found


def _shown(view: HeadsView, one: ExampleMap) -> bool:
    return bool(view.patterns.heads[one.layer, one.head])


def _finest(maps: Sequence[ExampleMap]) -> int:
    """The largest side with which the maps fit into a page, by what a sample of them takes compressed."""
    step = max(1, len(maps) // 200)
    some = list(islice(maps, 0, None, step))
    for side in _SIDES:
        packed = len(zlib.compress(b"".join(one.averaged(side).tobytes() for one in some), 9))
        if packed * step * 4 / 3 <= _MAPS_BYTES:
            return side
    return _SIDES[-1]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return known(value) if isinstance(value, float) else value


def _scale() -> str:
    """The 256 colours of a map's cells, as hexadecimal digits."""
    colours = matplotlib.colormaps[palette.MAP](np.arange(256), bytes=True)[:, :3]
    return bytes(colours.ravel()).hex()
