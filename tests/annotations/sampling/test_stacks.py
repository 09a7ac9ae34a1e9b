"""Samples of a decoder's maps, and of maps in another precision: what they hold, and whom labels of them serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conformance import FAMILIES, build
from tiny import WORDS

from annotations import AnnotatedMaps, sample_maps
from annotations.cli import app
from annotations.dataset import add_annotations
from models import InputError, load_checkpoint
from patterns import attention_maps
from patterns.job import ClassifyHeads

BY_TYPE = {family.model_type: family for family in FAMILIES}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(5, 9))) for _ in range(8)))
    return path


@pytest.fixture(params=["bart", "t5"])
def options(request: pytest.FixtureRequest, texts: Path, tiny_tokenizer: Any) -> dict[str, Any]:
    """Of a run on an encoder-decoder."""
    folder = texts.parent / request.param
    build(BY_TYPE[request.param]).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return {"model": str(folder), "text": texts, "device": "cpu", "examples": 8}


def label_all(folder: Path) -> None:
    rows = AnnotatedMaps.load(folder).rows
    labels = ["vertical" if i % 5 == 0 else "heterogeneous" for i in range(len(rows))]
    add_annotations(
        folder,
        pd.DataFrame(
            {"id": one.id, "annotator": "ann", "label": label}
            for one, label in zip(rows, labels, strict=True)
        ),
    )


def test_a_sample_of_a_decoder_is_of_its_maps(options: dict[str, Any], tmp_path: Path) -> None:
    sample_maps(**options, task=None, stack="decoder", count=30, output=tmp_path / "sample")
    checkpoint = load_checkpoint(options["model"])
    lines = options["text"].read_text().splitlines()
    start = checkpoint.tokenizer.convert_ids_to_tokens(checkpoint.model.config.decoder_start_token_id)
    tokens = pd.read_parquet(tmp_path / "sample" / "texts.parquet").set_index("id")["tokens"]
    for row in AnnotatedMaps.load(tmp_path / "sample").rows:
        batch = checkpoint.tokenizer(lines[row.example], return_tensors="pt")
        found = attention_maps(checkpoint.model, batch, (row.kind,), (row.layer,), stack="decoder")
        np.testing.assert_allclose(row.map, found[0][2][0, row.head].numpy(), rtol=1e-3, atol=1e-3)
        assert len(tokens[row.id]) == row.n_tokens == batch["input_ids"].shape[1]
        assert tokens[row.id][0].strip("[]") == start.strip("[]")
    said = json.loads((tmp_path / "sample" / "sample.json").read_text())
    assert (said["stack"], said["dtype"]) == ("decoder", "float32")


@pytest.mark.parametrize("options", ["bart"], indirect=True)
def test_labels_are_for_maps_of_the_same_stack(options: dict[str, Any], tmp_path: Path) -> None:
    sample_maps(**options, task=None, stack="decoder", count=30, output=tmp_path / "sample")
    label_all(tmp_path / "sample")
    options["annotations"] = tmp_path / "sample"
    with pytest.raises(InputError, match="was sampled with --stack decoder, not encoder, which has other"):
        ClassifyHeads(**options).run()
    done = ClassifyHeads(**options, stack="decoder", output=tmp_path / "out").run()
    assert done.patterns.estimates["raw"].labels == 15
    assert done.summary["to_estimate"] is None
    told = json.loads((tmp_path / "sample" / "sample.json").read_text())
    del told["stack"]  # as samples were before there were others
    (tmp_path / "sample" / "sample.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="with --stack encoder, not decoder"):
        ClassifyHeads(**options, stack="decoder").run()


@pytest.mark.parametrize("options", ["bart"], indirect=True)
def test_maps_of_one_stack_never_have_an_id_of_anothers(options: dict[str, Any], tmp_path: Path) -> None:
    ids = {}
    for stack in ("encoder", "decoder"):
        ClassifyHeads(**options, stack=stack, output=tmp_path / stack, save_maps=True).run()
        files = (tmp_path / stack / "maps").glob("maps-*")
        ids[stack] = {id for path in files for id in pd.read_parquet(path)["id"]}
    assert len(ids["encoder"]) == len(ids["decoder"]) == 8 * 12 * 2
    assert not ids["encoder"] & ids["decoder"]
    sample_maps(**options, task=None, stack="decoder", count=12, output=tmp_path / "sample")
    assert {row.id for row in AnnotatedMaps.load(tmp_path / "sample").rows} <= ids["decoder"]


@pytest.mark.parametrize("options", ["bart"], indirect=True)
def test_the_page_begins_a_sample_of_the_same_maps(options: dict[str, Any], tmp_path: Path) -> None:
    done = ClassifyHeads(**options, stack="decoder", dtype="bfloat16", output=tmp_path / "out").run()
    begin = done.summary["to_estimate"]
    assert begin is not None
    assert "--dtype bfloat16" in begin
    assert "--stack decoder" in begin
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        page.count("--stack decoder") >= 3
    )  # what begins an estimate, what samples hard maps, what repeats the run


class TestPrecision:
    @pytest.fixture
    def options(self, texts: Path, save_tiny: Any) -> dict[str, Any]:
        return {"model": str(save_tiny("bert")), "text": texts, "device": "cpu", "examples": 8}

    def test_a_sample_in_bfloat16_is_of_its_maps_and_for_them(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        folder = tmp_path / "sample"
        report = sample_maps(**options, task=None, dtype="bfloat16", batch_size=1, count=30, output=folder)
        assert report["dtype"] == "bfloat16"
        assert "stack" not in report
        label_all(folder)
        model = load_checkpoint(options["model"], dtype="bfloat16")
        whole = load_checkpoint(options["model"])
        lines = options["text"].read_text().splitlines()
        apart = []
        for row in AnnotatedMaps.load(folder).rows:
            batch = model.tokenizer(lines[row.example], return_tensors="pt")
            mine, other = (
                attention_maps(one.model, batch, (row.kind,))[row.layer][2][0, row.head].numpy()
                for one in (model, whole)
            )
            np.testing.assert_allclose(row.map, mine, rtol=6e-4, atol=1e-6)  # float16
            apart.append(np.abs(row.map - other).max())
        assert np.median(apart) > 2e-3
        options["annotations"] = folder
        with pytest.raises(InputError, match="was sampled with --dtype bfloat16, not float32, which has"):
            ClassifyHeads(**options).run()
        assert ClassifyHeads(**options, dtype="bfloat16").run().patterns.estimates["norm"].labels == 15

    def test_a_sample_that_says_nothing_is_of_float32(self, options: dict[str, Any], tmp_path: Path) -> None:
        sample_maps(**options, task=None, count=30, output=tmp_path / "sample")
        label_all(tmp_path / "sample")
        told = json.loads((tmp_path / "sample" / "sample.json").read_text())
        assert told.pop("dtype") == "float32"
        (tmp_path / "sample" / "sample.json").write_text(json.dumps(told))
        options["annotations"] = tmp_path / "sample"
        assert ClassifyHeads(**options).run().patterns.estimates["raw"].labels == 15
        with pytest.raises(InputError, match="with --dtype float32, not bfloat16"):
            ClassifyHeads(**options, dtype="bfloat16").run()
        (tmp_path / "sample" / "sample.json").write_text(json.dumps(told | {"dtype": 32}))
        with pytest.raises(InputError, match=r"sample\.json: 'dtype' is 32; it should be text"):
            ClassifyHeads(**options).run()

    def test_a_model_that_accelerate_placed_gives_the_same_sample(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        sample_maps(**options, task=None, count=10, output=tmp_path / "one")
        options["device"] = "auto"
        sample_maps(**options, task=None, count=10, device_map="auto", output=tmp_path / "two")
        one, two = (AnnotatedMaps.load(tmp_path / name).rows for name in ("one", "two"))
        assert [row.id for row in one] == [row.id for row in two]
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a.map, b.map, atol=1e-4)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--dtype", "half"), "--dtype half: give one of float32, bfloat16, float16, auto."),
            (("--device-map", "cuda"), "--device-map cuda: give auto, or leave it out."),
            (("--device", "cpu", "--device-map", "auto"), "--device cpu --device-map auto: the map chooses"),
            (("--stack", "both"), "--stack both: give one of encoder, decoder, cross."),
            (("--stack", "cross"), "so there is none to label; give encoder or decoder."),
            (("--stack", "decoder"), "--stack decoder: a BERT model has none to choose from."),
        ],
    )
    def test_what_there_is_not_is_refused(
        self, run_command: Any, options: dict[str, Any], tmp_path: Path, words: tuple[str, ...], message: str
    ) -> None:
        given = ("--model", options["model"], "--text", options["text"], "--output", tmp_path / "out")
        code, out, said = run_command(app, "sample", *given, *words)
        assert (code, out) == (2, "")
        assert message in " ".join(said.split())
        assert not (tmp_path / "out").exists()
