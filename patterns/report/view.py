"""What a report shows of the heads of one model: grids, profiles of layers, bars and tables, ready for a template."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import to_rgb

from models.common import palette
from models.common.drawing import contrast
from models.common.files import known
from models.common.pages import TableBlock
from models.common.words import interval, percent

from ..distribution import COVERS, EMPTY, MEASUREMENTS, distribution
from ..maps.examples import ExampleMaps
from ..measures.pairs import MEASURES
from ..result import HeadPatterns
from ..tables import ZERO, ZERO_WORDS
from ..taxonomy import ABBREVIATIONS, COLOURS, INTERPRETABLE, PATTERNS, TITLES, Pattern

_HEAD_TITLES = {
    "n": "maps",
    "count_empty": "maps of zeros",
    "dominant": "pattern",
    **{name: one.title for name, one in MEASUREMENTS.items()},
}
_SHARES = [name for name, one in MEASUREMENTS.items() if one.is_share]
_MEASURED = {
    **{f"share_{name}": measure.title for name, measure in MEASURES.items()},
    "attention_entropy": "relative entropy",
    "writes": "writes",
}
"""What was measured of a head and grids can be coloured by, by column; all of it is shown in percent."""
_ENDS = (("low", "95% from"), ("high", "to"))


@dataclass(frozen=True)
class Bar:
    """Each pattern's share of some maps, and the interpretable ratio, as the page shows them."""

    name: str
    kind: str
    """Of maps."""
    shares: list[tuple[str, str, float, str]]
    """In Pattern order: the pattern, its title, its share, and that in words."""
    ratio: str
    interval: tuple[float, float] | None
    """95%, of the ratio."""
    words: str
    """The interval."""


@dataclass(frozen=True)
class GridCell:
    """A head in the grid of the page."""

    pattern: str
    letter: str
    share: float
    words: str
    survives: bool
    light: str
    """Colour of the letter on a light page."""
    dark: str


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
    to_estimate: str = ""
    """The command that begins an estimate from labels, where there is none."""
    bars: tuple[Bar, ...] = ()
    """Bars of :func:`distribution_row` to show instead of the patterns' own."""
    covers: str = COVERS
    """What the intervals of the bars cover."""
    notes: tuple[str, ...] = ()
    """Sentences below the bars."""

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

    @cached_property
    def plain_frame(self) -> pd.DataFrame:
        """The same without what was measured, which :meth:`measured_table` shows."""
        if self.patterns.measured is None:
            return self.frame
        measured = set(self.patterns.measurements()) - {"kind", "layer", "head", "roles"}
        return self.frame[[column for column in self.frame if column not in measured]]

    @property
    def has_zeros(self) -> bool:
        """Whether some head has nothing but maps that are zero in every cell."""
        return bool((self.frame["n"] == 0).any())

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads per layer."""
        layers, heads = self.patterns.heads.shape
        return layers, heads

    def table(self) -> TableBlock:
        """All of that as a table."""
        name = f"heads-{self.name}" if self.name else "heads"
        return TableBlock.of(
            self.plain_frame, name, "Every head", titles=_HEAD_TITLES, shares=_SHARES, folded=True
        )

    def colourings(self) -> dict[str, str]:
        """What was measured and grids can be coloured by: columns and titles; nothing where nothing was."""
        return {} if self.patterns.measured is None else dict(_MEASURED)

    def measured_table(self) -> TableBlock | None:
        """What every head does, where that was measured."""
        if self.patterns.measured is None:
            return None
        name = f"measurements-{self.name}" if self.name else "measurements"
        frame = self.frame[["kind", "layer", "head", "roles", *_MEASURED]]
        caption = "What every head does: its roles, and shares of its attention"
        return TableBlock.of(frame, name, caption, titles=_MEASURED, shares=tuple(_MEASURED), folded=True)

    def share_table(self) -> TableBlock | None:
        """Each pattern's share by kind, estimated, plain and of the control, where no other bars are shown."""
        if self.bars:
            return None
        rows = []
        for kind in self.patterns.kinds:
            plain, bounds = self.patterns.distribution(kind), self.patterns.interpretable_ratio_ci95(kind)
            estimate = self.patterns.estimates.get(kind)
            control = self.patterns.control
            for p in PATTERNS:
                low, high = bounds if p == INTERPRETABLE else (np.nan, np.nan)
                row: dict[str, object] = {"kind": kind, "pattern": p.value}
                if estimate is not None:
                    ratio = (
                        (estimate.ratio.low, estimate.ratio.high) if p == INTERPRETABLE else (np.nan, np.nan)
                    )
                    row |= {"estimate": estimate.shares[p]}
                    row |= {"estimate_low": ratio[0], "estimate_high": ratio[1]}
                row |= {"share": plain[p], "low": low, "high": high}
                if control is not None:
                    of_control = (
                        control.interpretable_ratio_ci95(kind) if p == INTERPRETABLE else (np.nan, np.nan)
                    )
                    row |= {"control": control.distribution(kind)[p]}
                    row |= {"control_low": of_control[0], "control_high": of_control[1]}
                rows.append(row)
        frame = pd.DataFrame(rows)
        name = f"distribution-{self.name}" if self.name else "distribution"
        titles = {
            "low": "95% from",
            "high": "to",
            "estimate": "estimated share",
            "share": "classifier's share" if self.patterns.estimates else "share",
            "control": "control's share",
        }
        titles |= {f"{of}_{end}": word for of in ("control", "estimate") for end, word in _ENDS}
        shares = [column for column in frame.columns if column not in ("kind", "pattern")]
        caption = "Shares in numbers" + (
            ", estimated from labels and as the classifier has them" if "estimate" in frame else ""
        )
        return TableBlock.of(frame, name, caption, titles=titles, shares=shares, folded=True)

    def grids(self) -> dict[str, list[list[GridCell | None]]]:
        """By kind, layers of heads: what a cell of the grid shows; None where no head is counted."""
        layers, columns = self.shape
        grids: dict[str, list[list[GridCell | None]]] = {
            kind: [[None] * columns for _ in range(layers)] for kind in self.patterns.kinds
        }
        for row in self.frame.to_dict("records"):
            if not row["n"]:
                grids[row["kind"]][row["layer"]][row["head"]] = _zero_cell(row)
                continue
            pattern, share = Pattern(row["dominant"]), float(row["dominant_share"])
            words = (
                f"layer {row['layer']}, head {row['head']}: {TITLES[pattern]}, {percent(share)} of its maps"
            )
            if "survives" in row:
                words += "; survives" if row["survives"] else "; pruned"
            grids[row["kind"]][row["layer"]][row["head"]] = GridCell(
                pattern.value,
                ABBREVIATIONS[pattern],
                round(share, 3),
                words,
                bool(row.get("survives", False)),
                ink_on(pattern, share, palette.LIGHT),
                ink_on(pattern, share, palette.DARK),
            )
        return grids

    def profiles(self) -> dict[str, list[list[float]]]:
        """By kind and layer, each pattern's share of the maps of the layer's counted heads; empty without any."""
        found = {}
        for kind in self.patterns.kinds:
            found[kind] = [
                list(distribution(labels[:, counted].ravel()).values())
                if (labels[:, counted] != EMPTY).any()
                else []
                for labels, counted in zip(
                    np.moveaxis(self.patterns.labels[kind], 1, 0), self.patterns.heads, strict=True
                )
            ]
        return found

    def distributions(self) -> list[Bar]:
        """Each pattern's share by kind, and the interpretable ratio with its interval, for bars."""
        if self.bars:
            return list(self.bars)
        control = self.patterns.control
        found = []
        for kind in self.patterns.kinds:
            if estimate := self.patterns.estimates.get(kind):
                bounds = (estimate.ratio.low, estimate.ratio.high)
                found.append(distribution_row(f"{kind} maps, estimate", estimate.shares, bounds, kind))
            found += [
                distribution_row(name, of.distribution(kind), of.interpretable_ratio_ci95(kind), kind)
                for name, of in ((f"{kind} maps", self.patterns), (f"{kind} maps, control", control))
                if of is not None
            ]
        return found


def distribution_row(
    name: str, shares: Mapping[str, float], bounds: Sequence[float | None], kind: str = ""
) -> Bar:
    """Return one bar: shares in Pattern order, the interpretable ratio and its 95% interval in words."""
    low, high = (None if bound is None else known(bound) for bound in bounds)
    ratio = shares[INTERPRETABLE]
    return Bar(
        name,
        kind,
        [(p.value, TITLES[p], shares[p], percent(shares[p])) for p in PATTERNS],
        percent(ratio),
        None if low is None or high is None else (low, high),
        "" if low is None or high is None else interval(low, high),
    )


def _zero_cell(row: Mapping[Hashable, Any]) -> GridCell:
    """The cell of a head whose maps are zero in every cell."""
    words = f"layer {row['layer']}, head {row['head']}: all maps {ZERO_WORDS}, not counted"
    if "survives" in row:
        words += "; survives" if row["survives"] else "; pruned"
    return GridCell("zero", ZERO, 1, words, bool(row.get("survives", False)), "#000", "#000")


def _shade(pattern: Pattern, share: float, surface: str) -> tuple[float, float, float]:
    """The pattern's colour over a surface, as opaque as `share`."""
    colour, under = np.array(to_rgb(COLOURS[pattern])), np.array(to_rgb(surface))
    red, green, blue = under + (colour - under) * share
    return float(red), float(green), float(blue)


def ink_on(pattern: Pattern, share: float, surface: str) -> str:
    """Black or white, whichever is read better on a cell."""
    return "#fff" if contrast(_shade(pattern, share, surface), dark=palette.BLACK) == "white" else "#000"
