"""One attention map as a picture, for the people who label it."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from models.common.errors import InputError
from models.common.files import atomic_file
from models.common.palette import BORDER, BORDER_TEXT, FAINT, INK, MAP

BORDER_COLOUR = ImageColor.getrgb(BORDER)
"""RGB of the lines that end a segment."""

_INK, _GREY, _RED = (ImageColor.getrgb(colour) for colour in (INK, FAINT, BORDER_TEXT))
_SMALLEST, _LARGEST = 9, 13  # font sizes in pixels; the second for a picture of 512 pixels
_LONGEST = 14  # characters of a label
_SPECIAL = re.compile(r"\[[A-Z][A-Z_]*\d*\]|<\|\w+\|>|</?\w+>")
_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "␣"}


def render_map(
    map: Any,
    *,
    tokens: Sequence[str] | None = None,
    borders: Sequence[int] = (),
    title: str | None = None,
    size: int = 512,
) -> Image.Image:
    """Draw one map: viridis, linear from 0 to the map's maximum, one crisp square per cell.

    Every cell is the same whole number of pixels. The lines at segment borders lie between cells and
    cover none.

    Args:
        map: `[n, n]`, numpy or torch, finite and not negative; row = query token, column = key token.
        tokens: n tokens, written beside the rows and above the columns: all of them while they are
            legible, otherwise as many as fit, the separators and special tokens first.
        borders: 0-based positions of the separator tokens; a fine red line follows each.
        title: one line above the map.
        size: width and height in pixels; a map that does not fit gets a larger picture, one pixel a cell.

    Returns:
        An RGB picture, square.

    Raises:
        InputError: the map is not square or holds a bad value, the number of tokens is not n, a border is
            not a position in the map, or `size` is below 64.
    """
    values = _checked(map)
    n = len(values)
    if tokens is not None and (isinstance(tokens, str) or len(tokens) != n):
        raise InputError(f"The map has {n} rows, but {len(tokens)} tokens were given; give one per row.")
    for border in borders:
        if not isinstance(border, Integral) or not 0 <= int(border) < n:
            raise InputError(f"Border {border!r} is not a position in a map of {n} tokens (0 to {n - 1}).")
    if size < 64:
        raise InputError(f"size={size} is too small for a picture; give at least 64 pixels.")
    return _draw(values, tokens, sorted({int(border) for border in borders}), title, size)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write the picture as PNG: whole or not at all, and with nothing in it but the pixels."""
    with atomic_file(Path(path)) as temporary:
        image.save(temporary, format="PNG")


def _checked(map: Any) -> np.ndarray:
    """`map` as float64 `[n, n]`, n >= 1, finite and not negative."""
    if hasattr(map, "detach"):  # a torch tensor: perhaps bfloat16, on another device, with a gradient
        map = map.detach().cpu().double().numpy()
    try:
        values = np.asarray(map, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The map is not an array of numbers: {error}.") from error
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise InputError(f"A map is square, one row and one column per token; this one is {values.shape}.")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError("The map holds a negative or non-finite value; attention is neither.")
    return values


@dataclass(frozen=True)
class _Layout:
    """Where things lie, in pixels; the same numbers serve rows and columns."""

    cell: int
    """Side of one cell."""
    margin: int
    """Room for labels, left of the map and above it."""
    gap: int
    """Between a label and the map."""
    font: int
    """Size of the labels."""
    places: dict[int, int]
    """For each token that gets a label: the label's middle, measured along the map's side."""
    thinned: bool = False
    """Some tokens have no label, so a line leads from each label to its token."""


def _draw(
    values: np.ndarray, tokens: Sequence[str] | None, borders: list[int], title: str | None, size: int
) -> Image.Image:
    n, unit = len(values), max(1, size // 512)
    head = 26 * unit if title else 0
    labels = [_shortened(visible(token), _LONGEST) for token in tokens] if tokens is not None else None
    special = {i for i in range(n) if tokens is not None and _SPECIAL.fullmatch(tokens[i])}
    layout = _layout(n, labels, borders, special, size - head - 10 * unit, unit)

    # which token each pixel of the map's side belongs to; -1: a border line
    axis = np.array([i for t in range(n) for i in [t] * layout.cell + [-1] * (unit if t in borders else 0)])
    pixels = _viridis(values)[axis][:, axis]
    pixels[axis < 0, :] = BORDER_COLOUR
    pixels[:, axis < 0] = BORDER_COLOUR

    side = len(axis)
    needed = layout.margin + side + 6 * unit
    size = max(size, needed + head)
    left = (size - needed) // 2 + layout.margin
    top = head + (size - head - needed) // 2 + layout.margin
    image = Image.new("RGB", (size, size), "white")
    image.paste(Image.fromarray(pixels), (left, top))
    pen = ImageDraw.Draw(image)
    for start in np.flatnonzero(
        (axis < 0) & (np.roll(axis, 1) >= 0)
    ).tolist():  # the line's mark outside the map
        reach = 4 * unit
        pen.rectangle((left - reach, top + start, left - 1, top + start + unit - 1), fill=BORDER_COLOUR)
        pen.rectangle((left + start, top - reach, left + start + unit - 1, top - 1), fill=BORDER_COLOUR)
    if labels is not None:
        _write_labels(image, layout, labels, _middles(n, layout.cell, borders, unit), borders, (left, top))
    if title:
        font = label_font(14 * unit)
        line = _fitted(" ".join(visible(word) for word in title.split()), font, size - 16 * unit)
        x = max(8 * unit, min(left, size - 8 * unit - int(font.getlength(line))))
        pen.text((x, top - layout.margin - head // 2), line, font=font, fill=_INK, anchor="lm")
    return image


def _layout(
    n: int, labels: list[str] | None, borders: list[int], special: set[int], room: int, unit: int
) -> _Layout:
    """The largest labels with which every token has one; failing that, small ones, thinned."""
    lines = unit * len(borders)
    if labels is None:
        return _Layout(max(1, (room - lines) // n), 6 * unit, 0, _SMALLEST, {})
    for size in range(max(_SMALLEST, _LARGEST * unit), _SMALLEST - 1, -1):
        gap = 6 * unit
        margin = _label_room(labels, size, room // 5) + gap
        cell = (room - margin - lines) // n
        if cell >= size + (size > _SMALLEST):
            return _Layout(cell, margin, gap, size, dict(enumerate(_middles(n, cell, borders, unit))))
    size, gap = max(_SMALLEST + 1, 10 * unit), 10 * unit
    cell = max(1, (room - _label_room(labels, size, room // 8) - gap - lines) // n)
    places = _thinned(_middles(n, cell, borders, unit), n * cell + lines, size + 1, borders, special)
    margin = _label_room([labels[i] for i in places], size, room // 8) + gap
    return _Layout(cell, margin, gap, size, places, thinned=True)


def _middles(n: int, cell: int, borders: list[int], line: int) -> list[int]:
    """The middle of each token's cell, in pixels along the map's side."""
    return [i * cell + line * sum(border < i for border in borders) + (cell - 1) // 2 for i in range(n)]


def _thinned(
    middles: list[int], side: int, pitch: int, borders: list[int], special: set[int]
) -> dict[int, int]:
    """Labels `pitch` pixels apart: separators and special tokens, moved apart if need be; others between."""
    capacity = max(1, side // pitch)
    chosen = borders[:capacity]
    rest = sorted(special.difference(chosen))
    free = capacity - len(chosen)
    chosen = sorted(chosen + (rest[:: -(-len(rest) // free)] if rest and free else []))
    places = dict(zip(chosen, _spread([middles[i] for i in chosen], pitch, side - 1), strict=True))
    for i, middle in enumerate(middles):
        if all((middle - place) * (1 if i > k else -1) >= pitch for k, place in places.items()):
            places[i] = middle
    return dict(sorted(places.items()))


def _spread(middles: list[int], pitch: int, end: int) -> list[int]:
    """Positions in 0..end at least `pitch` apart, as near to `middles` (ascending) as that allows."""
    blocks: list[tuple[float, int]] = []  # (sum, number) of middle - index * pitch: isotonic regression
    for index, middle in enumerate(middles):
        total, number = float(middle - index * pitch), 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / number:
            total, number = total + blocks[-1][0], number + blocks[-1][1]
            blocks.pop()
        blocks.append((total, number))
    last = max(0, end - (len(middles) - 1) * pitch)
    means = [min(max(total / number, 0), last) for total, number in blocks for _ in range(number)]
    return [int(mean) + index * pitch for index, mean in enumerate(means)]


def _write_labels(
    image: Image.Image,
    layout: _Layout,
    labels: list[str],
    middles: list[int],
    borders: list[int],
    corner: tuple[int, int],
) -> None:
    """Row labels left of the map, column labels above it."""
    pen, font = ImageDraw.Draw(image), label_font(layout.font)
    (left, top), gap, half = corner, layout.gap, layout.font + 1
    for token, place in layout.places.items():
        ink = _RED if token in borders else _INK
        text = _fitted(labels[token], font, layout.margin - gap)
        pen.text((left - gap, top + place), text, font=font, fill=ink, anchor="rm")
        strip = Image.new("L", (layout.margin - gap, 2 * half), 0)
        ImageDraw.Draw(strip).text((0, half), text, font=font, fill=255, anchor="lm")
        strip = strip.transpose(Image.Transpose.ROTATE_90)
        at = (left + place - half, top - gap - strip.height)
        image.paste(ink, (*at, at[0] + strip.width, at[1] + strip.height), strip)
        if layout.thinned:
            line = _RED if token in borders else _GREY
            path = [(2 - gap, place), (-gap // 2, place), (-2, middles[token]), (-1, middles[token])]
            pen.line([(left + across, top + along) for across, along in path], fill=line)
            pen.line([(left + along, top + across) for across, along in path], fill=line)


def visible(text: str) -> str:
    """`text` with every character to be seen: control, format and odd space characters are spelled out."""
    return "".join(
        _VISIBLE.get(c) or (_escaped(c) if unicodedata.category(c)[0] in "CZ" else c) for c in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, shortened until it is at most `width` pixels wide."""
    length = len(text)
    while length > 1 and font.getlength(_shortened(text, length)) > width:
        length -= 1
    return _shortened(text, length)


def _label_room(labels: list[str], size: int, most: int) -> int:
    """Width in pixels that the labels need, at most `most`."""
    font = label_font(size)
    return min(most, int(max(font.getlength(label) for label in labels)) + 1)


def _viridis(values: np.ndarray) -> np.ndarray:
    """`[n, n]` values to `[n, n, 3]` uint8, linear from 0 to the maximum."""
    peak = values.max()
    return matplotlib.colormaps[MAP](values / peak if peak > 0 else values, bytes=True)[..., :3]


@lru_cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; a character it lacks is drawn as a box."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
