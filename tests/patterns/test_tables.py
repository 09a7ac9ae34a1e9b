"""What is printed is read back line by line."""

import io
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from tiny import head_frame

from models.common.errors import InputError
from models.common.words import interval, percent
from patterns import Pattern
from patterns.tables import head_grids, print_patterns
from patterns.taxonomy import COLOURS_OF_16

LETTERS = dict(zip(Pattern, ["V", "D", "VD", "B", "H"], strict=True))
RAW = {"vertical": 0.4, "diagonal": 0.25, "vertical_diagonal": 0.15, "block": 0.076, "heterogeneous": 0.124}
NORM = {**RAW, "vertical": 0.1, "heterogeneous": 0.424}
RATIOS = {"raw": (0.124, 0.101, 0.15), "norm": (0.424, math.nan, math.nan)}


def printed(
    heads: pd.DataFrame, width: int = 80, distributions: dict | None = None, ratios: dict | None = None
) -> list[str]:
    out = io.StringIO()
    print_patterns(heads, distributions or {"raw": RAW, "norm": NORM}, ratios, file=out, width=width)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def letter(heads: pd.DataFrame, kind: str, layer: int, head: int) -> str:
    row = heads[(heads["kind"] == kind) & (heads["layer"] == layer) & (heads["head"] == head)].iloc[0]
    name = LETTERS[Pattern(row["dominant"])]
    return name if row["dominant_share"] >= 0.5 else name.lower()


def test_rows_are_layers_and_columns_are_heads_raw_before_norm() -> None:
    heads = head_frame(6, 12)
    lines = printed(heads)
    start = next(i for i, line in enumerate(lines) if line.split() == ["raw", "maps", "norm", "maps"])
    assert lines[start + 1].split() == [str(head) for head in range(12)] * 2
    for layer in range(6):
        cells = lines[start + 2 + layer].split()
        assert cells[:13] == [str(layer), *(letter(heads, "raw", layer, head) for head in range(12))]
        assert cells[13:] == [str(layer), *(letter(heads, "norm", layer, head) for head in range(12))]


def test_the_order_of_the_rows_of_the_table_does_not_matter() -> None:
    heads = head_frame(4, 6)
    assert printed(heads.sample(frac=1, random_state=1)) == printed(heads)


def test_letters_are_small_below_half_and_the_key_says_so() -> None:
    heads = head_frame(1, 3, kinds=("raw",)).assign(
        dominant="vertical_diagonal", dominant_share=[0.49, 0.5, 1.0]
    )
    lines = printed(heads)
    assert "0 vd VD VD" in lines
    assert any("Lower case" in line for line in lines)
    assert not any("Lower case" in line for line in printed(heads.assign(dominant_share=1.0)))


def test_a_head_that_is_not_counted_is_a_dot() -> None:
    heads = head_frame(3, 4, kinds=("raw",)).assign(dominant="block", dominant_share=1.0)
    lines = printed(heads.drop(index=5))
    assert "1  B  .  B  B" in lines
    assert any(line.startswith(".:") for line in lines)
    assert not any(line.startswith(".:") for line in printed(heads))


def test_a_head_whose_maps_are_zero_has_a_mark_and_a_count_of_its_own() -> None:
    heads = head_frame(3, 4, kinds=("raw",)).assign(dominant="block", dominant_share=1.0)
    heads["dominant"] = heads["dominant"].astype(object)
    heads.loc[5, ["dominant", "dominant_share"]] = [None, math.nan]
    lines = printed(heads)
    assert "1  B  0  B  B" in lines
    assert any(line.startswith("0: a head whose maps are zero in every cell") for line in lines)
    wide = head_frame(2, 64, kinds=("raw",))
    wide["dominant"] = wide["dominant"].astype(object)
    wide.loc[[5, 70], ["dominant", "dominant_share"]] = [None, math.nan]
    counted = [line.split() for line in printed(wide)]
    assert sum(line[-1:] == ["1"] for line in counted) == 2
    assert any(line[:1] == ["all"] and line[-1] == "2" for line in counted)
    out = io.StringIO()
    print_patterns(heads, {"raw": RAW, "norm": NORM}, empty={"norm": 7}, notes=["Said below."], file=out)
    text = out.getvalue()
    assert ["maps", "of", "zeros,", "left", "out", "0", "7"] in [line.split() for line in text.splitlines()]
    assert text.rstrip().endswith("Said below.")


def test_twelve_heads_fit_into_eighty_columns_beside_each_other() -> None:
    lines = printed(head_frame(12, 12), ratios=RATIOS)
    assert max(len(line) for line in lines) <= 80
    assert any(line.split() == ["raw", "maps", "norm", "maps"] for line in lines)


def test_grids_stand_below_each_other_where_they_do_not_fit_beside() -> None:
    lines = printed(head_frame(2, 16))
    assert max(len(line) for line in lines) <= 80
    assert lines.index("raw maps") < lines.index("norm maps")


def test_heads_that_do_not_fit_are_counted_per_layer() -> None:
    heads = head_frame(5, 64)
    lines = printed(heads)
    assert max(len(line) for line in lines) <= 80
    for kind in ("raw", "norm"):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{kind} maps"))
        part = heads[heads["kind"] == kind]
        for layer in range(5):
            dominant = part[part["layer"] == layer]["dominant"]
            assert lines[start + 3 + layer].split() == [
                str(layer),
                *(str((dominant == pattern).sum()) for pattern in Pattern),
            ]
        totals = ["all", *(str((part["dominant"] == pattern).sum()) for pattern in Pattern)]
        assert totals in [line.split() for line in lines[start + 8 : start + 10]]


@pytest.mark.parametrize("heads", [12, 64])
@pytest.mark.parametrize("width", [40, 60, 100, 250])
def test_nothing_is_wider_than_the_terminal(heads: int, width: int) -> None:
    lines = printed(head_frame(3, heads), width, ratios=RATIOS)
    assert max(len(line) for line in lines) <= width


def test_the_lower_table_has_every_share_the_ratio_and_its_interval() -> None:
    lines = printed(head_frame(2, 2), ratios=RATIOS)
    rows = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["pattern", "raw", "norm"] in cells
    assert ["vertical", "40.0%", "10.0%"] in cells
    assert ["diagonal", "25.0%", "25.0%"] in cells
    assert ["vertical + diagonal", "15.0%", "15.0%"] in cells
    assert ["block", "7.6%", "7.6%"] in cells
    assert ["heterogeneous", "12.4%", "42.4%"] in cells
    assert ["interpretable ratio", "12.4%", "42.4%"] in cells
    assert ["95% interval", "[10.1, 15.0]"] in cells


def test_without_ratios_there_is_no_row_for_them() -> None:
    text = "\n".join(printed(head_frame(2, 2)))
    assert "ratio" not in text
    assert "interval" not in text


def test_four_columns_with_intervals_fit_into_eighty() -> None:
    keys = ["raw", "norm", "raw, survivors", "norm, survivors"]
    ratios = dict.fromkeys(keys, (0.124, 0.101, 0.15))
    lines = printed(head_frame(2, 2), distributions=dict.fromkeys(keys, RAW), ratios=ratios)
    assert max(len(line) for line in lines) <= 80
    assert any(line.count("[10.1, 15.0]") == 4 for line in lines), "no interval is broken"
    assert any(line.startswith("vertical + diagonal ") for line in lines), "no name is broken"


@pytest.mark.parametrize("heads", [4, 12, 16, 24])
def test_sixty_columns_hold_the_tables(heads: int) -> None:
    """Four columns with long names: no line is wider, and every number is whole."""
    names = ["raw", "raw, estimate", "norm", "norm, untrained control"]
    shares = dict.fromkeys(names, RAW)
    lines = printed(head_frame(3, heads), 60, shares, dict.fromkeys(names, RATIOS["raw"]))
    assert max(map(len, lines)) <= 60
    text = " ".join(lines)
    for share in RAW.values():
        assert text.split().count(f"{100 * share:.1f}%") >= 4
    assert text.count("[10.1, 15.0]") == 4


@pytest.mark.parametrize("palette", ["STANDARD_PALETTE", "WINDOWS_PALETTE"])
def test_sixteen_colours_keep_five_patterns_apart_on_dark_and_on_light(palette: str) -> None:
    from rich import _palettes
    from rich.color import Color

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)
        ]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    numbers = [Color.parse(COLOURS_OF_16[pattern]).number for pattern in Pattern]
    assert len(set(numbers)) == 5
    shown = [getattr(_palettes, palette)[number or 0] for number in numbers]
    assert all(1.05 / (luminance(colour) + 0.05) > 2.5 for colour in shown)
    assert all((luminance(colour) + 0.05) / 0.05 > 3 for colour in shown)
    apart = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(shown) for b in shown[:i]]
    assert min(apart) > 90


def test_a_terminal_of_sixteen_colours_is_given_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    print_patterns(head_frame(1, 3, kinds=("raw",)).assign(dominant="heterogeneous"), {"raw": RAW}, file=out)
    assert "32m" in out.getvalue()  # green
    assert "36m" not in out.getvalue()  # cyan, the nearest to both its colour and vertical's


def test_names_are_printed_as_they_are() -> None:
    assert any(
        "[red]:smile:" in line for line in printed(head_frame(1, 2), distributions={"[red]:smile:": RAW})
    )


def test_into_an_ascii_file_only_ascii_is_written() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    ratios = {"raw": RATIOS["raw"], "über": RATIOS["norm"]}
    for heads in (12, 64):
        print_patterns(head_frame(3, heads), {"raw": RAW, "über": NORM}, ratios, file=out, width=80)
    out.flush()
    text = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert r"\xfcber" in text
    assert "vertical" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("colourful")
def test_on_a_terminal_letters_have_the_colour_of_their_pattern_and_are_dim_below_half() -> None:
    heads = head_frame(1, 2, kinds=("raw",)).assign(dominant="vertical", dominant_share=[0.9, 0.3])
    out = Terminal()
    print_patterns(heads, {"raw": RAW}, file=out, width=80)
    strong, weak = "\x1b[1;38;2;0;114;178m V", "\x1b[2;38;2;0;114;178m v"  # bold, dim; #0072B2
    assert strong in out.getvalue()
    assert weak in out.getvalue()


@pytest.mark.usefixtures("colourful")
def test_in_a_pipe_there_is_no_escape_code() -> None:
    assert not any("\x1b" in line for line in printed(head_frame(3, 12), ratios=RATIOS))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda heads: heads.drop(columns=["dominant", "layer"]), "lacks layer, dominant"),
        (lambda heads: heads.iloc[:0], "empty"),
        (lambda heads: pd.concat([heads, heads.iloc[:1]]), "twice"),
        (lambda heads: heads.assign(dominant="stripes"), "'stripes'.*vertical_diagonal"),
        (lambda heads: heads.assign(dominant_share=1.2), "1.2 is no share"),
        (lambda heads: heads.assign(dominant_share=math.nan), "nan is no share"),
        (lambda heads: heads.assign(layer=-1), "count from 0"),
    ],
)
def test_a_bad_table_of_heads_is_refused(change: Callable, says: str) -> None:
    with pytest.raises(InputError, match=says):
        head_grids(change(head_frame(2, 2)))


@pytest.mark.parametrize(
    ("distributions", "ratios", "says"),
    [
        ({}, {}, "no distribution"),
        ({"raw": {"vertical": 0.5, "block": 0.4}}, {}, "'raw'.*sum to 1"),
        ({"raw": {"vertical": 1.5, "block": -0.5}}, {}, "'raw'.*sum to 1"),
        ({"raw": {"vertical": math.nan}}, {}, "'raw'.*sum to 1"),
        ({"raw": {"striped": 1.0}}, {}, "'striped'"),
        ({"raw": RAW}, {"norm": (0.1, 0.1, 0.1)}, "'norm'.*only for raw"),
        ({"raw": RAW}, {"raw": (0.5, 0.4, 0.6)}, "0.5.*0.124"),
        ({"raw": RAW}, {"raw": (math.nan, 0.4, 0.6)}, "nan.*0.124"),
        ({"raw": RAW}, {"raw": (0.124, 0.3, 0.2)}, "no interval"),
        ({"raw": RAW}, {"raw": (0.124, -0.1, 0.12)}, "no interval"),
    ],
)
def test_bad_distributions_are_refused(distributions: dict, ratios: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        print_patterns(head_frame(2, 2), distributions, ratios, file=io.StringIO())


def test_a_ratio_at_the_end_of_its_interval_is_accepted() -> None:
    none = {"vertical": 1.0}
    lines = printed(head_frame(1, 1), distributions={"raw": none}, ratios={"raw": (0.0, 0.0, 0.03)})
    assert any("[0.0, 3.0]" in line for line in lines)


def test_numbers_are_percent_with_one_decimal() -> None:
    assert percent(0.1234) == "12.3%"
    assert interval(0.101, 0.15) == "[10.1, 15.0]"
    assert interval(0.1, math.nan) == ""
