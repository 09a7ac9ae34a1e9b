"""The five attention patterns of Kovaleva et al. (2019), and how they are drawn."""

from dataclasses import dataclass
from enum import StrEnum

from models.common import palette


class Pattern(StrEnum):
    """What one attention map looks like (Kovaleva et al. 2019, section 4.1), in the order used everywhere.

    ``vertical``: one or a few columns are bright over most rows (attention to [CLS], [SEP], a full stop).
    ``diagonal``: a line or band parallel to the main diagonal (self, previous, next token).
    ``vertical_diagonal``: both. ``block``: rectangles whose borders follow the segment borders.
    ``heterogeneous``: none of these dominates.
    """

    VERTICAL = "vertical"
    DIAGONAL = "diagonal"
    VERTICAL_DIAGONAL = "vertical_diagonal"
    BLOCK = "block"
    HETEROGENEOUS = "heterogeneous"


INTERPRETABLE = Pattern.HETEROGENEOUS
"""The only pattern that could encode a linguistic relation; its share is an upper bound."""

PATTERNS: tuple[Pattern, ...] = tuple(Pattern)

KINDS: tuple[str, ...] = ("raw", "norm")
"""``raw``: attention probabilities. ``norm``: norm-weighted attention (Kobayashi et al. 2020)."""


@dataclass(frozen=True)
class Record:
    """All that is said of one pattern, wherever it is shown, chosen or read."""

    title: str
    abbreviation: str
    meaning: str
    hint: str
    """What annotators are told to look for."""
    colour: str
    colour_of_16: str
    """On a terminal of 16 colours, where the nearest ones to the colours are the same for two patterns, and white for
    one. Those that are neither too dark on black nor too pale on white."""
    hotkey: str
    """On the annotation page."""
    published_raw: str
    """What the published annotations of raw maps call it."""
    published_norm: str
    """What those of norm maps call it; the annotation page does too."""


RECORDS: dict[Pattern, Record] = {
    Pattern.VERTICAL: Record(
        title="vertical",
        abbreviation="V",
        meaning="One or a few columns are bright over most rows: attention to [CLS], [SEP] or a full stop.",
        hint="one or a few columns are bright over most rows",
        colour=palette.BLUE,
        colour_of_16="bright_blue",
        hotkey="1",
        published_raw="vertical",
        published_norm="Vertical",
    ),
    Pattern.DIAGONAL: Record(
        title="diagonal",
        abbreviation="D",
        meaning="A line or band along the diagonal: attention to the token itself, the one before or after.",
        hint="a line or band parallel to the main diagonal, and no dominating column",
        colour=palette.ORANGE,
        colour_of_16="yellow",
        hotkey="2",
        published_raw="diagonal",
        published_norm="Diagonal",
    ),
    Pattern.VERTICAL_DIAGONAL: Record(
        title="vertical + diagonal",
        abbreviation="VD",
        meaning="Both of these.",
        hint="both a bright column and a diagonal are clear",
        colour=palette.PINK,
        colour_of_16="bright_magenta",
        hotkey="3",
        published_raw="mix",
        published_norm="Vertical + Diagonal",
    ),
    Pattern.BLOCK: Record(
        title="block",
        abbreviation="B",
        meaning="Rectangles whose borders follow the segments: attention within one of two texts.",
        hint="rectangles whose borders follow the red lines, fairly even inside",
        colour=palette.RED,
        colour_of_16="bright_red",
        hotkey="4",
        published_raw="block",
        published_norm="Block",
    ),
    Pattern.HETEROGENEOUS: Record(
        title="heterogeneous",
        abbreviation="H",
        meaning="None of these dominates; the only pattern that could encode a linguistic relation.",
        hint="none of these dominates: scattered or irregular",
        colour=palette.GREEN,
        colour_of_16="green",
        hotkey="5",
        published_raw="other",
        published_norm="Heterogeneous",
    ),
}
"""The one place where a pattern is described; how one is drawn at random stands in the classifier's generator."""

COLOURS = {pattern: RECORDS[pattern].colour for pattern in PATTERNS}
COLOURS_OF_16 = {pattern: RECORDS[pattern].colour_of_16 for pattern in PATTERNS}
MEANINGS = {pattern: RECORDS[pattern].meaning for pattern in PATTERNS}
ABBREVIATIONS = {pattern: RECORDS[pattern].abbreviation for pattern in PATTERNS}
TITLES = {pattern: RECORDS[pattern].title for pattern in PATTERNS}
