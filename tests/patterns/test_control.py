"""The control: the same architecture with redrawn weights, beside every ratio; and heads that put nothing out."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import InputError, Subnetwork, compact, save
from models.isolating import isolated
from models.tasks.rows import load_rows, select_rows
from models.tasks.task import task_named
from patterns import classify_heads, cli, redrawn
from patterns.job import ClassifyHeads

EXAMPLES = Path(__file__).parents[2] / "examples"


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def test_redrawn_is_the_same_architecture_and_nothing_that_was_learned(tiny: Any, minilm: Any) -> None:
    model = tiny.build()
    before, state = weights(model), torch.random.get_rng_state()
    new = redrawn(model, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    after = weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: tensor.shape for name, tensor in weights(new).items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    matrices = [name for name, tensor in before.items() if tensor.ndim > 1]
    assert matrices
    assert not any(torch.equal(weights(new)[name], before[name]) for name in matrices)
    again, other = weights(redrawn(model, seed=3)), weights(redrawn(model, seed=4))
    assert all(torch.equal(again[name], tensor) for name, tensor in weights(new).items())
    assert not all(torch.equal(other[name], tensor) for name, tensor in weights(new).items())
    assert not new.training
    with pytest.raises(InputError, match="seed=-1"):
        redrawn(model, seed=-1)


def test_redrawn_weights_are_those_of_the_configurations_initialisation(minilm: Any) -> None:
    new = redrawn(minilm.model)
    layer = new.encoder.layer[3]
    assert float(layer.attention.self.query.weight.detach().std()) == pytest.approx(
        minilm.model.config.initializer_range, rel=0.05
    )
    assert float(layer.attention.output.LayerNorm.weight.detach().std()) == 0
    assert float(layer.attention.self.query.bias.detach().abs().max()) == 0


def test_of_a_compacted_model_the_same_heads_are_left(minilm: Any) -> None:
    kept = np.random.default_rng(0).random((6, 12)) < 0.5
    kept[2] = False
    smaller = compact(minilm.model, Subnetwork(kept, np.arange(6) != 1))
    assert Subnetwork.full(redrawn(smaller)) == Subnetwork.full(smaller)


@pytest.mark.parametrize(
    "mode", ["", "gate", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("select", "compact"))]
)
def test_the_control_is_of_the_same_heads_on_the_same_rows(
    minilm: Any, tmp_path: Path, run_command: Any, mode: str
) -> None:
    words: list[Any] = ["--model", minilm.name, "--task", "qqp", "--data", EXAMPLES, "--examples", 4]
    words += ["--control", "--seed", 5, "--device", "cpu", "--maps", "norm"]
    kept = Subnetwork(np.random.default_rng(1).random((6, 12)) < 0.5, np.ones(6, dtype=bool))
    if mode:
        kept.save(tmp_path / "kept.safetensors")
        words += ["--subnetwork", tmp_path / "kept.safetensors", "--subnetwork-mode", mode]
    command = partial(run_command, cli.classify_heads)
    code, out, err = command(*words, "--output", tmp_path / "out")
    assert code == 0, err
    assert "norm, control" in out
    assert "Control: the same architecture with its weights redrawn" in " ".join(out.split())
    assert "The 95% interval covers which examples were drawn, alone." in " ".join(out.split())
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    qqp = task_named("qqp")
    drawn = select_rows(load_rows(qqp, EXAMPLES).numbered(), qqp, 4, 5)
    with isolated(redrawn(minilm.model, 5), kept, mode or "select") as new:
        expected = classify_heads(new, minilm.tokenizer, drawn, task=qqp, kinds=["norm"])
    if mode:
        expected = expected.select(kept)
    part = summary["maps"]["norm"]
    assert part["interpretable_ratio_ci95_covers"] == "which examples were drawn, alone"
    assert part["control"]["distribution"] == pytest.approx(expected.distribution("norm"))
    assert part["control"]["interpretable_ratio"] != part["interpretable_ratio"]
    assert part["control"]["classified_maps"] == part["classified_maps"]
    assert summary["control"]["seed"] == 5
    html = (tmp_path / "out/report.html").read_text()
    ratio = f"{100 * part['control']['interpretable_ratio']:.1f}%"
    assert "norm maps, control" in html or mode == "select"
    assert f"(control {ratio})" in html
    assert "covers which examples were drawn, alone" in html
    assert "--control" in html


def test_without_the_option_there_is_no_control(minilm_folder: str) -> None:
    done = ClassifyHeads(model=minilm_folder, task="qqp", data=str(EXAMPLES), examples=1, device="cpu").run()
    assert done.patterns.control is None
    assert done.summary["control"] is None
    assert done.summary["maps"]["raw"]["control"] is None


def test_a_head_that_puts_nothing_out_is_shown_as_such_everywhere(
    minilm: Any, tmp_path: Path, run_command: Any
) -> None:
    model = copy.deepcopy(minilm.model)
    with torch.no_grad():
        model.encoder.layer[2].attention.output.dense.weight[:, :32] = 0
        model.encoder.layer[4].attention.self.value.weight[32:64] = 0
        model.encoder.layer[4].attention.self.value.bias[32:64] = 0
    save(model, tmp_path / "model", tokenizer=minilm.tokenizer)
    code, out, err = run_command(
        cli.classify_heads,
        *("--model", tmp_path / "model", "--task", "qqp", "--data", EXAMPLES, "--examples", 4),
        *("--device", "cpu", "--output", tmp_path / "out"),
    )
    assert code == 0, err
    assert "0: a head whose maps are zero in every cell" in out
    assert ["maps", "of", "zeros,", "left", "out", "0", "8"] in [line.split() for line in out.splitlines()]
    assert "8 norm maps, all maps of 2 heads among them, are zero in every cell" in err
    folder = tmp_path / "out"
    part = json.loads((folder / "summary.json").read_text())["maps"]["norm"]
    assert (part["empty_maps"], part["classified_maps"]) == (8, 4 * 70)
    heads = pd.read_parquet(folder / "heads.parquet").query("kind == 'norm'").set_index(["layer", "head"])
    for place in ((2, 0), (4, 1)):
        assert heads.loc[place, "count_empty"] == 4
        assert heads.loc[place, "n"] == 0
        assert pd.isna(heads.loc[place, "dominant"])
    assert heads["count_empty"].sum() == 8
    counted = heads[[column for column in heads if column.startswith("count_") and column != "count_empty"]]
    shares = pd.read_csv(folder / "distribution.csv").query("kind == 'norm'")
    assert shares["count"].tolist() == counted.sum().tolist()
    assert shares["share"].tolist() == pytest.approx(list(part["distribution"].values()))
    assert shares["share"].sum() == pytest.approx(1)
    html = (folder / "report.html").read_text()
    assert "layer 4, head 1: all maps zero in every cell, not counted" in html
    assert "8 norm maps are zero in every cell and left out" in html
