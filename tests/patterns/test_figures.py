"""Figures are read back from their patches, their texts and, once drawn, their pixels."""

import io
import itertools
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tiny import head_frame

from models.common.drawing import save_figure
from models.common.errors import InputError
from models.common.palette import MISSING
from patterns import Pattern
from patterns.figures import distribution_bars, head_grid
from patterns.taxonomy import COLOURS, TITLES

LETTERS = dict(zip(Pattern, ["V", "D", "VD", "B", "H"], strict=True))
RAW = {"vertical": 0.4, "diagonal": 0.25, "vertical_diagonal": 0.15, "block": 0.02, "heterogeneous": 0.18}
NORM = {**RAW, "vertical": 0.1, "heterogeneous": 0.48}
RATIOS = {"raw": (0.18, 0.15, 0.22), "norm": (0.48, math.nan, math.nan)}


def panels(figure: Figure) -> list[Axes]:
    """The axes that show heads or bars, from left to right."""
    shown = [axes for axes in figure.axes if axes.axison]
    return sorted(shown, key=lambda axes: axes.get_position().x0)


def cells(axes: Axes) -> dict[tuple[int, int], np.ndarray]:
    """(layer, head) -> RGB of its patch."""
    collection = axes.collections[0]
    boxes = [path.get_extents() for path in collection.get_paths()]
    colours = collection.get_facecolor()[:, :3]
    return {(round(box.y0), round(box.x0)): colour for box, colour in zip(boxes, colours, strict=True)}


def letters(axes: Axes) -> dict[tuple[int, int], Text]:
    places = {(int(text.get_position()[1]), int(text.get_position()[0])): text for text in axes.texts}
    assert len(places) == len(axes.texts)
    return places


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def over_white(pattern: Pattern, share: float) -> np.ndarray:
    return share * np.array(to_rgb(COLOURS[pattern])) + (1 - share)


def drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def contrast(a: object, b: object) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(colour: object) -> float:
        rgb = np.array(to_rgb(colour))  # type: ignore[arg-type]
        return float(
            np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        )

    dark, light = sorted([luminance(a), luminance(b)])
    return (light + 0.05) / (dark + 0.05)


def test_a_cell_has_its_patterns_colour_over_white_as_strong_as_its_share() -> None:
    heads = head_frame(6, 12)
    for axes, kind in zip(panels(head_grid(heads)), ["raw", "norm"], strict=True):
        assert axes.get_title() == f"{kind} maps"
        seen = cells(axes)
        part = heads[heads["kind"] == kind]
        assert len(seen) == len(part) == 72
        for _, layer, head, dominant, share in part.itertuples(index=False):
            np.testing.assert_allclose(seen[layer, head], over_white(dominant, share))


def test_layer_0_is_drawn_at_the_top_and_head_0_at_the_left() -> None:
    heads = head_frame(5, 4, kinds=("raw",)).assign(dominant="block", dominant_share=1.0)
    heads.loc[(heads["layer"] == 0) & (heads["head"] == 3), "dominant"] = "diagonal"
    figure = head_grid(heads)
    picture = drawn(figure)
    (axes,) = panels(figure)
    assert "0 on top" in axes.get_ylabel()
    orange = np.abs(picture - to_rgb(COLOURS[Pattern.DIAGONAL])).max(-1) < 0.02
    blue = np.abs(picture - to_rgb(COLOURS[Pattern.BLOCK])).max(-1) < 0.02
    area = axes.get_window_extent()
    top, bottom = picture.shape[0] - area.y1, picture.shape[0] - area.y0
    legend = int(bottom) + 10
    rows, columns = np.nonzero(orange[:legend])
    assert rows.max() < top + (bottom - top) / 5 < np.nonzero(blue[:legend])[0].max()
    assert columns.min() > area.x0 + 3 / 4 * area.width - 2


def test_a_cell_names_its_pattern_in_ink_that_can_be_read() -> None:
    heads = head_frame(5, 12)
    for axes, kind in zip(panels(head_grid(heads)), ["raw", "norm"], strict=True):
        seen, colours = letters(axes), cells(axes)
        for _, layer, head, dominant, _ in heads[heads["kind"] == kind].itertuples(index=False):
            text = seen[layer, head]
            assert text.get_text() == LETTERS[dominant]
            assert contrast(text.get_color(), colours[layer, head]) > 3.9


def test_letters_lie_within_their_cells() -> None:
    heads = head_frame(2, 12).assign(dominant="vertical_diagonal")
    figure = head_grid(heads)
    drawn(figure)
    for axes in panels(figure):
        side = axes.get_window_extent().width / 12
        assert all(text.get_window_extent().width < 0.9 * side for text in axes.texts)


def test_a_head_that_is_not_in_the_table_is_a_grey_cell_without_a_letter() -> None:
    heads = head_frame(3, 4, kinds=("raw",))
    figure = head_grid(heads[~((heads["layer"] == 1) & (heads["head"] == 2))])
    (axes,) = panels(figure)
    assert len(cells(axes)) == 12
    np.testing.assert_allclose(cells(axes)[1, 2], to_rgb(MISSING))
    assert (1, 2) not in letters(axes)
    assert len(letters(axes)) == 11
    assert "not counted" in words(figure)
    assert "not counted" not in words(head_grid(heads))


def test_shape_adds_layers_and_heads_that_the_table_lacks() -> None:
    (axes,) = panels(head_grid(head_frame(2, 3, kinds=("raw",)), shape=(4, 5)))
    assert set(cells(axes)) == set(itertools.product(range(4), range(5)))
    np.testing.assert_allclose(cells(axes)[3, 4], to_rgb(MISSING))


def test_an_outline_is_around_the_survivors_and_no_others() -> None:
    heads = head_frame(4, 4)
    alive = (heads["layer"] == heads["head"]) & (heads["kind"] == "norm")
    figure = head_grid(heads.assign(survives=alive))
    raw, norm = panels(figure)
    assert len(raw.collections) == 1
    frames = [path.get_extents() for path in norm.collections[1].get_paths()]
    assert sorted((int(box.y0), int(box.x0)) for box in frames) == [(i, i) for i in range(4)]
    assert all(box.width < 1 and box.height < 1 for box in frames), "inside its cell"
    assert "survives" in words(figure)
    assert "survives" not in words(head_grid(heads))


def test_the_legend_names_all_five_patterns_and_the_scale() -> None:
    figure = head_grid(head_frame(4, 2))
    assert set(TITLES.values()) <= set(words(figure))
    assert {"25%", "50%", "100%"} <= set(words(figure))


def test_the_letters_are_dropped_where_they_would_be_too_small() -> None:
    (axes,) = panels(head_grid(head_frame(6, 128, kinds=("raw",))))
    assert not axes.texts
    assert len(cells(axes)) == 6 * 128


LONG = "a title that is far too long for a line of a figure of five inches, and goes on and on, and on and on"
SURVIVORS = {"raw, survivors of every seed": RAW, "norm, survivors of every seed": NORM}
PAGES = {
    "1 x 1": lambda: head_grid(head_frame(1, 1)),
    "4 x 2": lambda: head_grid(head_frame(4, 2), "MRPC"),
    "6 x 12": lambda: head_grid(head_frame(6, 12).iloc[5:].assign(survives=True), LONG),
    "24 x 64": lambda: head_grid(head_frame(24, 64), "a large model"),
    "two bars": lambda: distribution_bars({"raw": RAW, "norm": NORM}, RATIOS, "MRPC"),
    "four bars": lambda: distribution_bars({"raw": RAW, "norm": NORM, **SURVIVORS}, RATIOS, LONG),
    "no ratios": lambda: distribution_bars(SURVIVORS),
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_and_no_words_touch(name: str) -> None:
    figure = PAGES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    page = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text.get_text()
    for (a, one), (b, other) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not one.overlaps(other), (a.get_text(), b.get_text())


def bar(axes: Axes, row: int) -> list:
    """The patches of one bar, from left to right."""
    patches = [patch for patch in axes.patches if abs(patch.get_y() + patch.get_height() / 2 - row) < 0.01]
    return sorted(patches, key=lambda patch: (patch.get_x(), patch.get_width()))


def test_a_bar_is_the_five_patterns_in_order_and_fills_the_axis() -> None:
    (axes,) = panels(distribution_bars({"raw": RAW, "norm": NORM}, RATIOS))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["raw", "norm"]
    assert axes.get_xlim() == (0, 1)
    for row, shares in enumerate([RAW, NORM]):
        patches = bar(axes, row)
        np.testing.assert_allclose([patch.get_width() for patch in patches], [shares[p] for p in Pattern])
        starts = np.cumsum([0, *(shares[p] for p in Pattern)])
        np.testing.assert_allclose([patch.get_x() for patch in patches], starts[:-1], atol=1e-12)
        assert starts[-1] == pytest.approx(1)
        assert [patch.get_facecolor()[:3] for patch in patches] == [to_rgb(COLOURS[p]) for p in Pattern]


def test_the_first_entry_is_the_bar_at_the_top() -> None:
    (axes,) = panels(distribution_bars({"raw": RAW, "norm": NORM}))
    heights = [axes.transData.transform((0, row))[1] for row in (0, 1)]
    assert heights[0] > heights[1]


def test_a_pattern_that_is_left_out_has_no_share() -> None:
    (axes,) = panels(distribution_bars({"raw": {"heterogeneous": 1.0}}))
    assert [patch.get_width() for patch in bar(axes, 0)] == [0, 0, 0, 0, 1]


def test_percents_stand_in_the_segments_that_hold_them() -> None:
    (axes,) = panels(distribution_bars({"raw": RAW}))
    at = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(at) == {"40%", "25%", "15%", "18%"}, "2% has no room"
    assert at["25%"] == pytest.approx((0.525, 0))
    for text in axes.texts:
        (patch,) = [p for p in bar(axes, 0) if p.get_x() < text.get_position()[0] < p.get_x() + p.get_width()]
        assert contrast(text.get_color(), patch.get_facecolor()[:3]) > 3.9


def test_the_interval_is_a_whisker_at_the_heterogeneous_edge() -> None:
    figure = distribution_bars({"raw": RAW, "norm": NORM}, RATIOS)
    (axes,) = panels(figure)
    (container,) = axes.containers  # none for norm, whose bounds are nan
    (segment,) = container.lines[2][0].get_segments()
    np.testing.assert_allclose(sorted(segment[:, 0]), [1 - 0.22, 1 - 0.15])
    assert 0.32 < segment[0, 1] < 0.5, "in the gap below the first bar"
    edge = next(line for line in axes.lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(edge.get_xdata(), 1 - 0.18)
    assert {"18.0% [15.0, 22.0]", "48.0%"} <= set(words(figure))


def test_an_interval_that_misses_its_ratio_is_drawn_where_it_is() -> None:
    (axes,) = panels(distribution_bars({"raw": RAW}, {"raw": (0.18, 0.2, 0.3)}))
    (segment,) = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(sorted(segment[:, 0]), [0.7, 0.8])


def test_without_ratios_nothing_is_said_about_them() -> None:
    figure = distribution_bars({"raw": RAW})
    (axes,) = panels(figure)
    assert not axes.containers
    assert not any("ratio" in text for text in words(figure))


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_same_figure_is_the_same_bytes(ending: str, tmp_path: Path) -> None:
    heads = head_frame(3, 4)
    for name in ("a", "b"):
        save_figure(head_grid(heads, "x"), tmp_path / f"{name}.{ending}", dpi=60)
        bars = distribution_bars({"raw": RAW}, {"raw": RATIOS["raw"]})
        save_figure(bars, tmp_path / f"{name}2.{ending}", dpi=60)
    assert len(list(tmp_path.iterdir())) == 4
    for number in ("", "2"):
        files = [(tmp_path / f"{name}{number}.{ending}").read_bytes() for name in ("a", "b")]
        assert files[0] == files[1]
        assert not re.search(rb"CreationDate|dc:date|Software|Producer|dc:creator", files[0])
    save_figure(head_grid(heads, "y"), tmp_path / f"c.{ending}", dpi=60)
    assert (tmp_path / f"c.{ending}").read_bytes() != (tmp_path / f"a.{ending}").read_bytes()


def test_a_dollar_sign_is_no_mathematics() -> None:
    bad = r"$\frac{$"  # which matplotlib would refuse as mathematics
    figure = distribution_bars({bad: RAW}, title=bad)
    drawn(figure)
    (label,) = panels(figure)[0].get_yticklabels()
    assert label.get_text() == bad


def test_dpi_is_the_dots_per_inch_of_a_png(tmp_path: Path) -> None:
    figure = head_grid(head_frame(3, 4))
    save_figure(figure, tmp_path / "x.png", dpi=100)
    with Image.open(tmp_path / "x.png") as image:
        assert image.width == round(100 * figure.get_size_inches()[0])


def test_a_figure_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'x.bmp'.*\.png, \.pdf, \.svg"):
        save_figure(head_grid(head_frame(1, 1)), tmp_path / "x.bmp")
    assert list(tmp_path.iterdir()) == []


def test_a_users_style_changes_nothing_and_is_left_alone(tmp_path: Path) -> None:
    save_figure(head_grid(head_frame(3, 4)), tmp_path / "plain.png")
    save_figure(distribution_bars({"raw": RAW}, {"raw": RATIOS["raw"]}), tmp_path / "plain2.png")
    style = {
        "axes.grid": True,
        "text.color": "red",
        "font.size": 30.0,
        "savefig.bbox": "tight",
        "font.family": ["serif"],
        "figure.facecolor": "black",
        "axes.labelcolor": "red",
        "xtick.color": "red",
        "figure.autolayout": True,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(head_grid(head_frame(3, 4)), tmp_path / "style.png")
        save_figure(distribution_bars({"raw": RAW}, {"raw": RATIOS["raw"]}), tmp_path / "style2.png")
        assert {key: matplotlib.rcParams[key] for key in style} == style
        assert matplotlib.rcParams["svg.hashsalt"] is None
    for number in ("", "2"):
        assert (tmp_path / f"plain{number}.png").read_bytes() == (
            tmp_path / f"style{number}.png"
        ).read_bytes()


def test_patterns_stays_light_and_figures_open_no_window() -> None:
    code = """if True:
        import sys, patterns
        assert "matplotlib" not in sys.modules, "import patterns imports matplotlib"
        import patterns.tables
        assert "matplotlib" not in sys.modules, "patterns.tables imports matplotlib"
        from patterns.figures import distribution_bars
        distribution_bars({"raw": {"block": 1.0}})
        assert "matplotlib.pyplot" not in sys.modules, "figures import pyplot"
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("heads", "options", "says"),
    [
        (head_frame(2, 2).drop(columns="dominant_share"), {}, "lacks dominant_share"),
        (head_frame(2, 2).assign(dominant="stripes"), {}, "'stripes'"),
        (head_frame(3, 2), {"shape": (2, 2)}, "3 layers of 2 heads"),
        (head_frame(2, 2).assign(survives=[True, None] * 4), {}, "'survives'"),
    ],
)
def test_a_bad_table_of_heads_is_refused(heads: pd.DataFrame, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        head_grid(heads, **options)


def test_a_ratio_that_contradicts_its_bar_is_refused() -> None:
    with pytest.raises(InputError, match=r"0\.3.*0\.18"):
        distribution_bars({"raw": RAW}, {"raw": (0.3, 0.2, 0.4)})


def test_colours_are_named_in_one_place() -> None:
    root = Path(__file__).parents[2]
    rooms = [
        path
        for room in ("models", "patterns", "annotations", "pruning")
        for path in (root / room).rglob("*.py")
    ]
    assert len(rooms) > 50
    found = {path.name for path in rooms if re.search(r"[\"']#[0-9A-Fa-f]{6}[\"']", path.read_text())}
    assert found == {"palette.py"}


def test_a_notebook_shows_a_figure_by_itself() -> None:
    data, size = head_grid(head_frame(6, 12))._repr_png_()  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == pytest.approx((2 * size["width"], 2 * size["height"]), abs=2)
        assert 400 < size["width"] < 900
