"""A quantised folder as ``--model``: its maps are its own, and commands that cut or train refuse it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotations import AnnotatedMaps, sample_maps
from models import InputError, load_checkpoint
from models.checkpoints import model_record
from models.finetuning.cli import finetune_glue
from patterns import attention_maps
from patterns.cli import classify_heads
from pruning.cli import prune_heads

TEXTS = "the film was good but so long\nit really was so bad and the plot is long\n"


@pytest.fixture(params=["4", "8"])
def folder(request: pytest.FixtureRequest, all_tiny: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A tiny BERT with weights of 4 or 8 bits beside the plain one, as the library saves it."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import AutoModel, BitsAndBytesConfig

    tiny = all_tiny["bert"]
    config = copy.deepcopy(tiny.config)
    config.hidden_size, config.intermediate_size = 64, 128  # kernels for 4 bits work on blocks
    dataclasses.replace(tiny, config=config).build().save_pretrained(tmp_path / "plain")
    options: dict[str, Any] = {f"load_in_{request.param}bit": True}
    try:
        model = AutoModel.from_pretrained(
            tmp_path / "plain", quantization_config=BitsAndBytesConfig(**options)
        ).eval()
        model(input_ids=torch.tensor([[5, 6, 7]]))
    except (RuntimeError, ImportError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes {bitsandbytes.__version__} does not run here: {error}")
    model.save_pretrained(tmp_path / "bits")
    for name in ("plain", "bits"):
        tiny_tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "texts.txt").write_text(TEXTS)
    return tmp_path / "bits"


def test_its_maps_are_those_that_the_library_computes(folder: Path) -> None:
    from transformers import AutoModel

    loaded = load_checkpoint(str(folder), quantised=True)
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = loaded.tokenizer(TEXTS.split("\n")[0], return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**batch, output_attentions=True).attentions
    found = {(layer, kind): maps for layer, kind, maps, _ in attention_maps(loaded.model, batch)}
    plain = load_checkpoint(str(folder.parent / "plain"))
    others = {(layer, kind): maps for layer, kind, maps, _ in attention_maps(plain.model, batch)}
    for layer, right in enumerate(expected):
        torch.testing.assert_close(found[layer, "raw"], right, rtol=1e-3, atol=1e-3)
    moved = max(float((found[place] - others[place]).abs().max()) for place in others if place[1] == "raw")
    assert moved > 1e-3
    assert model_record(loaded)["parameters"] == model_record(plain)["parameters"]


def test_commands_that_look_take_it(folder: Path, run_command: Any, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    words = ("--model", folder, "--text", texts, "--output", tmp_path / "out")
    code, _, err = run_command(classify_heads, *words, "--device", "cpu")
    assert code == 0, err
    assert "The model's weights are quantised (Linear" in err
    assert "MatMul8bitLt" not in err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["maps"]) == {"raw", "norm"}
    sample_maps(str(folder), None, tmp_path / "sample", text=texts, count=6, device="cpu")
    assert all(np.isfinite(row.map).all() for row in AnnotatedMaps.load(tmp_path / "sample").rows)


def test_commands_that_prune_or_train_refuse_it(folder: Path, run_command: Any, tmp_path: Path) -> None:
    row = {"question1": "the film", "question2": "the plot", "label": 0}
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "validation"):
        (rows / f"{split}.jsonl").write_text("\n".join(json.dumps(row | {"label": i % 2}) for i in range(8)))
    words = ("--model", folder, "--task", "qqp", "--data", rows, "--output", tmp_path / "out")
    for command in (prune_heads, finetune_glue):
        code, out, err = run_command(command, *words)
        assert (code, out) == (2, "")
        assert "is quantized; give the model in full precision" in err
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is quantized"):
        load_checkpoint(str(folder))


def test_damaged_weights_are_still_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="bits"):
        load_checkpoint(str(folder), quantised=True)
