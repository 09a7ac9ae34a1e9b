"""Results, annotated maps and classifiers on the Hub, of which a stand-in runs on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hub import TOKEN, HubServer, standing_in
from tiny import WORDS

from models import InputError
from patterns import cli
from patterns.classifier.network import PatternClassifier

ROOT = Path(__file__).parents[2]
REPOSITORY = "datasets/org/result"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with standing_in(monkeypatch) as server:
        yield server


@pytest.fixture
def command(run_command: Any, tiny_bert: Any, tiny_tokenizer: Any, tmp_path: Path) -> Any:
    tiny_bert.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    texts = [" ".join(WORDS[i : i + 4]) for i in range(3)]
    rows = [{"question1": text, "question2": text, "label": 0} for text in texts]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", tmp_path / "model", "--task", "qqp", "--data", tmp_path / "data", "--examples", "3"]
    return partial(run_command, cli.classify_heads, *words, "--output", tmp_path / "out", "--device", "cpu")


def stored(hub: HubServer, repository: str, home: Path) -> Path:
    """A folder as the Hub has the repository."""
    for name, content in hub.repositories[repository].items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)
    return home


def test_a_result_is_published_and_load_dataset_reads_it(
    command: Any, hub: HubServer, tmp_path: Path
) -> None:
    import datasets

    code, _, err = command("--save-maps", "--push-to-hub", "org/result")
    assert code == 0, err
    assert "published: http://127.0.0.1:" in err
    assert hub.private == {REPOSITORY: None}
    there = set(hub.repositories[REPOSITORY])
    here = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert there == here - {".headscope.json"}
    assert {"README.md", "heads.parquet", "summary.json", "report.html", "maps/maps-00000.parquet"} <= there
    copy = str(stored(hub, REPOSITORY, tmp_path / "copy"))
    read = partial(datasets.load_dataset, copy, split="train", cache_dir=str(tmp_path / "cache"))
    heads = read("heads").to_pandas()
    pd.testing.assert_frame_equal(
        heads, pd.read_parquet(tmp_path / "out" / "heads.parquet"), check_dtype=False
    )
    assert read("maps").num_rows == len(pd.read_parquet(tmp_path / "out" / "maps.parquet"))
    assert read("attention").num_rows == read("maps").num_rows


def test_the_card_has_the_numbers_and_the_command(command: Any, hub: HubServer, tmp_path: Path) -> None:
    assert command("--push-to-hub", "org/result")[0] == 0
    card = hub.repositories[REPOSITORY]["README.md"].decode()
    assert card == (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert [one["config_name"] for one in front["configs"]] == ["heads", "maps"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for kind in ("raw", "norm"):
        share = summary["maps"][kind]["distribution"]["vertical"]
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {kind} |")]
        assert row.split(" | ")[1] == f"{100 * share:.1f}%"
        for warning in summary["maps"][kind]["warnings"]:
            assert f"- {warning}\n" in card
    assert "\nclassify-heads --model " in card
    assert "--push-to-hub" not in card
    assert TOKEN not in card + (tmp_path / "out" / "summary.json").read_text()


def test_without_it_there_is_no_card_and_nobody_is_asked(
    command: Any, hub: HubServer, tmp_path: Path
) -> None:
    assert command()[0] == 0
    assert not (tmp_path / "out" / "README.md").exists()
    assert hub.asked == []


@pytest.mark.parametrize("name", ["result", "a/b/c", "or g/x", ""])
def test_what_is_no_repository_is_refused_before_any_work(
    name: str, command: Any, hub: HubServer, tmp_path: Path
) -> None:
    code, _, err = command("--push-to-hub", name)
    assert (code, err) == (2, "--push-to-hub: give the name of a repository on the Hub, ORG/NAME.\n")
    assert not (tmp_path / "out").exists()
    assert hub.asked == []


def test_it_needs_an_output(run_command: Any) -> None:
    code, _, err = run_command(cli.classify_heads, *["--model", "m", "--task", "qqp", "--push-to-hub", "a/b"])
    assert (code, err) == (2, "--push-to-hub a/b needs --output DIR, the folder that is published.\n")


def test_who_is_not_logged_in_learns_it_before_any_work(
    command: Any, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, err = command("--push-to-hub", "org/result")
    assert code == 2
    assert "nobody is logged in to the Hub; `hf auth login` does it.\n" in err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = command("--push-to-hub", "org/result")
    assert code == 2
    assert "the Hub refuses it: 401, it does not know the token" in err
    assert "hf_wrong" not in err
    assert not (tmp_path / "out").exists()


def test_what_the_hub_does_not_take_stays_here_and_the_error_says_how_to_go_on(
    command: Any, hub: HubServer, tmp_path: Path
) -> None:
    hub.refuse["/commit/"] = 403
    code, _, err = command("--push-to-hub", "org/result")
    assert code == 2
    assert "403, the token may not write there" in err
    assert f"`hf upload org/result {tmp_path / 'out'} --repo-type dataset` tries again." in err
    assert "Traceback" not in err
    assert TOKEN not in err
    assert (tmp_path / "out" / "README.md").is_file()


def test_annotated_maps_are_published_as_they_are_saved(hub: HubServer, tmp_path: Path) -> None:
    from annotations import AnnotatedMaps

    maps = AnnotatedMaps.load(ROOT / "examples" / "annotations-minilm")
    assert "/datasets/org/maps/commit/" in maps.push_to_hub("org/maps", private=True)
    assert hub.private == {"datasets/org/maps": True}
    copy = AnnotatedMaps.load(stored(hub, "datasets/org/maps", tmp_path / "copy"))
    assert copy.info.equals(maps.info)
    assert "README.md" in hub.repositories["datasets/org/maps"]
    hub.refuse["/commit/"] = 403
    with pytest.raises(InputError, match=r"^push_to_hub org/maps: the Hub refuses it: 403"):
        maps.push_to_hub("org/maps")


def test_a_classifier_is_published_and_is_the_same(hub: HubServer, tmp_path: Path) -> None:
    classifier = PatternClassifier("raw", size=16, stages=((4,),))
    classifier.push_to_hub("org/classifier")
    assert set(hub.repositories["models/org/classifier"]) >= {"config.json", "model.safetensors"}
    copy = PatternClassifier.from_pretrained(stored(hub, "models/org/classifier", tmp_path / "copy"))
    assert copy.version == classifier.version
    assert not list(Path(tempfile.gettempdir()).glob("*org*classifier*"))
