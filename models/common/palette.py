"""The colours of headscope, all of them: figures, terminal, maps and reports take theirs from here.

The hues are of Okabe & Ito (2008), which are told apart with every common colour vision deficiency. Nothing is said by
colour alone: a letter, a label or an outline says it too.
"""

INK = "#222222"
"""Text and lines on white."""

BLACK = "#000000"
"""Text on a colour, where it is read better than white."""

BLUE, ORANGE, PINK, GREEN, VERMILION = "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00"

RED = "#C1121F"
"""Instead of their sky blue: figures fade a colour by a share, and sky blue looks like a faded blue."""

GREY = "#767676"
"""Of what is only there to compare with, such as a baseline; also small text on white."""

MISSING = "#ECECEC"
"""Of what is not counted."""

BORDER = "#FF3030"
"""Of the lines that end a segment in a map; no colour of :data:`MAP` comes near it."""

BORDER_TEXT = "#C80000"
"""Of a separator's name beside a map on white."""

FAINT = "#AAAAAA"
"""Of thin lines: around a swatch, or from a label to what it names."""

MAP = "viridis"
"""Matplotlib's name of the scale of a map's cells, from 0 to the map's maximum."""

LIGHT, DARK = "#FFFFFF", "#1B2026"
"""What a report's cells and bars lie on, by day and by night."""

NEVER, ALWAYS = "#F1F1F1", "#08306B"
"""The ends of the scale of survival: kept under no seed, and under all."""
