"""The patterns of a model's heads, on a terminal; and what a table of heads must hold to be shown at all."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import IO, TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from models.common.errors import InputError
from models.common.terminal import console_of, print_table
from models.common.words import interval, percent

from .taxonomy import ABBREVIATIONS, COLOURS, COLOURS_OF_16, INTERPRETABLE, KINDS, PATTERNS, TITLES, Pattern

if TYPE_CHECKING:
    import pandas as pd

HeadGrid = dict[tuple[int, int], tuple[Pattern | None, float]]
"""(layer, head), 0-based -> (dominant pattern, its share of the head's maps); None where all of them are zero."""

Ratio = tuple[float, float, float]
"""The interpretable ratio and its 95% interval: (ratio, lo, hi); lo and hi may be nan."""

MISSING = "."
"""Stands for a head that is not in the table."""

ZERO = "0"
"""Stands for a head whose maps are zero in every cell."""

ZERO_WORDS = "zero in every cell"

_COLUMNS = ("kind", "layer", "head", "dominant", "dominant_share")
_NAMED = 6  # heads of a role
_MARGIN = 3  # spaces between two grids


def print_patterns(
    heads: "pd.DataFrame",
    distributions: Mapping[str, Mapping[str, float]],
    ratios: Mapping[str, Ratio] | None = None,
    *,
    empty: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    file: IO[str] | None = None,
    width: int | None = None,
) -> None:
    """Print each kind's heads as a grid (row = layer, column = head), then the distributions.

    A cell is the dominant pattern's abbreviation, in lower case and dim where it holds for less than half
    of the head's maps. Where a grid is wider than the terminal, each layer's heads are counted instead.

    Args:
        heads: as `heads.parquet`: kind, layer, head (0-based), dominant, dominant_share.
        distributions: per column of the lower table, each pattern's share of the maps.
        ratios: per column, the interpretable ratio and its 95% interval.
        empty: per column, how many maps are zero in every cell and therefore left out, if there are any.
        notes: sentences below the lower table.
        file: where to print; standard output if not given. Colours are left out where it is no terminal.
        width: of the terminal, in characters; found out if not given.

    Raises:
        InputError: a column is missing, a value is out of range, or shares do not sum to one.
    """
    console = console_of(file, width)
    few = console.color_system not in ("256", "truecolor")
    console.push_theme(Theme(_styles(COLOURS_OF_16 if few else COLOURS)))

    def printable(name: str) -> str:
        return name.encode(console.encoding, "backslashreplace").decode(console.encoding)

    grids = {printable(kind): grid for kind, grid in head_grids(heads).items()}
    shares = check_distributions(distributions, ratios or {})
    shares = {printable(key): share for key, share in shares.items()}
    ratios = {printable(key): ratio for key, ratio in (ratios or {}).items()}
    layers, columns = grid_shape(grids)
    per_kind = [_grid(kind, grid, layers, columns) for kind, grid in grids.items()]
    if len(per_kind[0][0]) > console.width:
        for kind, grid in grids.items():
            _print_table(console, f"{kind} maps: heads by dominant pattern", _counts(grid, layers))
    else:
        _print_beside(console, per_kind)
        console.print(_key(grids, layers, columns))
        console.print()
    _print_table(console, "Share of maps", _distributions(shares, ratios, empty or {}))
    for note in notes:
        console.print(Text(note, "dim"))


def print_roles(
    measurements: "pd.DataFrame", *, file: IO[str] | None = None, width: int | None = None
) -> None:
    """Print, by kind, which heads have each role, the clearest ones first, with the clearest's share and its chance.

    Args:
        measurements: as :meth:`patterns.HeadPatterns.measurements` returns them.
        file: where to print; standard output if not given.
        width: of the terminal, in characters; found out if not given.
    """
    from .measures.words import COLUMN_OF, NOTES, ROLE_TITLES, chance_in

    console = console_of(file, width)
    for kind, frame in measurements.groupby("kind", sort=False):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("role", no_wrap=True)
        for title in ("heads", "clearest", "chance"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("which", no_wrap=True)
        has = frame["roles"].str.split(", ")
        for role, title in ROLE_TITLES.items():
            some = frame[has.map(lambda roles, role=role: role in roles)]
            some = some.sort_values(COLUMN_OF[role], ascending=role == "inactive", kind="stable")
            if not len(some):
                continue
            chance = chance_in({str(name): value for name, value in some.iloc[0].items()}, role)
            which = [f"{layer}.{head}" for layer, head in zip(some["layer"], some["head"], strict=True)]
            more = f" and {len(which) - _NAMED} more" if len(which) > _NAMED else ""
            table.add_row(
                title,
                str(len(some)),
                percent(some[COLUMN_OF[role]].iloc[0]),
                "" if chance is None else percent(chance),
                " ".join(which[:_NAMED]) + more,
            )
        table.add_row("none of these", str(int((frame["roles"] == "").sum())), "", "", "")
        _print_table(console, f"{kind} maps: what heads do (layer.head)", table)
    for note in NOTES:
        console.print(Text(note, "dim"))


def head_grids(heads: "pd.DataFrame") -> dict[str, HeadGrid]:
    """A table of heads as one grid per kind, `raw` and `norm` first.

    Raises:
        InputError: a column is missing, there is no row, a row is given twice, or a value is out of range.
    """
    missing = [column for column in _COLUMNS if column not in heads]
    if missing:
        raise InputError(f"The table of heads lacks {', '.join(missing)}; it needs {', '.join(_COLUMNS)}.")
    if not len(heads):
        raise InputError("The table of heads is empty: there is nothing to show.")
    grids: dict[str, HeadGrid] = {kind: {} for kind in KINDS}
    for kind, layer, head, name, share in zip(*(heads[column] for column in _COLUMNS), strict=True):
        where = f"{kind} maps of layer {layer}, head {head}"
        if (layer, head) in grids.setdefault(str(kind), {}):
            raise InputError(f"The table of heads holds the {where} twice.")
        nothing = name is None or name != name  # NaN: as pandas reads what is missing
        if layer >= 0 and head >= 0 and nothing and math.isnan(share):
            grids[str(kind)][int(layer), int(head)] = None, 0.0
            continue
        if not (layer >= 0 and head >= 0 and 0 <= share <= 1):
            raise InputError(
                f"The {where}: layers and heads count from 0, and {share} is no share in [0, 1]."
            )
        grids[str(kind)][int(layer), int(head)] = (_pattern(name, where), float(share))
    return {kind: grid for kind, grid in grids.items() if grid}


def grid_shape(grids: Mapping[str, HeadGrid]) -> tuple[int, int]:
    """(layers, heads per layer) of the smallest grid that holds every head in the tables."""
    places = [place for grid in grids.values() for place in grid]
    return 1 + max(layer for layer, _ in places), 1 + max(head for _, head in places)


def check_distributions(
    distributions: Mapping[str, Mapping[str, float]], ratios: Mapping[str, Ratio]
) -> dict[str, dict[Pattern, float]]:
    """The distributions with every pattern, in the order of `Pattern`.

    Raises:
        InputError: a name is no pattern, shares are out of range or do not sum to one, or a ratio belongs to
            no distribution, contradicts its share of heterogeneous maps, or has no interval in [0, 1].
    """
    if not distributions:
        raise InputError("There is no distribution to show.")
    result = {}
    for key, distribution in distributions.items():
        shares = {
            _pattern(name, f"distribution {key!r}"): float(share) for name, share in distribution.items()
        }
        if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-3:
            raise InputError(f"The shares of distribution {key!r} are not shares: they must sum to 1.")
        result[key] = {pattern: shares.get(pattern, 0.0) for pattern in PATTERNS}
    for key, (ratio, lo, hi) in ratios.items():
        if key not in result:
            raise InputError(f"There is a ratio for {key!r}, but distributions only for {', '.join(result)}.")
        if not abs(ratio - result[key][INTERPRETABLE]) <= 1e-3:
            raise InputError(
                f"The interpretable ratio of {key!r} is {ratio}, "
                f"but {result[key][INTERPRETABLE]} of its maps are heterogeneous."
            )
        if not (math.isnan(lo) or math.isnan(hi) or -1e-9 <= lo <= hi <= 1 + 1e-9):
            raise InputError(f"[{lo}, {hi}] is no interval of shares; that of {key!r} must lie in [0, 1].")
    return result


def _pattern(name: object, where: str) -> Pattern:
    try:
        return Pattern(name)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"{name!r} ({where}) is no pattern; choose from {', '.join(PATTERNS)}.") from error


def _style(pattern: Pattern, share: float = 1.0) -> str:
    """The name of a style of :func:`_styles`."""
    return f"{pattern.value}.{'sure' if share >= 0.5 else 'unsure'}"


def _styles(colours: Mapping[Pattern, str]) -> dict[str, Style]:
    return {
        _style(pattern, share): Style(color=colour, bold=share >= 0.5, dim=share < 0.5)
        for pattern, colour in colours.items()
        for share in (0.0, 1.0)
    }


def _grid(kind: str, grid: HeadGrid, layers: int, columns: int) -> list[Text]:
    """Title, head numbers and one line per layer, all of the same width."""
    first, cell = len(str(layers - 1)), max(2, len(str(columns - 1)))
    lines = [Text(" " * first + "".join(f" {head:>{cell}}" for head in range(columns)), "dim")]
    for layer in range(layers):
        line = Text(f"{layer:>{first}}", "dim")
        for head in range(columns):
            there, (pattern, share) = (layer, head) in grid, grid.get((layer, head), (None, 0.0))
            name = ABBREVIATIONS[pattern] if pattern else ZERO if there else MISSING
            line.append(f" {name if share >= 0.5 else name.lower():>{cell}}")
            line.stylize(_style(pattern, share) if pattern else "dim", len(line) - cell)
        lines.append(line)
    block = [Text(f"{kind} maps", "bold"), *lines]
    width = max(len(line) for line in block)
    for line in block:
        line.pad_right(width - len(line))
    return block


def _print_beside(console: Console, blocks: list[list[Text]]) -> None:
    """Print blocks of equal size beside each other, as many as fit."""
    width = len(blocks[0][0])
    fit = max(1, (console.width + _MARGIN) // (width + _MARGIN))
    for _, row in groupby(enumerate(blocks), key=lambda numbered: numbered[0] // fit):
        for parts in zip(*(block for _, block in row), strict=True):
            console.print(Text(" " * _MARGIN).join(parts), no_wrap=True, overflow="ignore", crop=False)
        console.print()


def _key(grids: Mapping[str, HeadGrid], layers: int, columns: int) -> Text:
    """What the letters of the grids mean; only what occurs in them."""
    key = Text()
    for number, pattern in enumerate(PATTERNS):
        key.append(", " if number else "")
        key.append(ABBREVIATIONS[pattern], _style(pattern)).append(f" {TITLES[pattern]}")
    key.append("\nRow: layer, column: head.")
    if any(pattern and share < 0.5 for grid in grids.values() for pattern, share in grid.values()):
        key.append(" Lower case: fewer than half of the head's maps.")
    if any(len(grid) < layers * columns for grid in grids.values()):
        key.append(f"\n{MISSING}: head not counted.")
    if any(pattern is None for grid in grids.values() for pattern, _ in grid.values()):
        key.append(f"\n{ZERO}: a head whose maps are {ZERO_WORDS}; they are left out of every share.")
    return key


def _print_table(console: Console, title: str, table: Table) -> None:
    """Print a table below its title, and an empty line."""
    console.print(Text(title, "bold"))
    print_table(console, table)
    console.print()


def _counts(grid: HeadGrid, layers: int) -> Table:
    """For grids that do not fit: how many heads of each layer each pattern dominates."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, show_footer=True)
    found = [(layer, pattern) for (layer, _), (pattern, _) in grid.items()]
    table.add_column("layer", footer="all", justify="right")
    for pattern in PATTERNS:
        total = str(sum(dominant is pattern for _, dominant in found))
        table.add_column(
            Text(TITLES[pattern], _style(pattern)), footer=total, justify="right", overflow="fold"
        )
    columns: list[Pattern | None] = [*PATTERNS]
    if zero := sum(dominant is None for _, dominant in found):
        table.add_column(ZERO_WORDS, footer=str(zero), justify="right", overflow="fold")
        columns.append(None)
    for layer in range(layers):
        table.add_row(str(layer), *(str(found.count((layer, pattern))) for pattern in columns))
    return table


def _distributions(
    shares: Mapping[str, Mapping[Pattern, float]], ratios: Mapping[str, Ratio], empty: Mapping[str, int]
) -> Table:
    """Rows: patterns, then the interpretable ratio with its interval, then maps left out; columns: the keys."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("pattern", no_wrap=True)
    for key in shares:
        table.add_column(Text(key), justify="right", overflow="fold")
    for pattern in PATTERNS:
        cells = [percent(share[pattern]) for share in shares.values()]
        table.add_row(Text(TITLES[pattern], _style(pattern)), *cells, end_section=pattern is PATTERNS[-1])
    if ratios:
        known = [ratios.get(key, (math.nan, math.nan, math.nan)) for key in shares]
        cells = ["" if math.isnan(ratio) else percent(ratio) for ratio, _, _ in known]
        table.add_row("interpretable ratio", *cells)
        bounds = [interval(lo, hi) for _, lo, hi in known]
        if any(bounds):
            table.add_row("  95% interval", *bounds)
    if empty:
        table.add_row("maps of zeros, left out", *(str(empty.get(key, 0)) for key in shares))
    return table
