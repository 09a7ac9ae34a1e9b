"""On a GPU everything gives what the CPU gives. TF32 is off, as PyTorch has it by default for matrix products."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import write_rows

from models import FineTuning, Subnetwork, anatomy_of, compact, finetune, gated, load_checkpoint, observe
from models.tasks.rows import load_rows
from models.tasks.task import task_named
from patterns import Pattern, attention_maps, classify_heads, load_classifier
from patterns.cli import classify_heads as classify_command
from pruning import head_importance
from pruning.cli import prune_heads, prune_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SST2 = task_named("sst2")
EXACT = {"rtol": 1e-4, "atol": 1e-4}
"""Of float32 on both; sums are taken in another order."""
HALF = {torch.bfloat16: 0.2, torch.float16: 0.03}
"""Of probabilities, against float32: what the precision itself moves on tiny models with large random weights."""
TEXTS = [
    ("How do swifts sleep?", "Do swifts sleep while flying?"),
    ("Why is the sea salty?", "Where does the salt of the sea come from, and why does it stay?"),
    ("What is a glacier made of?", None),
    ("Is it far?", "No."),
]


def moved(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.cuda() for name, values in batch.items()}


def half_of(model: Any) -> Subnetwork:
    anatomy = anatomy_of(model)
    heads = np.random.default_rng(1).random((anatomy.n_layers, anatomy.n_heads)) < 0.5
    heads[0] = False
    mlps = np.arange(anatomy.n_layers) % 2 == 0
    return Subnetwork(heads, mlps)


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).last_hidden_state[batch["attention_mask"].bool()].float().cpu()


def test_maps_are_those_of_the_cpu(tiny: Any, ragged_batch: Any) -> None:
    model = tiny.build()
    there = attention_maps(model, ragged_batch)
    here = attention_maps(copy.deepcopy(model).cuda(), moved(ragged_batch))
    assert [one[:2] for one in here] == [one[:2] for one in there]
    for (*_, maps, _), (*_, wanted, _) in zip(here, there, strict=True):
        assert maps.device.type == "cuda"
        torch.testing.assert_close(maps.cpu(), wanted, **EXACT)


@pytest.mark.parametrize("precision", HALF, ids=str)
def test_probabilities_of_a_model_in_half_precision_are_float32_and_near(
    tiny: Any, ragged_batch: Any, precision: torch.dtype
) -> None:
    model = tiny.build()
    there = attention_maps(model, ragged_batch)
    here = attention_maps(copy.deepcopy(model).to("cuda", precision), moved(ragged_batch))
    for (_, kind, maps, lengths), (*_, wanted, _) in zip(here, there, strict=True):
        assert maps.dtype == torch.float32
        assert bool(maps.isfinite().all())
        if kind == "raw":
            for one, n in zip(maps, lengths.tolist(), strict=True):
                torch.testing.assert_close(one[:, :n, :n].sum(-1).cpu(), torch.ones(one.shape[0], n))
            assert float((maps.cpu() - wanted).abs().mean()) < HALF[precision]


def test_gates_are_those_of_the_cpu_and_may_lie_there(tiny: Any, ragged_batch: Any) -> None:
    model = tiny.build()
    anatomy = anatomy_of(model)
    generator = torch.Generator().manual_seed(2)
    heads = torch.rand(4, anatomy.n_layers, anatomy.n_heads, generator=generator)
    mlps = torch.rand(anatomy.n_layers, generator=generator)
    other = copy.deepcopy(model).cuda()
    with gated(model, heads, mlps):
        expected = hidden(model, ragged_batch)
    with gated(other, heads, mlps):
        torch.testing.assert_close(hidden(other, moved(ragged_batch)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, *HALF], ids=str)
def test_a_compacted_model_is_the_gated_one(tiny: Any, ragged_batch: Any, precision: torch.dtype) -> None:
    model = tiny.build().to("cuda", precision)
    kept, batch = half_of(model), moved(ragged_batch)
    small = compact(model, kept, unshare=True)
    assert {p.device.type for p in small.parameters()} == {"cuda"}
    assert {p.dtype for p in small.parameters()} == {precision}
    with gated(model, kept.heads, kept.mlps):
        expected = hidden(model, batch)
    found = hidden(small, batch)
    if precision == torch.float32:
        torch.testing.assert_close(found, expected, **EXACT)
    else:
        assert float((found - expected).abs().mean()) < HALF[precision]
    with observe(small, lambda *_: None):
        watched = hidden(small, batch)
    assert float((watched - found).abs().mean()) < (1e-4 if precision == torch.float32 else HALF[precision])


def test_importance_is_that_of_the_cpu(all_tiny: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    for name, tiny in all_tiny.items():
        torch.manual_seed(5)
        config = copy.deepcopy(tiny.config)
        config.pad_token_id = 0
        model = AutoModelForSequenceClassification.from_config(config).eval()
        ids = torch.randint(5, 60, (6, 9), generator=torch.Generator().manual_seed(3))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(6) % 2}
        there = head_importance(model, [batch])
        here = head_importance(model.cuda(), [moved(batch)])
        np.testing.assert_allclose(here.heads, there.heads, rtol=1e-3, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(here.mlps, there.mlps, rtol=1e-3, atol=1e-6, err_msg=name)
        assert here.loss == pytest.approx(there.loss, rel=1e-4)


def test_a_real_model_is_classified_as_on_the_cpu(minilm_folder: str) -> None:
    found = {}
    for device in ("cpu", "cuda:0"):
        checkpoint = load_checkpoint(minilm_folder, device=device)
        found[device] = classify_heads(checkpoint.model, checkpoint.tokenizer, TEXTS)
    for kind in ("raw", "norm"):
        np.testing.assert_allclose(
            found["cuda:0"].probabilities[kind], found["cpu"].probabilities[kind], atol=2e-3
        )
        same = found["cuda:0"].labels[kind] == found["cpu"].labels[kind]
        assert same.mean() > 0.995  # a map between two patterns may fall to the other side


def test_maps_are_classified_as_on_the_cpu() -> None:
    maps = [m / m.sum(1, keepdims=True) for m in np.random.default_rng(0).random((40, 23, 23)) ** 8]
    for kind in ("raw", "norm"):
        classifier = load_classifier(kind)
        expected = classifier.predict_proba(maps)
        assert set(classifier.predict(maps)) <= set(Pattern)
        np.testing.assert_allclose(classifier.to("cuda").predict_proba(maps), expected, atol=1e-3)


class TestCommands:
    @pytest.fixture
    def tuned(self, save_tiny: Any, tmp_path: Path) -> dict[str, Path]:
        """The same model fine-tuned on either device, without dropout, whose draws differ."""
        data = write_rows(tmp_path / "data", "sst2")
        base = save_tiny(
            fresh=True, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        how = FineTuning(epochs=6, learning_rate=3e-3, batch_size=16, seed=1)
        found = {"data": data}
        for device in ("cpu", "cuda"):
            rows = [load_rows(SST2, data, split) for split in ("train", "validation")]
            finetune(str(base), SST2, *rows, how, tmp_path / device, device=device)
            found[device] = tmp_path / device
        return found

    def test_fine_tuning_goes_as_on_the_cpu(self, tuned: dict[str, Path]) -> None:
        there, here = (json.loads((tuned[d] / "metrics.json").read_text()) for d in ("cpu", "cuda"))
        losses = [[epoch["loss"] for epoch in found["training"]["history"]] for found in (there, here)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=0.02, atol=2e-3)
        assert here["score"] == there["score"] == 1.0
        assert here["provenance"]["device"] == "cuda"

    @pytest.mark.parametrize("precision", ["bf16"])
    def test_fine_tuning_in_bfloat16_learns(
        self, tuned: dict[str, Path], tmp_path: Path, precision: str
    ) -> None:
        rows = [load_rows(SST2, tuned["data"], split) for split in ("train", "validation")]
        how = FineTuning(epochs=6, learning_rate=3e-3, batch_size=16, seed=1, precision=precision)
        result = finetune(
            str(tuned["cpu"]), SST2, *rows, replace(how, epochs=1), tmp_path / "bf16", device="cuda"
        )
        assert result["score"] > 0.9

    def test_searches_find_what_they_find_on_the_cpu(
        self, tuned: dict[str, Path], tmp_path: Path, run_command: Any
    ) -> None:
        for main in (prune_heads, prune_weights):
            histories = []
            for device in ("cpu", "cuda:0"):
                out = tmp_path / f"{main.__name__}-{device[:4]}"
                code, _, err = run_command(
                    main, "--model", tuned["cpu"], "--task", "sst2", "--data", tuned["data"],
                    "--output", out, "--device", device,
                )  # fmt: skip
                assert code == 0, err
                history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
                for step in history:
                    step.pop("seconds")
                    step.pop("loss", None)
                histories.append(history)
            assert len(histories[0]) == len(histories[1]) > 2
            for step, other in zip(*histories, strict=True):
                assert step.keys() == other.keys()
                for name, value in step.items():
                    near = pytest.approx(value, rel=1e-3) if isinstance(value, float) else value
                    assert other[name] == near, (name, step)

    def test_heads_are_classified_with_the_same_tables(
        self, tuned: dict[str, Path], tmp_path: Path, run_command: Any
    ) -> None:
        tables = []
        for device in ("cpu", "cuda:0"):
            out = tmp_path / f"heads-{device[:4]}"
            code, _, err = run_command(
                classify_command, "--model", tuned["cpu"], "--task", "sst2", "--data", tuned["data"],
                "--output", out, "--device", device, "--examples", 16,
            )  # fmt: skip
            assert code == 0, err
            tables.append(pd.read_parquet(out / "maps.parquet"))
        assert (tables[0]["label"] == tables[1]["label"]).mean() > 0.99

    def test_a_device_that_is_not_there_is_named(self, tuned: dict[str, Path], run_command: Any) -> None:
        there = torch.cuda.device_count()
        code, _, err = run_command(
            classify_command, "--model", tuned["cpu"], "--task", "sst2", "--data", tuned["data"],
            "--device", f"cuda:{there}",
        )  # fmt: skip
        assert code == 2
        assert f"--device cuda:{there} is not available" in err

    def test_a_batch_too_large_for_the_memory_is_one_sentence(
        self, save_tiny: Any, tmp_path: Path, run_command: Any
    ) -> None:
        data = write_rows(tmp_path / "many", "sst2", dev=4000)
        model = save_tiny(labels=["negative", "positive"])
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 24 * 2**20) / total)
        try:
            for main in (classify_command, prune_heads):
                out = tmp_path / main.__name__
                code, _, err = run_command(
                    main, "--model", model, "--task", "sst2", "--data", data, "--device", "cuda",
                    "--batch-size", 4000, "--output", out, *(("--examples", 4000) if main is classify_command else ()),
                )  # fmt: skip
                assert code == 2
                assert "Memory ran out" in err
                assert "--batch-size" in err
                assert "Traceback" not in err
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
