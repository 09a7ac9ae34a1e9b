"""Fine-tuning a tiny model: it learns, the same seed gives the same weights, and nothing goes wrong silently."""

from __future__ import annotations

import gc
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

from models import FineTuning, InputError, Subnetwork, finetune, load_checkpoint
from models.commands import finetune_glue
from models.compaction import kept_of
from models.evaluation import examples_of, predict
from models.finetuning import parse_seeds, score_table, summarise
from models.glue import Rows, task_named
from models.training import LengthGroups, collator

SST2, MNLI, STSB, QQP = (task_named(name) for name in ("sst2", "mnli", "stsb", "qqp"))
FILLERS = ("the", "film", "was", "rather", "long", "but", "really", "so", "and", "it", "is", "plot")
QUICK = FineTuning(epochs=6, learning_rate=3e-3, batch_size=16, seed=1)


@pytest.fixture(autouse=True, scope="module")
def little_garbage() -> Iterator[None]:
    """The Trainer collects garbage before each run: half of a test's time, if it looked at all that is imported."""
    import datasets  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


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
        assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(result))
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
            str(base), SST2, rows, sentences(8), replace(QUICK, max_examples=12), tmp_path / "out"
        )
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
        import models.finetuning

        seen = []
        monkeypatch.setattr(
            models.finetuning, "train", lambda model, examples, *_: seen.append(examples.encoded) or []
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
        features = [
            {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "labels": 1},
            {"input_ids": [8], "token_type_ids": [0], "labels": 0},
        ]
        batch = collator(pad_token_id=9)(features)
        assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
        assert batch["labels"].tolist() == [1, 0]
        assert collator(0)([{"input_ids": [5], "labels": 2.5}])["labels"].dtype == torch.float32

    @pytest.mark.parametrize("grouped", [True, False])
    def test_inputs_of_like_length_stand_together_if_wanted(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouped: bool
    ) -> None:
        import models.training

        widths = []
        collate = models.training.collator(0)

        def spy(features: Any) -> Any:
            widths.append(np.ptp([len(feature["input_ids"]) for feature in features]))
            return collate(features)

        monkeypatch.setattr(models.training, "collator", lambda pad: spy)
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
        finetune(base, SST2, rows, rows, how, tmp_path / "out")
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


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epochs", 0), ("epochs", float("nan")), ("learning_rate", -1e-5), ("learning_rate", float("inf")),
            ("warmup", 1.0), ("adam_epsilon", 0), ("weight_decay", -0.1), ("batch_size", 0), ("max_length", 3),
            ("max_grad_norm", 0), ("precision", "fp16"), ("max_examples", 0), ("seed", -1), ("seed", 2**32),
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

    def test_a_loss_that_runs_away_stops_where_it_does(self, save_tiny: Any, tmp_path: Path) -> None:
        how = replace(QUICK, learning_rate=1e30)
        with pytest.raises(InputError, match=r"^The loss is (nan|inf) at step [2-9]\d* of 12"):
            finetune(str(save_tiny()), SST2, sentences(20), sentences(8), how, tmp_path / "out")

    def test_bad_rows_are_named_before_any_training(self, save_tiny: Any, tmp_path: Path) -> None:
        base, good = str(save_tiny()), sentences(8)
        bad = [*sentences(3), {"sentence": "good", "label": 2}]
        few = replace(QUICK, max_examples=2)
        for train, dev, how, where in (
            (bad, good, QUICK, "train rows, row 4"), (good, bad, QUICK, "dev rows, row 4"),
            (bad, good, few, "train rows, row 4"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=where):
                finetune(base, SST2, train, dev, how, tmp_path / "out")
        with pytest.raises(InputError, match="dev rows: there are no rows"):
            finetune(base, SST2, good, [], QUICK, tmp_path / "out")

    def test_a_filled_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="--output"):
                finetune("nowhere", SST2, [], [], QUICK, tmp_path, overwrite=overwrite)

    def test_memory_that_runs_out_is_one_sentence(
        self, save_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_memory(self: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

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
            finetune_glue, *options, "--output", out, "--seeds", "1,2", "--seeds", 3, "--json"
        )
        assert code == 0, stderr
        found = json.loads(stdout)
        assert found["seeds"] == [1, 2, 3]
        single = [json.loads((out / f"seed_{seed}" / "metrics.json").read_text()) for seed in (1, 2, 3)]
        assert found["runs"] == single
        scores = [one["scores"]["accuracy"] for one in single]
        assert found["mean"]["accuracy"] == pytest.approx(np.mean(scores))
        assert found["std"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))
        code, _, stderr = run_command(finetune_glue, *options, "--output", out, "--seeds", "9,2")
        assert code == 2
        assert "seed_2 is not empty" in stderr
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
        assert [line.split()[0] for line in lines[2:]] == ["seed", "majority", "random"]
        assert lines[3].split()[-1] == "0.500"
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
