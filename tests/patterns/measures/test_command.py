"""``classify-heads --measure``: columns, terminal, summary and report."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from patterns import classify_checkpoint, cli
from patterns.measures.measured import ROLES
from patterns.measures.pairs import CONTENT, MEASURES
from patterns.measures.words import ROLE_TITLES, sentences

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def done(minilm_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("measured") / "out"
    options = {"data": EXAMPLES, "examples": 8, "device": "cpu"}
    return classify_checkpoint(minilm_folder, "qqp", measure=True, output=output, **options), output


def test_measurements_are_columns_of_the_table_of_heads(done: Any) -> None:
    result, output = done
    table = pd.read_parquet(output / "heads.parquet")
    pd.testing.assert_frame_equal(table, result.patterns.to_frame())
    measured = result.patterns.measurements()
    pd.testing.assert_frame_equal(table[measured.columns], measured)
    assert len(table) == 2 * 72
    for name in MEASURES:
        assert table[f"share_{name}"].dropna().between(0, 1).all()
        assert table[f"chance_{name}"].dropna().between(0, 1).all()
    offsets = table.filter(like="offset_")
    np.testing.assert_allclose(offsets.sum(axis=1), 1, atol=1e-5)


def test_formats_tells_every_column(done: Any) -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    part = text[text.index("### Measurements of heads") : text.index("### `maps.parquet`")]
    told = {
        name.replace("<m>", measure).replace("<c>", content).replace("<o>", str(offset))
        for cell in re.findall(r"^\| (`.+?`) \|", part, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", cell)
        for measure in (MEASURES if "<m>" in name else [""])
        for content in (CONTENT if "<c>" in name else [""])
        for offset in (range(-8, 9) if "<o>" in name else [""])
    }
    assert set(done[0].patterns.measurements()) - {"kind", "layer", "head"} == told


def test_the_summary_names_the_heads_of_each_role(done: Any) -> None:
    result, output = done
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    table = result.patterns.measurements()
    for kind in ("raw", "norm"):
        heads = summary["roles"]["heads"][kind]
        assert list(heads) == list(ROLES)
        for role, places in heads.items():
            some = table[
                (table["kind"] == kind) & table["roles"].map(lambda of, role=role: role in of.split(", "))
            ]
            assert places == some[["layer", "head"]].to_numpy().tolist()
    assert any(summary["roles"]["heads"]["raw"].values())


def test_the_terminal_shows_roles_only_when_asked(run_command: Any, minilm_folder: str) -> None:
    run = partial(run_command, cli.classify_heads)
    options = [
        "--model",
        minilm_folder,
        "--task",
        "qqp",
        "--data",
        EXAMPLES,
        "--examples",
        "6",
        "--device",
        "cpu",
    ]
    code, out, _ = run(*options, "--maps", "raw", "--measure")
    assert code == 0
    assert "raw maps: what heads do (layer.head)" in out
    assert "none of these" in out
    assert "Chance is even attention" in out
    code, out, _ = run(*options, "--maps", "raw")
    assert code == 0
    assert "what heads do" not in out


def test_the_report_says_what_each_head_does(done: Any) -> None:
    result, output = done
    html = (output / "report.html").read_text(encoding="utf-8")
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    )  # type: ignore[index]
    table = result.patterns.measurements().set_index(["kind", "layer", "head"])
    heads = data["views"][0]["heads"]
    assert len(heads) == len(table)
    for head in heads:
        row = table.loc[(head["kind"], head["layer"], head["head"])]
        assert head["measured"]["share_previous"] == pytest.approx(row["share_previous"], abs=1e-4)
        assert head["said"] == sentences(row.to_dict())
        assert head["said"][-1].startswith("Writes ")
    assert '<option value="share_induction">after a copy</option>' in html
    assert "have a role, each all that it passes" in html
    assert len(html) < 2_000_000


def test_a_report_without_measurements_says_nothing_of_them(minilm_folder: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    classify_checkpoint(minilm_folder, "qqp", data=EXAMPLES, examples=4, device="cpu", output=output)
    html = (output / "report.html").read_text(encoding="utf-8")
    assert 'id="colour"' not in html
    assert "have a role" not in html
    assert "roles" not in json.loads((output / "summary.json").read_text(encoding="utf-8"))


def test_heads_are_told_of_in_plain_words() -> None:
    row: dict[str, Any] = {f"share_{name}": 0.1 for name in MEASURES} | {
        f"chance_{name}": 0.05 for name in MEASURES
    }
    row |= {f"permuted_{name}": 0.09 for name in CONTENT}
    row |= {"roles": "previous, duplicate", "attention_entropy": 0.4, "writes": 0.123}
    row |= {"share_previous": 0.71, "chance_previous": 0.03, "share_duplicate": 0.5}
    assert sentences(row) == [
        "Puts 71.0% of its attention on the previous token, 3.0% by chance.",
        "Puts 50.0% of its attention on earlier copies of the same token, 9.0% by chance.",
        "Writes 12.3% of the norm of the residual stream.",
    ]
    assert sentences(row | {"roles": "even, inactive", "attention_entropy": 0.97, "writes": 0.004}) == [
        "Attends to all alike: 97.0% of the largest entropy.",
        "Writes next to nothing, 0.4% of the norm of the residual stream.",
    ]
    without = sentences(row | {"roles": "", "share_previous": 0.2, "share_duplicate": 0.1})
    assert (
        without[0]
        == "Has no role; nearest: puts 20.0% of its attention on the previous token, 3.0% by chance."
    )
    assert set(ROLE_TITLES) == set(ROLES)
