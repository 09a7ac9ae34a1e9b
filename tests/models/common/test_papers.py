"""Figures and tables for a paper: formats, widths, fonts, and what LaTeX reads."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import typer.main
from matplotlib.figure import Figure

from models import InputError
from models.common.drawing import SMALL, Page, drawn_for, page_width
from models.common.papers import Figures, write_latex
from patterns.figures import distribution_bars, head_grid
from patterns.taxonomy import PATTERNS

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


def heads(layers: int = 6, columns: int = 12) -> pd.DataFrame:
    places = [
        (kind, layer, head) for kind in ("raw", "norm") for layer in range(layers) for head in range(columns)
    ]
    table = pd.DataFrame(places, columns=["kind", "layer", "head"])
    return table.assign(dominant=[str(PATTERNS[i % 5]) for i in range(len(table))], dominant_share=0.7)


def bars() -> Figure:
    shares = dict(zip(map(str, PATTERNS), (0.4, 0.2, 0.2, 0.1, 0.1), strict=True))
    names = ("raw, estimate", "raw", "norm, control")
    return distribution_bars(dict.fromkeys(names, shares), dict.fromkeys(names, (0.1, 0.05, 0.2)))


def words_that_leave(figure: Figure) -> list[str]:
    """What is written beyond the edge of the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    page, left = figure.bbox, []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1:
                left.append(text.get_text())
    return left


@pytest.mark.parametrize("width", [3.3, 6.9])
@pytest.mark.parametrize("draw", [lambda: head_grid(heads(), shape=(6, 12)), bars], ids=["heads", "bars"])
def test_a_figure_is_as_wide_as_is_asked_for_and_holds_its_words(draw: Any, width: float) -> None:
    figure = Figures(figure_width=width).drawn(draw)
    assert figure.get_figwidth() == pytest.approx(width)
    assert words_that_leave(figure) == []


def test_outside_the_block_a_figure_is_as_wide_as_ever() -> None:
    usual = bars().get_figwidth()
    with drawn_for(3.3):
        assert page_width(5.2) == 3.3
    assert page_width(5.2) == 5.2
    assert bars().get_figwidth() == usual


def test_a_figure_that_needs_more_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(4.0, 1.0)
    Figures(figure_width=3.3).write(page.figure, tmp_path, "x")
    assert capsys.readouterr().err == (
        "the figure x is 4.00 inches wide, since its words do not fit into 3.3.\n"
    )
    Figures(figure_width=4.0).write(page.figure, tmp_path, "x")
    Figures().write(page.figure, tmp_path, "x")
    assert capsys.readouterr().err == ""


def test_words_of_an_svg_can_be_edited_and_fonts_of_a_pdf_are_within(tmp_path: Path) -> None:
    page = Page(3.0, 1.0)
    page.text(0.1, 0.5, "Köpfe & maps < 5", SMALL)
    Figures(("svg", "pdf", "png")).write(page.figure, tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pdf", "x.png", "x.svg"]
    (text,) = [one for one in ElementTree.parse(tmp_path / "x.svg").iter(f"{SVG}text") if one.text]
    assert text.text == "Köpfe & maps < 5"
    assert "DejaVu Sans" in text.attrib["style"]
    pdf = (tmp_path / "x.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType
    assert b"/Type3" not in pdf


@pytest.mark.parametrize("format_", [(), ("bmp",), ("png", "png"), ("PNG",)])
def test_a_format_that_there_is_not_is_refused(format_: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"^--figure-format .*: give png, pdf, svg, or several"):
        Figures(format_)


@pytest.mark.parametrize("width", [0.0, -1.0, 1.0, 41.0, float("nan"), float("inf")])
def test_a_width_that_no_page_has_is_refused(width: float) -> None:
    with pytest.raises(InputError, match=r"^--figure-width .*: give inches from 1.5 to 40"):
        Figures(figure_width=width)


def test_a_table_is_what_latex_reads(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"p_value": [0.12345, 0.0, 4e-5, np.nan], "name": ["a_b", "50%", "c & d", "#"], "n": [1, 2, 3, 4]}
    )
    write_latex(table, tmp_path / "x.tex")
    assert (tmp_path / "x.tex").read_text() == (
        "\\begin{tabular}{rlr}\n\\toprule\np value & name & n \\\\\n\\midrule\n"
        "0.123 & a\\_b & 1 \\\\\n0.000 & 50\\% & 2 \\\\\n4.0e-05 & c \\& d & 3 \\\\\n-- & \\# & 4 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_a_long_table_runs_over_pages_and_one_that_no_paper_holds_is_left_out(tmp_path: Path) -> None:
    for rows, written in ((60, "tabular"), (61, "longtable"), (400, "longtable"), (401, "")):
        path = tmp_path / f"{rows}.tex"
        write_latex(pd.DataFrame({"x": range(rows)}), path)
        assert path.exists() == bool(written)
        assert not written or path.read_text().startswith(f"\\begin{{{written}}}")


def test_every_command_that_draws_takes_the_options() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    drawing = set()
    for name, where in scripts.items():
        module, function = where.split(":")
        parser: Any = typer.main.get_command(getattr(importlib.import_module(module), function).app)
        options = {parameter.name for parameter in parser.params}
        if {"figure_format", "figure_width"} <= options:
            drawing.add(name)
    assert drawing == {
        *(
            "ablate-patterns",
            "classify-heads",
            "compare-heads",
            "compare-survivors",
            "finetune-glue",
            "run-study",
        ),
    }


def test_save_figure_is_called_where_the_options_are_known() -> None:
    """So that no command draws a figure of a format of its own."""
    callers = set()
    for room in ("models", "patterns", "annotations", "pruning"):
        for path in (ROOT / room).rglob("*.py"):
            if re.search(r"(?<!def )\bsave_figure\(", path.read_text()):
                callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"models/common/papers.py", "models/common/pages.py"}  # the latter draws into a page
