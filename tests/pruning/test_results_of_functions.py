"""Every public function gives back a table and a figure, and the table holds the numbers of the dictionary."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conformance import FAMILIES, build

import annotations
import models
import patterns
import pruning
from annotations import AnnotatedMaps
from models import InputError
from models.common.marks import marks
from models.common.results import PROVENANCE, Result, Tabular, marks_of
from models.evaluation import examples_of
from models.tasks.rows import load_rows
from models.tasks.task import task_named
from pruning.study.report.outcome import StudyReport

ROOMS = (models, patterns, annotations, pruning)

BY_TYPE = {one.model_type: one for one in FAMILIES}

VALUES = {
    *(
        "anatomy_of",
        "compact",
        "gated",
        "kept_of",
        "load",
        "load_checkpoint",
        "observe",
        "save",
        "size_share",
    ),
    *("attention_maps", "for_bertviz", "load_classifier", "redrawn", "render_map"),
    *("bad_subnetwork", "never_survivors", "random_subnetworks", "read_study", "super_bad_subnetwork"),
    "super_survivors",
}
"""What gives back no result but a model, a map, a mask, a plan, or two numbers."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A public function at work, and what its table has to hold."""

    make: Callable[[Places, Path], Any]
    """Of what is there to work on, and an empty folder."""
    rows: Callable[[Any], Rows]
    """Taken from the dictionary or the arrays alone: a row of the table each, perhaps not all of its columns."""


@dataclass(frozen=True)
class Places:
    """What the functions work on."""

    tuned: Path
    """See ``tuned`` in conftest."""
    maps: Path
    """Maps with labels of three people, who do not always agree, and beside it ``labels.json``, which holds them."""
    search: Path
    """A search of ``prune-heads``."""

    @property
    def model(self) -> str:
        return str(self.tuned / "model")

    def options(self, **more: Any) -> dict[str, Any]:
        return {"data": str(self.tuned / "data"), "device": "cpu", **more}


@pytest.fixture(scope="module")
def places(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    out = tmp_path_factory.mktemp("places")
    found = Places(tuned, out / "maps", out / "search")
    rows = tuned / "data" / "qqp"
    (rows / "train.jsonl").write_text((rows / "validation.jsonl").read_text())
    sample(found, found.maps)
    search(found, found.search)
    names = [pattern.value for pattern in patterns.Pattern]
    tasks = [
        {
            "headscope_id": row.id,
            "annotator": f"ann{who}",
            "pattern": names[(i + (who and i % 3 == 0)) % 5],
            "id": i,
        }
        for i, row in enumerate(AnnotatedMaps.load(found.maps).rows)
        for who in range(3)
    ]
    (out / "labels.json").write_text(json.dumps(tasks))
    annotations.import_labels(out / "labels.json", found.maps)
    return found


def sample(at: Places, out: Path) -> Any:
    return annotations.sample_maps(
        at.model, "qqp", out, count=40, maps=["raw"], strategy="random", **at.options(examples=60)
    )


def search(at: Places, out: Path) -> Any:
    return pruning.prune_heads(at.model, "qqp", out, what="heads", head_step=0.5, **at.options())


def tune(at: Places, out: Path, **more: Any) -> Any:
    how = at.options(epochs=2, max_length=16, max_examples=16)
    return models.finetune_glue(at.model, "qqp", out, **how, **more)


def tune_rows(at: Places, out: Path) -> Any:
    rows = load_rows(task_named("qqp"), str(at.tuned / "data"), "train")
    how = models.FineTuning(epochs=2, max_length=16, max_examples=16)
    return models.finetune(at.model, "qqp", rows, rows, how, out, device="cpu")


def epochs(found: Any) -> Rows:
    return [
        {"epoch": one["epoch"], "step": one["step"], "loss": one["loss"], **one["scores"]}
        for one in found["training"]["history"]
    ]


def one_row(*keys: str) -> Callable[[Any], Rows]:
    """The numbers of a dictionary, those of dictionaries within it by keys with dots between."""

    def rows(found: Any) -> Rows:
        told = {}
        for key in keys:
            value = found
            for part in key.split("."):
                value = value[part]
            told[key] = value
        return [told]

    return rows


def statistics(found: Any) -> Rows:
    rows: list[tuple[Any, ...]] = [
        (name, "all", found[key]["value"], *found[key]["ci95"])
        for name, key in (("percent", "percent"), ("alpha", "alpha"), ("fleiss_kappa", "fleiss"))
    ]
    for one in found["pairs"]:
        of = f"{one['a']}, {one['b']}"
        rows += [("percent", of, one["percent"], None, None), ("cohen_kappa", of, one["kappa"], *one["ci95"])]
    for name, one in found["patterns"].items():
        rows += [(key, name, one[key], None, None) for key in ("agreement", "alpha")]
    return [dict(zip(("statistic", "of", "value", "low", "high"), row, strict=True)) for row in rows]


def scores(found: Any) -> Rows:
    names = ("accuracy", "macro_f1", "log_loss", "brier", "ece")
    rows = [
        {
            "score": name,
            "pattern": None,
            "value": found[name],
            "low": low,
            "high": high,
            "maps": found["maps"],
        }
        for name in names
        for low, high in [found["ci95"][name]]
    ]
    return rows + [
        {"score": "f1", "pattern": name, "value": value, "maps": found["support"][name]}
        | dict(zip(("low", "high"), found["ci95"]["f1"][name], strict=True))
        for name, value in found["f1"].items()
    ]


def ablated(found: Any) -> Rows:
    return [
        {
            **{name: one[name] for name in ("kind", "name", "heads")},
            **{name: one["together"][name] for name in ("score", "drop", "p_holm", "verdict")},
            "random_mean": one["together"]["random"] and one["together"]["random"]["mean"],
            "alone_mean_drop": one["one_by_one"] and one["one_by_one"]["mean_drop"],
        }
        for one in found["found"]
    ]


def heads(found: Any) -> Rows:
    return [
        {"kind": kind, "layer": layer, "head": head}
        for kind in found.kinds
        for layer, head in np.ndindex(found.heads.shape)
    ]


def classify(at: Places, out: Path) -> Any:
    one = models.load_checkpoint(at.model)
    return patterns.classify_heads(one.model, one.tokenizer, [("w1 w2 w3", "w4"), ("w5 w6", "w7")])


def compare(at: Places, out: Path) -> Any:
    other = models.load_checkpoint(at.model, task="qqp")
    models.save(patterns.redrawn(other.model, seed=0), out, tokenizer=other.tokenizer)
    return patterns.compare_heads(at.model, out, task="qqp", maps="raw", **at.options(examples=3))


def importance(at: Places, out: Path) -> Any:
    one = models.load_checkpoint(at.model, task="qqp")
    rows = load_rows(task_named("qqp"), str(at.tuned / "data"), "validation")
    examples = examples_of(one, task_named("qqp"), rows.rows[:6], 16)
    return pruning.head_importance(one.model, [batch for _, batch in examples.batches(3)])


def parts(of_heads: Any, of_mlps: Any, column: str) -> Rows:
    found = [
        {"layer": layer, "head": head, column: float(value)}
        for (layer, head), value in np.ndenumerate(of_heads)
    ]
    return found + [
        {"layer": layer, "head": -1, column: float(value)} for (layer,), value in np.ndenumerate(of_mlps)
    ]


STATUS = (
    "maps",
    "labelled",
    "open",
    "undecided",
    "kinds.raw.open",
    "annotators.ann1.labelled",
    "patterns.vertical",
)
SEARCH = ("task", "metric", "full_score", "threshold_score", "score", "majority_score", "iterations")
TAKEN = ("tasks", "unlabelled", "taken", "added", "known", "replaced", "new_maps")

CASES = {
    "finetune": Case(tune_rows, epochs),
    "finetune_glue": Case(tune, epochs),
    "finetune_glue, seeds": Case(
        lambda at, out: tune(at, out, seeds=[1, 2]),
        lambda found: [
            {"seed": one["seed"], "score": one["score"], "metric": found["metric"], **one["scores"]}
            for one in found["runs"]
        ],
    ),
    "classify_heads": Case(classify, heads),
    "classify_checkpoint": Case(
        lambda at, out: patterns.classify_checkpoint(at.model, "qqp", maps="raw", **at.options(examples=3)),
        lambda found: heads(found.patterns),
    ),
    "compare_heads": Case(compare, lambda found: heads(found.patterns[0])),
    "sample_maps": Case(
        sample, one_row("base_model", "task", "count", "seed", "maps.raw", "candidates.raw", "strategy")
    ),
    "import_labels": Case(
        lambda at, out: annotations.import_labels(at.maps.parent / "labels.json", at.maps), one_row(*TAKEN)
    ),
    "export_maps": Case(
        lambda at, out: annotations.export_maps(at.maps, out.with_suffix(".csv"), format="csv"),
        one_row("output", "format", "maps", "labels"),
    ),
    "labelling_status": Case(lambda at, out: annotations.labelling_status(at.maps), one_row(*STATUS)),
    "measure_agreement": Case(lambda at, out: annotations.measure_agreement(at.maps), statistics),
    "train_classifier": Case(
        lambda at, out: annotations.train_classifier(
            at.maps, output=out, epochs=1, folds=2, trees=0, generated=0
        ),
        lambda found: scores(found["out_of_fold"]),
    ),
    "evaluate_classifier": Case(lambda at, out: annotations.evaluate_classifier(at.maps), scores),
    "prune_heads": Case(search, one_row(*SEARCH, "heads.kept", "heads.all", "encoder_share.parameters")),
    "prune_weights": Case(
        lambda at, out: pruning.prune_weights(
            at.model, "qqp", out, fraction=0.5, max_steps=2, **at.options()
        ),
        one_row(*SEARCH, "weights.kept", "weights.all", "fraction"),
    ),
    "ablate_patterns": Case(
        lambda at, out: pruning.ablate_patterns(
            at.model, "qqp", out, draws=5, pattern_examples=4, maps="raw", permutations=9, **at.options()
        ),
        ablated,
    ),
    "compare_survivors": Case(
        lambda at, out: pruning.compare_survivors(at.search, task="qqp", seed=3),
        lambda found: parts(
            found.groups[0].subnetworks[0].heads, found.groups[0].subnetworks[0].mlps, "mean"
        ),
    ),
    "head_importance": Case(importance, lambda found: parts(found.heads, found.mlps, "importance")),
}
"""By the name of a public function, and after a comma what is asked of it."""

ELSEWHERE = {"measure_cross_attention", "push_maps", "pull_labels", "run_study", "write_report"}
"""Functions that need more than a tiny model; tests of their own are below."""


def held(frame: pd.DataFrame, rows: Rows) -> None:
    """Hold that the table has exactly these rows, in some order, as far as their columns go."""
    assert len(frame) == len(rows) > 0

    def plain(row: Any) -> str:
        return repr([None if pd.isna(row.get(name)) else row[name] for name in names])

    names = sorted({name for row in rows for name in row})
    assert {*names} <= {*frame.columns}
    ours = [{name: row[name] for name in names} for row in frame.astype(object).to_dict("records")]
    assert sorted(map(plain, ours)) == sorted(map(plain, rows))


def check(result: Any, rows: Rows) -> None:
    assert isinstance(result, Tabular) or {"to_frame", "to_dataset", "plot"} <= {*dir(result)}
    frame = result.to_frame()
    held(frame, rows)
    dataset = result.to_dataset()
    figure = result.plot()
    assert figure.axes
    figure.canvas.draw()
    if not isinstance(result, dict):
        return
    assert {*dataset.column_names} == {*frame.columns}
    assert dataset.num_rows == len(frame)
    plain = json.loads(json.dumps(result))  # it is the dictionary that it was
    assert json.loads(json.dumps(dict(result))) == plain
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    pd.testing.assert_frame_equal(again.to_frame(), frame)


@pytest.mark.parametrize("name", CASES)
def test_a_result_has_a_table_of_its_numbers_a_dataset_and_a_figure(
    name: str, places: Places, tmp_path: Path
) -> None:
    case = CASES[name]
    result = case.make(places, tmp_path / "out")
    check(result, case.rows(result))


def test_cross_attention_has_them_too(tmp_path: Path, tiny_tokenizer: Any) -> None:
    build(BY_TYPE["bart"]).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("the cat sat\non the mat\n")
    found = patterns.measure_cross_attention(
        str(tmp_path / "model"), text=tmp_path / "lines.txt", device="cpu"
    )
    rows = [
        {"kind": kind, "layer": layer, "head": head}
        for kind in found.attention.kinds
        for layer, head in np.ndindex(found.attention.shape)
    ]
    check(found, rows)
    check(found.attention, rows)


@pytest.mark.parametrize(("function", "job"), [("push_maps", "Push"), ("pull_labels", "Pull")])
def test_what_came_of_a_server_has_them_too(
    function: str, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = {"id": 7, "title": "heads", "url": "http://localhost:8080"}
    pushed = {"maps": 5, "added": 3, "there": 2, "predictions": 3, "lost_replies": 0, "duplicates": 0}
    taken = dict(zip(TAKEN, range(3, 10), strict=True)) | {"left": {"no label": 2}, "withdrawn": 1}
    found = {"project": project, **(pushed if job == "Push" else taken), "notes": ["one"]}
    monkeypatch.setattr("annotations.label_studio.push_pull.read_kinds", lambda folder: {})
    monkeypatch.setattr(f"annotations.label_studio.push_pull.{job}.run", lambda self, progress: found)
    result = getattr(annotations, function)(tmp_path, "heads", token="a-token-of-forty-characters")
    assert result == found
    check(result, one_row(*(key for key in found if isinstance(found[key], int)), "project.id")(found))


def test_a_finished_study_and_its_report_have_the_scores(
    reported_study: Path, study_report: StudyReport, tmp_path: Path
) -> None:
    done = pruning.run_study(shutil.copytree(reported_study, tmp_path / "study"))
    assert study_report["scores"]
    check(study_report, study_report["scores"])
    check(done, done["report"]["scores"])


def test_an_unfinished_study_says_why_it_has_no_scores(study_materials: Path, tmp_path: Path) -> None:
    done = pruning.run_study(
        study_materials / "study.toml", tmp_path / "study", only=["sst2/seed_1/fine-tune"]
    )
    for method in (done.to_frame, done.to_dataset, done.plot):
        with pytest.raises(InputError, match=r"1 of \d+ steps of this study are done"):
            method()


def test_no_public_function_is_left_out() -> None:
    public = {
        name
        for room in ROOMS
        for name in room.__all__
        if callable(getattr(room, name)) and not inspect.isclass(getattr(room, name))
    }
    covered = {name.partition(",")[0] for name in CASES} | ELSEWHERE
    assert not covered & VALUES
    assert public == covered | VALUES


def test_a_dictionary_within_another_and_lists() -> None:
    found = {"a": 1, "b": {"c": 2.5, "d": {"e": "x"}}, "f": [1, 2], "g": None, PROVENANCE: {"python": "3"}}
    result = Result(found, "numbers", ("a", "b"))
    assert result.to_frame().to_dict("records") == [{"a": 1, "b.c": 2.5, "b.d.e": "x", "g": None}]
    assert result.record is result
    assert result == found


def test_what_was_not_scored_has_an_empty_table_and_nothing_to_draw() -> None:
    from annotations.training.outcome import Trained

    result = Trained({"out_of_fold": None}, "Scores out of fold")
    frame = result.to_frame()
    assert not len(frame)
    assert [*frame.columns] == ["score", "pattern", "maps", "value", "low", "high"]
    with pytest.raises(InputError, match="Scores out of fold has no number"):
        result.plot()


def test_marks_lie_at_their_numbers_and_say_them() -> None:
    rows = [("share", 0.5, 0.25, 0.75), ("count", 1234, None, None), ("nothing", None, None, None)]
    figure = marks(marks_of(rows), "Numbers")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["Numbers", "share", "0.500 [0.250, 0.750]", "count", "1,234", "nothing", "-"]
    drawn = [(*map(float, line.get_xdata()),) for line in figure.axes[1].lines[1:]]
    assert drawn == [(0.25, 0.75), (0.5,), (1234.0,)]
