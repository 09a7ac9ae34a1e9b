"""Cross-attention is measured as a slow definition says, whatever the batch, and nothing of it is called a pattern."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from conformance import FAMILIES, build
from tiny import WORDS

from models import InputError, TapError, UnsupportedModelError, load_checkpoint
from patterns import attention_maps, measure_cross_attention
from patterns.cli import classify_heads as command
from patterns.cross.attention import SIDE, CrossAttention, cross_attention
from patterns.cross.measures import MEASURES, Source, sums
from patterns.taxonomy import PATTERNS

BY_TYPE = {family.model_type: family for family in FAMILIES}
ROOT = Path(__file__).parents[3]


def slow(values: npt.NDArray[np.float64], special: list[bool]) -> dict[str, float]:
    """What is measured of one map without padding, row by row."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for row in values:
        shares = [float(value) / float(row.sum()) for value in row]
        found["entropy"].append(-sum(p * math.log(p) for p in shares if p) / math.log(len(shares)))
        found["largest"].append(max(shares))
        found["first"].append(shares[0])
        found["last"].append(shares[-1])
        found["special"].append(sum(p for p, is_special in zip(shares, special, strict=True) if is_special))
    return {name: float(np.mean(each)) for name, each in found.items()}


class TestMeasures:
    def test_they_are_what_the_slow_definition_says_with_padding_and_more_columns_than_rows(self) -> None:
        rng = np.random.default_rng(0)
        maps = rng.random((3, 2, 4, 7)) ** 3
        n, m = [4, 2, 3], [7, 5, 2]
        special = rng.random((3, 7)) < 0.4
        for b in range(3):
            maps[b, :, :, m[b] :] = 0
        rows = torch.arange(4) < torch.tensor(n)[:, None]
        found = sums(torch.tensor(maps), rows, Source(torch.tensor(m), torch.tensor(special)))
        for b in range(3):
            for h in range(2):
                expected = slow(maps[b, h, : n[b], : m[b]], special[b, : m[b]].tolist())
                assert dict(zip(MEASURES, (found[b, h] / n[b]).tolist(), strict=True)) == pytest.approx(
                    expected
                )

    def test_the_ends_of_their_scale(self) -> None:
        even, one = torch.full((1, 1, 3, 5), 0.2), torch.zeros(1, 1, 3, 5)
        one[..., 4] = 7.0  # of a norm map: rows sum to anything
        source = Source(torch.tensor([5]), torch.tensor([[True, False, False, False, True]]))
        rows = torch.ones(1, 3, dtype=torch.bool)
        names = tuple(MEASURES)
        assert dict(zip(names, (sums(even, rows, source)[0, 0] / 3).tolist(), strict=True)) == pytest.approx(
            {"entropy": 1, "largest": 0.2, "first": 0.2, "last": 0.2, "special": 0.4}
        )
        assert dict(zip(names, (sums(one, rows, source)[0, 0] / 3).tolist(), strict=True)) == pytest.approx(
            {"entropy": 0, "largest": 1, "first": 0, "last": 1, "special": 1}
        )


@pytest.fixture(params=["bart", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny_tokenizer: Any) -> Path:
    build(BY_TYPE[request.param]).save_pretrained(tmp_path / request.param)
    tiny_tokenizer.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def bart(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    build(BY_TYPE["bart"]).save_pretrained(tmp_path / "bart")
    tiny_tokenizer.save_pretrained(tmp_path / "bart")
    return tmp_path / "bart"


def lines() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(6)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(lines()))
    return tmp_path / "texts.txt"


def looked_at(folder: Path, **options: Any) -> CrossAttention:
    loaded = load_checkpoint(str(folder))
    return cross_attention(loaded.model, loaded.tokenizer, [(line, None) for line in lines()], **options)


def test_every_head_is_measured_on_its_own_maps(folder: Path) -> None:
    loaded = load_checkpoint(str(folder))
    found = looked_at(folder, batch_size=4)
    assert found.kinds == ("raw", "norm")
    assert found.shape == (3, 4)
    shown = {kind: np.zeros((3, 4, SIDE, SIDE)) for kind in found.kinds}
    for place, line in enumerate(lines()):
        batch = loaded.tokenizer(line, return_tensors="pt")
        special = [i in (0, 1, 2) for i in batch["input_ids"][0].tolist()]  # [UNK] is a word
        for layer, kind, maps, _ in attention_maps(loaded.model, batch, stack="cross"):
            for head, values in enumerate(maps[0].double().numpy()):
                expected = slow(values, special)
                measured = dict(zip(MEASURES, found.measured[kind][place, layer, head].tolist(), strict=True))
                assert measured == pytest.approx(expected, abs=2e-4)
                cells = np.kron(values, np.ones((SIDE, SIDE)))  # each cell of the image is a mean of these
                n, m = values.shape
                image = cells.reshape(SIDE, n, SIDE, m).mean(axis=(1, 3))
                shown[kind][layer, head] += image / image.sum() / len(lines())
    for kind, images in shown.items():
        np.testing.assert_allclose(found.mean_maps[kind], images, atol=2e-4)


def test_blocks_and_batches_do_not_change_what_is_measured(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = looked_at(bart)
    single = looked_at(bart, batch_size=1)
    monkeypatch.setattr("models.tap._WHOLE", 1)
    monkeypatch.setattr("models.tap._CELLS", 1)
    monkeypatch.setattr("models.tap._LEAST_ROWS", 3)
    blocks = looked_at(bart)
    for other in (single, blocks):
        for kind in whole.kinds:
            np.testing.assert_allclose(other.measured[kind], whole.measured[kind], atol=1e-4)
            np.testing.assert_allclose(other.mean_maps[kind], whole.mean_maps[kind], atol=1e-4)


def test_a_head_that_puts_nothing_out_has_no_norm_maps_and_is_left_out(bart: Path) -> None:
    loaded = load_checkpoint(str(bart))
    with torch.no_grad():
        values = loaded.model.decoder.layers[1].encoder_attn.v_proj
        width = values.out_features // 4
        values.weight[:width], values.bias[:width] = 0, 0  # head 0
    found = cross_attention(loaded.model, loaded.tokenizer, [(line, None) for line in lines()])
    frame = found.to_frame().set_index(["kind", "layer", "head"])
    dead = frame.loc[("norm", 1, 0)]
    assert (dead["n"], dead["count_empty"]) == (0, 6)
    assert dead[list(MEASURES)].isna().all()
    assert (frame.drop(("norm", 1, 0))["n"] == 6).all()
    assert np.isfinite(list(found.means("norm").values())).all()
    assert any("6 norm maps are zero in every cell" in one for one in found.warnings)
    found.plot("norm")


def test_broken_weights_are_told_and_not_measured(bart: Path) -> None:
    loaded = load_checkpoint(str(bart))
    with torch.no_grad():
        loaded.model.decoder.layers[2].encoder_attn.q_proj.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"6 raw maps are not finite, first layer 2, head 0 on example 0"):
        cross_attention(loaded.model, loaded.tokenizer, [(line, None) for line in lines()])


class TestCommand:
    """``classify-heads --stack cross``."""

    def test_it_measures_and_shows_and_speaks_of_no_pattern(
        self, folder: Path, texts: Path, tmp_path: Path, run_command: Any
    ) -> None:
        words = ("--model", folder, "--text", texts, "--stack", "cross", "--output", tmp_path / "out")
        code, out, err = run_command(command, *words)
        assert code == 0, err
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "summary.json", "heads.parquet", "maps.parquet", "cross_raw.png", "cross_norm.png", "report.html",
            ".headscope.json", "cross_raw.csv", "cross_norm.csv",
        }  # fmt: skip
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        heads = pd.read_parquet(tmp_path / "out" / "heads.parquet")
        maps = pd.read_parquet(tmp_path / "out" / "maps.parquet")
        assert len(heads) == 2 * 12
        assert len(maps) == 2 * 12 * 6
        means = maps.groupby(["kind", "layer", "head"])[list(MEASURES)].mean()
        found = heads.set_index(["kind", "layer", "head"])
        pd.testing.assert_frame_equal(
            means.sort_index(), found[list(MEASURES)].sort_index(), check_dtype=False, rtol=1e-5
        )
        for kind, said in summary["maps"].items():
            assert said["measured_maps"] == 72
            assert said["means"] == pytest.approx(
                maps.loc[maps["kind"] == kind, list(MEASURES)].mean().to_dict(), rel=1e-5
            )
        assert summary["stack"] == "cross"
        assert "not classified" in summary["note"]
        assert summary["provenance"]["dtype"] == "float32"
        page = (tmp_path / "out" / "report.html").read_text()
        assert html.escape(summary["note"], quote=True).replace("&#x27;", "&#39;") in page
        assert "--stack cross" in page
        assert "not the maps of a translation" in err
        assert "not classified" in out
        told = [*heads, *maps, *summary, *summary["maps"]["raw"]]
        for pattern in (*PATTERNS, "interpretable_ratio", "dominant"):
            assert not any(str(pattern) in words for words in told)

    def test_the_columns_are_those_of_the_documentation(
        self, bart: Path, texts: Path, tmp_path: Path
    ) -> None:
        done = measure_cross_attention(str(bart), text=texts, output=tmp_path / "out")
        text = (ROOT / "docs" / "formats.md").read_text()
        (part,) = re.findall(r"^## Cross-attention\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
        told = {
            name
            for cell in re.findall(r"^\| (`.+?`) \|", part, re.MULTILINE)
            for name in cell.split("`")[1::2]
        }
        frames = (pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("heads", "maps"))
        assert told == {*done.summary, *(column for frame in frames for column in frame)}

    def test_same_options_same_bytes(self, bart: Path, texts: Path, tmp_path: Path) -> None:
        for name in ("one", "two"):
            measure_cross_attention(str(bart), text=texts, output=tmp_path / name)
        for file in ("heads.parquet", "maps.parquet", "cross_raw.png", "cross_norm.png"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()

    @pytest.mark.parametrize(
        ("words", "option"),
        [
            (("--save-maps", "--output", "out"), "save-maps"),
            (("--control",), "control"),
            (("--annotations", "labelled"), "annotations"),
            (("--norm-classifier", "mine"), "norm-classifier"),
        ],
    )
    def test_what_has_no_meaning_for_them_is_refused(
        self,
        run_command: Any,
        words: tuple[str, ...],
        option: str,
        monkeypatch: pytest.MonkeyPatch,
        texts: Path,
    ) -> None:
        monkeypatch.chdir(texts.parent)
        code, out, err = run_command(
            command, "--model", "nowhere", "--text", texts, "--stack", "cross", *words
        )
        assert (code, out) == (2, "")
        assert f"--stack cross --{option}: " in err
        assert "leave it out" in err
        assert not Path("out").exists()

    def test_a_model_without_cross_attention_is_refused(self, save_tiny: Any, texts: Path) -> None:
        with pytest.raises(
            UnsupportedModelError, match="--stack cross: a BERT model has none to choose from"
        ):
            measure_cross_attention(str(save_tiny("bert")), text=texts)
        with pytest.raises(InputError, match="--stack decoder: maps of self-attention are classified"):
            measure_cross_attention("m", text=texts, stack="decoder")

    def test_no_row_with_two_tokens_is_refused(self, bart: Path) -> None:
        loaded = load_checkpoint(str(bart))
        loaded.tokenizer.backend_tokenizer.post_processor = None
        with pytest.raises((InputError, TapError), match=r"None of the 1 rows has the 2 tokens"):
            cross_attention(loaded.model, loaded.tokenizer, [("the", None)])
