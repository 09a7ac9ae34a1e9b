"""The commands prune-heads and prune-weights: what they write, how they resume, what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import InputError, Subnetwork, compact, gated, load_checkpoint, save
from models.common.outputs import LOCK, MARKER
from models.evaluation import examples_of, predict
from models.tasks.rows import load_rows
from models.tasks.task import task_named
from models.weights import WeightMasks
from pruning.cli import compare_survivors, prune_heads, prune_weights
from pruning.importance import CRITERIA, Criterion
from pruning.search.subject import Subject

COMMANDS = {"prune-heads": prune_heads, "prune-weights": prune_weights}


def words_for(tuned: Path, output: Path, *more: Any) -> list[str]:
    return [
        *("--model", str(tuned / "model"), "--task", "qqp", "--data", str(tuned / "data")),
        *("--output", str(output), "--device", "cpu", *map(str, more)),
    ]


def result_of(command: str, folder: Path) -> dict[str, Any]:
    """Everything that a search ends with but times."""
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for record in history:
        record.pop("seconds")
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("provenance")
    found = {"history": history, "summary": summary}
    if command == "prune-heads":
        kept = Subnetwork.load(folder / "subnetwork.safetensors")
        found |= {"subnetwork": kept, "metadata": kept.metadata}
        found["importance"] = (folder / "importance.parquet").read_bytes()
    else:
        found["masks"] = WeightMasks.load(folder / "weight_masks.safetensors")
        found["survival"] = (folder / "survival.parquet").read_bytes()
    return found


def score_of(tuned: Path, subnetwork: Subnetwork) -> float:
    """Accuracy of the gated model, examples one by one."""
    task = task_named("qqp")
    checkpoint = load_checkpoint(str(tuned / "model"), task=task)
    examples = examples_of(checkpoint, task, load_rows(task, tuned / "data").rows)
    with gated(checkpoint.model, subnetwork.heads, subnetwork.mlps):
        logits = predict(checkpoint.model, examples, batch_size=1)
    return float((logits.argmax(1) == examples.targets).mean())


@pytest.fixture(scope="session")
def searched(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished search of each command."""
    found = {}
    for name, main in COMMANDS.items():
        found[name] = tmp_path_factory.mktemp("searched") / name
        run_in_process(main, words_for(tuned, found[name]))
    return found


def run_in_process(main: Any, words: list[str]) -> None:
    argv, sys.argv = sys.argv, [main.__name__, *words]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    assert not end.value.code


def test_prune_heads_writes_a_subnetwork_that_holds_the_threshold(tuned: Path, searched: Any) -> None:
    folder = searched["prune-heads"]
    kept = Subnetwork.load(folder / "subnetwork.safetensors")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["full_score"] == 1.0
    assert summary["score"] >= 0.9
    assert summary["score"] == pytest.approx(score_of(tuned, kept))
    assert (summary["heads"]["kept"], summary["mlps"]["kept"]) == (kept.n_heads, kept.n_mlps)
    assert kept.n_heads < 12 or kept.n_mlps < 3
    assert summary["seed"] == 42  # from the model's metrics.json
    assert summary["examples"] == 60
    assert 0 < summary["encoder_share"]["parameters"] < 1
    assert kept.metadata["task"] == "qqp"
    assert summary["provenance"]["packages"]["torch"]


def test_what_was_kept_is_shown_as_a_grid_beside_score_and_size(
    tuned: Path, searched: Any, run_command: Any
) -> None:
    folder = searched["prune-heads"]
    code, out, _ = run_command(prune_heads, *words_for(tuned, folder))  # done: it is shown again
    assert code == 0
    kept = Subnetwork.load(folder / "subnetwork.safetensors")
    summary = json.loads((folder / "summary.json").read_text())
    lines = [line.split() for line in out.splitlines()]
    for layer in range(3):
        marks = ["x" if one else "." for one in (*kept.heads[layer], kept.mlps[layer])]
        assert [str(layer), *marks] in lines
    for line in (folder / "history.jsonl").read_text().splitlines():
        one = json.loads(line)
        start = [str(one["iteration"]), str(one["heads"]), str(one["mlps"]), f"{one['score']:.4f}"]
        (shown,) = [found for found in lines if found[:4] == start]
        assert (len(shown) == 4) == one["accepted"]
    assert ["commonest", "label", f"{summary['majority_score']:.4f}"] in lines
    assert f"heads kept: {kept.n_heads} of 12 ({kept.n_heads / 12:.1%})" in out
    weights = json.loads((searched["prune-weights"] / "summary.json").read_text())["weights"]
    out = run_command(prune_weights, *words_for(tuned, searched["prune-weights"]))[1]
    assert f"of {weights['all']} ({weights['kept'] / weights['all']:.1%})" in out


def test_the_history_replays_to_the_subnetwork(searched: Any) -> None:
    folder = searched["prune-heads"]
    kept = Subnetwork.load(folder / "subnetwork.safetensors")
    heads, mlps = np.ones_like(kept.heads), np.ones_like(kept.mlps)
    for line in (folder / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["accepted"]:
            heads[tuple(np.array(record["removed_heads"], int).reshape(-1, 2).T)] = False
            mlps[record["removed_mlps"]] = False
            assert (record["heads"], record["mlps"]) == (heads.sum(), mlps.sum())
    assert np.array_equal(heads, kept.heads)
    assert np.array_equal(mlps, kept.mlps)


def test_importances_of_every_step_are_kept(searched: Any) -> None:
    table = pd.read_parquet(searched["prune-heads"] / "importance.parquet")
    history = (searched["prune-heads"] / "history.jsonl").read_text().splitlines()
    assert table["iteration"].nunique() == len(history)
    assert table.groupby("iteration").size().eq(15).all()  # 12 heads and 3 MLPs
    assert table["importance"].notna().equals(table["kept"])
    first = table[table["iteration"] == 0]
    assert first.loc[first["component"] == "head", "normalized"].agg(["min", "max"]).tolist() == [0, 1]


def test_prune_weights_writes_masks_that_hold_the_threshold(tuned: Path, searched: Any) -> None:
    folder = searched["prune-weights"]
    summary = json.loads((folder / "summary.json").read_text())
    task = task_named("qqp")
    checkpoint = load_checkpoint(str(tuned / "model"), task=task)
    examples = examples_of(checkpoint, task, load_rows(task, tuned / "data").rows)
    masks = WeightMasks.load(folder / "weight_masks.safetensors", checkpoint.model)
    masks.apply_(checkpoint.model)
    accuracy = (predict(checkpoint.model, examples).argmax(1) == examples.targets).mean()
    assert summary["score"] == pytest.approx(accuracy)
    assert summary["score"] >= 0.9
    assert summary["weights"] == {"kept": masks.kept, "all": masks.total}
    assert masks.share == pytest.approx(0.95 ** (summary["iterations"] - 1), abs=1e-3)
    table = pd.read_parquet(folder / "survival.parquet")
    assert len(table) == 15
    assert table["kept_share"].between(0, 1).all()


def test_compaction_changes_no_mask(tuned: Path, searched: Any, tmp_path: Path) -> None:
    run_in_process(prune_heads, words_for(tuned, tmp_path / "masked", "--no-compaction"))
    one, other = (
        Subnetwork.load(folder / "subnetwork.safetensors")
        for folder in (tmp_path / "masked", searched["prune-heads"])
    )
    assert one == other


def test_as_released_runs_and_says_so(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    code, out, _ = run_command(
        prune_heads,
        *words_for(tuned, tmp_path / "r", "--protocol", "as-released", "--json", "--what", "heads"),
    )
    summary = json.loads(out)
    assert code == 0
    assert summary["protocol"] == "as-released"
    assert summary["mlps"] == {"kept": 3, "all": 3}


def test_one_more_criterion_is_an_entry_of_the_table(
    tuned: Path, tmp_path: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Fisher information: the mean squared gradient."""

    class Squared(CRITERIA["corrected"].gradients):  # type: ignore[misc]
        def add(self, gradients: torch.Tensor) -> None:
            super().add(gradients**2)

    monkeypatch.setitem(CRITERIA, "fisher", Criterion(Squared))  # type: ignore[arg-type]
    words = words_for(tuned, tmp_path / "r", "--protocol", "fisher", "--what", "heads", "--json")
    code, out, err = run_command(prune_heads, *words)
    assert code == 0, err
    assert json.loads(out)["protocol"] == "fisher"
    assert Subnetwork.load(tmp_path / "r").metadata["method"] == "structured, heads, fisher"
    gradients = pd.read_parquet(tmp_path / "r" / "importance.parquet").query("iteration == 0")
    code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "c", "--what", "heads"))
    plain = pd.read_parquet(tmp_path / "c" / "importance.parquet").query("iteration == 0")
    heads = gradients["component"] == "head"
    assert (gradients["importance"][heads] >= plain["importance"][heads] ** 2).all()  # Jensen's
    code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "n", "--protocol", "fischer"))
    assert (code, "give corrected or as-released or fisher" in err) == (2, True)


def test_weights_go_by_the_criterion_asked_for(
    tuned: Path, tmp_path: Path, searched: Any, run_command: Any
) -> None:
    words = words_for(tuned, tmp_path / "u", "--criterion", "uniform-magnitude", "--max-steps", 2, "--json")
    code, out, err = run_command(prune_weights, *words)
    assert code == 0, err
    assert json.loads(out)["criterion"] == "uniform-magnitude"
    masks = WeightMasks.load(tmp_path / "u" / "weight_masks.safetensors")
    assert all(abs(mask.sum() - masks.share * mask.size) < 2 for mask in masks.masks.values())
    before = json.loads((searched["prune-weights"] / "config.json").read_text())
    assert "criterion" not in str(before)  # searches of 0.1 go on


def test_a_finished_search_is_not_done_again(
    tuned: Path, searched: Any, run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = result_of("prune-heads", searched["prune-heads"])
    monkeypatch.setattr("pruning.search.heads_job.head_importance", None)
    code, out, _ = run_command(prune_heads, *words_for(tuned, searched["prune-heads"]))
    assert code == 0
    assert "heads kept" in out
    assert result_of("prune-heads", searched["prune-heads"]) == before


@pytest.mark.parametrize("command", ["prune-heads", pytest.param("prune-weights", marks=pytest.mark.slow)])
def test_a_search_that_was_killed_ends_as_if_it_had_not_been(
    command: str, tuned: Path, searched: Any, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    program = f"from pruning.cli import {command.replace('-', '_')} as main; main()"
    arguments = [sys.executable, "-c", program, *words_for(tuned, output)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    history = output / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if history.is_file() and history.read_text().count("\n") >= 2:
            break
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = history.read_text().count("\n")
    assert done >= 2
    assert done < len(
        result_of(command, searched[command])["history"]
    )  # so that there is something left to do
    run_in_process(COMMANDS[command], words_for(tuned, output))
    assert result_of(command, output) == result_of(command, searched[command])
    assert {path.name for path in output.glob(".*")} == {MARKER, LOCK}


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_with_a_sentence_and_the_search_goes_on_later(
    tuned: Path, searched: Any, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of our own can be made here")
    small = tmp_path / "small"
    small.mkdir()
    run = [sys.executable, "-c", "from pruning.cli import prune_heads as main; main()"]
    run += words_for(tuned, small / "search")
    script = f"""
        mount -t tmpfs -o size=20k tmpfs {small} || exit 99
        "$@"; echo "first $?"
        mount -o remount,size=4m {small}
        "$@"; echo "second $?"
        cp -r {small / "search"} {tmp_path / "out"}
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *run], capture_output=True, text=True, check=False
    )
    assert "first 2" in done.stdout, done.stderr
    assert "second 0" in done.stdout, done.stderr
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert result_of("prune-heads", tmp_path / "out") == result_of("prune-heads", searched["prune-heads"])


def test_another_config_is_refused_with_what_differs(
    tuned: Path, searched: Any, tmp_path: Path, run_command: Any
) -> None:
    shutil.copytree(searched["prune-heads"], tmp_path / "s")
    code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "s", "--threshold", 0.8))
    assert code == 2
    assert "threshold 0.9 there, 0.8 here" in err
    code, _, err = run_command(prune_weights, *words_for(tuned, tmp_path / "s"))
    assert code == 2
    assert "prune-weights" in err
    code, _, _ = run_command(
        prune_heads, *words_for(tuned, tmp_path / "s", "--threshold", 0.8, "--overwrite")
    )
    assert code == 0
    assert json.loads((tmp_path / "s" / "summary.json").read_text())["threshold"] == 0.8


def test_a_folder_with_something_else_is_left_alone(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "mine", *more))
        assert code == 2
        assert "mine" in err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_a_broken_history_is_named(tuned: Path, searched: Any, tmp_path: Path, run_command: Any) -> None:
    shutil.copytree(searched["prune-heads"], tmp_path / "s")
    (tmp_path / "s" / "history.jsonl").write_text('{"iteration": 3}\n')
    code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "s"))
    assert code == 2
    assert "history.jsonl" in err


def test_holding_rows_out_reports_on_them(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    code, out, _ = run_command(prune_heads, *words_for(tuned, tmp_path / "h", "--holdout", 0.5, "--json"))
    summary = json.loads(out)
    assert code == 0
    assert summary["examples"] == 30
    assert summary["reported_on"]["examples"] == 30
    assert summary["reported_on"]["full"]["accuracy"] == 1.0
    kept = Subnetwork.load(tmp_path / "h" / "subnetwork.safetensors")
    assert 30 * summary["score"] + 30 * summary["reported_on"]["subnetwork"]["accuracy"] == pytest.approx(
        60 * score_of(tuned, kept)
    )


def test_batch_size_changes_no_mask(tuned: Path, searched: Any, tmp_path: Path) -> None:
    run_in_process(prune_heads, words_for(tuned, tmp_path / "b", "--batch-size", 7))
    assert Subnetwork.load(tmp_path / "b" / "subnetwork.safetensors") == Subnetwork.load(
        searched["prune-heads"] / "subnetwork.safetensors"
    )


def test_a_compacted_model_is_pruned_further(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    whole = load_checkpoint(str(tuned / "model"), task=task_named("qqp"))
    heads = np.ones((3, 4), bool)
    heads[1, :2] = False
    left = Subnetwork(heads, np.array([True, True, False]))
    save(compact(whole.model, left), tmp_path / "smaller", tokenizer=whole.tokenizer)
    rows = rows_with(tuned, tmp_path / "d", lambda row: row)  # by now some labels are no longer what it says
    code, out, _ = run_command(
        prune_heads,
        *("--model", tmp_path / "smaller", "--task", "qqp", "--data", rows, "--output", tmp_path / "o"),
        *("--device", "cpu", "--json", "--threshold", 0.5),
    )
    kept = Subnetwork.load(tmp_path / "o" / "subnetwork.safetensors")
    summary = json.loads(out)
    assert code == 0
    assert (kept & left) == kept
    assert kept != left
    assert (summary["heads"]["all"], summary["mlps"]["all"]) == (10, 2)
    assert summary["score"] == pytest.approx(score_of(tuned, kept))


def rows_with(tuned: Path, folder: Path, change: Any, task: str = "qqp") -> Path:
    rows = [json.loads(line) for line in (tuned / "data/qqp/validation.jsonl").read_text().splitlines()]
    (folder / task).mkdir(parents=True)
    (folder / task / "validation.jsonl").write_text("".join(json.dumps(change(row)) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_degenerate_scores_are_told_in_a_sentence(
    command: str, tuned: Path, tmp_path: Path, run_command: Any
) -> None:
    data = rows_with(tuned, tmp_path / "one", lambda row: {**row, "label": 1})
    code, _, err = run_command(COMMANDS[command], *words_for(tuned, tmp_path / "o"), "--data", data)
    assert code == 2
    assert "same label" in err
    data = rows_with(tuned, tmp_path / "wrong", lambda row: {**row, "label": 1 - row["label"]})
    code, _, err = run_command(COMMANDS[command], *words_for(tuned, tmp_path / "w"), "--data", data)
    assert code == 2
    assert "no share of its score" in err
    assert not (tmp_path / "w" / "summary.json").exists()


def rewritten(tuned: Path, folder: Path, change: Any) -> Subject:
    """The tuned model with its rows changed: ``change(number, row) -> row``."""
    rows = [json.loads(line) for line in (tuned / "data/qqp/validation.jsonl").read_text().splitlines()]
    (folder / "qqp").mkdir()
    lines = (json.dumps(change(number, row)) + "\n" for number, row in enumerate(rows, start=1))
    (folder / "qqp" / "validation.jsonl").write_text("".join(lines))
    return Subject(str(tuned / "model"), "qqp", data=str(folder))


def test_classes_in_another_order_are_found_and_the_right_one_named(tuned: Path, tmp_path: Path) -> None:
    for share, name in ((0, "all"), (6, "most")):  # so many of 60 labels are right
        folder = tmp_path / name
        folder.mkdir()
        loaded = rewritten(
            tuned, folder, lambda n, row, share=share: row | {"label": row["label"] ^ (n > share)}
        ).load()
        logits = predict(loaded.model, loaded.examples)
        order = f"in the order duplicate, not_duplicate its accuracy would be {1 - share / 60:.4f} instead of"
        assert any(order in message for message in loaded.warnings(share / 60))
        if share:
            loaded.check_meaning(logits)  # warned of, as a search can be made
        else:
            with pytest.raises(InputError, match=order):
                loaded.check_meaning(logits)
    assert not rewritten(tuned, tmp_path, lambda n, row: row).load().warnings(1.0)


@pytest.mark.parametrize("options", [(), ("--holdout", 0.5), ("--examples", 58)])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_names_the_row_of_the_file_whatever_was_drawn(
    tuned: Path, tmp_path: Path, run_command: Any, command: str, options: tuple[Any, ...]
) -> None:
    rewritten(tuned, tmp_path, lambda n, row: row | {"label": 7 if n % 3 == 0 else row["label"]})
    words = ["--model", tuned / "model", "--task", "qqp", "--data", tmp_path, "--output", tmp_path / "out"]
    code, _, err = run_command(COMMANDS[command], *words, *options)
    assert code == 2
    (number,) = re.findall(r"validation\.jsonl, row (\d+) has the label 7", err)
    assert int(number) % 3 == 0


def test_a_full_model_below_the_majority_is_warned_of(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    data = rows_with(
        tuned, tmp_path / "d", lambda row: {**row, "label": row["label"] if row["idx"] % 3 == 0 else 1}
    )
    code, _, err = run_command(prune_heads, *words_for(tuned, tmp_path / "o"), "--data", data)
    assert code == 0
    assert "no better than that of always saying the commonest label" in err


def test_a_threshold_below_the_commonest_label_is_marked_and_nothing_of_it_is_testable(
    tuned: Path, tmp_path: Path, run_command: Any
) -> None:
    """The model is right on all rows; with nine of ten of one label, anything holds 80% of its score."""
    data = tmp_path / "data"
    rows = [json.loads(line) for line in (tuned / "data/qqp/validation.jsonl").read_text().splitlines()]
    ones = [row for row in rows if row["label"] == 1]
    kept = [*(row for row in rows if row["label"] == 0), *ones[:3]]
    (data / "qqp").mkdir(parents=True)
    (data / "qqp/validation.jsonl").write_text("\n".join(map(json.dumps, kept)))
    for seed in (1, 2):
        words = words_for(tuned, tmp_path / f"s/{seed}", "--data", data, "--seed", seed)
        code, _, err = run_command(prune_heads, *words, "--threshold", 0.8)
        assert code == 0, err
        assert "is not testable" in err
    summary = json.loads((tmp_path / "s/1/summary.json").read_text())
    assert summary["testable"] is False
    assert summary["threshold_score"] == pytest.approx(0.8)
    assert summary["majority_score"] == pytest.approx(1 - 3 / len(kept))
    code, out, err = run_command(compare_survivors, tmp_path / "s")
    assert code == 0
    assert "qqp: not testable, the threshold lies below the commonest label's score" in " ".join(out.split())
    assert "qqp is not testable" in err
    words = ["--data", data, "--examples", 2, "--permutations", 99, "--device", "cpu", "--json"]
    told = json.loads(run_command(compare_survivors, tmp_path / "s", *words)[1])["tasks"]["qqp"]
    for found in told["patterns"].values():
        for name in ("difference", "each_seed"):
            assert found[name]["verdict"] == "not testable"
            assert found[name]["p_value"] is found[name]["p_holm"] is None
            assert found[name]["ci95"] == [None, None]


def test_a_threshold_above_the_commonest_label_is_testable(searched: Any) -> None:
    for folder in searched.values():
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["testable"] is True
        assert summary["threshold_score"] > summary["majority_score"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--threshold", 0), "threshold"),
        (("--threshold", 1.5), "threshold"),
        (("--examples", 0), "--examples"),
        (("--holdout", 1), "--holdout"),
        (("--batch-size", 0), "--batch-size"),
        (("--task", "squad"), "squad"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_options_are_named_and_leave_nothing(
    command: str, more: Any, named: str, tuned: Path, tmp_path: Path, run_command: Any
) -> None:
    code, _, err = run_command(COMMANDS[command], *words_for(tuned, tmp_path / "o", *more))
    assert code == 2
    assert named in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_model_without_a_classification_head_is_refused(
    tuned: Path, tmp_path: Path, minilm_folder: str, run_command: Any
) -> None:
    words = words_for(tuned, tmp_path / "o")
    code, _, err = run_command(prune_heads, *words, "--model", minilm_folder)
    assert code == 2
    assert "classification head" in err
    assert not (tmp_path / "o").exists()
