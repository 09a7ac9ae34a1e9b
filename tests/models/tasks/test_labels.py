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
from models.tasks.rows import class_ids, class_names, load_rows, targets_of
from models.tasks.task import TASKS, task_named

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


NLI = ["contradiction", "entailment", "neutral"]
NUMBERED = {i: f"LABEL_{i}" for i in range(3)}


def by_name(names: list[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("id2label", "label2id"),
    [
        (dict(enumerate(NLI)), None),
        (dict(enumerate(NLI)), {name: i for i, name in NUMBERED.items()}),
        (NUMBERED, by_name(NLI)),
        ({0: "0", 1: "1", 2: "2"}, by_name([name.upper() for name in NLI])),
        (None, by_name(NLI)),
        ({}, {"neutral": "2", "contradiction": "0", "entailment": "1"}),
        (dict(enumerate(NLI)), by_name([name.title() for name in NLI])),
    ],
)
def test_classes_are_named_by_whichever_table_names_them(id2label: Any, label2id: Any) -> None:
    config = BertConfig(num_labels=3)
    config.id2label, config.label2id = id2label, label2id
    assert class_ids(MNLI, config) == (1, 2, 0)


@pytest.mark.parametrize(
    "names", [["entailment", "neutral", "contradiction"], ["neutral", "entailment", "x"]]
)
def test_tables_that_contradict_each_other_are_refused_with_both(names: list[str]) -> None:
    config = BertConfig(id2label=dict(enumerate(NLI)))
    config.label2id = by_name(names)
    with pytest.raises(InputError, match="contradicts itself: class") as error:
        class_ids(MNLI, config)
    assert ", ".join(NLI) in str(error.value)
    assert ", ".join(names) in str(error.value)


@pytest.mark.parametrize(
    ("id2label", "label2id"),
    [
        ({0: "entailment", 2: "neutral", 3: "contradiction"}, None),  # gaps
        (dict(enumerate(NLI, start=1)), None),
        (NUMBERED, {"entailment": 1, "neutral": 2, "contradiction": 3}),
        (NUMBERED, {"entailment": 0, "neutral": 2}),
        (NUMBERED, {"entailment": 0, "neutral": 1, "contradiction": 1}),
        (NUMBERED, {"entailment": 0, "LABEL_1": 1, "LABEL_2": 2}),
    ],
)
def test_classes_with_gaps_are_refused_rather_than_shifted(id2label: Any, label2id: Any) -> None:
    with pytest.raises(InputError, match="from 0 on"):
        class_names(id2label, label2id)


@pytest.mark.parametrize("tables", [(["a"], None), ({"x": "entailment"}, None), (None, {"neutral": "first"})])
def test_what_is_no_table_of_classes_is_refused(tables: Any) -> None:
    with pytest.raises(InputError, match="must be tables of ids and names"):
        class_names(*tables)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (MNLI, "multi_label_classification"),
        (COLA, "regression"),
        (STSB, "multi_label_classification"),
        (STSB, "single_label_classification"),
    ],
)
def test_a_model_for_another_kind_of_problem_is_refused(task: Any, kind: str) -> None:
    config = config_with(task.labels or ["LABEL_0"])
    config.problem_type = kind  # set by hand: the library refuses some itself
    with pytest.raises(InputError, match=f"says problem_type '{kind}', but {task.name} needs"):
        class_ids(task, config)


def test_a_task_may_be_given_by_its_name() -> None:
    assert class_ids("MNLI-m", config_with(NLI)) == class_ids(MNLI, config_with(NLI))
    assert targets_of(labelled("neutral"), "mnli", config_with(NLI)).tolist() == [2]
    with pytest.raises(InputError, match="given by its name, a TOML file or a mapping, not by a int"):
        class_ids(3, config_with(NLI))  # type: ignore[arg-type]


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
