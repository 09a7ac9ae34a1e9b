"""Loading a model with its head, and its outputs row by row."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import WORDS

from models import InputError, load_checkpoint
from models.common.errors import HeadError
from models.evaluation import examples_of, losses, predict
from models.tasks.metrics import scores
from models.tasks.rows import load_rows
from models.tasks.task import TASKS, task_named

COLA, MNLI, STSB, QQP, SST2 = (task_named(name) for name in ("cola", "mnli", "stsb", "qqp", "sst2"))


def pairs(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of MNLI with 1 to 12 words a text."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))

    return [{"premise": text(), "hypothesis": text(), "label": draw.randrange(3)} for _ in range(n)]


class TestLoadingForATask:
    def test_the_model_comes_with_its_head(self, save_tiny: Any) -> None:
        folder = save_tiny("bert", labels=3)
        model = load_checkpoint(str(folder), task=MNLI).model
        assert type(model).__name__ == "BertForSequenceClassification"
        assert not model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert type(load_checkpoint(str(folder)).model).__name__ == "BertModel"

    def test_a_task_is_given_by_its_name_too(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task="MNLI-m")
        by_name, by_task = (examples_of(checkpoint, task, pairs(5)) for task in ("mnli", MNLI))
        assert by_name.task is by_task.task is MNLI
        assert by_name.targets.tolist() == by_task.targets.tolist()
        assert scores("mnli", predict(checkpoint.model, by_name), by_name.targets) == by_name.scores(
            predict(checkpoint.model, by_task)
        )

    def test_a_checkpoint_without_head_says_what_to_do(self, save_tiny: Any, minilm_folder: str) -> None:
        for folder in (save_tiny("bert"), minilm_folder):
            with pytest.raises(HeadError) as error:
                load_checkpoint(str(folder), task=COLA)
            assert str(error.value) == (
                f"--model {folder} has no classification head; fine-tune it on cola first (finetune-glue)."
            )
            assert error.value.missing

    @pytest.mark.parametrize(
        ("task", "labels"),
        [(MNLI, 2), (COLA, 3), (STSB, 2), (COLA, 1), (COLA, ["negative", "positive"]), (SST2, ["yes", "no"])],
    )
    def test_a_head_for_other_labels_is_refused(self, save_tiny: Any, task: Any, labels: Any) -> None:
        folder = save_tiny("bert", labels=labels)
        with pytest.raises(
            HeadError, match=rf"^--model {folder}: The model has .*, but {task.name} has"
        ) as error:
            load_checkpoint(str(folder), task=task)
        assert not error.value.missing

    def test_other_missing_weights_are_no_missing_head(self, save_tiny: Any) -> None:
        from safetensors.torch import load, save_file

        file = save_tiny("bert", labels=2) / "model.safetensors"
        weights = load(file.read_bytes())  # not mapped, since the file is written anew below
        for gone in ("pooler", "layer.1.attention"):
            some = {name: tensor for name, tensor in weights.items() if gone not in name}
            save_file(some, file, metadata={"format": "pt"})
            with pytest.raises(InputError, match=f"lacks {len(weights) - len(some)} of the weights"):
                load_checkpoint(str(file.parent), task=COLA)


class TestPredictions:
    def test_rows_of_every_family_do_not_depend_on_batches(
        self, tiny: Any, save_tiny: Any, tiny_tokenizer: Any
    ) -> None:
        """One by one without any padding, as the slow reference."""
        checkpoint = load_checkpoint(str(save_tiny(tiny.name, labels=3)), task=MNLI)
        # The library reads any Qwen2 folder with a tokenizer of its own kind, which knows no word here.
        if tiny.name == "qwen2":
            checkpoint = replace(checkpoint, tokenizer=tiny_tokenizer)
        rows = pairs(13)
        examples = examples_of(checkpoint, MNLI, rows)
        alone = []
        for row in rows:
            inputs = checkpoint.tokenizer(row["premise"], row["hypothesis"], return_tensors="pt")
            if tiny.name == "qwen2":
                del inputs["token_type_ids"]
            with torch.no_grad():
                alone.append(checkpoint.model(**inputs).logits[0].numpy())
        for batch_size in (1, 4, 13, 50):
            logits = predict(checkpoint.model, examples, batch_size)
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, alone, atol=2e-5)
        assert np.ptp(logits, axis=0).min() > 0.01  # they do differ

    def test_a_padding_token_without_embedding_is_replaced(self, save_tiny: Any) -> None:
        for pad in (None, 60, -1):
            folder = save_tiny("gpt2", labels=3)
            config = (folder / "config.json").read_text()
            assert '"vocab_size": 60' in config
            (folder / "config.json").write_text(json.dumps(json.loads(config) | {"pad_token_id": pad}))
            checkpoint = load_checkpoint(str(folder), task=MNLI)
            assert 0 <= checkpoint.model.config.pad_token_id < 60
            examples = examples_of(checkpoint, MNLI, pairs(5))
            whole, single = (predict(checkpoint.model, examples, size) for size in (5, 1))
            np.testing.assert_allclose(whole, single, atol=2e-5)

    def test_dropout_is_off_and_the_mode_is_left_as_it_was(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task=MNLI)
        examples = examples_of(checkpoint, MNLI, pairs(6))
        calm = predict(checkpoint.model, examples)
        checkpoint.model.train()
        assert np.array_equal(predict(checkpoint.model, examples), calm)
        assert checkpoint.model.training

    def test_segments_reach_the_model(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task=MNLI)
        row = {"premise": "the film was", "hypothesis": "really good", "label": 0}
        (_, batch), *_ = examples_of(checkpoint, MNLI, [row]).batches(4)
        assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]

    def test_long_inputs_are_cut_to_what_the_model_can_read(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task=MNLI)
        row = {"premise": "good " * 60, "hypothesis": "bad", "label": 0}
        assert [len(e) for e in examples_of(checkpoint, MNLI, [row]).encoded] == [40]
        assert [len(e) for e in examples_of(checkpoint, MNLI, [row], max_length=9).encoded] == [9]

    def test_every_row_keeps_its_own_target(self, save_tiny: Any) -> None:
        folder = save_tiny("bert", labels=["CONTRADICTION", "NEUTRAL", "ENTAILMENT"])
        checkpoint = load_checkpoint(str(folder), task=MNLI)
        rows = pairs(23)
        examples = examples_of(checkpoint, MNLI, rows)
        seen = {}
        for positions, batch in examples.batches(5):
            seen |= dict(zip(positions, batch["labels"].tolist(), strict=True))
        assert [seen[i] for i in range(23)] == [2 - row["label"] for row in rows]

    def test_in_order_means_the_order_of_the_rows(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task=MNLI)
        examples = examples_of(checkpoint, MNLI, pairs(11))
        batches = list(examples.batches(4, in_order=True))
        assert [positions for positions, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        first = batches[0][1]["input_ids"][2]
        assert first[first != 0].tolist() == examples.encoded[2].input_ids
        assert [p for p, _ in examples.batches(4)] != [p for p, _ in batches]

    def test_a_models_order_of_labels_changes_no_score(self, save_tiny: Any) -> None:
        """The same weights with the head's rows swapped are the same model."""
        rows = [
            {"question1": row["premise"], "question2": row["hypothesis"], "label": row["label"] % 2}
            for row in pairs(40)
        ]
        found = []
        for names in (["not_duplicate", "duplicate"], ["DUPLICATE", "NOT DUPLICATE"]):
            checkpoint = load_checkpoint(str(save_tiny("bert", labels=names)), task=QQP)
            head = checkpoint.model.classifier
            with torch.no_grad():
                if not found:
                    logits = predict(checkpoint.model, examples_of(checkpoint, QQP, rows))
                    middle = torch.tensor(np.median(logits, axis=0))  # so that neither class is always said
                head.bias -= middle
                if found:
                    head.weight.copy_(head.weight.flip(0))
                    head.bias.copy_(head.bias.flip(0))
            examples = examples_of(checkpoint, QQP, rows)
            logits = predict(checkpoint.model, examples)
            found.append(examples.scores(logits))
        assert found[0] == found[1]
        assert 0 < found[0]["f1"] < 1
        assert scores(QQP, logits, examples.targets)["f1"] != found[0]["f1"]  # of the other label

    def test_regression(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=1)), task=STSB)
        rows = [
            {"sentence1": row["premise"], "sentence2": row["hypothesis"], "label": 1.5 + row["label"]}
            for row in pairs(9)
        ]
        examples = examples_of(checkpoint, STSB, rows)
        assert examples.targets.dtype == np.float32
        assert set(examples.scores(predict(checkpoint.model, examples))) == {
            "pearson", "spearman", "pearson_spearman",
        }  # fmt: skip

    def test_bad_rows_are_refused(self, save_tiny: Any) -> None:
        checkpoint = load_checkpoint(str(save_tiny("bert", labels=3)), task=MNLI)
        with pytest.raises(InputError, match="dev: there are no rows"):
            examples_of(checkpoint, MNLI, [], source="dev")
        with pytest.raises(InputError, match="dev, row 2 has the label 5"):
            examples_of(checkpoint, MNLI, [*pairs(1), pairs(1)[0] | {"label": 5}], source="dev")
        with pytest.raises(InputError, match="batch_size=0"):
            predict(checkpoint.model, examples_of(checkpoint, MNLI, pairs(2)), batch_size=0)
        causal = load_checkpoint(str(save_tiny("gpt2", labels=2)), task=COLA)
        causal.tokenizer.backend_tokenizer.post_processor = None
        with pytest.raises(InputError, match="row 1 has no tokens"):
            examples_of(causal, COLA, [{"sentence": "", "label": 0}])


class TestLosses:
    def test_their_mean_is_the_librarys_loss(self, save_tiny: Any) -> None:
        for labels, task in ((3, MNLI), (1, STSB)):
            checkpoint = load_checkpoint(str(save_tiny("bert", labels=labels)), task=task)
            columns = dict(zip(("premise", "hypothesis"), task.columns, strict=True))
            rows = [{columns.get(k, k): v for k, v in row.items()} for row in pairs(7)]
            (_, batch), *_ = examples_of(checkpoint, task, rows).batches(7)
            with torch.no_grad():
                output = checkpoint.model(**batch)
            each = losses(output.logits, batch["labels"])
            assert each.shape == (7,)
            assert each.mean() == pytest.approx(float(output.loss), rel=1e-5)

    def test_written_out(self) -> None:
        logits, labels = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]), torch.tensor([2, 1])
        p = np.exp(0.5) / np.exp([1.0, -2.0, 0.5]).sum()
        assert losses(logits, labels).tolist() == pytest.approx([-np.log(p), np.log(3)])
        assert losses(torch.tensor([[2.0], [0.5]]), torch.tensor([0.0, 1.5])).tolist() == [4, 1]
        assert losses(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_real_rows_of_every_task_are_ready_for_the_real_model(
    shared: Path, minilm: Any, name: str, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    task = task_named(name)
    source = load_rows(task, shared / "glue")
    names = dict(enumerate(task.labels or ("LABEL_0",)))
    config = BertConfig(**minilm.model.config.to_diff_dict() | {"id2label": names, "num_hidden_layers": 1})
    model = BertForSequenceClassification(config).eval()
    examples = examples_of(replace(minilm, model=model), task, source.rows[:60], source=source.source)
    found = examples.scores(predict(model, examples))
    assert all(-1 <= value <= 1 for value in found.values())
    assert max(map(len, examples.encoded)) <= 128
