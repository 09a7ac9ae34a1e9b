"""``annotate-maps sample`` and ``status``, and the way from a sample to a new classifier, as users go it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import WORDS

from annotations import AnnotatedMaps
from annotations.cli import app
from annotations.folders import add_annotations
from annotations.sampling.job import SampleMaps
from annotations.sampling.strategies import STRATEGIES, image_features
from annotations.training import cli
from models import Subnetwork, compact, load, load_checkpoint, save
from models.common.errors import InputError
from models.tasks.rows import load_rows
from models.tasks.task import task_named
from patterns import attention_maps, classify_heads, load_classifier
from patterns.maps.store import MapRow
from patterns.taxonomy import PATTERNS

EXAMPLES = 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "qqp").mkdir(parents=True)
    lines = []
    for i in range(EXAMPLES):
        first, second = (" ".join(rng.choice(WORDS, rng.integers(3, 15))) for _ in range(2))
        lines.append(json.dumps({"question1": first, "question2": second, "label": 0, "idx": 10 + i}))
    (tmp_path / "data" / "qqp" / "validation.jsonl").write_text("\n".join(lines))
    return tmp_path / "data"


@pytest.fixture
def options(data: Path, save_tiny: Any, tmp_path: Path) -> dict[str, Any]:
    model = save_tiny("bert")
    return {
        "model": str(model), "task": "qqp", "data": str(data), "count": 20, "device": "cpu",
        "output": tmp_path / "sample",
    }  # fmt: skip


def places(folder: Path) -> list[tuple[Any, ...]]:
    info = AnnotatedMaps.load(folder).info
    return list(info[["example", "layer", "head", "kind"]].itertuples(index=False, name=None))


def all_margins(options: dict[str, Any], kind: str) -> dict[tuple[int, int, int], float]:
    """Of every map of the model, from the public functions."""
    checkpoint = load_checkpoint(options["model"])
    rows = load_rows(task_named("qqp"), options["data"]).numbered()
    frame = classify_heads(
        checkpoint.model, checkpoint.tokenizer, rows, task="qqp", kinds=(kind,)
    ).maps_frame()
    top = np.sort(frame[[f"prob_{p}" for p in PATTERNS]].to_numpy(), axis=1)
    keys = frame[["example", "layer", "head"]].itertuples(index=False, name=None)
    return dict(zip(keys, (top[:, -1] - top[:, -2]).tolist(), strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_a_whole_folder_without_a_place_taken_twice(
    options: dict[str, Any], strategy: str
) -> None:
    report = SampleMaps(**options, strategy=strategy).run()
    folder = options["output"]
    assert {path.name for path in folder.iterdir()} == {
        ".headscope.json", "maps-00000.parquet", "annotations.parquet", "README.md", "sample.json", "texts.parquet",
        "predictions.parquet",
    }  # fmt: skip
    assert not list(folder.parent.glob(".*"))
    taken = places(folder)
    assert len({place[:3] for place in taken}) == len(taken) == 20
    # The kinds take turns.
    assert [place[3] for place in taken] == ["raw", "norm"] * 10
    assert json.loads((folder / "sample.json").read_text()) == json.loads(json.dumps(report))
    assert (report["strategy"], report["count"], report["maps"]) == (strategy, 20, {"raw": 10, "norm": 10})
    assert report["candidates"] == {"raw": EXAMPLES * 12, "norm": EXAMPLES * 12}
    assert report["data"]["sha256"]
    assert report["model"]["sha256"]

    maps = AnnotatedMaps.load(folder)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert predictions["id"].tolist() == [row.id for row in maps.rows]
    for kind in ("raw", "norm"):
        classifier = load_classifier(kind)
        mine = [i for i, row in enumerate(maps.rows) if row.kind == kind]
        found = classifier.predict_proba([maps.rows[i].map for i in mine])
        said = predictions.iloc[mine]
        assert said[[f"prob_{p}" for p in PATTERNS]].to_numpy() == pytest.approx(found, abs=0.02)
        assert set(said["classifier_version"]) == {classifier.version}
    probabilities = predictions[[f"prob_{p}" for p in PATTERNS]].to_numpy()
    top = np.sort(probabilities, axis=1)
    assert predictions["margin"].to_numpy() == pytest.approx(top[:, -1] - top[:, -2])
    assert predictions["label"].tolist() == [PATTERNS[i].value for i in probabilities.argmax(axis=1)]


def test_the_maps_are_those_of_the_model_and_their_tokens_stand_beside_them(options: dict[str, Any]) -> None:
    SampleMaps(**options).run()
    checkpoint = load_checkpoint(options["model"])
    rows = {row["idx"]: row for row in load_rows(task_named("qqp"), options["data"]).rows}
    texts = pd.read_parquet(options["output"] / "texts.parquet").set_index("id")["tokens"]
    maps = AnnotatedMaps.load(options["output"])
    assert list(texts.index) == [row.id for row in maps.rows]
    for row in maps.rows:
        source = rows[row.example]
        words = [*source["question1"].split(), "[SEP]", *source["question2"].split()]
        assert texts[row.id].tolist() == ["[CLS]", *words, "[SEP]"]
        assert row.segment_borders == tuple(i for i, t in enumerate(texts[row.id]) if t == "[SEP]")
        batch = checkpoint.tokenizer(source["question1"], source["question2"], return_tensors="pt")
        ((_, _, wanted, _),) = attention_maps(checkpoint.model, batch, kinds=(row.kind,), layers=[row.layer])
        assert row.map == pytest.approx(wanted[0, row.head].numpy(), rel=2e-3, abs=1e-4)
        assert (row.task, row.model) == ("qqp", options["model"])


def test_uncertain_takes_the_smallest_margins_of_all_maps(options: dict[str, Any]) -> None:
    SampleMaps(**options | {"maps": ("raw",)}, strategy="uncertain").run()
    margin = all_margins(options, "raw")
    taken = [margin[place[:3]] for place in places(options["output"])]
    assert taken == pytest.approx(sorted(margin.values())[:20], abs=1e-4)


def test_balanced_takes_rare_predictions_as_often_as_frequent_ones(options: dict[str, Any]) -> None:
    report = SampleMaps(**options | {"maps": ("raw",), "count": 12}, strategy="balanced").run()
    everything = SampleMaps(
        **options | {"maps": ("raw",), "count": 1000, "output": options["output"].with_name("all")}
    ).run()
    there, taken = everything["predicted"], report["predicted"]
    assert len([pattern for pattern, n in there.items() if n]) > 1
    for one in there:
        for other in there:
            assert taken[one] >= taken[other] - 1 or taken[one] == there[one]


@pytest.mark.parametrize("strategy", ["diverse", "uncertain-diverse"])
def test_the_diverse_strategies_see_every_map(
    options: dict[str, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def spy(name: str, probabilities: Any, features: Any, count: int, rng: Any) -> Any:
        seen.append(features)
        return np.arange(len(features))

    monkeypatch.setattr("annotations.sampling.job.choose", spy)
    SampleMaps(**options | {"maps": ("norm",)}, strategy=strategy).run()
    rows = AnnotatedMaps.load(options["output"]).rows
    assert len(rows) == EXAMPLES * 12
    wanted = np.concatenate([image_features(row.map[None]) for row in rows])
    assert seen[0] == pytest.approx(wanted, abs=2e-3)


def test_the_seed_decides_and_the_batch_size_does_not(options: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for name, changes in (
        ("a", {}),
        ("b", {"batch_size": 3}),
        ("c", {"seed": 1}),
    ):
        SampleMaps(**options | {"output": tmp_path / name, "strategy": "diverse"} | changes).run()
        found.append(places(tmp_path / name))
    assert found[0] == found[1] != found[2]


def test_excluded_maps_are_not_chosen_again_in_either_kind(options: dict[str, Any], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    total = EXAMPLES * 12
    SampleMaps(**options | {"output": first, "count": total - 5, "maps": ("raw",)}).run()
    report = SampleMaps(**options | {"output": second, "exclude": (first,)}).run()
    assert not {place[:3] for place in places(first)} & {place[:3] for place in places(second)}
    assert len(places(second)) == 5
    assert report["exclude"]["found"] == total - 5
    assert any("20 maps were asked for, but only 5 are left" in warning for warning in report["warnings"])
    with pytest.raises(InputError, match="No map is left to choose"):
        SampleMaps(**options | {"output": tmp_path / "third", "exclude": (first, second)}).run()
    assert not (tmp_path / "third").exists()


def test_another_model_or_text_is_not_excluded(
    options: dict[str, Any], save_tiny: Any, tmp_path: Path
) -> None:
    SampleMaps(**options | {"count": 1000}).run()
    other = save_tiny("bert", initializer_range=0.5, fresh=True)
    report = SampleMaps(
        **options | {"model": str(other), "output": tmp_path / "b", "exclude": (options["output"],)}
    ).run()
    assert report["exclude"]["found"] == 0
    merged = AnnotatedMaps.load(options["output"]).merge(AnnotatedMaps.load(tmp_path / "b"))
    assert len(merged) == EXAMPLES * 12 + 20


def test_the_same_map_has_the_same_id_in_every_sample(options: dict[str, Any], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        SampleMaps(**options | {"output": tmp_path / name, "count": 90, "seed": seed, "maps": ("raw",)}).run()
    a, b = (AnnotatedMaps.load(tmp_path / name) for name in "ab")
    assert len(a.merge(b)) == len(set(places(tmp_path / "a")) | set(places(tmp_path / "b")))


def test_heads_that_are_gone_or_show_nothing_are_not_chosen(options: dict[str, Any], tmp_path: Path) -> None:
    model = load_checkpoint(options["model"]).model
    with torch.no_grad():  # values of zero: the norm maps of layer 1, head 2 are zero in every cell
        value = model.encoder.layer[1].attention.self.value
        value.weight[12:18] = 0
        value.bias[12:18] = 0
    heads = Subnetwork.full(model).heads.copy()
    heads[0, :3] = False
    small = compact(model, Subnetwork(heads, np.ones(3, dtype=bool)))
    save(small, tmp_path / "small", tokenizer=load_checkpoint(options["model"]).tokenizer)
    assert load(tmp_path / "small") is not None
    report = SampleMaps(
        **options | {"model": str(tmp_path / "small"), "count": 1000, "maps": ("norm",)}, strategy="diverse"
    ).run()
    taken = {place[1:3] for place in places(options["output"])}
    assert taken == {(layer, head) for layer in range(3) for head in range(4) if heads[layer, head]} - {
        (1, 2)
    }
    assert report["candidates"] == {"norm": EXAMPLES * 8}  # of twelve heads three are gone, one shows nothing


class TestBadInput:
    def refused(self, run_command: Any, options: dict[str, Any], match: str, *words: Any) -> None:
        before = sorted(options["output"].parent.rglob("*"))
        given = [
            word for name in ("model", "task", "data", "output") for word in (f"--{name}", options[name])
        ]
        code, out, err = run_command(app, "sample", *given, *words)
        assert (code, out) == (2, "")
        assert match in err
        assert len(err.strip().splitlines()) == 1
        assert sorted(options["output"].parent.rglob("*")) == before

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (["--strategy", "best"], f"--strategy best: give one of {', '.join(STRATEGIES)}"),
            (["--count", "0"], "--count 0: give at least 1"),
            (["--examples", "0"], "--examples 0: give at least 1"),
            (["--maps", "rollout"], "rollout"),
            (["--exclude", "nowhere"], "nowhere"),
            (["--raw-classifier", "nowhere"], "nowhere"),
            (["--split", "test"], "test"),
            (["--seed", "-1"], "seed"),
        ],
    )
    def test_options(self, run_command: Any, options: dict[str, Any], words: list[str], match: str) -> None:
        self.refused(run_command, options, match, *words)

    def test_an_output_with_something_in_it(self, run_command: Any, options: dict[str, Any]) -> None:
        options["output"].mkdir()
        (options["output"] / "notes.txt").write_text("mine")
        self.refused(run_command, options, "is not empty")
        self.refused(run_command, options, "no earlier output of annotate-maps sample", "--overwrite")

    def test_labels_are_never_overwritten(self, run_command: Any, options: dict[str, Any]) -> None:
        SampleMaps(**options).run()
        SampleMaps(**options, overwrite=True).run()
        label(options["output"], "me", ["vertical"])
        self.refused(run_command, options, "holds labels, so it is not replaced", "--overwrite")


def label(folder: Path, annotator: str, labels: list[str | None]) -> None:
    """Label the first maps of a folder, as pulling from a server does."""
    ids = pd.read_parquet(folder / "predictions.parquet")["id"]
    frame = pd.DataFrame(
        [(id, annotator, one) for id, one in zip(ids, labels, strict=False) if one],
        columns=["id", "annotator", "label"],
    )
    assert add_annotations(folder, frame).added == len(frame)


class TestStatus:
    def test_it_counts_what_is_labelled_and_what_is_open(
        self, run_command: Any, options: dict[str, Any]
    ) -> None:
        folder = options["output"]
        SampleMaps(**options).run()
        code, out, err = run_command(app, "status", folder, "--json")
        assert code == 0, err
        report = json.loads(out)
        assert (report["labelled"], report["open"], report["annotators"]) == (0, 20, {})
        assert report["notes"] == ["No map has a label yet."]
        label(folder, "ann", ["vertical", "block", None, "diagonal"])
        label(folder, "ben", ["vertical", "diagonal"])
        code, out, err = run_command(app, "status", folder, "--json")
        assert code == 0, err
        report = json.loads(out)
        assert (report["maps"], report["labelled"], report["open"], report["undecided"]) == (20, 3, 17, 1)
        assert report["by_labels"] == {"0": 17, "1": 1, "2": 2}
        assert report["kinds"] == {
            "raw": {"maps": 10, "labelled": 1, "open": 9}, "norm": {"maps": 10, "labelled": 2, "open": 8},
        }  # fmt: skip
        assert report["annotators"]["ann"]["labelled"] == 3
        assert report["annotators"]["ben"]["open"] == 18
        assert {p: n for p, n in report["patterns"].items() if n} == {"vertical": 1, "diagonal": 1}
        predictions = pd.read_parquet(folder / "predictions.parquet")
        unlabelled = predictions.drop(index=[0, 1, 3])
        assert {p: n for p, n in report["predicted"]["labels"].items() if n} == Counter(unlabelled["label"])
        assert report["predicted"]["mean_margin"] == pytest.approx(unlabelled["margin"].mean())
        code, out, _ = run_command(app, "status", folder)
        assert "20 maps: 3 labelled, 17 open, 1 labelled without a majority" in out
        assert "ann: 3 labelled, 17 open (1 vertical, 1 diagonal, 1 block)" in out

    def test_without_predictions_and_without_open_maps(self, run_command: Any, tmp_path: Path) -> None:
        values = np.eye(16, dtype=np.float32)
        row = MapRow("a", "raw", "", "", "", -1, -1, -1, 16, (), values)
        AnnotatedMaps([row], pd.DataFrame({"id": ["a"], "annotator": ["x"], "label": ["diagonal"]})).save(
            tmp_path / "maps"
        )
        code, out, _ = run_command(app, "status", tmp_path / "maps")
        assert code == 0
        assert "has no predictions.parquet" in out
        (tmp_path / "maps" / "predictions.parquet").write_bytes(
            pd.DataFrame({"id": ["a"], "label": ["block"], "margin": [0.5]}).to_parquet()
        )
        code, out, _ = run_command(app, "status", tmp_path / "maps", "--json")
        assert json.loads(out)["predicted"] == {
            "maps": 0,
            "labels": dict.fromkeys(map(str, PATTERNS), 0),
            "mean_margin": None,
            "mean_margins": dict.fromkeys(map(str, PATTERNS)),
        }

    @pytest.mark.parametrize(
        ("file", "content", "match"),
        [
            ("maps-00000.parquet", b"PAR1", "maps-00000.parquet is not a whole Parquet file"),
            ("predictions.parquet", b"", "predictions.parquet is not a whole Parquet file"),
            ("annotations.parquet", b"x", "annotations.parquet is not a whole Parquet file"),
        ],
    )
    def test_a_broken_file_is_named(
        self, run_command: Any, options: dict[str, Any], file: str, content: bytes, match: str
    ) -> None:
        SampleMaps(**options).run()
        (options["output"] / file).write_bytes(content)
        code, out, err = run_command(app, "status", options["output"])
        assert (code, out) == (2, "")
        assert match in err

    def test_a_folder_without_maps(self, run_command: Any, tmp_path: Path) -> None:
        code, _, err = run_command(app, "status", tmp_path)
        assert code == 2
        assert "holds no maps-*.parquet" in err


def test_the_loop_closes(run_command: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Sample, label, train on two folders, and sample what the new classifier is unsure of."""
    given = [word for name in ("model", "task", "data") for word in (f"--{name}", options[name])]
    first, second, classifier = tmp_path / "first", tmp_path / "second", tmp_path / "classifier"
    code, out, err = run_command(app, "sample", *given, "--count", 24, "--output", first)
    assert code == 0, err
    assert "12 raw and 12 norm maps of" in out
    label(first, "me", ["vertical", "vertical", "diagonal", "diagonal"] * 6)
    words = ["--count", 10, "--strategy", "uncertain", "--exclude", first, "--output", second, "--json"]
    code, out, err = run_command(app, "sample", *given, *words)
    assert code == 0, err
    assert json.loads(out)["exclude"]["found"] == 24
    label(second, "me", ["block", "heterogeneous"] * 5)
    words = ["--annotations", first, second, "--maps", "raw", "--epochs", 1, "--folds", 0, "--trees", 0]
    words += ["--generated", 0]
    code, out, err = run_command(cli.train_classifier, *words, "--output", classifier, "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert trained["maps"] == {"raw": 17, "norm": 17}
    assert trained["labels"] == {
        "vertical": 12, "diagonal": 12, "vertical_diagonal": 0, "block": 5, "heterogeneous": 5,
    }  # fmt: skip
    words = ["--maps", "raw", "--count", 5, "--raw-classifier", classifier, "--output", tmp_path / "third"]
    code, out, err = run_command(app, "sample", *given, *words, "--exclude", first, "--exclude", second)
    assert code == 0, err
    found = pd.read_parquet(tmp_path / "third" / "predictions.parquet")
    assert set(found["classifier_version"]) == {trained["version"]}
    words = ["--annotations", first, second, "--classifier", classifier, "--json"]
    code, out, err = run_command(cli.evaluate_classifier, *words)
    assert code == 0, err
    assert json.loads(out)["maps"] == json.loads(out)["trained_on"] == 17


def test_lines_of_a_file_are_sampled_as_the_same_rows_of_a_task_are(
    options: dict[str, Any], data: Path, tmp_path: Path, run_command: Any
) -> None:
    rows = map(json.loads, (data / "qqp" / "validation.jsonl").read_text().splitlines())
    text = tmp_path / "pairs.txt"
    text.write_text("".join(f"{row['question1']}\t{row['question2']}\n" for row in rows))
    SampleMaps(**options).run()
    of_task = AnnotatedMaps.load(options["output"])
    words = ["--model", options["model"], "--text", text, "--count", "20", "--device", "cpu"]
    code, out, err = run_command(app, "sample", *words, "--output", tmp_path / "texts", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["task"], report["split"], report["data"]["source"]) == ("pairs.txt", None, str(text))
    of_text = AnnotatedMaps.load(tmp_path / "texts")
    assert [row.map.tolist() for row in of_text.rows] == [row.map.tolist() for row in of_task.rows]
    code, _, err = run_command(app, "sample", "--model", options["model"], "--output", tmp_path / "none")
    assert code == 2
    assert "Give either --task" in err
