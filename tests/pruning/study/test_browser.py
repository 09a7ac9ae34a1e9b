"""The page of a study in a real browser: see ``tests/browsing.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pruning.study.report.figures import FIGURES

pytestmark = pytest.mark.slow


@pytest.fixture
def home(reported_study: Path) -> Path:
    return reported_study / "report"


@pytest.fixture
def visit(open_page: Any, home: Path) -> Any:
    return lambda *words, **options: open_page(home / "report.html", "", *words, **options)


def test_every_figure_is_seen_and_has_words_and_data(visit: Any, home: Path) -> None:
    page = visit()
    pictures = page.locator("figure img")
    # No heads are closed in this study, and no subnetwork is bad.
    drawn = [figure for figure in FIGURES if figure.question not in ("closed", "random")]
    assert pictures.count() == len(drawn) == len(list((home / "figures").glob("*.png")))
    for picture in pictures.all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 500")
        assert len(picture.get_attribute("alt")) > 40
    for figure in drawn:
        behind = len(pd.read_csv(home / "figures" / f"{figure.name}.csv"))
        name = f"conclusions-{figure.question}" if figure.question else figure.name
        rows = page.locator(f'[id="table-{name}"] tbody tr').count()
        assert rows >= behind if figure.question else rows == behind  # what has no effect is not drawn


def test_words_of_figures_are_legible_on_a_telephone(visit: Any) -> None:
    """Each is as wide as its smallest words need, and moved sideways within its box; the page itself is not."""
    page = visit(390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = 0
    for box in page.locator("figure .wide").all():
        shown, box_width, least = box.evaluate(
            "box => [box.firstElementChild.getBoundingClientRect().width, box.clientWidth,"
            " parseFloat(box.firstElementChild.style.minWidth)]"
        )
        assert shown >= least
        wide += least > box_width
        assert box.evaluate("box => { box.scrollLeft = 1e6; return box.scrollLeft }") == pytest.approx(
            max(shown - box_width, 0), abs=2
        )
    assert wide  # some need more than there is


def test_a_table_is_saved_whole(visit: Any, home: Path, tmp_path: Path) -> None:
    page = visit()
    page.locator("summary", has_text="scores (").click()
    with page.expect_download() as download:
        page.locator('[data-csv="scores"]').click()
    download.value.save_as(tmp_path / "scores.csv")
    expected = pd.read_parquet(home / "tables" / "scores.parquet")
    saved = pd.read_csv(tmp_path / "scores.csv")
    assert list(saved) == list(expected)
    assert saved["score"].tolist() == expected["score"].tolist()
    assert saved["task"].tolist() == expected["task"].tolist()


def test_the_conclusions_stand_there_as_in_the_text(visit: Any, home: Path) -> None:
    told = visit().locator("main").inner_text()
    lines = (home / "report.md").read_text().splitlines()
    start = lines.index("## What these data support") + 1
    answers = [line[2:] for line in lines[start : lines.index("## Scores")] if line.startswith("- ")]
    assert len(answers) >= 4
    assert all(answer in told for answer in answers)


def test_it_leads_to_the_page_of_each_model(visit: Any) -> None:
    page = visit()
    links = page.locator("section ul a")
    words = links.all_inner_texts()
    assert words[:3] == ["sst2, seed 1", "sst2, seed 2", "sst2, pre-trained"]
    links.first.click()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("table.heads").count() == 1
    assert page.url.endswith("/sst2/seed_1/patterns/report.html")


def test_it_says_what_it_is_made_from(visit: Any) -> None:
    page = visit()
    page.locator("summary", has_text="Where the numbers come from").click()
    names = page.locator(".provenance dt").all_inner_texts()
    assert {"model, sha256", "data, sst2, train", "packages, torch", "study, tasks"} <= set(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(visit: Any, serious_faults: Any, width: int, scheme: str) -> None:
    page = visit(width, color_scheme=scheme, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not serious_faults(page)


def test_it_prints(visit: Any, tmp_path: Path) -> None:
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=str(tmp_path / "report.pdf"), print_background=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
