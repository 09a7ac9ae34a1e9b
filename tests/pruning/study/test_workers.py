"""Studies of a tiny model in several processes, killed ones, and on real local clusters: all end alike."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.common.files import read_json
from pruning.study.backends import workers
from pruning.study.config import Study, read_study
from pruning.study.folder import METRICS, StudyFolder
from pruning.study.job import RunStudy, read_plan
from pruning.study.report.pages import write_report
from pruning.study.report.tables import RECORD, TABLES
from pruning.study.worker import STARTS, Job

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SETTINGS = """
[magnitude]
fraction = 0.3

[patterns]
examples = 6
permutations = 99
"""
COMMAND = [sys.executable, "-c", "from pruning.study.cli import run_study; run_study()"]


@pytest.fixture(scope="module")
def home(make_study: Any) -> Path:
    """A folder with a tiny model, rows of one task, and ``study.toml`` for the whole grid."""
    folder: Path = make_study(SETTINGS, "sst2")
    return folder


@pytest.fixture(scope="module")
def study(home: Path) -> Study:
    return read_study(home / "study.toml")


@pytest.fixture(scope="module")
def serial(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole grid, run in this process."""
    folder = tmp_path_factory.mktemp("serial") / "study"
    done = RunStudy(study, folder).run()
    assert done["done"] == done["steps"] == 49, done
    write_report(folder)
    return folder


def check_same(folder: Path, serial: Path) -> None:
    """Every table and figure to the byte, and every model; what was on the clock stands apart."""
    write_report(folder)
    # The page tells its time and its folder besides.
    of_report = sorted(
        f.relative_to(serial)
        for f in (serial / "report").rglob("*")
        if f.is_file() and f.name not in ("report.html", RECORD) and f.stem not in ("times", "timings")
    )
    records = [read_json(one / "report" / TABLES / RECORD, "a study's record") for one in (folder, serial)]
    for record in records:
        assert record["tables"].pop("times")
    assert records[0] == records[1]
    models = sorted(f.relative_to(serial) for f in serial.rglob("*.safetensors"))
    assert len(of_report) > 20
    assert len([path for path in models if path.name == "model.safetensors"]) == 2
    for path in (*of_report, *(path for path in models if path.name == "model.safetensors")):
        assert (folder / path).read_bytes() == (serial / path).read_bytes(), path


@pytest.mark.parametrize("backend", ["loky", "ray", "dask"])
def test_two_workers_end_as_one_process_does(
    backend: str, study: Study, serial: Path, tmp_path: Path
) -> None:
    if backend != "loky":
        pytest.importorskip({"dask": "distributed"}.get(backend, backend))
    done = RunStudy(study, tmp_path / "study", backend=backend, jobs=2).run()
    assert done["done"] == done["steps"], done
    check_same(tmp_path / "study", serial)


def test_killed_five_times_it_ends_alike(home: Path, serial: Path, tmp_path: Path) -> None:
    """kill -9 of the process, at random moments."""
    command = [*COMMAND, str(home / "study.toml"), "--output", str(tmp_path / "study"), "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    draw, began = random.Random(), 0
    for _ in range(5):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            process.stderr.readline()  # one more step is done
            time.sleep(draw.uniform(0, 6))
            workers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            assert not psutil.wait_procs(workers, timeout=60)[1]  # they end, too
        done = sum(1 for _ in (tmp_path / "study").rglob(METRICS))
        assert done >= began
        began = done
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    check_same(tmp_path / "study", serial)


def test_a_worker_that_is_killed_costs_its_step_one_start(study: Study, tmp_path: Path, serial: Path) -> None:
    """Some worker is killed from outside once; what it was doing is done again."""
    small = replace(study, patterns=replace(study.patterns, maps=()))
    job = RunStudy(small, tmp_path / "study", jobs=2)
    victims = []
    submit = job._submit

    def with_killer(jobs: Any, pool: Any) -> None:
        import threading

        def kill() -> None:
            while not victims:
                time.sleep(0.2)
                begun = list((tmp_path / "study").rglob("starts.json"))
                workers = [
                    p for p in psutil.Process().children(recursive=True) if "loky" in " ".join(p.cmdline())
                ]
                if begun and len(workers) > 1:
                    busiest = max(workers, key=lambda p: sum(p.cpu_times()[:2]))
                    busiest.kill()
                    victims.append(busiest.pid)

        thread = threading.Thread(target=kill)
        thread.start()
        submit(jobs, pool)
        thread.join()

    object.__setattr__(job, "_submit", with_killer)
    done = job.run()
    assert victims
    assert done["done"] == done["steps"], done
    plan = read_plan(tmp_path / "study")
    starts = [StudyFolder(tmp_path / "study").read(step)["step"]["starts"] for step in plan.steps]
    assert max(starts) == 2
    for path in ("sst2/seed_1/fine-tune/model.safetensors", "sst2/seed_2/fine-tune/model.safetensors"):
        assert (tmp_path / "study" / path).read_bytes() == (serial / path).read_bytes()


def test_a_step_that_kills_its_worker_is_recorded_and_spares_the_others(study: Study, tmp_path: Path) -> None:
    class Killer(Job):  # local, so that it travels by value
        @property
        def made(self) -> Path:
            if self.step.path == "sst2/seed_1/fine-tune":
                os.kill(os.getpid(), signal.SIGKILL)
            return self.work / "made"

    job = RunStudy(study, tmp_path / "study", jobs=2, keep_going=True)
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    plan = job.plan()
    steps = [step for step in plan.steps if step.name == "fine-tune"]
    jobs = [
        Killer(**{name: getattr(one, name) for name in Job.__dataclass_fields__})
        for one in (Job.of(plan, step, folder, "run", True) for step in steps)
    ]
    with workers("loky", 2) as pool:
        job._submit(jobs, pool)
    failed = {step.path: error for step in steps if (error := folder.error(step))}
    assert "sst2/seed_1/fine-tune" in failed
    assert f"its worker was killed {STARTS} times" in failed["sst2/seed_1/fine-tune"]["error"]
    assert len(failed) <= 2  # what the other worker was at each time shares its fate
    assert all(folder.is_done(step) for step in steps if step.path not in failed)
