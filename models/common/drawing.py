"""Drawing by the inch: pages, text and legends that look the same whatever the user's matplotlib settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from .errors import InputError
from .files import atomic_file
from .palette import INK

RGB = tuple[float, float, float]

FONT, SMALL = "DejaVu Sans", 8.0  # the font comes with matplotlib; sizes in points
SWATCH, LINE = 0.17, 0.23  # inches: a square of the legend, from one line of it to the next

_SCREEN = 115  # dots per inch of a notebook on a screen

_FORMATS = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}

_asked: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def drawn_for(width: float | None) -> Iterator[None]:
    """Draw what is drawn inside the block for this width in inches; as usual if None."""
    before = _asked.set(width)
    try:
        yield
    finally:
        _asked.reset(before)


def page_width(usual: float) -> float:
    """Return the width in inches that a figure is to have: what was asked for, else the usual one."""
    asked = _asked.get()
    return usual if asked is None else asked


def contrast(background: RGB, dark: str = INK) -> str:
    """`dark` or white text, whichever has the higher contrast (WCAG 2) on `background`."""
    light = 1.05 / (_luminance(background) + 0.05)
    other = (_luminance(background) + 0.05) / (_luminance(to_rgb(dark)) + 0.05)
    return "white" if light > other else dark


def _luminance(colour: RGB) -> float:
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_style(size: float, colour: str = INK) -> dict[str, Any]:
    """How text looks: in a font that comes with matplotlib, and never read as mathematics."""
    return {"fontsize": size, "family": FONT, "color": colour, "parse_math": False}


def text_width(words: str, size: float) -> float:
    """Inches."""
    path = TextPath((0, 0), words.replace("$", "S") + ".", size=size, prop=FontProperties(family=FONT))
    return float(path.get_extents().width) / 72


class PageFigure(Figure):
    """A figure that belongs to no window; a notebook shows it without further ado."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """What IPython shows: twice as many dots as the size on the page, for screens that have them."""
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=2 * _SCREEN, facecolor="white")
        width, height = self.get_size_inches() * _SCREEN
        return buffer.getvalue(), {"width": round(width), "height": round(height)}


class Page:
    """A figure measured in inches from its lower left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = PageFigure(figsize=(width, height), facecolor="white")
        self.figure.set_layout_engine("none")
        self.width, self.height = width, height
        self._ground = self.axes(0, 0, width, height)
        self._ground.set(xlim=(0, width), ylim=(0, height))
        self._ground.set_axis_off()

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes without a grid in this box."""
        box = (x / self.width, y / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box, facecolor="white")
        axes.grid(False)
        return axes

    def title(self, words: str) -> None:
        """At the top left, small enough to fit."""
        size = min(10.0, 10 * (self.width - 0.16) / text_width(words, 10))
        self.text(0.08, self.height - 0.17, words, size)

    def text(
        self, x: float, y: float, words: str, size: float = SMALL, colour: str = INK, ha: str = "left"
    ) -> None:
        """Words that begin at x (or end there, or have their middle there), their middle at y."""
        self._ground.text(x, y, words, **text_style(size, colour), ha=ha, va="center")

    def square(self, x: float, y: float, side: float, face: RGB, edge: str) -> None:
        """With its lower left corner at (x, y)."""
        self._ground.add_patch(Rectangle((x, y), side, side, facecolor=face, edgecolor=edge, linewidth=0.9))


@dataclass(frozen=True)
class Swatch:
    """A square, perhaps with a letter in it, and what it means; without a colour, words alone."""

    words: str
    face: RGB | None = None
    edge: str = "none"
    letter: str = ""

    @property
    def width(self) -> float:
        """Inches, the gap to the next one included."""
        return (SWATCH + 0.05 if self.face else 0.0) + text_width(self.words, SMALL) + 0.11


class Legend:
    """Swatches side by side; each group begins a line and takes as many as it needs."""

    def __init__(self, width: float, groups: list[list[Swatch]]) -> None:
        self._lines: list[list[Swatch]] = []
        for group in groups:
            room = 0.0
            for swatch in group:
                if swatch.width > room:
                    self._lines.append([])
                    room = width
                self._lines[-1].append(swatch)
                room -= swatch.width
        self.height = LINE * len(self._lines)

    def draw(self, page: Page, x: float, y: float) -> None:
        """With its lower left corner at (x, y)."""
        for number, line in enumerate(reversed(self._lines)):
            at, middle = x, y + LINE * (number + 0.5)
            for swatch in line:
                words = at
                if swatch.face:
                    page.square(at, middle - SWATCH / 2, SWATCH, swatch.face, swatch.edge)
                    page.text(at + SWATCH / 2, middle, swatch.letter, 6, contrast(swatch.face), "center")
                    words += SWATCH + 0.05
                page.text(words, middle, swatch.words)
                at += swatch.width


def save_figure(figure: Figure, path: str | Path, dpi: int = 200) -> None:
    """Write a figure as PNG, PDF or SVG: whole or not at all, and the same bytes for the same figure.

    Args:
        figure: of this library.
        path: its ending says which format.
        dpi: dots per inch of a PNG.

    Raises:
        InputError: the ending is none of .png, .pdf, .svg.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _FORMATS:
        raise InputError(f"{path.name!r} is no figure file; end it in {', '.join(_FORMATS)}.")
    # What matplotlib takes from nowhere else: the seed of an SVG's ids and its words as words, TrueType fonts in a PDF.
    settings: Any = {
        "svg.hashsalt": "headscope",
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "savefig.bbox": None,
    }
    with atomic_file(path) as temporary, matplotlib.rc_context(settings):
        figure.savefig(temporary, format=ending[1:], dpi=dpi, metadata=_FORMATS[ending], facecolor="white")
