"""Every command that writes a folder: found from the list of commands, and held to the one rule for outputs."""

from __future__ import annotations

import importlib
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer.main
from tiny import snapshot

from models import Subnetwork
from models.common.outputs import LOCK, MARKER, locked

ROOT = Path(__file__).parents[2]
Words = list[str]


def commands() -> dict[str, tuple[Any, Any]]:
    """Every console script and sub-command by its name: the function, and what it takes."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = {}
    for name, where in scripts.items():
        module, function = where.split(":")
        main = getattr(importlib.import_module(module), function)
        click: Any = typer.main.get_command(main.app)
        if hasattr(click, "commands"):
            found |= {f"{name} {word}": (main, one) for word, one in click.commands.items()}
        else:
            found[name] = (main, click)
    return found


COMMANDS = commands()
WRITING = sorted(
    name
    for name, (_, click) in COMMANDS.items()
    if any(parameter.name == "output" for parameter in click.params)
)


@dataclass(frozen=True)
class Material:
    """Small inputs of every sort."""

    model: Path
    data: Path
    maps: Path
    searches: Path
    study: Path
    other: Path
    """Another model of the same shape."""


@pytest.fixture(scope="session")
def material(tuned: Path, study_materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    from annotations.folders import add_annotations
    from annotations.sampling.job import SampleMaps

    home = tmp_path_factory.mktemp("material")
    SampleMaps(
        model=str(tuned / "model"),
        task="qqp",
        data=str(tuned / "data"),
        output=home / "maps",
        count=12,
        examples=8,
    ).run()
    ids = pd.read_parquet(next((home / "maps").glob("maps-*.parquet")), columns=["id"])["id"]
    votes = pd.DataFrame(
        {
            "id": [*ids, *ids],
            "annotator": ["a"] * len(ids) + ["b"] * len(ids),
            "label": ["vertical", "block"] * len(ids),
        }
    )
    add_annotations(home / "maps", votes)
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        folder = home / "searches" / "qqp" / f"seed_{seed}"
        folder.mkdir(parents=True)
        Subnetwork(rng.random((3, 4)) < 0.6, np.array([True, False, True])).save(folder / "found.safetensors")
    shutil.copytree(tuned / "model", home / "other")
    return Material(
        tuned / "model", tuned / "data", home / "maps", home / "searches", study_materials, home / "other"
    )


def _subject(m: Material) -> Words:
    return ["--model", str(m.model), "--task", "qqp", "--data", str(m.data), "--device", "cpu"]


HOW: dict[str, Callable[[Material], Words]] = {
    "classify-heads": lambda m: [*_subject(m), "--examples", "4", "--maps", "raw"],
    "finetune-glue": lambda m: [
        *(
            "--model",
            str(m.study / "model"),
            "--task",
            "sst2",
            "--data",
            str(m.study / "data"),
            "--device",
            "cpu",
        ),
        *("--epochs", "1", "--train-examples", "16"),
    ],
    "train-classifier": lambda m: ["--annotations", str(m.maps), "--maps", "raw"],
    "annotate-maps sample": lambda m: [*_subject(m), "--examples", "4", "--count", "4", "--maps", "raw"],
    "annotate-maps agreement": lambda m: [str(m.maps)],
    "annotate-maps export": lambda m: [str(m.maps), "--format", "dataset"],
    "compare-heads": lambda m: [
        *(str(m.model), str(m.other), "--task", "qqp", "--data", str(m.data)),
        *("--device", "cpu", "--examples", "4", "--maps", "raw"),
    ],
    "prune-heads": lambda m: [*_subject(m), "--what", "mlps"],
    "ablate-patterns": lambda m: [
        *(*_subject(m), "--examples", "20", "--draws", "2", "--pattern-examples", "4", "--no-alone"),
    ],
    "prune-weights": lambda m: [*_subject(m), "--max-steps", "2"],
    "compare-survivors": lambda m: [str(m.searches)],
    "run-study": lambda m: [str(m.study / "study.toml"), "--only", "sst2/seed_1/fine-tune"],
}
"""A short run of each command, but for its output."""
INPUTS = {
    "classify-heads": "model", "finetune-glue": "study", "train-classifier": "maps", "annotate-maps sample": "model",
    "annotate-maps agreement": "maps", "annotate-maps export": "maps", "prune-heads": "model",
    "prune-weights": "model", "compare-survivors": "searches", "run-study": "study", "compare-heads": "model",
    "ablate-patterns": "model",
}  # fmt: skip
"""What of the material each command reads as a folder."""
SLOW = ("train-classifier", "run-study")
"""These are not run to their end here."""
NO_OVERWRITE = ("run-study",)
RESUMABLE = ("prune-heads", "prune-weights", "ablate-patterns")
"""These write their folder bit by bit."""


def words(name: str, material: Material, output: Path, overwrite: bool) -> Words:
    place = [str(output)] if name == "annotate-maps export" else ["--output", str(output)]
    given = [*name.split()[1:], *HOW[name](material)]
    if name == "annotate-maps export":
        given[2:2] = place
    else:
        given += place
    return given + (["--overwrite"] if overwrite and name not in NO_OVERWRITE else [])


def test_every_command_that_writes_a_folder_is_tested_here() -> None:
    assert WRITING == sorted(HOW) == sorted(INPUTS)


@pytest.fixture
def run(run_command: Any, material: Material) -> Any:
    def run(name: str, output: Path, overwrite: bool = False) -> tuple[int, str]:
        code, _, err = run_command(COMMANDS[name][0], *words(name, material, output, overwrite))
        return code, err

    return run


@pytest.mark.parametrize("name", WRITING)
def test_a_folder_of_other_things_is_left_as_it_is(name: str, run: Any, tmp_path: Path) -> None:
    """It holds files of the names that outputs have, too."""
    thesis = tmp_path / "thesis"
    (thesis / ".git").mkdir(parents=True)
    (thesis / ".git" / "HEAD").write_text("ref: refs/heads/main")
    for file in ("thesis.tex", "README.md", "config.json", "summary.json", "metrics.json", "training.json",
                 "sample.json", "agreement.json", "history.jsonl"):  # fmt: skip
        (thesis / file).write_text("{}")
    before = snapshot(thesis)
    for overwrite in (False, True):
        code, err = run(name, thesis, overwrite)
        assert code == 2, err
        assert "thesis" in err
        assert "Traceback" not in err
        assert snapshot(thesis) == before


@pytest.mark.parametrize("name", WRITING)
def test_an_output_is_apart_from_the_inputs(
    name: str, run_command: Any, material: Material, tmp_path: Path
) -> None:
    given: Path = getattr(material, INPUTS[name])
    copy = tmp_path / "home" / "given"
    shutil.copytree(given, copy)
    for text in copy.glob("*.toml"):
        text.write_text(text.read_text().replace(str(given), str(copy)))
    mine = Material(**{**vars(material), INPUTS[name]: copy})
    before = snapshot(tmp_path)
    # Of these the model inside is read, and what lies beside it is not.
    read = copy / "model" if name in ("finetune-glue", "run-study") else copy
    for output in (read, read / "out", tmp_path / "home"):
        code, _, err = run_command(COMMANDS[name][0], *words(name, mine, output, True))
        assert code == 2, (output, err)
        assert "Traceback" not in err
        assert snapshot(tmp_path) == before, output


@pytest.mark.parametrize("name", WRITING)
def test_a_second_run_into_the_same_folder_is_refused(name: str, run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Where a run is at work: beside a folder that appears whole, or in one that is written bit by bit.
    inside = {
        "prune-heads": out,
        "prune-weights": out,
        "ablate-patterns": out,
        "finetune-glue": tmp_path / "out.partial",
        "run-study": out,
    }
    place = inside.get(name, tmp_path / ".out.headscope")
    place.mkdir()
    if name == "run-study":
        from filelock import FileLock

        lock: Any = FileLock(out / ".lock")
        lock.acquire()
    else:
        lock = locked(place)
    try:
        code, err = run(name, out)
    finally:
        lock.release()
    assert code == 2, err
    assert "nother run" in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (LOCK, ".lock")]


@pytest.mark.parametrize("name", [name for name in WRITING if name not in SLOW])
def test_overwrite_replaces_what_the_command_wrote_and_names_the_rest(
    name: str, run: Any, tmp_path: Path
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    (victim / "p.txt").write_text("precious")
    code, err = run(name, out)
    assert code == 0, err
    written = {path for path in snapshot(out) if MARKER not in path and LOCK not in path}
    assert written
    code, err = run(name, out, overwrite=False)
    assert code == (0 if name in (*RESUMABLE, "finetune-glue") else 2), err
    (out / "notes.txt").write_text("mine")
    (out / "link").symlink_to(victim)
    code, err = run(name, out, overwrite=True)
    assert code == 0, err
    after = snapshot(out)
    assert written <= set(after)
    assert after["notes.txt"] == b"mine"
    assert (out / "link").is_symlink()
    assert snapshot(victim) == {"p.txt": b"precious"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "victim"}
    if name not in RESUMABLE:
        assert "link, notes.txt" in err


def test_links_planted_in_a_folder_of_maps_are_not_followed(
    run_command: Any, material: Material, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "p.txt").write_text("precious")
    maps = tmp_path / "maps"
    shutil.copytree(material.maps, maps)
    (maps / ".adding").symlink_to(victim)
    (maps / "annotations.parquet").rename(victim / "annotations.parquet")
    (maps / "annotations.parquet").symlink_to(victim / "annotations.parquet")
    before = snapshot(victim)
    main = COMMANDS["annotate-maps import"][0]
    code, _, err = run_command(main, "import", material.maps, maps)
    assert code == 0, err
    assert snapshot(victim) == before


def test_links_planted_in_a_study_are_not_followed(
    run_command: Any, finished_study: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "p.txt").write_text("precious")
    study = tmp_path / "study"
    shutil.copytree(finished_study, study)
    shutil.rmtree(study / "report", ignore_errors=True)
    (study / "report").symlink_to(victim)
    main = COMMANDS["run-study"][0]
    for arguments in (["report", str(study)], [str(study)]):
        code, _, err = run_command(main, *arguments)
        assert code == 2, err
        assert "is a link" in err
        assert snapshot(victim) == {"p.txt": b"precious"}


@pytest.mark.slow
def test_a_report_of_0_1_without_a_marker_is_replaced_and_what_else_lies_there_stays(
    finished_study: Path, tmp_path: Path
) -> None:
    from pruning import write_report

    study = tmp_path / "study"
    shutil.copytree(finished_study, study)
    write_report(study)
    written = snapshot(study / "report")
    (study / "report" / MARKER).unlink()
    for folder in ("tables", "figures"):
        (study / "report" / folder / "notes.csv").write_text("mine")
    (study / "report" / "report.md").write_text("old")
    write_report(study)
    after = snapshot(study / "report")
    assert after["tables/notes.csv"] == after["figures/notes.csv"] == b"mine"
    assert after["report.md"] == written["report.md"]


def test_labels_of_imports_at_once_are_all_kept(material: Material, tmp_path: Path) -> None:
    """Each in a process of its own: what one read before the other wrote was lost."""
    import subprocess
    import sys

    maps = tmp_path / "maps"
    shutil.copytree(material.maps, maps)
    (maps / "annotations.parquet").unlink()
    labels = pd.read_parquet(material.maps / "annotations.parquet")
    code = (
        "import sys, pandas as pd\nfrom annotations.folders import add_annotations\n"
        "frame = pd.read_parquet(sys.argv[1])\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "print(add_annotations(sys.argv[2], frame).added)"
    )
    processes = []
    for number, annotator in enumerate(["a", "b"]):
        part = tmp_path / f"{number}.parquet"
        labels[labels["annotator"] == annotator].to_parquet(part)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(part), str(maps)],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    added = [int(process.communicate()[0]) for process in processes]
    assert added == [len(labels) // 2] * 2
    assert len(pd.read_parquet(maps / "annotations.parquet")) == len(labels)
