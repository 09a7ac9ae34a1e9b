"""Fine-tuning a tiny model: it learns, the same seed gives the same weights, and nothing goes wrong silently."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import FILLERS
from torch.nn.utils import prune

from models import FineTuning, InputError, Subnetwork, finetune, load_checkpoint
from models.common.options import parse_seeds
from models.compaction import kept_of
from models.evaluation import examples_of, predict
from models.finetuning.batches import Collator, LengthGroups
from models.finetuning.cli import finetune_glue
from models.finetuning.learning_curve import learning_curve
from models.finetuning.loop import Course, train
from models.finetuning.run import score_table, summarise
from models.tasks.inputs import Encoded
from models.tasks.rows import Rows, hold_out, load_mismatched
from models.tasks.task import task_named
from models.weights import WeightMasks, load_masks, prunable_weights
from pruning.search.subject import Subject

SST2, MNLI, STSB, QQP = (task_named(name) for name in ("sst2", "mnli", "stsb", "qqp"))
QUICK = FineTuning(epochs=6, learning_rate=3e-3, batch_size=16, seed=1)
DONE = Course([{"epoch": 1.0, "step": 1, "loss": 0.5, "learning_rate": 0.0, "scores": {"accuracy": 0.5}}])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(save_tiny: Any) -> str:
    """A tiny BERT without head that learns quickly."""
    return str(save_tiny(fresh=True, initializer_range=0.1))


def sentences(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """A sentence is positive if it says good, negative if it says bad."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        words = draw.choices(FILLERS, k=draw.randint(1, 10))
        words.insert(draw.randint(0, len(words)), "good" if i % 2 else "bad")
        rows.append({"sentence": " ".join(words), "label": i % 2})
    return rows


def inferences(n: int) -> list[dict[str, Any]]:
    """good: entailment; bad: contradiction; neither: neutral."""
    draw = random.Random(3)
    said = ("good", "plot", "bad")
    return [
        {"premise": " ".join(draw.choices(FILLERS[:-1], k=3)), "hypothesis": said[i % 3], "label": i % 3}
        for i in range(n)
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


class TestLearning:
    def test_a_separable_task_is_learned_and_the_folder_is_ready_to_use(
        self, base: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        dev = sentences(40, seed=1)
        untrained = finetune(
            base,
            SST2,
            sentences(16),
            dev,
            replace(QUICK, epochs=0.1, learning_rate=1e-9),
            tmp_path / "untrained",
        )
        result = finetune(base, SST2, sentences(200), dev, QUICK, out)
        assert untrained["score"] < 0.8
        assert result["score"] == result["scores"]["accuracy"] == 1.0
        assert result["baselines"]["majority"] == {"accuracy": 0.5}
        written = json.loads((out / "metrics.json").read_text())
        assert len(written.pop("checksum")) == 64
        assert written == json.loads(json.dumps(result))
        checkpoint = load_checkpoint(str(out), task=SST2)
        assert checkpoint.model.config.id2label == {0: "negative", 1: "positive"}
        examples = examples_of(checkpoint, SST2, dev)
        assert examples.scores(predict(checkpoint.model, examples)) == result["scores"]
        history = result["training"]["history"]
        assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6]
        assert history[-1]["loss"] < history[0]["loss"] / 2
        assert history[-1]["learning_rate"] < history[0]["learning_rate"]

    def test_the_record_says_where_it_comes_from(self, save_tiny: Any, tmp_path: Path) -> None:
        base = save_tiny()
        rows = Rows(sentences(20), "there/train.jsonl", sha256="1a2b")
        result = finetune(
            str(base), "SST-2", rows, sentences(8), replace(QUICK, max_examples=12), tmp_path / "out"
        )
        assert result["task"] == "sst2"
        assert result["inputs"]["special_tokens"] == ["[CLS]", "[SEP]"]
        assert result["examples"] == {"train": 12, "dev": 8}
        assert result["provenance"]["data"]["train"]["sha256"] == "1a2b"
        assert result["provenance"]["model"]["sha256"] == load_checkpoint(str(base)).sha256
        assert result["provenance"]["threads"] == torch.get_num_threads()
        assert result["settings"]["learning_rate"] == 3e-3
        assert result["training"]["seconds"] > 0

    def test_regression_is_learned(self, base: str, tmp_path: Path) -> None:
        draw = random.Random(0)
        rows = []
        for _ in range(240):
            n = draw.randint(0, 5)
            words = draw.sample(["good"] * n + ["bad"] * (5 - n), 5)
            rows.append({"sentence1": " ".join(words), "sentence2": "film", "label": float(n)})
        result = finetune(
            base, STSB, rows[:200], rows[200:], replace(QUICK, learning_rate=1e-2), tmp_path / "out"
        )
        assert result["metric"] == "pearson_spearman"
        assert result["score"] > 0.95
        assert result["baselines"]["majority"]["pearson"] == 0
        checkpoint = load_checkpoint(str(tmp_path / "out"), task=STSB)
        assert checkpoint.model.config.num_labels == 1

    def test_dev_rows_whose_labels_are_numbered_otherwise_are_noticed(
        self, base: str, tmp_path: Path
    ) -> None:
        swapped = [{**row, "label": 1 - row["label"]} for row in sentences(60, seed=1)]
        result = finetune(base, "sst2", sentences(200), swapped, QUICK, tmp_path / "out")
        assert result["score"] < 0.1
        (message,) = result["warnings"]
        assert "in the order positive, negative its accuracy would be" in message

    def test_a_models_own_order_of_labels_is_kept(self, save_tiny: Any, base: str, tmp_path: Path) -> None:
        """A head that fits is trained on: what was learned in one order is worth as much in the other."""
        names = ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]
        rows = inferences(120)
        first = finetune(
            str(save_tiny(labels=names, fresh=True, initializer_range=0.1)),
            MNLI,
            rows,
            rows,
            QUICK,
            tmp_path / "one",
        )
        assert first["score"] == 1.0
        assert load_checkpoint(str(tmp_path / "one")).model.config.id2label == {
            0: "contradiction", 1: "entailment", 2: "neutral",
        }  # fmt: skip
        assert "training goes on from it" in first["warnings"][0]
        again = finetune(
            str(tmp_path / "one"), MNLI, rows[:3], rows, replace(QUICK, learning_rate=1e-9), tmp_path / "two"
        )
        assert again["score"] == 1.0
        ordered = finetune(base, MNLI, rows, rows, QUICK, tmp_path / "three")
        assert ordered["score"] == 1.0
        assert ordered["warnings"] == []

    def test_a_head_for_another_task_is_replaced_and_said_to_be(self, save_tiny: Any, tmp_path: Path) -> None:
        base = save_tiny(labels=3)
        result = finetune(str(base), SST2, sentences(8), sentences(8), QUICK, tmp_path / "out")
        assert "The model has 3 classes" in result["warnings"][0]
        assert result["warnings"][0].endswith("It gets a new classification head.")

    @pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2"])
    def test_every_kind_of_head_trains_from_the_base_models_weights(
        self, save_tiny: Any, tmp_path: Path, family: str
    ) -> None:
        base = save_tiny(family)
        how = replace(QUICK, epochs=1, learning_rate=1e-12)
        finetune(str(base), SST2, sentences(16), sentences(8), how, tmp_path / "out")
        before, after = (
            load_checkpoint(str(folder)).model.state_dict() for folder in (base, tmp_path / "out")
        )
        for name, tensor in before.items():
            if "pooler" not in name:
                torch.testing.assert_close(after[name], tensor, atol=1e-9, rtol=0)


class TestSubnetworks:
    @pytest.fixture
    def subnetwork(self) -> Subnetwork:
        heads = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
        return Subnetwork(heads, np.array([True, True, False]), {"task": "sst2"})

    def test_the_rest_is_cut_out_before_training_and_stays_away(
        self, base: str, tmp_path: Path, subnetwork: Subnetwork
    ) -> None:
        dev = sentences(40, seed=1)
        whole = finetune(base, SST2, sentences(8), dev, replace(QUICK, epochs=1), tmp_path / "whole")
        result = finetune(base, SST2, sentences(200), dev, QUICK, tmp_path / "cut", subnetwork=subnetwork)
        assert result["score"] == 1.0
        assert result["subnetwork"] == {"n_heads": 6, "n_mlps": 2, "metadata": {"task": "sst2"}}
        assert result["parameters"] < 0.9 * whole["parameters"]
        checkpoint = load_checkpoint(str(tmp_path / "cut"), task=SST2)
        assert kept_of(checkpoint.model) == subnetwork
        examples = examples_of(checkpoint, SST2, dev)
        assert examples.scores(predict(checkpoint.model, examples)) == result["scores"]

    def test_the_seed_starts_the_head_alike_with_and_without_a_subnetwork(
        self, base: str, tmp_path: Path, subnetwork: Subnetwork
    ) -> None:
        still = replace(QUICK, epochs=1, learning_rate=1e-12)
        heads = []
        for number, masks in enumerate((None, subnetwork)):
            finetune(base, SST2, sentences(8), sentences(8), still, tmp_path / str(number), subnetwork=masks)
            heads.append(load_checkpoint(str(tmp_path / str(number)), task=SST2).model.classifier.weight)
        torch.testing.assert_close(heads[0], heads[1], atol=1e-9, rtol=0)

    def test_a_compacted_model_gets_a_head_for_another_task(
        self, base: str, tmp_path: Path, subnetwork: Subnetwork
    ) -> None:
        still = replace(QUICK, epochs=1, learning_rate=1e-12)
        cut, again = tmp_path / "cut", tmp_path / "again"
        finetune(base, SST2, sentences(8), sentences(8), still, cut, subnetwork=subnetwork)
        rows = inferences(9)
        result = finetune(str(cut), MNLI, rows, rows, still, again)
        assert "It gets a new classification head" in result["warnings"][0]
        before, after = (load_checkpoint(str(folder)).model for folder in (cut, again))
        assert kept_of(after) == subnetwork
        for name, tensor in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], tensor, atol=1e-9, rtol=0)

    def test_a_subnetwork_of_another_model_is_refused(self, base: str, tmp_path: Path) -> None:
        other = Subnetwork(np.ones((2, 4), dtype=bool), np.ones(2, dtype=bool))
        with pytest.raises(InputError):
            finetune(base, SST2, sentences(8), sentences(8), QUICK, tmp_path / "out", subnetwork=other)
        assert not (tmp_path / "out").exists()


class TestSeeds:
    def test_the_same_seed_gives_the_same_weights_bit_for_bit(self, save_tiny: Any, tmp_path: Path) -> None:
        base = str(save_tiny())
        found = []
        for number, seed in enumerate((5, 5, 6)):
            torch.manual_seed(number)  # what was drawn before does not matter
            random.seed(number)
            finetune(
                base,
                SST2,
                sentences(60),
                sentences(20),
                replace(QUICK, epochs=2, seed=seed),
                tmp_path / str(number),
            )
            found.append(weights_of(tmp_path / str(number)))
        assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
        assert not all(torch.equal(tensor, found[2][name]) for name, tensor in found[0].items())

    def test_every_seed_trains_on_the_same_sample(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import models.finetuning.run

        seen = []
        monkeypatch.setattr(
            models.finetuning.run,
            "train",
            lambda model, examples, *_, **__: seen.append(examples.encoded) or DONE,
        )
        base, rows = str(save_tiny()), sentences(50)
        for seed in (1, 2):
            how = replace(QUICK, seed=seed, max_examples=10)
            finetune(base, SST2, rows, rows[:4], how, tmp_path / str(seed))
        assert seen[0] == seen[1]
        assert len(seen[0]) == 10

    @pytest.mark.parametrize("words", [["1,2", "x"], [","], ["1", "1"], ["1.5"]])
    def test_odd_lists_of_seeds_are_refused(self, words: list[str]) -> None:
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(words)

    def test_a_list_of_seeds_is_read_in_either_spelling(self) -> None:
        assert parse_seeds(["1337,42", "86 71"]) == [1337, 42, 86, 71]


class TestBatches:
    def test_padding_is_on_the_right_and_masked(self) -> None:
        rows = [(Encoded([5, 6, 17], [0, 1, 1], (2,), False), 1), (Encoded([8], [0], (0,), False), 0)]
        batch = Collator(pad_token_id=9)(rows)
        assert batch["input_ids"].tolist() == [[5, 6, 17], [8, 9, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
        assert batch["labels"].tolist() == [1, 0]
        assert Collator(0)([(Encoded([5], None, (0,), False), 2.5)])["labels"].dtype == torch.float32

    @pytest.mark.parametrize("grouped", [True, False])
    def test_inputs_of_like_length_stand_together_if_wanted(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouped: bool
    ) -> None:
        import models.finetuning.loop

        widths = []
        collate = Collator(0)

        def spy(rows: Any) -> Any:
            widths.append(np.ptp([len(encoded) for encoded, _ in rows]))
            return collate(rows)

        monkeypatch.setattr(models.finetuning.loop, "Collator", lambda pad: spy)
        how = replace(QUICK, epochs=1, batch_size=8, group_by_length=grouped)
        finetune(str(save_tiny()), SST2, sentences(160), sentences(8), how, tmp_path / "out")
        assert len(widths) == 20
        assert (np.mean(widths) < 3) == grouped

    @settings(deadline=None, max_examples=60)
    @given(
        lengths=st.lists(st.integers(1, 40), min_size=1, max_size=120),
        size=st.integers(1, 9),
        seed=st.integers(0, 9),
    )
    def test_every_row_comes_once_an_epoch_and_the_seed_decides_the_order(
        self, lengths: list[int], size: int, seed: int
    ) -> None:
        sampler = LengthGroups(lengths, size, seed)
        order = list(sampler)
        assert sorted(order) == list(range(len(lengths))) == list(range(len(sampler)))
        assert list(sampler) == order == list(LengthGroups(lengths, size, seed))

    def test_batches_are_not_in_the_order_of_their_lengths_and_change_with_the_epoch(self) -> None:
        lengths = np.random.default_rng(0).integers(5, 60, 1005).tolist()
        sampler = LengthGroups(lengths, 10, seed=1)
        epochs = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            order = list(sampler)
            epochs.append([frozenset(order[i : i + 10]) for i in range(0, 1005, 10)])
        means = [np.mean([lengths[row] for row in batch]) for batch in epochs[0]]
        spans = [np.ptp([lengths[row] for row in batch]) for batch in epochs[0]]
        assert np.mean(spans) < 5
        assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
        assert len(set(epochs[0]) & set(epochs[1])) < 5

    def test_the_trainer_passes_on_the_seed_and_the_epoch(
        self, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orders = []
        drawn = LengthGroups.__iter__

        def spy(self: LengthGroups) -> Iterator[int]:
            orders.append(list(drawn(self)))
            return iter(orders[-1])

        monkeypatch.setattr(LengthGroups, "__iter__", spy)
        how = replace(QUICK, epochs=2, batch_size=4)
        finetune(base, SST2, sentences(20), sentences(4), how, tmp_path / "out")
        assert len(orders) == 2
        assert orders[0] != orders[1]
        finetune(base, SST2, sentences(20), sentences(4), replace(how, seed=2), tmp_path / "other")
        assert orders[2] not in orders[:2]

    def test_one_step_is_the_step_that_adamw_takes_on_the_mean_loss(
        self, save_tiny: Any, tmp_path: Path
    ) -> None:
        """The whole loop against a few lines of PyTorch, without dropout."""
        base = str(
            save_tiny(
                labels=["negative", "positive"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
            )
        )
        rows = sentences(6)
        how = replace(QUICK, epochs=1, batch_size=6, learning_rate=1e-3, max_grad_norm=0.5)
        finetune(base, SST2, rows, rows, how, tmp_path / "out", device="cpu")
        checkpoint = load_checkpoint(base, task=SST2)
        (_, batch), *_ = examples_of(checkpoint, SST2, rows).batches(6)
        optimizer = torch.optim.AdamW(checkpoint.model.parameters(), lr=1e-3, eps=1e-8, weight_decay=0)
        checkpoint.model(**batch).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(checkpoint.model.parameters(), 0.5)
        assert norm > 0.5
        optimizer.step()
        after = weights_of(tmp_path / "out")
        moved = 0
        for name, parameter in checkpoint.model.state_dict().items():
            if parameter.grad_fn is None and name in after:
                # Where a gradient is of the size of rounding, Adam's first step has either sign.
                close = torch.isclose(after[name], parameter, atol=1e-5).float().mean()
                assert close > 0.97, name
                moved += 1
        assert moved > 30


class Stop(BaseException):
    """A process that is killed in the middle."""


class TestStoppedInTheMiddle:
    HOW = replace(QUICK, epochs=3, batch_size=8, checkpoint_steps=2)  # 5 steps an epoch, with dropout

    def result(self, base: str, out: Path, **more: Any) -> dict[str, Any]:
        found = finetune(base, SST2, sentences(40), sentences(12, seed=1), self.HOW, out, **more)
        for one in (found, json.loads((out / "metrics.json").read_text())):
            one["provenance"] = None
            for name in ("seconds", "examples_per_second", "resumed_at_steps"):
                del one["training"][name]
        return found

    @pytest.fixture
    def stop_at(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        import models.finetuning.loop

        true_loss = models.finetuning.loop._loss

        def stop_at(step: int | None) -> None:
            calls = iter(range(1, 1000))

            def loss(*args: Any, **kwargs: Any) -> torch.Tensor:
                if next(calls) == step:
                    raise Stop
                return true_loss(*args, **kwargs)

            monkeypatch.setattr(models.finetuning.loop, "_loss", loss)

        return stop_at

    @pytest.mark.parametrize("grouped", [True, pytest.param(False, marks=pytest.mark.slow)])
    def test_the_second_run_ends_as_if_nothing_had_happened(
        self, save_tiny: Any, tmp_path: Path, stop_at: Any, grouped: bool
    ) -> None:
        """Steps 2, 4, 5, 7, 8 ... have checkpoints: it is stopped within epochs, after the first and before any."""
        self.HOW = replace(self.HOW, group_by_length=grouped)
        base = str(save_tiny())
        whole = self.result(base, tmp_path / "whole")
        out, partial = tmp_path / "out", tmp_path / "out.partial"
        done = 0
        for calls, reached in ((2, 0), (4, 2), (4, 5), (4, 8), (4, 10)):
            stop_at(calls)
            with pytest.raises(Stop):
                self.result(base, out)
            assert not out.exists()
            left = [int(path.name.split("-")[1]) for path in partial.glob("checkpoints/checkpoint-*")]
            assert left == ([reached] if reached else [])
            done = reached
        assert done == 10
        stop_at(None)
        assert self.result(base, out) == whole
        assert not partial.exists()
        there, here = weights_of(tmp_path / "whole"), weights_of(out)
        assert all(torch.equal(tensor, here[name]) for name, tensor in there.items())
        resumed = json.loads((out / "metrics.json").read_text())["training"]["resumed_at_steps"]
        assert resumed == [2, 5, 8, 10][: len(resumed)] or resumed[-1] == 10

    @pytest.mark.slow
    def test_what_is_left_after_cutting_out_goes_on_too(
        self, save_tiny: Any, tmp_path: Path, stop_at: Any
    ) -> None:
        """A layer without heads and a layer without MLP have weights of size 0."""
        heads = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
        left = {"subnetwork": Subnetwork(heads, np.array([True, True, False]))}
        self.HOW = replace(self.HOW, keep="best")
        base, out = str(save_tiny()), tmp_path / "out"
        whole = self.result(base, tmp_path / "whole", **left)
        stop_at(8)
        with pytest.raises(Stop):
            self.result(base, out, **left)
        stop_at(None)
        assert self.result(base, out, **left) == whole
        there, here = (load_file(f / "headscope.safetensors") for f in (tmp_path / "whole", out))
        assert all(torch.equal(tensor, here[name]) for name, tensor in there.items())

    @pytest.mark.slow
    def test_a_checkpoint_that_is_not_whole_is_passed_over(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Any
    ) -> None:
        import models.finetuning.loop

        base, out = str(save_tiny()), tmp_path / "out"
        whole = self.result(base, tmp_path / "whole")
        marks = iter([True, False])
        write = models.finetuning.loop.write_json

        def stops(path: Path, value: Any) -> None:
            if not next(marks):
                raise Stop
            write(path, value)

        with monkeypatch.context() as patch:
            patch.setattr(models.finetuning.loop, "write_json", stops)
            with pytest.raises(Stop):
                self.result(base, out)
        checkpoints = tmp_path / "out.partial" / "checkpoints"
        assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
        stop_at(1)
        with pytest.raises(Stop):
            self.result(base, out)
        assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
        (checkpoints / "checkpoint-2" / "optimizer.pt").write_bytes(b"cut")
        stop_at(None)
        assert self.result(base, out) == whole

    @pytest.mark.slow
    def test_stopped_after_the_last_step_it_only_scores(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Any
    ) -> None:
        import models.finetuning.run

        base, out = str(save_tiny()), tmp_path / "out"
        whole = self.result(base, tmp_path / "whole")

        def stops(*args: Any, **kwargs: Any) -> None:
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(models.finetuning.run, "save", stops)
            with pytest.raises(Stop):
                self.result(base, out)
        assert not out.exists()
        stop_at(1)
        assert self.result(base, out) == whole

    def test_what_is_finished_is_not_done_again_and_another_one_is_refused(
        self, save_tiny: Any, tmp_path: Path, stop_at: Any
    ) -> None:
        base, out = str(save_tiny()), tmp_path / "out"
        first = self.result(base, out)
        stop_at(1)
        assert self.result(base, out) == first
        self.HOW = replace(self.HOW, checkpoint_steps=50)  # how it is done does not change what is found
        assert self.result(base, out) == first
        told = (out / "metrics.json").read_text()
        score = json.dumps(first["score"])
        (out / "metrics.json").write_text(told.replace(f'"score": {score}', f'"score": {score}1'))
        with pytest.raises(InputError, match=r"metrics.json is damaged: .* --overwrite trains anew"):
            self.result(base, out)
        (out / "metrics.json").write_text(told)
        self.HOW = replace(self.HOW, learning_rate=1e-5)
        with pytest.raises(
            InputError, match=r"another fine-tuning \(learning_rate 0.003 there, 1e-05 here\)"
        ):
            self.result(base, out)
        stop_at(None)
        assert self.result(base, out, overwrite=True) != first

    def test_a_beginning_with_other_settings_is_refused_or_thrown_away(
        self, save_tiny: Any, tmp_path: Path, stop_at: Any
    ) -> None:
        base, out = str(save_tiny()), tmp_path / "out"
        stop_at(4)
        with pytest.raises(Stop):
            self.result(base, out)
        stop_at(None)
        self.HOW = replace(self.HOW, seed=5)
        with pytest.raises(
            InputError, match=r"out.partial holds another fine-tuning \(seed 1 there, 5 here\)"
        ):
            self.result(base, out)
        assert self.result(base, out, overwrite=True)["seed"] == 5
        assert not (tmp_path / "out.partial").exists()

    @pytest.mark.slow
    def test_the_best_epochs_model_survives_a_stop(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Any
    ) -> None:
        """The scores are made up: the second epoch's is the best."""
        import models.finetuning.run

        base = str(save_tiny())
        monkeypatch.setattr(models.finetuning.run, "threshold_metric", lambda task: "made_up")
        true_scores = models.finetuning.run.Examples.scores
        made_up = {"out": iter([0.2, 0.7, 0.7, 0.0]), "two": iter([0.2, 0.7, 0.0])}
        now = "out"
        monkeypatch.setattr(
            models.finetuning.run.Examples,
            "scores",
            lambda self, logits: {**true_scores(self, logits), "made_up": next(made_up[now])},
        )
        monkeypatch.setattr(
            models.finetuning.run,
            "baselines",
            lambda *_, **__: {n: {"made_up": 0.5} for n in ("majority", "random")},
        )
        self.HOW = replace(self.HOW, keep="best")
        stop_at(12)
        with pytest.raises(Stop):
            self.result(base, tmp_path / "out")
        stop_at(None)
        kept = self.result(base, tmp_path / "out")
        assert kept["selection"]["model"] == "the best epoch's"
        assert "upper bound" in kept["selection"]["note"]
        now = "two"
        # The learning rate of the first two of three epochs, then no more steps.
        self.HOW = replace(self.HOW, keep="last")
        import models.finetuning.loop

        schedule = models.finetuning.loop._conductor

        def ends_after_two(*args: Any) -> Any:
            callback = schedule(*args)
            at_end = callback.on_epoch_end

            def on_epoch_end(how: Any, state: Any, control: Any, **kwargs: Any) -> None:
                at_end(how, state, control, **kwargs)
                control.should_training_stop = state.epoch >= 2

            callback.on_epoch_end = on_epoch_end
            return callback

        monkeypatch.setattr(models.finetuning.loop, "_conductor", ends_after_two)
        self.result(base, tmp_path / "two")
        two = weights_of(tmp_path / "two")
        assert all(torch.equal(tensor, two[name]) for name, tensor in weights_of(tmp_path / "out").items())


class TestWeightMasks:
    """Single weights that are pruned."""

    @pytest.fixture
    def masked(self, save_tiny: Any) -> tuple[str, WeightMasks]:
        base = str(save_tiny(labels=["negative", "positive"]))
        model = load_checkpoint(base, task=SST2).model
        draw = np.random.default_rng(0)
        masks = {name: draw.random(w.shape) < 0.6 for name, w in prunable_weights(model).items()}
        return base, WeightMasks(masks, {"task": "sst2"})

    def test_they_stay_exactly_zero_through_momentum_and_decay(
        self, masked: tuple[str, WeightMasks], tmp_path: Path
    ) -> None:
        base, masks = masked
        how = replace(QUICK, epochs=2, weight_decay=0.1)
        result = finetune(base, SST2, sentences(60), sentences(8), how, tmp_path / "out", subnetwork=masks)
        assert result["subnetwork"] == {
            "weights": masks.kept,
            "share": masks.share,
            "metadata": {"task": "sst2"},
        }
        before = load_checkpoint(base, task=SST2).model
        after = load_checkpoint(str(tmp_path / "out"), task=SST2).model
        for name, weight in prunable_weights(after).items():
            kept = torch.tensor(masks.masks[name])
            assert not weight[~kept].any()
            assert (weight != prunable_weights(before)[name])[kept].float().mean() > 0.9

    def test_training_is_that_of_torchs_own_pruning(self, masked: tuple[str, WeightMasks]) -> None:
        """Gradient clipping included; both without dropout."""
        base, masks = masked
        how = replace(QUICK, epochs=2, learning_rate=1e-3, max_grad_norm=0.5)
        trained = []
        for own in (True, False):
            checkpoint = load_checkpoint(base, task=SST2)
            model = checkpoint.model
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            examples = examples_of(checkpoint, SST2, sentences(40))
            places = {}
            for name, weight in prunable_weights(model).items():
                path, kind = f"bert.{name}".rsplit(".", 1)
                places[name] = (model.get_submodule(path), kind, weight)
            if not own:
                for name, (module, kind, _) in places.items():
                    prune.custom_from_mask(module, kind, torch.tensor(masks.masks[name]))
            train(model, examples, how, torch.device("cpu"), masks=masks if own else None)
            trained.append(
                {name: getattr(module, kind).detach() for name, (module, kind, _) in places.items()}
            )
        for name, weight in trained[0].items():
            close = torch.isclose(weight, trained[1][name], atol=2e-4).float().mean()
            assert close > 0.99, name

    def test_masks_of_another_model_are_refused(
        self, masked: tuple[str, WeightMasks], tmp_path: Path
    ) -> None:
        base, masks = masked
        other = WeightMasks({"encoder.layer.0.nowhere": np.ones((2, 2), dtype=bool), **masks.masks})
        with pytest.raises(InputError, match="not for this BertForSequenceClassification"):
            finetune(base, SST2, sentences(8), sentences(8), QUICK, tmp_path / "out", subnetwork=other)
        assert list(tmp_path.glob("out*")) == []

    def test_the_command_takes_the_folder_of_a_search(
        self, masked: tuple[str, WeightMasks], tmp_path: Path
    ) -> None:
        _, masks = masked
        search = tmp_path / "search"
        search.mkdir()
        masks.save(search / "weight_masks.safetensors")
        assert load_masks(search) == load_masks(search / "weight_masks.safetensors") == masks
        heads = Subnetwork(np.ones((3, 4), dtype=bool), np.ones(3, dtype=bool))
        heads.save(search / "subnetwork.safetensors")
        assert load_masks(search) == heads
        (search / "odd.safetensors").write_bytes(b"no")
        with pytest.raises(InputError, match=r"odd.safetensors is not a readable"):
            load_masks(search / "odd.safetensors")


class TestDevRows:
    def test_held_out_rows_are_those_that_a_search_holds_out(self, base: str, tmp_path: Path) -> None:
        dev = sentences(30, seed=2)
        result = finetune(
            base, SST2, sentences(40), dev, replace(QUICK, epochs=1, holdout=0.5), tmp_path / "out"
        )
        selected, reported = hold_out(dev, SST2, 0.5)
        assert len(selected) == len(reported) == 15
        checkpoint = load_checkpoint(str(tmp_path / "out"), task=SST2)
        for rows, scores in (
            (reported, result["scores"]),
            (selected, result["training"]["history"][0]["scores"]),
        ):
            examples = examples_of(checkpoint, SST2, rows)
            assert examples.scores(predict(checkpoint.model, examples)) == scores
        assert result["selection"] == {
            "model": "the last epoch's",
            "holdout": 0.5,
            "selected_on": 15,
            "reported_on": 15,
            "seen_by_search": None,
            "note": "the last epoch's model, scored on 15 dev rows that nothing was selected on; "
            "selected on the other 15",
        }
        (tmp_path / "data").mkdir()
        lines = [json.dumps(row) for row in dev]
        (tmp_path / "data" / "validation.jsonl").write_text("\n".join(lines) + "\n")
        subject = Subject(str(tmp_path / "out"), "sst2", str(tmp_path / "data"), holdout=0.5).load()
        assert subject.held_out is not None
        assert subject.report(subject.held_out.scores and (lambda e: {}))["full"] == result["scores"]

    @pytest.mark.parametrize(
        ("search", "holdout", "seen", "words"),
        [
            ({"holdout": 0.5, "examples": 15}, 0.5, 0, "(--holdout 0.5) saw 0 of the 15 rows reported on"),
            (
                {"holdout": 0.0, "examples": 30},
                0.5,
                15,
                "(--holdout 0) saw 15 of the 15 rows reported on: an upper",
            ),
            ({"holdout": 0.3, "examples": 21}, 0.5, None, "(--holdout 0.3) saw "),
            (
                {"holdout": 0.5, "examples": 15},
                0.0,
                15,
                "(--holdout 0.5) saw 15 of the 30 rows reported on: an upper",
            ),
            ({"holdout": 0.0, "examples": 12}, 0.5, None, "not known: it used 12 of the 30 dev rows"),
            (
                {"holdout": 0.5, "examples": 15, "data_sha256": "b"},
                0.5,
                None,
                "not known: it used other data",
            ),
            ({"holdout": 0.5, "examples": 15, "split": "train"}, 0.5, None, "not known: it used other data"),
            (None, 0.5, None, "not known: no search's config lies beside the masks"),
        ],
    )
    def test_a_score_says_whether_the_subnetworks_search_saw_its_rows(
        self, base: str, tmp_path: Path, search: Any, holdout: float, seen: int | None, words: str
    ) -> None:
        dev = Rows(sentences(30, seed=2), "dev.jsonl", sha256="a")
        told = search and {"command": "prune-heads", "split": "validation", "data_sha256": "a"} | search
        checkpoint = load_checkpoint(base)
        result = finetune(
            base,
            SST2,
            sentences(8),
            dev,
            replace(QUICK, epochs=1, holdout=holdout),
            tmp_path / "out",
            subnetwork=Subnetwork.full(checkpoint.model),
            search=told,
        )
        found = result["selection"]
        if search and search["holdout"] == 0.3:  # some rows of its other 70% are held out here
            of_search = hold_out(dev.rows, SST2, 0.3)[0]
            seen = sum(any(row is other for other in of_search) for row in hold_out(dev.rows, SST2, 0.5)[1])
            assert 0 < seen < 15
        assert found["seen_by_search"] == seen
        assert words in found["note"]
        assert ("that nothing was selected on" in found["note"]) is False
        warned = [warning for warning in result["warnings"] if "selected on them" in warning]
        assert len(warned) == bool(seen and holdout)

    def test_mismatched_rows_are_scored_beside_the_others(self, base: str, tmp_path: Path) -> None:
        rows = inferences(30)
        wrong = [{**row, "label": (row["label"] + 1) % 3} for row in rows]
        how = replace(QUICK, epochs=20)
        result = finetune(base, MNLI, rows, rows, how, tmp_path / "out", mismatched_rows=wrong)
        assert result["scores"] == {"accuracy": 1.0, "mismatched_accuracy": 0.0}
        assert result["score"] == 1.0
        assert result["examples"]["mismatched"] == 30
        assert set(result["baselines"]["majority"]) == set(result["scores"])

    def test_they_are_found_where_there_are_some(self, tmp_path: Path) -> None:
        assert load_mismatched(SST2, tmp_path) is None
        lines = "\n".join(json.dumps(row) for row in inferences(3)) + "\n"
        (tmp_path / "validation.jsonl").write_text(lines)
        assert load_mismatched(MNLI, tmp_path) is None
        (tmp_path / "validation_mismatched.jsonl").write_text(lines)
        found = load_mismatched(MNLI, tmp_path)
        assert found is not None
        assert len(found.rows) == 3
        (tmp_path / "validation_mismatched.jsonl").write_text("{")
        with pytest.raises(InputError, match=r"validation_mismatched\.jsonl"):
            load_mismatched(MNLI, tmp_path)

    def test_rows_are_tokenised_once_for_all_seeds(
        self, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import models.finetuning.run

        calls = []
        true_examples = models.finetuning.run.examples_of
        monkeypatch.setattr(
            models.finetuning.run, "examples_of", lambda *args: calls.append(args[4]) or true_examples(*args)
        )
        tokenised: dict[str, Any] = {}
        for seed in (1, 2):
            how = replace(QUICK, epochs=1, seed=seed)
            finetune(base, SST2, sentences(8), sentences(8), how, tmp_path / str(seed), tokenised=tokenised)
        assert calls == ["train rows", "dev rows"]


def test_the_curve_shows_every_epoch_and_both_baselines(base: str, tmp_path: Path) -> None:
    result = finetune(base, SST2, sentences(40), sentences(12), QUICK, tmp_path / "out")
    loss, score = learning_curve(result).axes[1:]
    assert loss.lines[0].get_xydata().tolist() == [
        [e["epoch"], e["loss"]] for e in result["training"]["history"]
    ]
    assert score.lines[-1].get_ydata().tolist() == [
        entry["scores"]["accuracy"] for entry in result["training"]["history"]
    ]
    assert [text.get_text() for text in score.texts] == ["majority", "random"]
    assert (tmp_path / "out" / "learning_curve.png").stat().st_size > 5000


def test_layers_that_share_modules_get_their_own_when_something_is_cut_out(
    save_tiny: Any, tmp_path: Path
) -> None:
    base = str(save_tiny("albert"))
    shape = load_checkpoint(base).model.config
    heads = np.ones((shape.num_hidden_layers, shape.num_attention_heads), dtype=bool)
    heads[0, 0] = False
    subnetwork = Subnetwork(heads, np.ones(len(heads), dtype=bool))
    how = replace(QUICK, epochs=1)
    result = finetune(base, SST2, sentences(8), sentences(8), how, tmp_path / "out", subnetwork=subnetwork)
    assert "each has its own copy" in result["warnings"][0]
    assert kept_of(load_checkpoint(str(tmp_path / "out"), task=SST2).model) == subnetwork


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epochs", 0), ("epochs", float("nan")), ("learning_rate", -1e-5), ("learning_rate", float("inf")),
            ("warmup", 1.0), ("adam_epsilon", 0), ("weight_decay", -0.1), ("batch_size", 0), ("max_length", 3),
            ("max_grad_norm", 0), ("precision", "fp16"),
            ("holdout", 1.0), ("keep", "first"), ("checkpoint_steps", 0), ("max_examples", 0), ("seed", -1),
            ("seed", 2**32),
        ],
    )  # fmt: skip
    def test_a_setting_out_of_range_is_named(self, name: str, value: Any) -> None:
        with pytest.raises(InputError, match=rf"^{name}={value}: give "):
            FineTuning(**{name: value})

    def test_the_defaults_are_the_protocols(self) -> None:
        d = FineTuning()
        assert (d.epochs, d.learning_rate, d.adam_epsilon, d.weight_decay, d.warmup) == (3, 2e-5, 1e-8, 0, 0)
        assert (d.batch_size, d.max_length, d.max_grad_norm, d.precision) == (32, 128, 1.0, "fp32")

    def test_a_loss_that_is_no_number_stops_with_the_step_and_leaves_nothing(
        self, save_tiny: Any, tmp_path: Path
    ) -> None:
        base = save_tiny(labels=["negative", "positive"])
        weights = weights_of(base)
        weights["classifier.weight"][0, 0] = float("nan")
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"^The loss is nan at step 1 of 12; .*--learning-rate") as error:
            finetune(str(base), SST2, sentences(20), sentences(8), QUICK, tmp_path / "out")
        assert str(error.value).endswith(".")
        assert not (tmp_path / "out").exists()

    def test_the_last_good_checkpoint_is_kept(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import models.finetuning.loop

        true_losses = models.finetuning.loop.losses
        calls = iter(range(1, 100))
        monkeypatch.setattr(
            models.finetuning.loop,
            "losses",
            lambda *args: true_losses(*args) * (float("nan") if next(calls) == 6 else 1),
        )
        how = replace(QUICK, batch_size=4, checkpoint_steps=2)
        with pytest.raises(
            InputError, match=r"^The loss is nan at step 6 of 30; the checkpoint of step 5 is kept in"
        ):
            finetune(str(save_tiny()), SST2, sentences(20), sentences(8), how, tmp_path / "out")
        checkpoint = tmp_path / "out.partial" / "checkpoints" / "checkpoint-5"
        assert all(bool(tensor.isfinite().all()) for tensor in weights_of(checkpoint).values())

    def test_weights_that_are_no_numbers_get_no_checkpoint(self, save_tiny: Any, tmp_path: Path) -> None:
        how = replace(QUICK, learning_rate=1e38, checkpoint_steps=1)
        with pytest.raises(InputError, match=r" at step 1 of 12; give a lower --learning-rate"):
            finetune(str(save_tiny()), SST2, sentences(20), sentences(8), how, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

    def test_a_loss_that_runs_away_stops_where_it_does(self, save_tiny: Any, tmp_path: Path) -> None:
        how = replace(QUICK, learning_rate=1e30)
        with pytest.raises(InputError, match=r"^The loss is (nan|inf) at step [2-9]\d* of 12"):
            finetune(str(save_tiny()), SST2, sentences(20), sentences(8), how, tmp_path / "out")

    def test_an_integration_that_is_not_there_is_one_sentence(self, save_tiny: Any, tmp_path: Path) -> None:
        how = replace(QUICK, report_to=("papyrus",))
        with pytest.raises(InputError, match=r"^--report-to papyrus: papyrus is not supported, only .*\.$"):
            finetune(str(save_tiny()), SST2, sentences(8), sentences(8), how, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

    def test_bad_rows_are_named_before_any_training(self, save_tiny: Any, tmp_path: Path) -> None:
        base, good = str(save_tiny()), sentences(8)
        bad = [*sentences(3), {"sentence": "good", "label": 2}]
        few = replace(QUICK, max_examples=2)
        for training, dev, how, where in (
            (bad, good, QUICK, "train rows, row 4"), (good, bad, QUICK, "dev rows, row 4"),
            (bad, good, few, "train rows, row 4"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=where):
                finetune(base, SST2, training, dev, how, tmp_path / "out")
        with pytest.raises(InputError, match="dev rows: there are no rows"):
            finetune(base, SST2, good, [], QUICK, tmp_path / "out")

    def test_a_filled_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="--output"):
                finetune("nowhere", SST2, [], [], QUICK, tmp_path, overwrite=overwrite)

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (torch.OutOfMemoryError, "CUDA out of memory.\nTried to allocate"),
            (
                RuntimeError,
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            ),
        ],
    )
    def test_memory_that_runs_out_is_one_sentence(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, words: str
    ) -> None:
        def no_memory(self: Any, **how: Any) -> None:
            raise kind(words)

        monkeypatch.setattr("transformers.Trainer.train", no_memory)
        with pytest.raises(InputError, match=r"^Memory ran out on cpu; give a --batch-size below 16"):
            finetune(
                str(save_tiny()), SST2, sentences(8), sentences(8), QUICK, tmp_path / "out", device="cpu"
            )


class TestCommand:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        for split, n in (("train", 60), ("validation", 20)):
            lines = [json.dumps(row) for row in sentences(n)]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    def test_several_seeds_have_a_folder_each_and_are_summed_up(
        self, save_tiny: Any, tmp_path: Path, data: Path, run_command: Any
    ) -> None:
        options = (
            "--model",
            save_tiny(),
            "--task",
            "SST-2",
            "--data",
            data,
            "--epochs",
            1,
            "--device",
            "cpu",
        )
        out = tmp_path / "runs"
        code, stdout, stderr = run_command(
            finetune_glue, *options, "--output", out, "--seeds", "1,2", 3, "--json"
        )
        assert code == 0, stderr
        found = json.loads(stdout)
        assert found["seeds"] == [1, 2, 3]
        single = [json.loads((out / f"seed_{seed}" / "metrics.json").read_text()) for seed in (1, 2, 3)]
        assert all(one.pop("checksum") for one in single)
        assert found["runs"] == single
        scores = [one["scores"]["accuracy"] for one in single]
        assert found["mean"]["accuracy"] == pytest.approx(np.mean(scores))
        assert found["std"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))
        assert stderr.splitlines()[-1] == f"model: {out / 'seed_1'}, {out / 'seed_2'}, {out / 'seed_3'}"
        (out / "seed_8").mkdir()
        (out / "seed_8" / "thesis.txt").write_text("mine")
        code, _, stderr = run_command(finetune_glue, *options, "--output", out, "--seeds", "9", "8")
        assert code == 2
        assert "seed_8 is not empty" in stderr
        assert not (out / "seed_9").exists()

    def test_one_seed_prints_scores_beside_the_baselines(
        self, save_tiny: Any, tmp_path: Path, data: Path, run_command: Any
    ) -> None:
        words = ("--model", save_tiny(), "--task", "sst2", "--data", data, "--output", tmp_path / "out")
        code, stdout, stderr = run_command(
            finetune_glue, *words, "--epochs", 1, "--seed", 4, "--train-examples", 30
        )
        assert code == 0, stderr
        lines = stdout.splitlines()
        assert "30 rows of" in lines[0]
        assert "no epoch was selected" in lines[1]
        assert [line.split()[0] for line in lines[3:]] == ["seed", "majority", "random"]
        assert lines[4].split()[-1] == "0.500"
        assert stderr.splitlines()[-1] == f"model: {tmp_path / 'out'}"
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["seed"] == 4

    def test_bad_options_end_with_one_sentence(self, tmp_path: Path, run_command: Any) -> None:
        words = ("--model", "nowhere", "--task", "sst2", "--output", tmp_path / "out")
        for more in (
            ("--batch-size", 0),
            ("--seeds", "a"),
            ("--data", tmp_path / "no"),
            ("--precision", "int3"),
        ):
            code, stdout, stderr = run_command(finetune_glue, *words, *more)
            assert code == 2
            assert stdout == ""
            assert len(stderr.strip().splitlines()) == 1


def test_the_table_has_a_line_for_each_seed_and_baseline() -> None:
    results = [
        {
            "task": "cola", "metric": "matthews", "seed": seed, "scores": {"accuracy": 0.5, "matthews": value},
            "baselines": {name: {"accuracy": 0.25, "matthews": 0.0} for name in ("majority", "random")},
        }
        for seed, value in ((1, 0.1), (2, 0.3))
    ]  # fmt: skip
    lines = score_table(results).splitlines()
    assert lines[0].split() == ["accuracy", "matthews"]
    assert lines[3].split() == ["mean", "0.500", "0.200"]
    assert lines[4].split() == ["standard", "deviation", "0.000", "0.141"]
    assert len({len(line) for line in lines}) == 1
    assert summarise(results[:1])["std"] == {"accuracy": None, "matthews": None}
