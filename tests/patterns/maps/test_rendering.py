"""A rendered map is read back from its pixels alone: no test knows where the layout puts anything."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image, ImageFont

from models.common.errors import InputError
from patterns.maps.rendering import BORDER_COLOUR, render_map, save_png, visible

DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 36)  # the ends of viridis


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def is_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(-1)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right (exclusive) of what is true."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def map_box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Where the map lies, for a map that is dark all along its sides."""
    return box(is_colour(picture, DARKEST))


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches of consecutive true values."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))


def label_rows(image: Image.Image) -> list[tuple[int, int]]:
    """The stretches of rows, relative to the map's top, that hold dark or dark red ink left of the map."""
    picture = pixels(image)
    top, bottom, left, _ = map_box(picture)
    area = picture[top - 8 : bottom + 8, : left - 12]  # not the lines that lead to the map
    return [(start - 8, end - 8) for start, end in runs((area.min(-1) < 200).any(1))]


def lit(n: int, *cells: tuple[int, int]) -> np.ndarray:
    values = np.zeros((n, n))
    for row, column in cells:
        values[row, column] = 1
    return values


def test_a_cell_has_the_viridis_colour_of_its_value_relative_to_the_maximum() -> None:
    values = np.random.default_rng(0).random((7, 7)) * 0.3
    picture = pixels(render_map(values))
    top, bottom, left, right = box(~is_colour(picture, (255, 255, 255)))
    cell = (bottom - top) / 7
    assert cell == (right - left) / 7 == int(cell)
    table = np.array(colormaps["viridis"].colors)  # 256 colours
    for row in range(7):
        for column in range(7):
            seen = picture[int(top + (row + 0.5) * cell), int(left + (column + 0.5) * cell)]
            index = min(255, int(256 * values[row, column] / values.max()))
            np.testing.assert_allclose(seen, 255 * table[index], atol=1)


def test_a_map_is_scaled_from_zero_and_not_from_its_minimum() -> None:
    picture = pixels(render_map(np.array([[1.0, 0.5], [0.5, 1.0]])))
    assert is_colour(picture, BRIGHTEST).any()
    assert not is_colour(picture, DARKEST).any()


@pytest.mark.parametrize("labelled", [False, True])
def test_the_bright_cell_is_in_its_query_row_and_key_column(labelled: bool) -> None:
    tokens = [f"token{i}" for i in range(10)] if labelled else None
    picture = pixels(render_map(lit(10, (2, 7)), tokens=tokens, title="a title" if labelled else None))
    top, bottom, left, right = map_box(picture)
    bright = box(is_colour(picture, BRIGHTEST))
    cell = (bottom - top) // 10
    assert bright == (top + 2 * cell, top + 3 * cell, left + 7 * cell, left + 8 * cell)
    assert right - left == 10 * cell


def test_cells_are_crisp() -> None:
    values = np.random.default_rng(1).integers(0, 2, (23, 23))
    colours = {tuple(colour) for colour in pixels(render_map(values)).reshape(-1, 3)}
    assert colours == {DARKEST, BRIGHTEST, (255, 255, 255)}


def test_border_lines_cover_no_cell() -> None:
    areas = [
        is_colour(pixels(render_map(lit(9, (i, i)), borders=[3, 4, 8])), BRIGHTEST).sum() for i in range(9)
    ]
    assert len(set(areas)) == 1
    assert areas[0] == int(areas[0] ** 0.5) ** 2


def test_a_border_line_follows_its_separator_along_rows_and_columns() -> None:
    picture = pixels(render_map(np.zeros((10, 10)), borders=[6]))
    top, bottom, left, right = map_box(picture)
    cell = (bottom - top - 1) // 10
    red = is_colour(picture, BORDER_COLOUR)
    inside = red[top:bottom, left:right]
    assert runs(inside.all(1)) == [(7 * cell, 7 * cell + 1)]
    assert runs(inside.all(0)) == [(7 * cell, 7 * cell + 1)]
    assert red[top + 7 * cell, :left].any(), "the line shows beside the map"
    assert red[:top, left + 7 * cell].any(), "the line shows above the map"


def test_without_borders_nothing_is_red() -> None:
    picture = pixels(render_map(np.eye(12), tokens=["[SEP]"] * 12))
    assert not ((picture[..., 0] > 150) & (picture[..., 1] < 90) & (picture[..., 2] < 90)).any()


@pytest.mark.parametrize("n", [2, 12, 40])
def test_up_to_forty_tokens_all_have_a_label_in_their_row(n: int) -> None:
    image = render_map(np.zeros((n, n)), tokens=["IIIII"] * n)
    top, bottom, _, _ = map_box(pixels(image))
    cell = (bottom - top) / n
    labels = label_rows(image)
    assert [int((start + end) / 2 // cell) for start, end in labels] == list(range(n))


def test_the_columns_are_labelled_like_the_rows() -> None:
    picture = pixels(render_map(np.zeros((8, 8)), tokens=["", "", "", "wide-token", "", "", "", ""]))
    top, bottom, left, _ = map_box(picture)
    cell = (bottom - top) // 8
    dark = picture.min(-1) < 110
    beside, above = box(dark[:, :left]), box(dark[:top])
    assert top + 3 * cell <= beside[0] < beside[1] <= top + 4 * cell
    assert left + 3 * cell <= above[2] < above[3] <= left + 4 * cell
    row = dark[beside[0] : beside[1], beside[2] : beside[3]]
    column = dark[above[0] : above[1], above[2] : above[3]]
    np.testing.assert_array_equal(column, np.rot90(row), "read from below")


def test_among_many_tokens_separators_and_special_tokens_keep_their_labels() -> None:
    places = {0: "[CLS]", 41: "</s>", 42: "</s>", 70: "[MASK]", 99: "<|endoftext|>"}
    image = render_map(np.zeros((100, 100)), tokens=[places.get(i, "") for i in range(100)], borders=[41, 42])
    top, bottom, _, _ = map_box(pixels(image))
    labels = label_rows(image)
    assert len(labels) == len(places), "each is there, and apart from its neighbour"
    cell = (bottom - top) / 100
    for place, (start, end) in zip(places, labels, strict=True):
        assert abs((start + end) / 2 - (place + 0.5) * cell) < 12


def test_among_many_tokens_labels_are_thinned_and_do_not_touch() -> None:
    labels = label_rows(render_map(np.zeros((100, 100)), tokens=["IIIII"] * 100))
    assert 20 <= len(labels) <= 45


def test_more_special_tokens_than_fit_are_thinned_too() -> None:
    labels = label_rows(render_map(np.zeros((120, 120)), tokens=["[MASK]"] * 120, borders=[60]))
    assert 10 <= len(labels) <= 45


def test_a_dollar_sign_is_no_mathematics() -> None:
    image = render_map(np.zeros((3, 3)), tokens=["$x^2$", "x2", "$"])
    picture = pixels(image)
    top, bottom, left, _ = map_box(picture)
    cell, dark = (bottom - top) // 3, picture.min(-1) < 140
    widths = [np.subtract(*box(dark[top + i * cell : top + (i + 1) * cell, :left])[:1:-1]) for i in range(3)]
    font = ImageFont.truetype("DejaVuSans.ttf", 13)
    assert widths[0] > widths[1] + widths[2] + font.getlength("^") - 4


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("\n", "↵"),
        (" a", "␣a"),
        ("\t", "⇥"),
        ("\x07", "\\x07"),
        ("\u200b", "\\u200b"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("$x^2$", "$x^2$"),
        ("Ġthe", "Ġthe"),
        ("中", "中"),
    ],
)
def test_every_character_of_a_token_can_be_seen(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_odd_tokens_are_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = render_map(
            np.eye(7), tokens=["中文", "\0", "🙂", "\ud83d", "\\frac{", "", "עִבְרִית"], title="\n中\0"
        )
    assert image.size == (512, 512)


def test_a_very_long_token_leaves_room_for_the_map() -> None:
    top, bottom, _, _ = map_box(pixels(render_map(np.zeros((20, 20)), tokens=["w" * 500] * 20)))
    assert bottom - top > 350


@pytest.mark.parametrize("size", [128, 200, 512, 1024])
def test_the_picture_has_the_size_asked_for(size: int) -> None:
    image = render_map(
        np.eye(20), tokens=["token"] * 20, borders=[9, 19], title="a long title " * 20, size=size
    )
    assert image.size == (size, size)
    assert image.mode == "RGB"


def test_a_map_of_more_tokens_than_pixels_loses_none() -> None:
    picture = pixels(render_map(np.eye(600), tokens=["x"] * 600, borders=[300, 599]))
    assert is_colour(picture, BRIGHTEST).sum() == 600


def test_a_map_of_zeros_is_dark() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = pixels(render_map(np.zeros((5, 5))))
    top, bottom, left, right = map_box(picture)
    assert is_colour(picture[top:bottom, left:right], DARKEST).all()


def test_the_title_stands_above_the_map() -> None:
    picture = pixels(render_map(np.zeros((20, 20)), title="qqp, layer 3, head 2"))
    top = map_box(picture)[0]
    assert (picture[:top].min(-1) < 110).sum() > 100
    assert not (picture[map_box(picture)[1] :].min(-1) < 250).any()


def test_a_tensor_gives_the_picture_of_its_array() -> None:
    values = torch.eye(6, dtype=torch.bfloat16, requires_grad=True)
    assert render_map(values).tobytes() == render_map(np.eye(6, dtype=np.float16)).tobytes()


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (np.ones((3, 4)), {}, r"\(3, 4\)"),
        (np.ones(4), {}, "square"),
        (np.ones((0, 0)), {}, "square"),
        (np.ones((2, 3, 3)), {}, "square"),
        ([["a"]], {}, "numbers"),
        (np.full((3, 3), np.nan), {}, "non-finite"),
        (-np.eye(3), {}, "negative"),
        (np.eye(3), {"tokens": ["a", "b"]}, "3 rows, but 2 tokens"),
        (np.eye(3), {"tokens": "abc"}, "tokens"),
        (np.eye(3), {"borders": [3]}, "Border 3 .*0 to 2"),
        (np.eye(3), {"borders": [-1]}, "Border -1"),
        (np.eye(3), {"borders": [1.5]}, "Border 1.5"),
        (np.eye(3), {"size": 8}, "size=8"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(values: object, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        render_map(values, **options)
    assert "\n" not in str(caught.value)


def test_a_saved_picture_has_the_same_pixels_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(render_map(np.eye(9), tokens=["x"] * 9, borders=[4]), tmp_path / "new" / name)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]
    a, b = (tmp_path / "new" / name for name in ("a.png", "b.png"))
    assert a.read_bytes() == b.read_bytes()
    with Image.open(a) as image:
        assert image.tobytes() == render_map(np.eye(9), tokens=["x"] * 9, borders=[4]).tobytes()
        assert image.info == {}


def test_a_picture_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="HSV"):
        save_png(Image.new("HSV", (4, 4)), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
