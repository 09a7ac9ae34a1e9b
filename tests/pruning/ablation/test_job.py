"""ablate-patterns from the model to its files: scores recomputed otherwise, planted heads, resumption, bad input."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import snapshot

import pruning
from models import InputError, Subnetwork
from models.checkpoints import Checkpoint, load_checkpoint
from models.common.reading import json_digest, read_frame
from models.evaluation import examples_of, predict
from models.tasks.rows import Rows, load_rows, select_rows
from patterns import HeadPatterns, classify_heads
from patterns.taxonomy import PATTERNS
from pruning.ablation import groups as groups_module
from pruning.ablation import job as job_module
from pruning.ablation.groups import SORTS, Sort, groups_of
from pruning.ablation.job import AblatePatterns
from pruning.ablation.records import AblationProvenance, AblationSummary, GroupRecord, SetsLine
from pruning.ablation.tables import draws_frame
from pruning.ablation.terminal import print_ablation
from pruning.cli import ablate_patterns as command

TABLES = ("groups.csv", "draws.parquet", "single_heads.parquet")


def job(tuned: Path, output: Path, **more: Any) -> AblatePatterns:
    given: dict[str, Any] = {
        "examples": 40,
        "draws": 12,
        "pattern_examples": 6,
        "permutations": 99,
        "device": "cpu",
        "max_length": 32,
    }
    return AblatePatterns(str(tuned / "model"), "qqp", output, str(tuned / "data"), **(given | more))


def looked_at(checkpoint: Checkpoint, rows: Rows, measure: bool = False) -> HeadPatterns:
    """The heads of a model, by the rows that the ablation looks at."""
    return classify_heads(
        checkpoint.model,
        checkpoint.tokenizer,
        select_rows(rows.numbered(), "qqp", 6, 0),
        task="qqp",
        kinds=("raw",),
        max_length=32,
        measure=measure,
    )


@pytest.fixture(autouse=True, scope="module")
def _several_passes() -> Iterator[None]:
    """However few patterns a classifier sees in so small a model, its sets take more than one pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "_AT_ONCE", 8)
        yield


@pytest.fixture(scope="module")
def made(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("ablation") / "out"
    return folder, job(tuned, folder, maps=("raw",)).run()


def without(model: Any, heads: np.ndarray) -> Any:
    """The model with the heads' columns of W_O set to zero, written out for BERT."""
    changed = copy.deepcopy(model)
    for layer, head in np.argwhere(heads):
        weight = changed.bert.encoder.layer[layer].attention.output.dense.weight.data
        width = weight.shape[1] // heads.shape[1]
        weight[:, head * width : (head + 1) * width] = 0
    return changed


def as_mask(words: str) -> np.ndarray:
    heads = np.zeros((3, 4), dtype=bool)
    for word in words.split():
        heads[tuple(map(int, word.split(".")))] = True
    return heads


def test_every_score_is_that_of_a_model_whose_heads_are_gone(made: Any, tuned: Path) -> None:
    """Groups, draws and single heads, scored again one by one with weights set to zero."""
    folder, summary = made
    checkpoint = load_checkpoint(str(tuned / "model"), task="qqp")
    rows = load_rows("qqp", str(tuned / "data"), "validation")
    scored = examples_of(checkpoint, "qqp", select_rows(rows.rows, "qqp", 40, 0), 32)

    def score(heads: np.ndarray) -> float:
        return scored.scores(predict(without(checkpoint.model, heads), scored))["accuracy"]

    full = score(np.zeros((3, 4), dtype=bool))
    assert summary["metric"] == "accuracy"
    assert summary["score"] == pytest.approx(full)
    patterns = looked_at(checkpoint, rows).to_frame()
    for one in summary["found"]:
        own = patterns[patterns["dominant"] == one["name"]]
        assert one["heads"] == len(own)
        if not len(own):
            assert one["together"]["why"] == "no head is of this group"
            continue
        heads = np.zeros((3, 4), dtype=bool)
        heads[own["layer"], own["head"]] = True
        assert one["together"]["drop"] == pytest.approx(full - score(heads))
    draws = pd.read_parquet(folder / "draws.parquet")
    assert len(draws) == 12 * sum(one["heads"] > 0 for one in summary["found"])
    for row in draws.itertuples():
        assert row.drop == pytest.approx(full - score(as_mask(str(row.heads))))
        own = patterns[patterns["dominant"] == row.name]
        assert as_mask(str(row.heads)).sum(axis=1).tolist() == [
            int((own["layer"] == layer).sum()) for layer in range(3)
        ]
    singles = pd.read_parquet(folder / "single_heads.parquet")
    assert len(singles) == 12
    for row in singles.itertuples():
        assert row.drop == pytest.approx(full - score(as_mask(f"{row.layer}.{row.head}")))
    assert singles["drop"].abs().max() > 0
    assert singles["loss_increase"].abs().min() > 0


def test_files_name_all_that_was_found(made: Any) -> None:
    folder, summary = made
    groups = pd.read_csv(folder / "groups.csv")
    assert groups["name"].tolist() == [pattern.value for pattern in PATTERNS]
    assert groups["verdict"].tolist() == [one["together"]["verdict"] for one in summary["found"]]
    html = (folder / "report.html").read_text()
    assert "One head closed at a time" in html
    assert "ablate-patterns --model" in html
    for name in ("groups.png", "single_heads.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    saved = json.loads((folder / "summary.json").read_text())
    assert saved == summary
    assert set(saved) == set(AblationSummary.__annotations__) - {"task_definition"}
    assert set(saved["found"][0]) == set(GroupRecord.__annotations__)
    assert set(saved["provenance"]) == set(AblationProvenance.__annotations__) - {"environment"}
    for line in (folder / "history.jsonl").read_text().splitlines():
        assert set(json.loads(line)) - {"checksum"} == set(SetsLine.__annotations__)
    assert saved["provenance"]["model"]["sha256"]
    assert saved["provenance"]["classifiers"]["raw"]


def test_the_same_again_is_the_same_bytes(made: Any, tuned: Path, tmp_path: Path) -> None:
    folder, _ = made
    job(tuned, tmp_path / "again", maps=("raw",)).run()
    for name in TABLES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    first, again = (
        [{**json.loads(line), "seconds": 0} for line in (home / "history.jsonl").read_text().splitlines()]
        for home in (folder, tmp_path / "again")
    )
    assert first == again


def test_what_was_stopped_goes_on_where_it_was(
    made: Any, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = made
    out = tmp_path / "out"
    original = job_module.Closing.answers
    passes: list[int] = []

    def stopping(self: Any, sets: Any, done: Any) -> Any:
        if passes:
            raise KeyboardInterrupt
        passes.append(len(sets))
        return original(self, sets, done)

    monkeypatch.setattr(job_module.Closing, "answers", stopping)
    with pytest.raises(KeyboardInterrupt):
        job(tuned, out, maps=("raw",)).run()
    assert len((out / "history.jsonl").read_text().splitlines()) == 1
    assert not (out / "summary.json").exists()
    assert not [file for file in out.iterdir() if file.name.startswith(".headscope-")]

    asked: list[int] = []

    def counting(self: Any, sets: Any, done: Any) -> Any:
        asked.append(len(sets))
        return original(self, sets, done)

    monkeypatch.setattr(job_module.Closing, "answers", counting)
    with pytest.raises(InputError, match=r"holds another ablation \(how 'zero' there, 'mean' here\)"):
        job(tuned, out, maps=("raw",), how="mean").run()
    done = job(tuned, out, maps=("raw",)).run()
    total = sum(json.loads(line)["sets"] for line in (out / "history.jsonl").read_text().splitlines())
    assert sum(passes + asked) == total + passes[0]  # the groups' own, for their intervals
    assert asked
    assert {**done, "provenance": 0} == {**summary, "provenance": 0}
    for name in TABLES:
        assert (folder / name).read_bytes() == (out / name).read_bytes()
    asked.clear()
    assert job(tuned, out, maps=("raw",)).run() == done
    assert not asked


def test_a_folder_from_before_drops_had_intervals_is_completed_by_name(
    made: Any, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    summary = json.loads((out / "summary.json").read_text())
    for one in summary["found"]:
        del one["together"]["drop_ci95"]
    (out / "summary.json").write_text(json.dumps(summary))
    checksums = json.loads((out / "checksums.json").read_text())
    (out / "checksums.json").write_text(json.dumps(checksums | {"summary.json": json_digest(summary)}))
    original, asked, told = job_module.Closing.answers, [], []

    def counting(self: Any, sets: Any, done: Any) -> Any:
        asked.append(len(sets))
        return original(self, sets, done)

    monkeypatch.setattr(job_module.Closing, "answers", counting)
    done = job(tuned, out, maps=("raw",)).run(say=told.append)
    assert told[0] == (
        f"{out} was made before drops had an interval over inputs, and is completed: what it recorded stays, and the "
        "heads of each group are closed once more."
    )
    assert asked == [8]  # one pass of several: that with the groups in it
    assert len((out / "history.jsonl").read_text().splitlines()) > 1
    assert {**done, "provenance": 0} == {**made[1], "provenance": 0}
    for name in (*TABLES, "history.jsonl"):
        assert (made[0] / name).read_bytes() == (out / name).read_bytes()
    asked.clear()
    assert job(tuned, out, maps=("raw",)).run() == done
    assert not asked


def test_a_record_from_another_device_is_warned_of(made: Any, tuned: Path, tmp_path: Path) -> None:
    """Its chain of checksums is right, so what it says was measured; the scores here are other ones."""
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for line in lines:  # headscope 0.1 wrote none
        del line["checksum"]
    lines[0]["scores"][0] -= 0.025
    (out / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "summary.json").unlink()
    done = job(tuned, out, maps=("raw",)).run()
    assert done["score"] == pytest.approx(made[1]["score"] - 0.025)
    assert any("score up to 0.025 otherwise than before" in message for message in done["warnings"])
    assert not any("otherwise than before" in message for message in made[1]["warnings"])


def test_every_drop_has_its_interval_over_inputs_wherever_it_is_shown(
    made: Any, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By accuracy, from which rows' answers change: the mean of +1, 0 and -1 over rows, resampled."""
    folder, summary = made
    checkpoint = load_checkpoint(str(tuned / "model"), task="qqp")
    rows = load_rows("qqp", str(tuned / "data"), "validation")
    scored = examples_of(checkpoint, "qqp", select_rows(rows.rows, "qqp", 40, 0), 32)
    found = looked_at(checkpoint, rows)
    groups = pd.read_csv(folder / "groups.csv").set_index("name")
    print_ablation(summary, width=200)
    terminal = " ".join(capsys.readouterr().out.split())
    page = (folder / "report.html").read_text()
    assert "It covers which inputs were drawn" in terminal
    assert "It covers which inputs were drawn" in page
    shown = 0
    for group, one in zip(groups_of(found, ("pattern",), "dominant", 0.5), summary["found"], strict=True):
        low, high = one["together"]["drop_ci95"]
        full, closed = (
            predict(without(checkpoint.model, heads), scored).argmax(axis=1) == scored.targets
            for heads in (np.zeros((3, 4), dtype=bool), group.heads)
        )
        change = full.astype(float) - closed
        if change.std() == 0:
            assert (low, high) == (None, None)
            assert groups.loc[group.name, ["drop_low", "drop_high"]].isna().all()
            continue
        drawn = np.random.default_rng(9).choice(change, (20000, 40)).mean(axis=1)
        assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.026)
        assert low <= one["together"]["drop"] <= high
        assert groups.loc[group.name, ["drop_low", "drop_high"]].tolist() == pytest.approx([low, high])
        assert f"[{low:+.4f}, {high:+.4f}]" in terminal
        assert f"[{low:+.4f}, {high:+.4f}] (95% over inputs)" in page
        shown += 1
    assert shown >= 2


def test_records_of_other_heads_and_damaged_ones_are_refused(made: Any, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    (out / "draws.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match=r"draws.parquet is not what headscope wrote there"):
        job(tuned, out, maps=("raw",)).run()
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    (out / "summary.json").unlink()
    lines[0]["scores"][0] = 0.99
    (out / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"history.jsonl, line 1, or ablation.json beside it, is not what"):
        job(tuned, out, maps=("raw",)).run()
    assert job(tuned, out, maps=("raw",), overwrite=True).run()["score"] == made[1]["score"]


def planted(home: Path, tokenizer: Any) -> None:
    """Write ``model`` and ``data``: heads 0 and 1 of both layers, alike, do all that attention does for the labels."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=32,
        max_position_embeddings=40,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "LayerNorm.weight" in name else 0.0
            spread = 0.05 if "output.dense" in name else 0.25
            parameter.copy_(centre + torch.randn(parameter.shape, generator=generator) * spread)
        for layer in model.bert.encoder.layer:
            attention = layer.attention
            for one in (attention.self.query, attention.self.key, attention.self.value):
                one.weight[2:4], one.bias[2:4] = one.weight[:2], one.bias[:2]
            weight = attention.output.dense.weight
            weight[:, 2:4] = weight[:, :2]
            weight[:, :4] *= 8
            weight[:, 4:] *= 0.001
        model.eval()
        rows = [
            " ".join(f"w{int(i)}" for i in torch.randint(0, 40, (int(n),), generator=generator))
            for n in torch.randint(3, 12, (60,), generator=generator)
        ]
        logits = model(**tokenizer(rows, padding=True, return_tensors="pt")).logits
        margin = logits[:, 1] - logits[:, 0]
        middle = margin.sort().values[29:31].mean()
        model.classifier.bias[1] -= middle
    model.save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    (home / "data" / "sst2").mkdir(parents=True)
    (home / "data" / "sst2" / "validation.jsonl").write_text(
        "".join(
            json.dumps({"sentence": row, "label": int(one > middle)}) + "\n"
            for row, one in zip(rows, margin, strict=True)
        )
    )


def test_planted_heads_that_matter_are_found_and_those_that_do_not_are_not(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heads of each layer do all there is to do: the group that has them costs more than nearly any other set."""
    from transformers import AutoTokenizer

    def heads(patterns: HeadPatterns, kind: str, by: str, share: float) -> dict[str, np.ndarray]:
        needed, idle = (np.zeros((2, 12), dtype=bool) for _ in range(2))
        needed[:, :2] = True
        idle[:, 5:7] = True
        return {"needed": needed, "idle": idle, "none": np.zeros((2, 12), dtype=bool)}

    monkeypatch.setitem(groups_module.SORTS, "planted", Sort(heads, {}))  # type: ignore[arg-type]
    planted(tmp_path, AutoTokenizer.from_pretrained(tuned / "model"))
    summary = AblatePatterns(
        str(tmp_path / "model"),
        "sst2",
        tmp_path / "out",
        str(tmp_path / "data"),
        maps=("raw",),
        groups=("planted",),
        draws=59,
        pattern_examples=4,
        max_length=32,
        device="cpu",
    ).run()
    assert summary["score"] == 1.0
    needed, idle, none = summary["found"]
    assert needed["together"]["drop"] > 0.1
    assert needed["together"]["random"]["as_large"] <= 3
    assert needed["together"]["p_holm"] <= 0.05
    assert needed["together"]["verdict"] == "higher"
    assert needed["one_by_one"]["verdict"] == "higher"
    assert needed["one_by_one"]["ci95"][0] > 0
    assert abs(idle["together"]["drop"]) < 0.05
    assert idle["together"]["verdict"] != "higher"
    assert idle["one_by_one"]["verdict"] != "higher"
    assert none["together"]["verdict"] == "not testable"
    assert none["one_by_one"] is None


def test_a_subnetwork_is_the_model_that_heads_are_closed_in(tuned: Path, tmp_path: Path) -> None:
    kept = np.ones((3, 4), dtype=bool)
    kept[0, 0] = kept[1, 2] = kept[2, 3] = False
    mlps = np.array([True, False, True])
    Subnetwork(kept, mlps).save(tmp_path / "kept.safetensors")
    summary = job(tuned, tmp_path / "out", subnetwork=str(tmp_path / "kept.safetensors"), maps=("raw",)).run()
    assert summary["heads"] == {"counted": 9, "all": 12}
    assert sum(one["heads"] for one in summary["found"]) == 9
    checkpoint = load_checkpoint(str(tuned / "model"), task="qqp")
    rows = load_rows("qqp", str(tuned / "data"), "validation")
    scored = examples_of(checkpoint, "qqp", select_rows(rows.rows, "qqp", 40, 0), 32)

    def score(heads: np.ndarray) -> float:
        from models import gated

        with gated(checkpoint.model, heads=kept & ~heads, mlps=mlps):
            return scored.scores(predict(checkpoint.model, scored))["accuracy"]

    full = score(np.zeros_like(kept))
    assert summary["score"] == pytest.approx(full)
    draws = pd.read_parquet(tmp_path / "out" / "draws.parquet")
    for row in draws.itertuples():
        heads = as_mask(str(row.heads))
        assert not (heads & ~kept).any()
        assert row.drop == pytest.approx(full - score(heads))
    singles = pd.read_parquet(tmp_path / "out" / "single_heads.parquet")
    assert len(singles) == 9
    other = Subnetwork(np.ones((2, 4), dtype=bool), np.ones(2, dtype=bool))
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"is of a model of 2 x 4 heads .*, but the model has 3 x 4"):
        job(tuned, tmp_path / "b", subnetwork=str(tmp_path / "other.safetensors")).run()
    Subnetwork(np.zeros((3, 4), dtype=bool), mlps).save(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="keeps no head of the model"):
        job(tuned, tmp_path / "c", subnetwork=str(tmp_path / "none.safetensors")).run()
    assert not (tmp_path / "c" / "summary.json").exists()


def made_up(labels: list[list[int]]) -> HeadPatterns:
    """Labels ``[E][H]`` of one layer."""
    array = np.array(labels, dtype=np.int8)[:, None]
    probabilities = np.where(array[..., None] >= 0, 0.2, np.nan).repeat(5, axis=-1).astype(np.float32)
    return HeadPatterns(
        {"raw": array},
        {"raw": probabilities},
        np.arange(len(array)),
        np.full(len(array), 9),
        np.ones(array.shape[1:], dtype=bool),
    )


def test_heads_are_grouped_by_their_dominant_pattern_or_by_a_share() -> None:
    patterns = made_up([[0, 1, -1, 4], [0, 2, -1, 4], [1, 1, -1, -1], [1, 2, -1, -1]])
    dominant = {one.name: one.heads[0].tolist() for one in groups_of(patterns, ("pattern",), "dominant", 0.5)}
    frame = patterns.to_frame()
    for name, heads in dominant.items():
        assert heads == (frame["dominant"] == name).tolist()
    assert dominant["vertical"] == [True, False, False, False]
    assert dominant["heterogeneous"] == [False, False, False, True]
    half = {one.name: one.heads[0].tolist() for one in groups_of(patterns, ("pattern",), "share", 0.5)}
    assert half["vertical"] == [True, False, False, False]
    assert half["diagonal"] == [True, True, False, False]
    assert half["vertical_diagonal"] == [False, True, False, False]
    assert half["heterogeneous"] == [False, False, False, True]
    assert half["block"] == [False] * 4
    only = replace(patterns, heads=np.array([[False, True, True, True]]))
    assert not groups_of(only, ("pattern",), "dominant", 0.5)[0].heads.any()
    assert set(SORTS) >= {"pattern"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"how": "shuffle"}, "--how shuffle: give one of zero, mean, resample"),
        ({"by": "most"}, "--by most: give dominant or share"),
        ({"share": 0.0}, "--share 0.0"),
        ({"groups": ("look",)}, "--groups look: give one or more of pattern"),
        ({"draws": 0}, "--draws 0: give at least 1"),
        ({"pattern_examples": 0}, "--pattern-examples 0"),
        ({"maps": ("red",)}, "red"),
        ({"examples": 0}, "--examples 0"),
        ({"batch_size": 0}, "--batch-size 0"),
    ],
)
def test_options_that_make_no_sense_are_named(
    options: dict[str, Any], told: str, tuned: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        job(tuned, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_task_without_scores_is_refused(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    """Rows without labels, as GLUE's test rows have them, and a model without a head, end with 2 and leave nothing."""
    (tmp_path / "data" / "qqp").mkdir(parents=True)
    rows = (tuned / "data" / "qqp" / "validation.jsonl").read_text().splitlines()
    unlabelled = [json.dumps({**json.loads(row), "label": -1}) for row in rows]
    (tmp_path / "data" / "qqp" / "test.jsonl").write_text("\n".join(unlabelled))
    code, _, err = run_command(
        command, "--model", tuned / "model", "--task", "qqp", "--data", tmp_path / "data",
        "--split", "test", "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 2, err
    assert "label" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_the_function_returns(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    options = {
        "draws": 3,
        "examples": 20,
        "pattern_examples": 4,
        "max_length": 32,
        "device": "cpu",
        "how": "mean",
    }
    where = {"data": str(tuned / "data")}
    done = pruning.ablate_patterns(str(tuned / "model"), "qqp", tmp_path / "a", **options, **where)
    words = [
        word for key, value in {**options, **where}.items() for word in (f"--{key.replace('_', '-')}", value)
    ]
    given = ("--model", tuned / "model", "--task", "qqp", "--output", tmp_path / "b", *words)
    code, out, err = run_command(command, *given)
    assert code == 0, err
    assert "All heads of a group closed" in out
    assert "One head closed at a time" in out
    assert "warning: With --draws 3 no group" in err
    assert err.count("With --draws 3 no group") == 1
    other = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert {**done, "provenance": 0} == {**other, "provenance": 0}
    before = snapshot(tmp_path / "b")
    code, out, err = run_command(command, *given, "--json")
    assert code == 0, err
    assert json.loads(out) == other
    assert snapshot(tmp_path / "b") == before


def test_closing_no_head_alone_is_an_option(tuned: Path, tmp_path: Path) -> None:
    summary = job(tuned, tmp_path / "out", alone=False, maps=("raw",)).run()
    assert {one["one_by_one"] for one in summary["found"]} == {None}
    assert not (tmp_path / "out" / "single_heads.parquet").exists()
    html = (tmp_path / "out" / "report.html").read_text()
    assert "--no-alone" in html
    assert "One head closed at a time" not in html


def test_a_model_that_has_learned_nothing_is_said_to(tuned: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tuned / "model")
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tuned / "model").save_pretrained(tmp_path / "model")
    (tmp_path / "data").symlink_to(tuned / "data")
    summary = job(tmp_path, tmp_path / "out", maps=("raw",)).run()
    assert any(
        "no better than that of always saying the commonest label" in one for one in summary["warnings"]
    )
    assert {one["together"]["drop"] for one in summary["found"]} <= {None, 0.0}


def test_roles_are_groups_of_the_heads_that_were_measured_to_have_them(tuned: Path, tmp_path: Path) -> None:
    """The heads of the first layer, whose queries are zero, attend evenly."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tuned / "model")
    query = model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        query.weight.zero_()
        query.bias.zero_()
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tuned / "model").save_pretrained(tmp_path / "model")
    (tmp_path / "data").symlink_to(tuned / "data")
    summary = job(
        tmp_path,
        tmp_path / "out",
        maps=("raw",),
        groups=("pattern", "role"),
        alone=False,
        draws=2,
        examples=20,
    ).run()
    checkpoint = load_checkpoint(str(tmp_path / "model"), task="qqp")
    rows = load_rows("qqp", str(tuned / "data"), "validation")
    frame = looked_at(checkpoint, rows, measure=True).to_frame()
    by_sort = {sort: [one for one in summary["found"] if one["sort"] == sort] for sort in ("pattern", "role")}
    assert [len(several) for several in by_sort.values()] == [5, 13]
    for one in by_sort["role"]:
        has = frame["roles"].map(lambda roles, name=one["name"]: name in str(roles).split(", "))
        assert one["heads"] == has.sum()
    even = next(one for one in by_sort["role"] if one["name"] == "even")
    assert even["heads"] >= 4
    assert even["together"]["layers"]["0"] == [4, 0]
    assert any("give --draws" in message for message in summary["warnings"])


def test_random_sets_are_read_where_no_group_has_heads(tmp_path: Path) -> None:
    file = tmp_path / "draws.parquet"
    draws_frame([], {}, {}, 0.0, 0.0).to_parquet(file, index=False)
    frame = read_frame(file, {"draw": "iu", "score": "f", "drop": "f", "loss_increase": "f", "heads": "O"})
    assert not len(frame)
