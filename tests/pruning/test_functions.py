"""The commands as functions: the same result as the command gives, and no option is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import annotations
import models
import patterns
import pruning
from annotations.cli import app as annotate_maps
from annotations.training.cli import evaluate_classifier as evaluate_classifier_command
from annotations.training.cli import train_classifier as train_classifier_command
from models import InputError, Subnetwork
from patterns.cli import classify_heads as classify_heads_command
from pruning.cli import prune_heads as prune_heads_command


def test_a_search_from_python_is_the_commands(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    where = {"data": str(tuned / "data"), "device": "cpu"}
    done = pruning.prune_heads(
        str(tuned / "model"), "QQP", tmp_path / "a", what="heads", threshold=0.8, **where
    )
    code, _, err = run_command(
        prune_heads_command, "--model", tuned / "model", "--task", "qqp", "--output", tmp_path / "b",
        "--data", tuned / "data", "--device", "cpu", "--what", "heads", "--threshold", 0.8,
    )  # fmt: skip
    assert code == 0, err
    other = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert {**done, "provenance": 0} == {**other, "provenance": 0}
    one, two = (Subnetwork.load(tmp_path / name / "subnetwork.safetensors") for name in "ab")
    assert one == two

    weights = pruning.prune_weights(
        str(tuned / "model"), "qqp", tmp_path / "w", fraction=0.5, max_steps=2, **where
    )
    assert weights["command"] == "prune-weights"
    assert (tmp_path / "w" / "weight_masks.safetensors").is_file()

    compared = pruning.compare_survivors(tmp_path / "a", task="qqp", seed=3)
    assert compared.summary["seed"] == 3
    assert list(compared.summary["tasks"]) == ["qqp"]
    frame = compared.to_frame()
    assert set(frame["task"]) == {"qqp"}
    assert len(frame) == one.heads.size + one.mlps.size
    pd.testing.assert_frame_equal(compared.to_dataset().to_pandas(), frame, check_dtype=False)
    assert compared.plot().axes


def test_an_unknown_option_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prune_heads\(\) has no option 'treshold'; it has .*threshold"):
        pruning.prune_heads("m", "qqp", tmp_path / "o", treshold=0.5)
    with pytest.raises(InputError, match=r"compare_survivors\(\) has no option 'runs'"):
        pruning.compare_survivors("m", runs=3)


def test_the_smaller_model_is_saved_with_its_tokenizer(tuned: Path, tmp_path: Path, run_command: Any) -> None:
    """It answers as the gated model does, and every command takes its folder."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from models import gated, load_checkpoint
    from patterns.cli import classify_heads

    words = ["--model", tuned / "model", "--task", "qqp", "--data", tuned / "data", "--device", "cpu"]
    words += ["--output", tmp_path / "search", "--save-model", tmp_path / "small"]
    assert run_command(prune_heads_command, *words)[0] == 0
    kept = Subnetwork.load(tmp_path / "search")
    small, whole = (load_checkpoint(str(f), task="qqp") for f in (tmp_path / "small", tuned / "model"))
    batch = small.tokenizer("w1 w2 w3", "w4 w5", return_tensors="pt")
    with torch.no_grad(), gated(whole.model, kept.heads, kept.mlps):
        expected = whole.model(**batch).logits
    with torch.no_grad():
        torch.testing.assert_close(small.model(**batch).logits, expected, rtol=0, atol=1e-5)
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
        torch.testing.assert_close(plain(**batch).logits, expected, rtol=0, atol=1e-5)
    words = ["--task", "qqp", "--data", tuned / "data", "--device", "cpu", "--examples", 4, "--maps", "raw"]
    code, out, err = run_command(classify_heads, "--model", tmp_path / "small", *words)
    assert code == 0, err
    assert f"{kept.n_heads} of" in out
    code, _, err = run_command(
        classify_heads, "--model", tuned / "model", "--subnetwork", tmp_path / "search", *words
    )
    assert code == 0, err
    code, _, err = run_command(
        prune_heads_command, "--model", tuned / "model", "--task", "qqp", "--data", tuned / "data",
        "--output", tmp_path / "other", "--save-model", tuned / "model" / "small",
    )  # fmt: skip
    assert code == 2
    assert "--save-model" in err
    assert "which is read" in err
    assert not (tmp_path / "other").exists()


def test_every_function_of_maps_does_what_its_command_does(
    tuned: Path, tmp_path: Path, run_command: Any
) -> None:
    where = ["--model", tuned / "model", "--task", "qqp", "--data", tuned / "data", "--device", "cpu"]

    def command(main: Any, *words: Any) -> Any:
        code, out, err = run_command(main, *words, "--json")
        assert code == 0, err
        return told(json.loads(out))

    def told(found: dict[str, Any]) -> dict[str, Any]:
        plain = json.loads(json.dumps(found))  # lists for tuples
        return {name: plain[name] for name in plain if name not in ("provenance", "output", "folder")}

    options: dict[str, Any] = {"data": tuned / "data", "device": "cpu", "examples": 4}
    sampled = annotations.sample_maps(
        str(tuned / "model"), "QQP", tmp_path / "maps", count=6, maps=["raw"], **options
    )
    words = ["--examples", 4, "--count", 6, "--maps", "raw", "--output", tmp_path / "maps-too"]
    assert told(sampled) == command(annotate_maps, "sample", *where, *words)

    classified = patterns.classify_checkpoint(
        str(tuned / "model"), "qqp", maps="raw", output=str(tmp_path / "heads"), **options
    )
    words = ["--examples", 4, "--maps", "raw", "--output", tmp_path / "heads-too"]
    other = command(classify_heads_command, *where, *words)
    assert told(classified.summary) == other
    assert (tmp_path / "heads" / "report.html").is_file()
    assert classified.patterns.plot_distribution().axes

    ids = [row.id for row in annotations.AnnotatedMaps.load(tmp_path / "maps").rows]
    labels = ["vertical", "diagonal", "block"] * 2
    tasks = [
        {"headscope_id": id, "annotator": who, "pattern": label, "id": i}
        for i, (id, label) in enumerate(zip(ids, labels, strict=True))
        for who in ("ann", "bob")
    ]
    (tmp_path / "labels.json").write_text(json.dumps(tasks))
    imported = annotations.import_labels(tmp_path / "labels.json", str(tmp_path / "maps"))
    words = ["import", tmp_path / "labels.json", tmp_path / "maps-too"]
    assert told(imported) == command(annotate_maps, *words)
    assert imported["added"] == 12
    status = annotations.labelling_status(str(tmp_path / "maps"))
    assert told(status) == command(annotate_maps, "status", tmp_path / "maps")
    agreed = annotations.measure_agreement(tmp_path / "maps", output=str(tmp_path / "agreement"), seed=3)
    words = [tmp_path / "maps", "--seed", 3, "--output", tmp_path / "agreement-too"]
    assert told(agreed) == command(annotate_maps, "agreement", *words)
    assert (tmp_path / "agreement" / "agreement.json").is_file()
    exported = annotations.export_maps(str(tmp_path / "maps"), tmp_path / "e.csv", format="csv")
    words = ["export", tmp_path / "maps", tmp_path / "e-too.csv", "--format", "csv"]
    assert told(exported) == command(annotate_maps, *words)
    assert (tmp_path / "e.csv").read_bytes() == (tmp_path / "e-too.csv").read_bytes()

    small: dict[str, Any] = {"epochs": 1, "folds": 0, "trees": 0}
    trained = annotations.train_classifier(tmp_path / "maps", output=str(tmp_path / "c"), seed=4, **small)
    words = ["--annotations", tmp_path / "maps", "--output", tmp_path / "c-too", "--seed", 4]
    words += [word for name, value in small.items() for word in (f"--{name}", value)]
    assert told(trained) == command(train_classifier_command, *words)
    scores = annotations.evaluate_classifier(str(tmp_path / "maps"), classifier=str(tmp_path / "c"))
    words = ["--annotations", tmp_path / "maps", "--classifier", tmp_path / "c"]
    assert told(scores) == command(evaluate_classifier_command, *words)


def test_a_study_and_its_fine_tunings_from_python(study_materials: Path, tmp_path: Path) -> None:
    done = pruning.run_study(
        study_materials / "study.toml", tmp_path / "study", only=["sst2/seed_1/fine-tune"]
    )
    assert done["failed"] == {}
    assert done["report"] is None
    again = pruning.run_study(tmp_path / "study", only="sst2/seed_1/fine-tune")
    assert (again["done"], again["steps"]) == (done["done"], done["steps"])
    where: dict[str, Any] = {"data": study_materials / "data", "device": "cpu", "epochs": 1, "max_length": 16}
    several = models.finetune_glue(
        str(study_materials / "model"), "sst2", tmp_path / "tuned", seeds=[1, 2], max_examples=16, **where
    )
    assert several["seeds"] == [1, 2]
    alone = models.finetune_glue(
        str(study_materials / "model"), "SST-2", tmp_path / "alone", seed=2, max_examples=16, **where
    )
    assert alone["scores"] == several["runs"][1]["scores"]
    assert (tmp_path / "tuned" / "seed_2" / "metrics.json").is_file()


def test_a_project_is_pushed_and_pulled_with_the_environments_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the jobs do stands in tests/annotations/test_label_studio.py."""
    from annotations.label_studio.push_pull import Pull, Push

    made: list[Any] = []
    monkeypatch.setattr("annotations.label_studio.push_pull.read_kinds", lambda folder: {})
    for job in (Push, Pull):
        monkeypatch.setattr(job, "run", lambda self, progress: made.append((self, progress)) or {})
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(InputError, match="LABEL_STUDIO_API_KEY"):
        annotations.push_maps(tmp_path, "my heads")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "from-the-environment")
    annotations.push_maps(str(tmp_path), "my heads", blind=True, progress=True)
    annotations.pull_labels(str(tmp_path), "my heads", token="given-token", url="http://other:1")
    (push, shown), (pull, hidden) = made
    assert (push.folder, push.blind, push.token.reveal(), shown) == (
        tmp_path,
        True,
        "from-the-environment",
        True,
    )
    assert (pull.folder, pull.url, pull.token.reveal(), hidden) == (
        tmp_path,
        "http://other:1",
        "given-token",
        False,
    )


def test_figures_of_survivors(tuned: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / "qqp" / f"seed_{seed}").mkdir(parents=True)
        kept = Subnetwork(np.random.default_rng(seed).random((3, 4)) < 0.7, np.ones(3, bool))
        kept.save(tmp_path / "qqp" / f"seed_{seed}" / "found.safetensors")
    alone = pruning.compare_survivors(tmp_path)
    assert alone.plot().axes
    with pytest.raises(InputError, match="data="):
        alone.plot_patterns()
    looked = pruning.compare_survivors(
        tmp_path, data=tuned / "data", model=str(tuned / "model"), examples=4, permutations=9, maps="raw"
    )
    assert looked.plot_patterns().axes
