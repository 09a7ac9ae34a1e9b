"""The report as a file: whole, self-contained, small, nothing run that is data, and the numbers of the tables."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import WORDS

from models import Subnetwork
from models.common.pages import TableBlock, write_page
from patterns import classify_heads
from patterns.job import ClassifyHeads
from patterns.maps.examples import DRAWN, SIDE, SURE, UNSURE, ExampleMaps
from patterns.report.heads import page_data, write_report
from patterns.report.view import HeadsView
from patterns.taxonomy import PATTERNS

EXAMPLES = Path(__file__).parents[3] / "examples"
EVIL = "<script>window.bad=1</script>"
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", text))

    @property
    def data(self) -> Any:
        places = [i for i, (tag, _) in enumerate(self.elements) if tag == "script"]
        assert places
        return json.loads(next(text for tag, text in self.texts if tag == "script" and text[0] == "{"))


@pytest.fixture(scope="module")
def report(minilm_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    ClassifyHeads(
        model=minilm_folder, task="qqp", data=str(EXAMPLES), examples=6, device="cpu", output=folder
    ).run()
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(page: Page, report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert len(html) < 2_000_000
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[\w/;,+=-]*", "", html))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_allows_its_own_scripts_and_no_others(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a) or ""
    allowed = re.findall(r"sha256-[\w+/=]+", policy)
    scripts = [text for tag, text in page.texts if tag == "script" and text[0] != "{"]
    found = [f"sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}" for s in scripts]
    assert allowed == found
    assert "script-src 'unsafe" not in policy
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]


def test_the_page_holds_the_numbers_of_the_tables(page: Page, report: Path) -> None:
    heads, maps = pd.read_parquet(report / "heads.parquet"), pd.read_parquet(report / "maps.parquet")
    (view,) = page.data["views"]
    shown = pd.DataFrame(view["heads"])
    pd.testing.assert_frame_equal(shown, heads[list(shown.columns)], check_exact=True, check_dtype=False)
    assert {"dominant", "dominant_share", "count_block", "self_agreement"} <= set(shown.columns)

    blob = np.frombuffer(zlib.decompress(base64.b64decode(page.data["blob"])), dtype=np.uint8)
    labels = maps.set_index(["kind", "example", "layer", "head"])
    for one in view["maps"]:
        example = page.data["inputs"][one["input"]]
        row = labels.loc[(one["kind"], example["example"], one["layer"], one["head"])]
        assert row["label"] == PATTERNS[one["pattern"]]
        np.testing.assert_allclose(one["probabilities"], [row[f"prob_{p}"] for p in PATTERNS], atol=1e-4)
        assert len(example["tokens"]) == row["n_tokens"]
        cells = blob[one["at"] : one["at"] + one["side"] ** 2]
        assert cells.max() == 255
    for kind, start in view["labels"].items():
        strip = blob[start : start + 72 * 6].reshape(72, 6)
        for i, row in enumerate(heads[heads["kind"] == kind].to_dict("records")):
            counts = np.bincount(strip[i], minlength=5)
            assert counts.tolist() == [row[f"count_{p}"] for p in PATTERNS]


def test_every_head_shows_its_surest_map_of_each_pattern(page: Page, report: Path) -> None:
    maps = pd.read_parquet(report / "maps.parquet")
    maps["p"] = maps[[f"prob_{p}" for p in PATTERNS]].max(axis=1)
    best = maps.groupby(["kind", "layer", "head", "label"])["p"].max()
    (view,) = page.data["views"]
    sure = [one for one in view["maps"] if SURE in one["why"]]
    assert len(sure) == len(best)
    short = max(len(one["tokens"]) for one in page.data["inputs"]) <= SIDE
    for one in sure:
        place = one["kind"], one["layer"], one["head"], PATTERNS[one["pattern"]].value
        assert not short or max(one["probabilities"]) == pytest.approx(best[place], abs=1e-4)
    assert {DRAWN, UNSURE} <= {role for one in view["maps"] for role in one["why"]}


def test_every_head_is_a_cell_and_a_row(page: Page) -> None:
    cells = [a for tag, a in page.elements if tag == "button" and "cell" in (a.get("class") or "").split()]
    assert len(cells) == 2 * 72
    assert all("layer " in (a["aria-label"] or "") for a in cells)
    rows = sum(tag == "tr" for tag, _ in page.elements)
    assert rows > 144


def test_the_commands_repeat_the_run_and_send_maps_to_annotation(page: Page, minilm_folder: str) -> None:
    commands = [text for tag, text in page.texts if tag == "code"]
    estimate, annotate, repeat = commands
    for words in (f"--model {minilm_folder}", "--task qqp", "--examples 6", "--data "):
        assert all(words in command for command in commands)
    assert annotate.startswith("annotate-maps sample ")
    assert "--strategy uncertain-diverse" in annotate
    assert estimate.startswith("annotate-maps sample ")
    assert "--strategy random --count 120" in estimate  # sixty of each kind
    assert repeat.startswith("classify-heads ")


def test_text_from_data_is_shown_and_never_markup(
    tiny_bert: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    class Malicious:
        """A tokenizer one of whose words is a script."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_tokenizer, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tiny_tokenizer(*args, **kwargs)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            tokens = tiny_tokenizer.convert_ids_to_tokens(ids)
            return [tokens[0], EVIL, *tokens[2:]]

    maps = ExampleMaps()
    rows = [("the film was long", "so good"), ("bad plot and bad film", None)]
    patterns = classify_heads(tiny_bert, Malicious(), rows, examples=maps)
    path = tmp_path / "report.html"
    texts = {"title": EVIL, "about": EVIL, "command": EVIL, "provenance": {EVIL: EVIL}, "warnings": [EVIL]}
    view = HeadsView("", patterns, maps, annotate=EVIL)
    write_report(path, [view], findings=[EVIL], facts=[(EVIL, EVIL)], **texts)
    html = path.read_text(encoding="utf-8")
    assert EVIL not in html
    page = Page(html)
    assert EVIL in [token for one in page.data["inputs"] for token in one["tokens"]]
    assert sum(EVIL in text for _, text in page.texts) >= 8  # as text: the parser saw no element in it


def test_a_table_keeps_its_values_and_escapes_its_texts(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"name": ["a<b", None], "share": [0.12345678, np.nan], "n": [3, 4], "ok": [True, False]}
    )
    table = TableBlock.of(frame, "some", "Some <numbers>", shares=["share"])
    assert [cell.text for cell in table.rows[0]] == ["a<b", "12.3%", "3", "yes"]
    assert table.rows[0][1].value == 0.12345678
    assert table.rows[1][1].text == "–"
    assert [numeric for _, _, numeric in table.columns] == [False, True, True, False]


def test_batches_do_not_change_which_maps_are_kept(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    rng = np.random.default_rng(1)
    rows = [(" ".join(rng.choice(WORDS, rng.integers(3, 15))), "so good") for _ in range(20)]

    def kept(size: int) -> list[Any]:
        maps = ExampleMaps(unsure=5)
        classify_heads(tiny_bert, tiny_tokenizer, rows, batch_size=size, examples=maps)
        return [
            (one.kind, one.layer, one.head, one.pattern, one.input.example, sorted(why))
            for one, why in maps.of_heads()
        ]

    assert kept(3) == kept(20)
    assert sum(UNSURE in why for *_, why in kept(20)) == 2 * 5


def test_looking_does_not_change_what_is_found(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    rows = [("the film was long", "so good"), ("bad plot and bad film", None)]
    plain = classify_heads(tiny_bert, tiny_tokenizer, rows)
    looked = classify_heads(tiny_bert, tiny_tokenizer, rows, examples=ExampleMaps())
    for kind in plain.kinds:
        np.testing.assert_array_equal(plain.probabilities[kind], looked.probabilities[kind])


def test_survivors_are_set_apart_and_others_stay_in_sight(minilm_folder: str, tmp_path: Path) -> None:
    heads = np.zeros((6, 12), dtype=bool)
    heads[2, 3:6] = True
    Subnetwork(heads, np.ones(6, dtype=bool)).save(tmp_path / "s.safetensors")
    job = ClassifyHeads(
        model=minilm_folder, task="qqp", data=str(EXAMPLES), examples=2, device="cpu",
        output=tmp_path / "out", subnetwork=str(tmp_path / "s.safetensors"),
    )  # fmt: skip
    job.run()
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    shown = pd.DataFrame(page.data["views"][0]["heads"])
    assert len(shown) == 144
    assert set(map(tuple, shown.loc[shown["survives"], ["layer", "head"]].to_numpy())) == {
        (2, 3),
        (2, 4),
        (2, 5),
    }
    frame = pd.read_parquet(tmp_path / "out" / "heads.parquet")
    both = frame.merge(shown, on=["kind", "layer", "head"], suffixes=("", "_shown"))
    assert (both["dominant"] == both["dominant_shown"]).all()
    assert len(both) == 6
    outlined = [a for _, a in page.elements if "survives" in (a.get("class") or "").split()]
    assert len(outlined) == 6
    assert "Full model and subnetwork" in [text for tag, text in page.texts if tag == "h2"]


def test_a_large_model_is_shown_more_coarsely(tiny_bert: Any, tiny_tokenizer: Any, monkeypatch: Any) -> None:
    from patterns.report import heads as report

    maps = ExampleMaps()
    rows = [(" ".join(["good film"] * 9), None), ("the plot was rather long", None)]
    patterns = classify_heads(tiny_bert, tiny_tokenizer, rows, examples=maps)
    fine = page_data([HeadsView("", patterns, maps)])
    monkeypatch.setattr(report, "_MAPS_BYTES", 1)
    coarse = page_data([HeadsView("", patterns, maps)])
    assert max(one["side"] for one in fine["views"][0]["maps"]) == 20
    assert max(one["side"] for one in coarse["views"][0]["maps"]) == 16
    assert len(coarse["blob"]) < len(fine["blob"])


def test_a_report_needs_no_heads(tmp_path: Path) -> None:
    from models.common.pages import Section

    table = TableBlock.of(pd.DataFrame({"a": [1]}), "a", "A")
    write_page(
        tmp_path / "r.html", title="T", about="A", sections=[Section("S", ("words",), tables=(table,))],
        provenance={"packages": {"x": 1}, "models": [{"name": "m"}], "none": None}, command="run",
    )  # fmt: skip
    page = Page((tmp_path / "r.html").read_text())
    assert [text for tag, text in page.texts if tag == "dt"] == ["packages, x", "models 1, name"]
