"""Tasks of a user's own: described in a file, read, learned, scored and recorded like GLUE's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from tiny import FILLERS

from models.common.errors import InputError
from models.tasks.measures import range_of
from models.tasks.metrics import baselines, scores, threshold_metric
from models.tasks.rows import class_ids, load_rows, targets_of, texts_of
from models.tasks.task import TASKS, Task, task_named

STARS = {
    "name": "stars",
    "texts": ["review"],
    "label": "rating",
    "labels": ["1", "2", "3", "4", "5"],
    "metric": "f1_macro",
}
ANLI = {
    "name": "anli",
    "texts": ["premise", "hypothesis"],
    "labels": ["entailment", "neutral", "contradiction"],
}
HEAT = {"name": "heat", "texts": ["sentence"], "label": "degrees", "range": [-40, 60]}


def config_of(*names: str) -> Any:
    from transformers import BertConfig

    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def refusal(given: Any) -> str:
    with pytest.raises(InputError) as error:
        task_named(given)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class TestDescriptions:
    def test_a_file_says_what_a_task_is_and_where_its_rows_lie(self, tmp_path: Path) -> None:
        write(tmp_path, "reviews/test.csv", "review,rating\nfine,4\nbad,1\n")
        path = write(
            tmp_path,
            "my-stars.toml",
            'texts = ["review"]\nlabel = "rating"\nlabels = ["1", "2", "3", "4", "5"]\nmetric = "f1_macro"\n'
            'data = "reviews"\nvalidation = "test"\n',
        )
        task = task_named(path)
        assert (task.name, task.columns, task.label, task.metric) == (
            "my-stars",
            ("review",),
            "rating",
            "f1_macro",
        )
        rows = load_rows(str(path))
        assert [texts_of(row, task) for row in rows.rows] == [("fine", None), ("bad", None)]
        assert targets_of(rows.rows, task, config_of("5", "4", "3", "2", "1")).tolist() == [1, 4]

    @pytest.mark.parametrize("table", [STARS, ANLI, HEAT, HEAT | {"range": [0, math.inf], "metric": "r2"}])
    def test_what_a_result_records_of_one_is_the_same_task_again(self, table: dict[str, Any]) -> None:
        task = task_named(table)
        again = task_named(json.loads(json.dumps(task.record(), allow_nan=False)))
        assert again == task
        assert task.meaning() is not None

    def test_those_of_glue_record_nothing_more_than_their_names(self) -> None:
        assert all(task.record() is None and task.meaning() is None for task in TASKS.values())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"lables": ["a", "b"]}, "unknown key 'lables'; the nearest is 'labels'"),
            ({"texts": []}, "name one text column, or two"),
            ({"texts": "review"}, "give a list of texts"),
            ({"texts": ["a", "a"]}, "name one text column, or two"),
            ({"texts": ["rating"]}, "'rating' is a text and the label"),
            ({"labels": ["yes"]}, "two names or more"),
            ({"labels": ["Yes", "yes"]}, "differ in more than case"),
            ({"range": [0, 5]}, "give either labels"),
            ({"labels": ["a", "b"], "metric": "f1_makro"}, "the nearest are f1_macro"),
            ({"metric": "f1"}, "of several there are f1_macro and f1_weighted"),
            ({"metric": "r2"}, "is not for 5 classes"),
            ({"metric": "pearson"}, "is none for 5 classes"),
            ({"name": "SST-2"}, "one of GLUE's"),
            ({"name": "../up"}, "letters, digits, _ and -"),
            ({"label": 3}, "give text"),
        ],
    )
    def test_what_is_wrong_with_one_is_one_sentence(self, change: dict[str, Any], said: str) -> None:
        assert said in refusal(STARS | change)

    def test_a_regression_needs_a_range_and_a_metric_of_numbers(self) -> None:
        assert task_named(HEAT).metric == "pearson_spearman"
        assert "lower one" in refusal(HEAT | {"range": [5, 0]})
        assert "two numbers" in refusal(HEAT | {"range": [5]})
        assert "is none for a regression" in refusal(HEAT | {"metric": "f2"})
        assert "not for a regression" in refusal(HEAT | {"metric": "accuracy"})

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        assert "does not exist" in refusal(tmp_path / "no.toml")
        assert "a.toml" in refusal(write(tmp_path, "a.toml", "texts = ["))
        assert "give one of the nine GLUE tasks" in refusal("my_task")

    def test_one_without_data_says_so(self) -> None:
        with pytest.raises(InputError, match="stars does not say where its rows lie"):
            load_rows(STARS)  # type: ignore[arg-type]


class TestLabels:
    def test_numbers_that_are_names_are_never_places(self) -> None:
        task = task_named(STARS)
        rows = [{"review": "x", "rating": value} for value in (1, 5, "3", 2.0, "4")]
        assert targets_of(rows, task, config_of("1", "2", "3", "4", "5")).tolist() == [0, 4, 2, 1, 3]
        assert targets_of(rows, task, config_of("5", "4", "3", "2", "1")).tolist() == [4, 0, 2, 3, 1]
        assert class_ids(task, config_of(*(f"LABEL_{i}" for i in range(5)))) == (0, 1, 2, 3, 4)
        for wrong in (0, 6, "0", 2.5, None, True):
            with pytest.raises(InputError, match=r"1 or 2 or 3 or 4 or 5"):
                targets_of([{"review": "x", "rating": wrong}], task, config_of("1", "2", "3", "4", "5"))

    def test_numbers_as_names_are_told_apart_by_their_values(self) -> None:
        """With their sign and their decimals; 1 and 1.0 are one."""
        task = task_named(STARS | {"labels": ["-1", "0", "1", "1.5"]})
        rows = [{"review": "x", "rating": value} for value in (-1, 0, 1, 1.5, "-1", "+1", "1.0", "1.50")]
        assert targets_of(rows, task, config_of("1.5", "1", "0", "-1")).tolist() == [3, 2, 1, 0, 3, 1, 1, 0]
        for wrong in (2, 15, -1.5, "15"):
            with pytest.raises(InputError, match=r"-1 or 0 or 1 or 1\.5"):
                targets_of([{"review": "x", "rating": wrong}], task, config_of("1.5", "1", "0", "-1"))
        assert "differ in more than case" in refusal(STARS | {"labels": ["1", "1.0"]})

    def test_a_config_that_numbers_its_classes_in_two_ways_is_refused(self) -> None:
        config = config_of("1", "2", "3", "4", "5")
        config.label2id = {"5": 0, "4": 1, "3": 2, "2": 3, "1": 4}
        with pytest.raises(InputError, match="contradicts itself: class 0 is '1' in id2label"):
            class_ids(task_named(STARS), config)

    def test_names_of_a_data_sets_own_classes_count(self, tmp_path: Path) -> None:
        """The Hub numbers its classes from 0, whatever they are called."""
        from datasets import ClassLabel, Dataset, Features, Value

        names = ["5", "4", "3", "2", "1"]
        features = Features({"review": Value("string"), "rating": ClassLabel(names=names)})
        Dataset.from_dict({"review": ["a", "b"], "rating": [0, 3]}, features=features).to_parquet(
            tmp_path / "validation.parquet"
        )
        task = task_named(STARS)
        rows = load_rows(task, tmp_path).rows
        assert targets_of(rows, task, config_of("1", "2", "3", "4", "5")).tolist() == [4, 1]

    def test_names_in_any_script(self) -> None:
        task = task_named(STARS | {"labels": ["好", "坏", "+", "-"]})
        rows = [{"review": "x", "rating": value} for value in ("坏", "-", "好", "+", 2)]
        assert targets_of(rows, task, config_of("-", "+", "坏", "好")).tolist() == [2, 0, 3, 1, 1]

    def test_numbers_outside_of_a_regressions_range(self) -> None:
        task, config = task_named(HEAT), config_of("x")
        assert targets_of([{"sentence": "x", "degrees": "-12.5"}], task, config).tolist() == [-12.5]
        for wrong in (-41, 61, "warm", math.nan, math.inf):
            with pytest.raises(InputError, match="a number from -40 to 60"):
                targets_of([{"sentence": "x", "degrees": wrong}], task, config)
        endless = task_named(HEAT | {"range": [-math.inf, math.inf]})
        assert targets_of([{"sentence": "x", "degrees": 1e6}], endless, config).tolist() == [1e6]
        with pytest.raises(InputError, match="a number"):
            targets_of([{"sentence": "x", "degrees": math.inf}], endless, config)


class TestMetrics:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
    def test_scikit_learns_scorers_see_what_the_model_says(self, order: tuple[int, ...]) -> None:
        """In the order of the task's labels, whatever the model's own is."""
        rng = np.random.default_rng(2)
        targets, logits = rng.integers(0, 3, 200), rng.normal(0, 1, (200, 3))
        logits[np.arange(200), targets] += 1
        of_model = np.empty_like(logits)
        of_model[:, list(order)] = logits
        for metric, right in {
            "f1_macro": f1_score(targets, logits.argmax(axis=1), average="macro"),
            "roc_auc_ovr": roc_auc_score(
                targets, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), multi_class="ovr"
            ),
        }.items():
            task = task_named(ANLI | {"metric": metric})
            found = scores(task, of_model, np.array(order)[targets], classes=order)
            assert found[metric] == pytest.approx(right)
            assert threshold_metric(task) == metric
            assert found["accuracy"] == np.mean(logits.argmax(axis=1) == targets)

    def test_the_second_label_is_the_positive_one(self) -> None:
        rng = np.random.default_rng(3)
        targets, logits = rng.integers(0, 2, 90), rng.normal(0, 1, (90, 2))
        task = task_named(ANLI | {"labels": ["no", "yes"], "metric": "precision"})
        said = logits.argmax(axis=1)
        assert scores(task, logits, targets)["precision"] == targets[said == 1].mean()
        assert (
            scores(task, logits[:, ::-1], 1 - targets, classes=(1, 0))["precision"]
            == targets[said == 1].mean()
        )

    def test_a_regression_by_another_metric(self) -> None:
        rng = np.random.default_rng(4)
        targets = rng.normal(10, 5, 60)
        outputs = targets + rng.normal(0, 3, 60)
        found = scores(task_named(HEAT | {"metric": "r2"}), outputs[:, None], targets)
        assert found["r2"] == pytest.approx(r2_score(targets, outputs))
        assert set(found) == {"pearson", "spearman", "pearson_spearman", "r2"}

    def test_what_looks_at_no_input_is_scored_too(self) -> None:
        rng = np.random.default_rng(5)
        train, targets = rng.integers(0, 3, 300), rng.integers(0, 3, 200)
        shares = np.bincount(train) / 300
        task = task_named(ANLI | {"metric": "neg_log_loss"})
        always = baselines(task, train, targets)["majority"]
        assert always["neg_log_loss"] == pytest.approx(np.log(shares)[targets].mean())
        assert always["accuracy"] == np.mean(targets == shares.argmax())

    def test_what_cannot_be_measured_on_these_rows_is_one_sentence(self) -> None:
        task = task_named(ANLI | {"labels": ["no", "yes"], "metric": "roc_auc"})
        with pytest.raises(InputError, match=r"roc_auc of 3 rows of anli cannot be measured"):
            scores(task, np.eye(2)[[0, 1, 0]], np.zeros(3, dtype=int))

    @pytest.mark.parametrize(
        ("metric", "ends"),
        [
            ("accuracy", (0, 1)),
            ("matthews", (-1, 1)),
            ("f1_macro", (0, 1)),
            ("r2", (-math.inf, 1)),
            ("neg_log_loss", (-math.inf, 0)),
        ],
    )
    def test_scores_have_the_range_that_they_have(self, metric: str, ends: tuple[float, float]) -> None:
        assert range_of(metric) == ends


def test_a_model_learns_a_task_of_ones_own_and_says_so(
    tmp_path: Path, save_tiny: Any, run_command: Any
) -> None:
    """Three classes of two texts, by the command; then its maps, from the same file."""
    from models.finetuning.cli import finetune_glue
    from patterns.cli import classify_heads

    rows = [
        {
            "premise": f"{FILLERS[i % 3]} {('good', 'bad', FILLERS[5])[k]}",
            "hypothesis": "the film",
            "label": ["neutral", "entailment", "contradiction"][k],
        }
        for i in range(16)
        for k in range(3)
    ]
    for split in ("train_r1", "dev_r1"):
        write(tmp_path, f"data/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    file = write(
        tmp_path,
        "anli.toml",
        'texts = ["premise", "hypothesis"]\nlabels = ["entailment", "neutral", "contradiction"]\n'
        'metric = "f1_macro"\ndata = "data"\ntrain = "train_r1"\nvalidation = "dev_r1"\n',
    )
    words = ["--model", save_tiny("bert", fresh=True, initializer_range=0.1), "--task", file, "--output"]
    words += [tmp_path / "tuned", "--epochs", 6, "--learning-rate", 3e-3, "--batch-size", 8]
    code, out, err = run_command(finetune_glue, *words)
    assert code == 0, err
    told = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert (told["task"], told["metric"]) == ("anli", "f1_macro")
    assert told["score"] > 0.9 > told["baselines"]["majority"]["accuracy"]
    assert task_named(told["task_definition"]) == task_named(file)
    assert "f1_macro" in out
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert sorted(config["label2id"]) == ["contradiction", "entailment", "neutral"]

    words = [
        "--model",
        tmp_path / "tuned",
        "--task",
        file,
        "--examples",
        8,
        "--output",
        tmp_path / "heads",
        "--json",
    ]
    code, out, err = run_command(classify_heads, *words)
    assert code == 0, err
    assert json.loads(out)["task_definition"] == told["task_definition"]
    assert (tmp_path / "heads" / "report.html").is_file()


def test_the_nine_are_as_they_are_published() -> None:
    assert isinstance(TASKS["cola"], Task)
    assert {name: task.metric for name, task in TASKS.items() if task.metric != "accuracy"} == {
        "cola": "matthews",
        "stsb": "pearson_spearman",
    }
    assert TASKS["stsb"].span == (0.0, 5.0)
