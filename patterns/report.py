"""The report of a model's heads: grids, every head with example maps, galleries, and what is behind them as tables."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import to_rgb

from models import palette
from models.drawing import contrast
from models.files import known
from models.report import Section, TableBlock, command_line, percent_words, write_page

from .distribution import distribution
from .examples import DRAWN, SURE, UNSURE, ExampleMap, ExampleMaps, Input
from .rendering import visible
from .result import HeadPatterns
from .tables import interval
from .taxonomy import ABBREVIATIONS, COLOURS, INTERPRETABLE, MEANINGS, PATTERNS, TITLES, Pattern

TEMPLATE, SCRIPT = "patterns/templates/heads.html", "patterns/templates/heads.js"

_MAPS_BYTES = 3_000_000  # of a page, as base64; the rest of a BERT-base report is below 1 MB
_SIDES = (64, 48, 40, 32, 24, 16)
_STRIP = 240  # examples in the strip of a head; its counts are over all of them

_SAMPLING = (
    "model",
    "revision",
    "task",
    "data",
    "split",
    "maps",
    "examples",
    "batch_size",
    "max_length",
    "seed",
)
_HEAD_TITLES = {"n": "maps", "dominant": "pattern", "dominant_share": "share", "self_agreement": "agreement"}
_SHARES = ("dominant_share", "self_agreement")


@dataclass(frozen=True, eq=False)
class HeadsView:
    """The heads of one model, or of the models of one task, as a report shows them."""

    name: str
    """Of the task, where a report has several; else empty."""
    patterns: HeadPatterns
    """Whose counted heads are shown."""
    maps: ExampleMaps | None = None
    """Some maps to look at."""
    survives: npt.NDArray[np.bool_] | None = None
    """``[L, H]``: which heads are kept, where that is known."""
    kept: npt.NDArray[np.int64] | None = None
    """``[L, H]``: under how many seeds each is kept, where there are several."""
    seeds: int = 1
    """Number of seeds."""
    importance: npt.NDArray[np.float64] | None = None
    """``[L, H]``, where that is known."""
    annotate: str = ""
    """The command that sends the least certain maps to annotation."""
    bars: tuple[dict[str, Any], ...] = ()
    """Bars of :func:`distribution_row` to show instead of the patterns' own."""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per kind and head: :meth:`HeadPatterns.to_frame`, and what is known of its survival."""
        frame = self.patterns.to_frame()
        at = frame["layer"].to_numpy(), frame["head"].to_numpy()
        if self.survives is not None:
            frame["survives"] = self.survives[at]
        if self.kept is not None and self.seeds > 1:
            frame["seeds_kept"] = self.kept[at]
        if self.importance is not None:
            frame["importance"] = self.importance[at]
        return frame

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads per layer."""
        layers, heads = self.patterns.heads.shape
        return layers, heads

    def table(self) -> TableBlock:
        """All of that as a table."""
        name = f"heads-{self.name}" if self.name else "heads"
        return TableBlock.of(self.frame, name, "Every head", titles=_HEAD_TITLES, shares=_SHARES, folded=True)

    def share_table(self) -> TableBlock | None:
        """Each pattern's share by kind, plain and corrected, where no other bars are shown."""
        if self.bars:
            return None
        rows = []
        for kind in self.patterns.kinds:
            plain, bounds = self.patterns.distribution(kind), self.patterns.interpretable_ratio_ci95(kind)
            corrected = self.patterns.corrected_distribution(kind) or {}
            corrected_bounds = self.patterns.corrected_distribution_ci95(kind) or {}
            for p in PATTERNS:
                low, high = bounds if p == INTERPRETABLE else (np.nan, np.nan)
                c_low, c_high = corrected_bounds.get(p, (np.nan, np.nan))
                row = {"kind": kind, "pattern": p.value, "share": plain[p], "low": low, "high": high}
                if corrected:
                    row |= {"corrected": corrected[p], "corrected_low": c_low, "corrected_high": c_high}
                rows.append(row)
        frame = pd.DataFrame(rows)
        name = f"distribution-{self.name}" if self.name else "distribution"
        titles = {"low": "95% from", "high": "to", "corrected": "corrected share"}
        titles |= {"corrected_low": "95% from", "corrected_high": "to"}
        shares = [column for column in frame.columns if column not in ("kind", "pattern")]
        caption = "Shares in numbers" + (
            ", and corrected for the classifier's errors" if "corrected" in frame else ""
        )
        return TableBlock.of(frame, name, caption, titles=titles, shares=shares, folded=True)

    def grids(self) -> dict[str, list[list[dict[str, Any] | None]]]:
        """By kind, layers of heads: what a cell of the grid shows; None where no head is counted."""
        layers, columns = self.shape
        grids: dict[str, list[list[dict[str, Any] | None]]] = {
            kind: [[None] * columns for _ in range(layers)] for kind in self.patterns.kinds
        }
        for row in self.frame.to_dict("records"):
            pattern, share = Pattern(row["dominant"]), float(row["dominant_share"])
            words = f"layer {row['layer']}, head {row['head']}: {TITLES[pattern]}, {percent_words(share)} of its maps"
            if "survives" in row:
                words += "; survives" if row["survives"] else "; pruned"
            grids[row["kind"]][row["layer"]][row["head"]] = {
                "pattern": pattern.value,
                "letter": ABBREVIATIONS[pattern],
                "share": round(share, 3),
                "words": words,
                "survives": bool(row.get("survives", False)),
                "light": _ink(pattern, share, palette.LIGHT),
                "dark": _ink(pattern, share, palette.DARK),
            }
        return grids

    def profiles(self) -> dict[str, list[list[float]]]:
        """By kind and layer, each pattern's share of the maps of the layer's counted heads; empty without any."""
        found = {}
        for kind in self.patterns.kinds:
            found[kind] = [
                list(distribution(labels[:, counted].ravel()).values()) if counted.any() else []
                for labels, counted in zip(
                    np.moveaxis(self.patterns.labels[kind], 1, 0), self.patterns.heads, strict=True
                )
            ]
        return found

    def distributions(self) -> list[dict[str, Any]]:
        """Each pattern's share by kind, and the interpretable ratio with its interval, for bars."""
        if self.bars:
            return list(self.bars)
        return [
            distribution_row(
                f"{kind} maps",
                self.patterns.distribution(kind),
                self.patterns.interpretable_ratio_ci95(kind),
                kind,
            )
            for kind in self.patterns.kinds
        ]


def distribution_row(
    name: str, shares: Mapping[str, float], bounds: Sequence[float | None], kind: str = ""
) -> dict[str, Any]:
    """Return one bar: shares in Pattern order, the interpretable ratio and its 95% interval in words."""
    low, high = (None if bound is None else known(bound) for bound in bounds)
    ratio = shares[INTERPRETABLE]
    return {
        "name": name,
        "kind": kind,
        "shares": [(p.value, TITLES[p], shares[p], percent_words(shares[p])) for p in PATTERNS],
        "ratio": percent_words(ratio),
        "interval": None if low is None or high is None else (low, high),
        "words": "" if low is None or high is None else interval(low, high),
    }


def write_report(
    path: Path,
    views: Sequence[HeadsView],
    *,
    sections: Sequence[Section] = (),
    **page: Any,
) -> None:
    """Write a report with the heads of one or several models.

    Args:
        path: of the HTML file.
        views: at least one.
        sections: behind the heads.
        page: what :func:`models.report.write_page` takes besides.
    """
    inks = {p.value: _ink(p, 1.0, palette.LIGHT) for p in PATTERNS}
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
        patterns=[(p.value, TITLES[p], ABBREVIATIONS[p], COLOURS[p], inks[p]) for p in PATTERNS],
        inks=inks,
        meanings=MEANINGS,
        **page,
    )


def page_data(views: Sequence[HeadsView]) -> dict[str, Any]:
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

    shown = []
    for view, found in zip(views, every, strict=True):
        maps = []
        for one, why in found:
            number = inputs.setdefault(id(one.input), (len(inputs), one.input))[0]
            cells = one.averaged(side)
            maps.append(
                {
                    "kind": one.kind,
                    "layer": one.layer,
                    "head": one.head,
                    "pattern": one.pattern,
                    "probabilities": [round(float(p), 4) for p in one.probabilities],
                    "input": number,
                    "why": [role for role in (SURE, DRAWN, UNSURE) if role in why],
                    "side": len(cells),
                    "peak": float(f"{one.peak:.4g}"),
                    "at": put(cells),
                }
            )
        patterns = view.patterns
        strip = np.argsort(patterns.n_tokens, kind="stable")
        strip = strip[np.linspace(0, len(strip) - 1, min(len(strip), _STRIP)).round().astype(int)]
        shown.append(
            {
                "name": view.name,
                "kinds": list(patterns.kinds),
                "shape": list(view.shape),
                "seeds": view.seeds,
                "annotate": view.annotate,
                "heads": [
                    {key: _plain(value) for key, value in row.items()}
                    for row in view.frame.drop(columns=[f"mean_prob_{p}" for p in PATTERNS]).to_dict(
                        "records"
                    )
                ],
                "maps": maps,
                "examples": len(patterns.examples),
                "strip": len(strip),
                "tokens": patterns.n_tokens[strip].tolist(),
                "labels": {
                    kind: put(np.ascontiguousarray(np.moveaxis(labels[strip], 0, -1)).astype(np.uint8))
                    for kind, labels in patterns.labels.items()
                },
            }
        )
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


def read_importance(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    """Return ``[L, H]``, each head's importance in the full model, normalised by layer, from what a search wrote.

    Args:
        path: of ``importance.parquet``; None is returned if there is no such file.
        shape: layers and heads per layer.
    """
    if not path.is_file():
        return None
    frame = pd.read_parquet(path, columns=["iteration", "component", "layer", "head", "normalized"])
    first = frame[(frame["component"] == "head") & (frame["iteration"] == frame["iteration"].min())]
    values = np.full(shape, np.nan)
    values[first["layer"], first["head"]] = first["normalized"]
    return values


def sampling_command(options: Mapping[str, Any]) -> str:
    """Return the command that samples the least certain maps of a model for annotation.

    Args:
        options: of the run that is reported; those that ``annotate-maps sample`` has too are passed on.
    """
    shared = {
        name: value for name, value in options.items() if name in _SAMPLING or name.endswith("_classifier")
    }
    return command_line(["annotate-maps", "sample"], shared | {"strategy": "uncertain", "output": "my-maps"})


def head_findings(view: HeadsView) -> list[str]:
    """Say in sentences what a reader should take away of one view."""
    patterns, sentences = view.patterns, []
    whose = "" if view.survives is None else " of all heads"
    for kind in patterns.kinds:
        row = distribution_row(kind, patterns.distribution(kind), patterns.interpretable_ratio_ci95(kind))
        most = max(PATTERNS, key=lambda p: patterns.distribution(kind)[p])
        sentences.append(
            f"{row['ratio']}{' ' + row['words'] if row['words'] else ''} of the {kind} maps{whose} are heterogeneous, at most "
            f"which could be interpretable; {percent_words(patterns.distribution(kind)[most])} are {TITLES[most]}."
        )
    frame = view.frame
    if len(patterns.kinds) > 1:
        wide = frame.pivot(index=["layer", "head"], columns="kind", values="dominant")
        differ = int((wide["raw"] != wide["norm"]).sum())
        sentences.append(
            f"By norms, {differ} of {len(wide)} heads have another dominant pattern than by attention alone."
        )
    steady = frame[frame["dominant_share"] >= 0.9].groupby("kind").size()
    words = " and ".join(f"{int(steady.get(kind, 0))} by {kind} maps" for kind in patterns.kinds)
    sentences.append(f"Heads that show one pattern in at least 90% of their maps: {words}.")
    return sentences


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


def _shade(pattern: Pattern, share: float, surface: str) -> tuple[float, float, float]:
    """The pattern's colour over a surface, as opaque as `share`."""
    colour, under = np.array(to_rgb(COLOURS[pattern])), np.array(to_rgb(surface))
    red, green, blue = under + (colour - under) * share
    return float(red), float(green), float(blue)


def _ink(pattern: Pattern, share: float, surface: str) -> str:
    """Black or white, whichever is read better on a cell."""
    return "#fff" if contrast(_shade(pattern, share, surface), dark=palette.BLACK) == "white" else "#000"


def _scale() -> str:
    """The 256 colours of a map's cells, as hexadecimal digits."""
    colours = matplotlib.colormaps[palette.MAP](np.arange(256), bytes=True)[:, :3]
    return bytes(colours.ravel()).hex()
