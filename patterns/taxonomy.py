"""The five attention patterns of Kovaleva et al. (2019), and how they are drawn."""

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

COLOURS: dict[Pattern, str] = {
    Pattern.VERTICAL: palette.BLUE,
    Pattern.DIAGONAL: palette.ORANGE,
    Pattern.VERTICAL_DIAGONAL: palette.PINK,
    Pattern.BLOCK: palette.RED,
    Pattern.HETEROGENEOUS: palette.GREEN,
}

COLOURS_OF_16: dict[Pattern, str] = {
    Pattern.VERTICAL: "bright_blue",
    Pattern.DIAGONAL: "yellow",
    Pattern.VERTICAL_DIAGONAL: "bright_magenta",
    Pattern.BLOCK: "bright_red",
    Pattern.HETEROGENEOUS: "green",
}
"""On a terminal of 16 colours, where the nearest ones to :data:`COLOURS` are the same for two patterns, and white for
one. Those that are neither too dark on black nor too pale on white."""

MEANINGS: dict[Pattern, str] = {
    Pattern.VERTICAL: "One or a few columns are bright over most rows: attention to [CLS], [SEP] or a full stop.",
    Pattern.DIAGONAL: "A line or band along the diagonal: attention to the token itself, the one before or after.",
    Pattern.VERTICAL_DIAGONAL: "Both of these.",
    Pattern.BLOCK: "Rectangles whose borders follow the segments: attention within one of two texts.",
    Pattern.HETEROGENEOUS: "None of these dominates; the only pattern that could encode a linguistic relation.",
}

ABBREVIATIONS: dict[Pattern, str] = {
    Pattern.VERTICAL: "V",
    Pattern.DIAGONAL: "D",
    Pattern.VERTICAL_DIAGONAL: "VD",
    Pattern.BLOCK: "B",
    Pattern.HETEROGENEOUS: "H",
}

TITLES: dict[Pattern, str] = {
    Pattern.VERTICAL: "vertical",
    Pattern.DIAGONAL: "diagonal",
    Pattern.VERTICAL_DIAGONAL: "vertical + diagonal",
    Pattern.BLOCK: "block",
    Pattern.HETEROGENEOUS: "heterogeneous",
}
