"""The report in a real browser: headless Chromium, on a report of the real MiniLM.

Which browser and which axe-core: see ``tests/browsing.py``.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models import Subnetwork
from patterns import attention_maps
from patterns.job import ClassifyHeads
from patterns.taxonomy import PATTERNS, TITLES

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[3] / "examples"
EVIL = "<script>window.bad=1</script>"


@pytest.fixture(scope="module")
def report(minilm_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM with some survivors, on rows of which one holds a script."""
    home = tmp_path_factory.mktemp("report")
    rows = pd.read_json(EXAMPLES / "qqp" / "validation.jsonl", lines=True).head(12)
    rows.loc[0, "question1"] = f"What does {EVIL} do?"
    (home / "data").mkdir()
    rows.to_json(home / "data" / "validation.jsonl", orient="records", lines=True)
    heads = np.random.default_rng(0).random((6, 12)) < 0.4
    Subnetwork(heads, np.ones(6, dtype=bool)).save(home / "kept.safetensors")
    ClassifyHeads(
        model=minilm_folder,
        task="qqp",
        data=str(home / "data"),
        device="cpu",
        output=home / "all",
        batch_size=4,
    ).run()
    ClassifyHeads(
        model=minilm_folder, task="qqp", data=str(home / "data"), device="cpu", output=home / "kept",
        subnetwork=str(home / "kept.safetensors"),
    ).run()  # fmt: skip
    np.save(home / "heads.npy", heads)
    return home


@pytest.fixture
def visit(open_page: Any, report: Path) -> Any:
    """Open the page of ``all`` or ``kept``."""
    return lambda name="all", place="", *words, **options: open_page(
        report / name / "report.html", place, *words, ready="html[data-ready]", **options
    )


def cell(page: Any, kind: str, layer: int, head: int) -> Any:
    return page.locator(f'table.heads[data-kind="{kind}"] [data-layer="{layer}"][data-head="{head}"]')


@pytest.mark.parametrize(("kind", "layer", "head"), [("raw", 2, 5), ("norm", 0, 11), ("raw", 3, 8)])
def test_a_click_opens_the_right_head(visit: Any, report: Path, kind: str, layer: int, head: int) -> None:
    heads = pd.read_parquet(report / "all" / "heads.parquet").set_index(["kind", "layer", "head"])
    page = visit()
    cell(page, kind, layer, head).click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator("h2").inner_text() == f"Layer {layer}, head {head}"
    for side, name in (("raw", "Raw"), ("norm", "Norm")):
        row = heads.loc[(side, layer, head)]
        part = dialog.locator(f'section[aria-label="{side} maps"]')
        assert part.locator("h3").inner_text() == f"{name} maps"
        numbers = [int(text) for text in part.locator(".counts b").all_inner_texts()]
        assert numbers == [row[f"count_{p}"] for p in PATTERNS]
        assert TITLES[row["dominant"]] in part.locator("p.quiet").first.inner_text()
        shown = part.locator("h4").all_inner_texts()
        assert len(shown) == sum(number > 0 for number in numbers)
        assert part.locator(".examples i").count() == row["n"]
        assert part.locator(".map canvas").count() >= len(shown)


def test_a_map_is_drawn_from_its_cells_with_its_tokens(visit: Any) -> None:
    page = visit(place="#head-0-2-5")
    canvas = page.locator("dialog .map canvas").first
    assert "[CLS]" in canvas.get_attribute("aria-label")
    colours = canvas.evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert colours > 20
    canvas.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("dialog .readout").first.inner_text()
    assert first.startswith("[CLS] attends to [CLS]: ")
    page.keyboard.press("ArrowDown")
    assert page.locator("dialog .readout").first.inner_text() != first
    page.locator("dialog .map summary").first.click()
    page.locator("dialog .map table tbody tr").first.wait_for()  # the table is made when it is opened
    assert page.locator("dialog .map table tbody tr").count() == 10
    before = canvas.bounding_box()["width"]
    page.locator("dialog .map button", has_text="Larger").first.click()
    page.wait_for_timeout(100)
    assert canvas.bounding_box()["width"] > before


def test_the_opened_head_links_its_maps_as_arrays(
    visit: Any, report: Path, minilm_folder: str, tmp_path: Path
) -> None:
    """They are the model's maps, as exact as the page has them."""
    from models.checkpoints import load_checkpoint

    page = visit(place="#head-0-2-5", accept_downloads=True)
    link = page.locator('dialog section[aria-label="raw maps"] .map a[download]').first
    with page.expect_download() as begun:
        link.click()
    name = begun.value.suggested_filename
    begun.value.save_as(tmp_path / name)
    found = np.load(tmp_path / name)
    example = int(re.fullmatch(r"raw-layer-2-head-5-example-(\d+)\.npy", name)[1])
    rows = pd.read_json(report / "data" / "validation.jsonl", lines=True)
    row = rows[rows["idx"] == example].iloc[0]
    checkpoint = load_checkpoint(minilm_folder)
    batch = checkpoint.tokenizer([row["question1"]], [row["question2"]], return_tensors="pt")
    right = attention_maps(checkpoint.model, batch, ["raw"], [2])[0][2][0, 5].numpy()
    assert (found.dtype, found.shape) == (np.float32, right.shape)
    assert np.abs(found - right).max() <= 0.003 * right.max()
    assert "to within 0.3%" in link.get_attribute("title")
    assert "averaged" not in link.get_attribute("title")


def test_hovering_and_focus_tell_the_counts(visit: Any, report: Path) -> None:
    heads = pd.read_parquet(report / "all" / "heads.parquet").set_index(["kind", "layer", "head"])
    page = visit()
    cell(page, "norm", 4, 7).hover()
    row = heads.loc[("norm", 4, 7)]
    numbers = [int(text) for text in page.locator("#tip .counts b").all_inner_texts()]
    assert numbers == [row[f"count_{p}"] for p in PATTERNS]
    assert "Layer 4, head 7" in page.locator("#tip").inner_text()
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()
    cell(page, "raw", 0, 0).focus()
    page.keyboard.press("ArrowRight")
    assert "Layer 0, head 1" in page.locator("#tip").inner_text()


def test_filters(visit: Any, report: Path) -> None:
    heads = pd.read_parquet(report / "all" / "heads.parquet")
    survives = np.load(report / "heads.npy")
    page = visit("kept")

    def lit() -> set[tuple[str, int, int]]:
        return {
            tuple(place)
            for place in page.evaluate(
                """[...document.querySelectorAll('.grid:not([hidden]) button.cell:not(.off)')].map(
                c => [c.closest('table').dataset.kind, +c.dataset.layer, +c.dataset.head])"""
            )
        }

    def places(part: pd.DataFrame) -> set[tuple[str, int, int]]:
        return set(part[["kind", "layer", "head"]].itertuples(index=False, name=None))

    assert lit() == places(heads)
    page.locator('.chip[data-pattern="vertical"]').click()
    vertical = heads[heads["dominant"] == "vertical"]
    assert lit() == places(vertical)
    assert page.locator(".strip:visible").count() == 1
    page.select_option("#filter-layer", "3")
    assert lit() == places(vertical[vertical["layer"] == 3])
    page.select_option("#filter-survives", "true")
    kept = vertical[[survives[layer, head] for layer, head in vertical[["layer", "head"]].to_numpy()]]
    assert lit() == places(kept[kept["layer"] == 3])
    page.select_option("#filter-kind", "norm")
    assert lit() == places(kept[(kept["layer"] == 3) & (kept["kind"] == "norm")])
    assert page.locator(".grid:visible").count() == 1
    number = len(kept[(kept["layer"] == 3) & (kept["kind"] == "norm")])
    assert page.locator("#shown").inner_text() == f"{number} of 72 heads"
    page.locator("#reset").click()
    assert lit() == places(heads)
    assert page.locator("#shown").inner_text() == "72 heads"


def test_everything_can_be_done_from_the_keyboard(visit: Any) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('table.heads button')"):
            break
    assert page.evaluate("document.activeElement.dataset.layer + document.activeElement.dataset.head") == "00"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert page.locator("dialog[open] h2").inner_text() == "Layer 2, head 1"
    assert page.evaluate("document.activeElement.id") == "head-title"
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog[open] h2").inner_text() == "Layer 2, head 2"
    for _ in range(30):  # focus stays inside
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.matches('table.heads button')")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.head") == "11"


def test_a_token_that_is_a_script_is_shown_and_never_run(visit: Any) -> None:
    page = visit()
    places = page.evaluate(
        """() => { const d = JSON.parse(document.getElementById('data').textContent);
        const bad = d.inputs.findIndex(one => one.tokens.includes('script'));
        return d.views[0].maps.filter(m => m.input === bad).map(m => [m.layer, m.head]); }"""
    )
    assert places
    for layer, head in places[:3]:
        page.goto(page.url.split("#")[0] + f"#head-0-{layer}-{head}")
        labels = page.locator("dialog .map canvas").evaluate_all("all => all.map(c => c.ariaLabel).join()")
        assert "< script > window . bad" in labels
    assert page.evaluate("window.bad") is None
    # Whole as one token, wherever text goes.
    page.evaluate(
        """text => { const node = document.getElementById('data'); const d = JSON.parse(node.textContent);
        d.inputs.forEach(one => one.tokens.fill(text)); node.textContent = JSON.stringify(d);
        document.querySelectorAll('td, li, dd, code, h1').forEach(n => n.textContent = text); }""",
        EVIL,
    )
    assert page.evaluate("window.bad") is None


def test_tables_sort_and_are_saved_whole(visit: Any, report: Path, tmp_path: Path) -> None:
    heads = pd.read_parquet(report / "all" / "heads.parquet")
    page = visit()
    page.locator("summary", has_text="Every head").click()
    table = page.locator("#table-heads")
    column = list(heads.columns).index("dominant_share")
    for order in ("ascending", "descending"):
        table.locator("th", has_text="share").locator("button").click()
        assert table.locator(f'th[aria-sort="{order}"]').count() == 1
    shown = table.locator("tbody tr").first.locator("td").nth(column).inner_text()
    assert shown == f"{100 * heads['dominant_share'].max():.1f}%"
    with page.expect_download() as download:
        page.locator('[data-csv="heads"]').click()
    download.value.save_as(tmp_path / "heads.csv")
    saved = pd.read_csv(tmp_path / "heads.csv").sort_values(["kind", "layer", "head"]).reset_index(drop=True)
    expected = heads.sort_values(["kind", "layer", "head"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(saved, expected, check_exact=True, check_dtype=False)
    with (tmp_path / "heads.csv").open() as file:
        assert next(csv.reader(file)) == list(heads.columns)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "#head-0-2-5"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(
    visit: Any, serious_faults: Any, width: int, place: str, scheme: str
) -> None:
    page = visit("kept", place, width, color_scheme=scheme, bypass_csp=True)
    assert not serious_faults(page)


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(visit: Any, width: int) -> None:
    for place in ("", "#head-0-2-5"):
        page = visit("kept", place, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(
            "document.getElementById('head-body').scrollWidth <= document.getElementById('head-body').clientWidth"
        )


def test_light_and_dark(visit: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    dark = visit(color_scheme="dark")
    assert dark.evaluate(background) == "rgb(18, 22, 26)"
    dark.locator("#theme").click()
    assert dark.evaluate(background) == "rgb(246, 247, 248)"
    assert dark.locator("#theme").inner_text() == "Dark"


def test_it_prints_without_what_is_for_the_screen(visit: Any, tmp_path: Path) -> None:
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in ("#theme", ".selects", "[data-csv]"):
        assert page.locator(hidden).first.is_hidden()
    page.pdf(path=str(tmp_path / "report.pdf"), print_background=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_tables_are_there_without_the_script(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{report / 'all' / 'report.html'}")
    assert page.locator("table.heads button.cell").count() == 144
    assert page.locator("#table-heads tbody tr").count() == 144
    assert page.locator("#theme").is_hidden()
    context.close()
