"""Labels are mapped by name: what a row says, in the model's own order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from models import InputError
from models.glue import TASKS, class_ids, load_rows, targets_of, task_named

COLA, MNLI, STSB, QQP = (task_named(name) for name in ("cola", "mnli", "stsb", "qqp"))
CLASSIFYING = [task for task in TASKS.values() if task.labels]


def config_with(names: Any) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)))


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"label": label} for label in labels]


def refusal(rows: Any, task: Any = MNLI, names: Any = None) -> str:
    """The one sentence with which rows are refused."""
    config = config_with(names or task.labels or ["LABEL_0"])
    with pytest.raises(InputError) as error:
        targets_of(rows, task, config, "dev.tsv")
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@settings(deadline=None, max_examples=60)
@given(task=st.sampled_from(CLASSIFYING), draw=st.data())
def test_a_label_is_the_class_of_the_same_name_whatever_the_models_order_and_spelling(
    task: Any, draw: st.DataObject
) -> None:
    names = draw.draw(st.permutations(task.labels))
    spell = draw.draw(st.sampled_from([str.upper, str.title, str, lambda name: name.replace("_", " ")]))
    config = config_with(spell(name) for name in names)
    for i, label in enumerate(task.labels):
        ways = labelled(i, float(i), np.int64(i), str(i), f"{i}.0", label, label.upper())
        assert [names[target] for target in targets_of(ways, task, config)] == [label] * len(ways)


@pytest.mark.parametrize("task", CLASSIFYING, ids=lambda task: task.name)
def test_unnamed_classes_are_in_the_tasks_own_order(task: Any) -> None:
    n = len(task.labels)
    for prefix in ("LABEL_", "label", ""):
        assert class_ids(task, config_with(f"{prefix}{i}" for i in range(n))) == tuple(range(n))


def test_classes_known_by_a_number_go_by_it() -> None:
    assert class_ids(MNLI, config_with(["LABEL_2", "LABEL_0", "LABEL_1"])) == (1, 2, 0)


def test_the_types_are_those_of_the_losses() -> None:
    assert targets_of(labelled(1, 0), COLA, config_with(COLA.labels)).dtype == np.int64
    similar = targets_of(labelled(5, "2.500", 0.0), STSB, config_with(["LABEL_0"]))
    assert similar.dtype == np.float32
    assert similar.tolist() == [5, 2.5, 0]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (MNLI, ["entailment", "not_entailment"]),
        (MNLI, ["entailment", "neutral", "neutral"]),
        (MNLI, ["LABEL_0", "LABEL_1"]),
        (MNLI, ["LABEL_1", "LABEL_2", "LABEL_3"]),
        (COLA, ["negative", "positive"]),
        (QQP, ["LABEL_0"]),
        (STSB, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_a_model_with_other_classes_is_refused_with_both_names(task: Any, names: list[str]) -> None:
    message = refusal(labelled(0), task, names)
    assert ", ".join(names) in message
    assert all(label in message for label in task.labels)


@pytest.mark.parametrize(
    "label", [-1, 7, 3, "3", "-1", 0.5, math.nan, math.inf, "nan", "maybe", True, [1], "-"]
)
def test_an_unknown_label_is_named_with_its_row_and_what_would_be_right(label: Any) -> None:
    message = refusal(labelled(0, label))
    assert message.startswith(f"dev.tsv, row 2 has the label {label!r}")
    assert message.endswith("mnli needs 0 (entailment) or 1 (neutral) or 2 (contradiction).")
    assert ("without labels, such as test" in message) == (str(label) == "-1")


@pytest.mark.parametrize("score", [-0.1, 5.01, -1, math.nan, "high", False])
def test_a_similarity_out_of_range_is_refused(score: Any) -> None:
    message = refusal(labelled(2.5, 1, score), STSB)
    assert message.startswith(f"dev.tsv, row 3 has the label {score!r}")
    assert message.endswith("stsb needs a number from 0 to 5.")


def test_a_missing_label_is_named() -> None:
    assert refusal([{"sentence": "x"}]).startswith("dev.tsv, row 1 has no column 'label'; mnli needs 0 (")
    assert refusal(labelled(None)).startswith("dev.tsv, row 1 has no label;")
    assert refusal(labelled("")).startswith("dev.tsv, row 1 has no label;")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_real_rows_have_the_labels_that_they_are_known_to_have(shared: Path, name: str) -> None:
    """Class balances as listed beside the files."""
    task = task_named(name)
    rows = load_rows(task, shared / "glue").rows
    targets = targets_of(rows, task, config_with(task.labels or ["LABEL_0"]))
    if name == "stsb":
        assert targets.mean() == pytest.approx(2.364, abs=5e-4)
        return
    known = {
        "cola": [322, 721], "sst2": [428, 444], "mrpc": [129, 279], "qqp": [623, 377],
        "qnli": [2702, 2761], "rte": [146, 131], "wnli": [40, 31],
    }  # fmt: skip
    counts = np.bincount(targets)
    assert counts.tolist() == known.get(name, counts.tolist())
    assert len(counts) == len(task.labels)
