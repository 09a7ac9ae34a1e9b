"""Sheets of maps, numbered, drawn as an annotator sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from patterns.maps.rendering import label_font, render_map, visible
from patterns.maps.store import MapRow

_INK, _MARGIN = (34, 34, 34), 5


def draw_sheets(
    rows: Sequence[MapRow],
    titles: Sequence[str],
    columns: int = 5,
    lines: int = 4,
    size: int = 240,
    heading: str = "",
) -> Iterator[Image.Image]:
    """Yield pictures of ``columns x lines`` maps each, one at a time.

    Args:
        rows: the maps.
        titles: a line above each map.
        columns: maps side by side.
        lines: maps below each other.
        size: of one map's picture, in pixels.
        heading: at the top of every sheet; broken into lines where it is too long.
    """
    width, per_sheet = columns * (size + 2 * _MARGIN), columns * lines
    words = _broken(heading, width)
    top = 20 * len(words)
    for start in range(0, len(rows), per_sheet):
        here = list(zip(rows, titles, strict=True))[start : start + per_sheet]
        used = -(-len(here) // columns)
        sheet = Image.new("RGB", (width, top + used * (size + 2 * _MARGIN)), "white")
        pen = ImageDraw.Draw(sheet)
        for number, line in enumerate(words):
            pen.text((8, 20 * number + 11), line, font=label_font(13), fill=_INK, anchor="lm")
        for place, (row, title) in enumerate(here):
            drawn = render_map(row.map, borders=row.segment_borders, title=title, size=size)
            drawn = drawn.resize((size, size), Image.Resampling.BOX) if drawn.width > size else drawn
            corner = place % columns * (size + 2 * _MARGIN), place // columns * (size + 2 * _MARGIN)
            sheet.paste(drawn, (corner[0] + _MARGIN, top + corner[1] + _MARGIN))
        yield sheet


def _broken(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        word = visible(word)
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and label_font(13).getlength(longer) <= width - 16:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
