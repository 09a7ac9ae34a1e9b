"""A whole study of a tiny model: its plan, its steps on disk, stopping, going on, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import t as student

from models import FineTuning, InputError, Subnetwork
from models.common.pages import FigureBlock
from models.common.reading import file_digest
from models.finetuning.result import FineTuneResult
from models.tasks.measures import range_of
from models.tasks.task import TASKS
from patterns.report.summary import Summary as PatternsSummary
from patterns.taxonomy import PATTERNS
from pruning import stability
from pruning.comparison.figures import pattern_bars
from pruning.comparison.survivor_patterns import SIDES
from pruning.permutation import sign_flip_test
from pruning.search.folder import HISTORY, IMPORTANCE
from pruning.search.records import HeadsLine, HeadsSummary, WeightsLine, WeightsSummary
from pruning.stability import at_least, beside_chance
from pruning.structured import StructuredSearch
from pruning.study import steps as study_steps
from pruning.study.cli import run_study
from pruning.study.config import SEARCHES, STRUCTURED, Reference, Study, Subnetworks, read_study
from pruning.study.estimate import estimates
from pruning.study.folder import METRICS, STUDY, StudyFolder
from pruning.study.job import RunStudy, read_plan
from pruning.study.plan import Materials, Plan, Step, plan_of
from pruning.study.progress import progress, told
from pruning.study.records import PrunedResult, StepRecord
from pruning.study.report import figures as draw
from pruning.study.report.conclusions import (
    ACROSS_RUNS,
    ACROSS_TASKS,
    BELOW_MAJORITY,
    Finding,
    _paired,
    adjusted,
    conclusions,
    findings_of,
    in_short,
)
from pruning.study.report.data import StudyData, t_interval
from pruning.study.report.figures import FIGURES
from pruning.study.report.pages import tables_of
from pruning.study.report.tables import StudyTables, read_steps
from pruning.study.terminal import print_report


@pytest.fixture
def study(study_materials: Path) -> Study:
    return read_study(study_materials / "study.toml")


@pytest.fixture
def copied(finished_study: Path, tmp_path: Path) -> Path:
    """A finished study to do harm to."""
    return shutil.copytree(finished_study, tmp_path / "study")


@pytest.fixture
def published(reported_study: Path, tmp_path: Path) -> Path:
    """A folder of a report's tables alone to do harm to."""
    return shutil.copytree(reported_study / "report/tables", tmp_path / "given/tables")


@pytest.fixture
def command(run_command: Any, study_materials: Path) -> Any:
    def run(folder: Path, *words: Any) -> tuple[int, str, str]:
        found: tuple[int, str, str] = run_command(
            run_study, study_materials / "study.toml", "--output", folder, *words
        )
        return found

    return run


def tables(folder: Path) -> dict[str, str]:
    """Every table of a report that says the same of the same study, as text."""
    data = StudyData(read_steps(StudyFolder(folder)))
    return {name: table.to_csv() for name, table in tables_of(data).items() if name != "timings"}


def no_job(*_: Any) -> Any:
    raise AssertionError("nothing was to be done")


# The plan

SMALL = Study(model="m", tasks=("sst2", "mrpc"), seeds=(1, 2))
HERE = Materials({"sha256": "m"}, {task: {"train": "t", "validation": "v"} for task in ("sst2", "mrpc")})


def identities(study: Study = SMALL, materials: Materials = HERE) -> dict[str, str]:
    plan = plan_of(study, materials)
    return {step.path: plan.identity(step) for step in plan.steps}


def test_identities_are_pinned() -> None:
    """A change of these orphans every study that there is: raise PROTOCOL only if results change."""
    found = identities()
    assert (
        found["sst2/seed_1/fine-tune"] == "7fdf63ae0ddc12aa66c641de0e09f6d7ea515462e13acda2fd627275695038b3"
    )
    assert (
        found["mrpc/seed_2/super-bad-fine-tuned"]
        == "4eab9b4fcb72943489af4ffe52c00f657a9b9d710ed0f0073322ff37fd0c9a23"
    )
    whole = hashlib.sha256("".join(found.values()).encode()).hexdigest()
    assert (len(found), whole) == (98, "b5077cb2f6239d1877007a6b9e6dea86b0692fdb53049fe2a680cee05c8da053")


@pytest.mark.parametrize(
    ("study", "changed"),
    [
        (replace(SMALL, threads=2), "*"),
        (replace(SMALL, max_length=64), "*"),
        (replace(SMALL, fine_tuning=FineTuning(epochs=2)), "all but pretrained"),
        (replace(SMALL, threshold=0.8), "all but pretrained and fine-tune and patterns"),
        (replace(SMALL, fine_tuning=FineTuning(checkpoint_steps=7)), ""),
        (replace(SMALL, keep_models=True, output="elsewhere"), ""),
        (replace(SMALL, tasks=("sst2",)), ""),
    ],
)
def test_an_identity_is_of_all_that_decides_a_result_and_of_nothing_else(study: Study, changed: str) -> None:
    before, after = identities(), identities(study)
    assert set(after) <= set(before)
    spared = () if changed == "*" else changed.removeprefix("all but ").split(" and ")
    for path, identity in after.items():
        same = not changed or any(part in path.split("/") for part in spared)
        assert (identity == before[path]) == same, path


def test_other_data_or_another_model_is_another_study() -> None:
    other = Materials({"sha256": "n"}, HERE.data)
    assert not set(identities().values()) & set(identities(materials=other).values())
    data = {**HERE.data, "mrpc": {"train": "t", "validation": "other"}}
    after = identities(materials=Materials(HERE.model, data))
    assert {path.split("/")[0] for path, one in identities().items() if after[path] != one} == {"mrpc"}


def test_each_step_comes_after_its_inputs_and_waves_in_order() -> None:
    plan = plan_of(SMALL, HERE)
    seen: set[str] = set()
    waves = []
    for level in plan.levels(plan.steps):
        waves += [step.wave for step in level]
        for step in level:
            assert set(step.inputs) <= seen
            assert all(set(plan.by_path[path].outputs) for path in step.inputs)
        seen |= {step.path for step in level}
    assert seen == set(plan.by_path)
    assert [wave for wave, _ in itertools.groupby(waves)] == [
        "fine-tune and search",
        "controls",
        "supers",
        "patterns",
    ]


def test_supers_are_of_all_seeds_and_draws_are_counted() -> None:
    study = replace(SMALL, subnetworks=Subnetworks(random_draws=2))
    plan = plan_of(study, HERE)
    of_all = {f"sst2/seed_{seed}/search-heads-and-mlps" for seed in (1, 2)}
    assert of_all < set(plan.by_path["sst2/seed_1/super-good-pruned"].inputs)
    assert "mrpc/seed_1/random-2-fine-tuned" in plan.by_path
    assert [step.path for step in plan.matching(["sst2/seed_2/random-2-pruned"], needed=True)] == [
        "sst2/seed_2/fine-tune",
        "sst2/seed_2/search-heads-and-mlps",
        "sst2/seed_2/random-2-pruned",
    ]
    assert len(plan.matching(["fine-tune"])) == 4
    assert len(plan.matching(["mrpc"])) == len(plan.steps) // 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tesks = 1", "unknown key tesks; the nearest is tasks"),
        ("[fine_tuning]\nepoch = 2", "unknown key fine_tuning.epoch; the nearest is fine_tuning.epochs"),
        ("[fine_tuning]\nepochs = 0", "epochs=0"),
        ('[fine_tuning]\nepochs = "2"', "fine_tuning.epochs = '2': give a number"),
        ("[fine_tuning]\nseed = 3", "seeds stands at the top"),
        ('[structured]\nwhat = "heads"', "searches stands at the top"),
        ("threads = 0", "threads = 0: give at least 1"),
        ("threads = 1.5", "threads = 1.5: give a whole number"),
        ("patterns = 3", "patterns is a table"),
        ('searches = ["head"]', "'head'; the nearest is 'heads'"),
        ('searches = ["heads"]', "come from the search 'heads-and-mlps'"),
        ('[subnetworks]\nstructured = ["goode"]', "the nearest is 'good'"),
        ("holdout = 1.0", "holdout = 1.0"),
        ("seed = -1", "seed=-1"),
        ("model = [", "cannot be read as TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "study.toml"
    start = "" if line.startswith("tasks") else 'tasks = ["qqp"]\n'
    file.write_text(f'model = "m"\n{start}seeds = [1, 2]\n{line}\n')
    with pytest.raises(InputError) as error:
        read_study(file)
    assert words in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tasks": ("qqp", "QQP")}, "each of them once"),
        ({"tasks": ("glue",)}, "glue"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1,)}, "there is one seed"),
    ],
)
def test_an_impossible_combination_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Study(**{"model": "m", "tasks": ("sst2",), "seeds": (1, 2), **values})


# A run


def test_every_step_is_on_disk_with_the_checksums_of_its_files(finished_study: Path) -> None:
    plan, folder = read_plan(finished_study), StudyFolder(finished_study)
    for step in plan.steps:
        record = json.loads((finished_study / step.path / METRICS).read_text())["step"]
        assert record["identity"] == plan.identity(step)
        assert set(step.outputs) <= set(record["files"])
        files = {
            str(f.relative_to(finished_study / step.path)) for f in (finished_study / step.path).rglob("*")
        }
        assert files == {*record["files"], METRICS}
        assert folder.damage(plan, step) is None
    left = [file for file in finished_study.rglob(".*") if ".lock" not in str(file)]
    assert not left


def test_the_record_leads_to_the_same_plan(finished_study: Path, study: Study) -> None:
    plan = RunStudy(study, finished_study).plan()
    again = read_plan(finished_study)
    assert [plan.identity(step) for step in plan.steps] == [again.identity(step) for step in again.steps]


def test_subnetworks_are_what_they_are_called(finished_study: Path) -> None:
    for seed in (1, 2):
        home = finished_study / f"sst2/seed_{seed}"
        good = Subnetwork.load(home / "good-pruned/subnetwork.safetensors")
        random_one = Subnetwork.load(home / "random-1-pruned/subnetwork.safetensors")
        assert good == Subnetwork.load(home / "search-heads-and-mlps/subnetwork.safetensors")
        assert (good.n_heads, good.n_mlps) == (random_one.n_heads, random_one.n_mlps)
        pruned, search, tuned = (
            json.loads((home / step / METRICS).read_text())
            for step in ("good-pruned", "search-heads-and-mlps", "fine-tune")
        )
        assert pruned["score"] == pytest.approx(search["score"])
        assert tuned["score"] == pytest.approx(search["full_score"])
        again = json.loads((home / "good-fine-tuned" / METRICS).read_text())
        assert again["config"]["subnetwork"] == good.digest()
        assert not (home / "good-fine-tuned/model.safetensors").exists()
        assert (home / "fine-tune/model.safetensors").exists()


def test_what_is_done_is_not_done_again(copied: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_steps, "JOBS", dict.fromkeys(study_steps.JOBS, no_job))
    done = RunStudy(study, copied).run()
    assert done["done"] == done["steps"]


def test_a_changed_config_is_refused_in_words(copied: Path, study: Study) -> None:
    other = replace(study, fine_tuning=replace(study.fine_tuning, epochs=2))
    with pytest.raises(InputError) as error:
        RunStudy(other, copied).run()
    for words in (
        "sst2/seed_1/fine-tune",
        "settings.epochs 6 there, 2 here",
        "--force fine-tune",
        "other steps",
    ):
        assert words in str(error.value)


def test_forced_after_a_change_what_is_made_from_it_goes_too(copied: Path, study: Study) -> None:
    other = replace(study, fine_tuning=replace(study.fine_tuning, epochs=2))
    job = RunStudy(other, copied, force=("sst2/*/fine-tune", "mrpc"))
    plan, folder = job.plan(), StudyFolder(copied)
    job._make_way(plan, folder)
    assert [step.path for step in plan.steps if folder.is_done(step)] == ["sst2/pretrained/patterns"]


def test_tasks_can_be_added_and_left_out(copied: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_steps, "JOBS", dict.fromkeys(study_steps.JOBS, no_job))
    assert RunStudy(replace(study, tasks=("mrpc",)), copied).run()["done"] == 17


def test_a_damaged_step_is_named_and_done_again_on_demand(
    copied: Path, study: Study, finished_study: Path
) -> None:
    before = tables(copied)
    victim = copied / "sst2/seed_2/good-pruned/subnetwork.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    (copied / "mrpc/pretrained/patterns/maps.parquet").unlink()
    (copied / "mrpc/seed_1/search-weights/metrics.json").write_text("{")
    with pytest.raises(InputError) as error:
        RunStudy(study, copied).run()
    for words in (
        f"{victim.parent}: subnetwork.safetensors is not what was written",
        "mrpc/pretrained/patterns: maps.parquet is missing",
        "mrpc/seed_1/search-weights: its metrics.json cannot be read",
        "--repair",
    ):
        assert words in str(error.value)
    done = RunStudy(study, copied, repair=True).run()
    assert done["done"] == done["steps"]
    assert tables(copied) == before


@pytest.mark.parametrize(
    "file",
    [
        "sst2/seed_1/search-heads-and-mlps/importance.parquet",
        "sst2/seed_1/search-heads-and-mlps/subnetwork.safetensors",
        "mrpc/seed_2/search-heads-and-mlps/config.json",
        "mrpc/seed_2/search-weights/survival.parquet",
        "sst2/seed_2/patterns/maps.parquet",
        f"sst2/seed_2/good-pruned/{METRICS}",
        f"sst2/seed_2/fine-tune/{METRICS}",
    ],
)
def test_a_report_reads_nothing_but_what_was_written(copied: Path, run_command: Any, file: str) -> None:
    whole = (copied / file).read_bytes()
    for damaged in (whole[:-40], whole.replace(b"1", b"0", 1), whole[: len(whole) // 2] + b"\0" * 40):
        (copied / file).write_bytes(damaged)
        code, out, err = run_command(run_study, "report", copied)
        assert (code, out) == (2, "")
        assert str(copied / file) in err
        assert "Traceback" not in err
    (copied / file).unlink()
    if not file.endswith(METRICS):  # without it, the step is not done
        code, _, err = run_command(run_study, "report", copied)
        assert (code, f"{copied / file} is missing; run-study --repair" in err) == (2, True)
    (copied / file).write_bytes(whole)
    assert tables(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"study": {}, "materials": {}}, "study.json, 'study' lacks 'fine_tuning'"),
        ({"study": [], "materials": {}}, "study.json, 'study' holds []"),
        ({"study": {"fine_tuning": {}, "structured": {}, "modle": 1}}, "is not a study's record"),
        (
            {
                "study": {"fine_tuning": {}, "structured": {}, "modle": 1},
                "materials": {"model": {}, "data": {}},
            },
            "unknown key modle",
        ),
        (
            {
                "study": {
                    **{"fine_tuning": {}, "structured": {}, "model": "m", "tasks": ["sst2"]},
                    **{"seeds": [1], "subnetworks": {"structured": ["good"]}},
                },
                "materials": {"model": {}, "data": {}, "more": 1},
            },
            "study.json cannot be read as a study's record",
        ),
    ],
)
def test_a_record_of_something_else_is_a_sentence(
    tmp_path: Path, run_command: Any, content: Any, message: str
) -> None:
    (tmp_path / "study.json").write_text(json.dumps(content))
    code, _, err = run_command(run_study, "report", tmp_path)
    assert code == 2
    assert message in err


def test_deeply_nested_toml_is_a_sentence(tmp_path: Path, run_command: Any) -> None:
    for text in (f"x = {'[' * 50_000}{']' * 50_000}", f"tasks = {'[' * 200}{']' * 200}", "x = " + "9" * 5000):
        (tmp_path / "s.toml").write_text(text)
        code, _, err = run_command(run_study, tmp_path / "s.toml", "--output", tmp_path / "q")
        assert code == 2
        assert str(tmp_path / "s.toml") in err
        assert err.count("\n") == 1
        assert len(err) < 2100


def test_forced_steps_are_done_again_and_what_they_change(
    copied: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same result again changes nothing else; another one has what was made from it done again."""
    done: list[str] = []
    jobs = dict(study_steps.JOBS)

    def noted(job: Any) -> Any:
        done.append(job.step.path)
        return jobs[job.step.kind](job)

    monkeypatch.setattr(study_steps, "JOBS", dict.fromkeys(jobs, noted))
    RunStudy(study, copied, force=("mrpc/seed_2/search-heads-and-mlps",)).run()
    assert done == ["mrpc/seed_2/search-heads-and-mlps"]
    done.clear()
    folder = StudyFolder(copied)
    step = read_plan(copied).by_path["mrpc/seed_2/search-heads-and-mlps"]
    found = folder.read(step)
    found["step"]["digest"] = "another"
    (copied / step.path / METRICS).write_text(json.dumps(found))
    RunStudy(study, copied, repair=True).run()
    assert done == [f"mrpc/seed_2/{name}" for name in ("good-pruned", "random-1-pruned")]


def test_a_run_that_is_interrupted_goes_on_and_ends_alike(
    finished_study: Path, study_materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one seed: each interruption comes after one more step."""
    small = replace(
        read_study(study_materials / "study.toml"),
        tasks=("sst2",),
        seeds=(1,),
        searches=("heads-and-mlps",),
    )
    jobs = dict(study_steps.JOBS)

    def interrupted(job: Any) -> Any:
        if interrupted.calls:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        interrupted.calls += 1  # type: ignore[attr-defined]
        return jobs[job.step.kind](job)

    monkeypatch.setattr(study_steps, "JOBS", dict.fromkeys(jobs, interrupted))
    for _ in range(2):
        interrupted.calls = 0  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            RunStudy(small, tmp_path / "s").run()
    monkeypatch.setattr(study_steps, "JOBS", jobs)
    assert RunStudy(small, tmp_path / "s").run()["left"] == []
    for name in ("fine-tune/model.safetensors", "search-heads-and-mlps/importance.parquet"):
        path = Path("sst2/seed_1") / name
        assert (tmp_path / "s" / path).read_bytes() == (finished_study / path).read_bytes()


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_failure_is_told_and_spares_what_does_not_need_it(
    copied: Path, command: Any, monkeypatch: pytest.MonkeyPatch, keep_going: bool
) -> None:
    for path in ("sst2/seed_1/search-heads-and-mlps", "sst2/seed_1/good-pruned", "sst2/seed_2/good-pruned"):
        shutil.rmtree(copied / path)

    def fails(job: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(study_steps.JOBS, "search", fails)
    code, _, err = command(copied, *(["--keep-going"] if keep_going else []))
    assert code == 1
    assert "sst2/seed_1/search-heads-and-mlps: RuntimeError: no such luck" in err
    assert not (copied / "sst2/seed_1/good-pruned").exists()
    assert (copied / "sst2/seed_2/good-pruned").exists() == keep_going
    error = json.loads((copied / "sst2/seed_1/.search-heads-and-mlps.error.json").read_text())
    assert "Traceback" in error["traceback"]
    monkeypatch.undo()


def test_a_full_disk_is_said(copied: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "sst2/pretrained")

    def full(job: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(study_steps.JOBS, "patterns", full)
    code, _, err = command(copied)
    assert code == 2
    assert "The disk is full" in err
    assert not (copied / "sst2/pretrained/.patterns.error.json").exists()


def test_a_second_process_is_refused(copied: Path, command: Any) -> None:
    with StudyFolder(copied).locked():
        code, _, err = command(copied)
    assert code == 2
    assert err.startswith("Another run-study is at work on")


def test_a_folder_of_something_else_is_refused(tmp_path: Path, command: Any) -> None:
    (tmp_path / "mine.txt").write_text("x")
    code, _, err = command(tmp_path)
    assert code == 2
    assert "holds no study" in err


def test_a_task_without_data_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no rte/train"):
        RunStudy(replace(study, tasks=("sst2", "rte")), tmp_path / "s").run()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--backend", "slurm"), "give loky, ray or dask"),
        (("--jobs", 0), "--jobs 0"),
        (("--gpus", 1), "--backend ray"),
        (("--address", "x"), "--backend ray or dask"),
        (("--only", "nothing"), "'nothing' is no step of this study"),
    ],
)
def test_options_without_sense_are_refused(copied: Path, command: Any, words: Any, says: str) -> None:
    code, _, err = command(copied, *words)
    assert code == 2
    assert says in err


def test_the_names_in_a_plan_are_those_that_steps_are_chosen_by(copied: Path, command: Any) -> None:
    plan = read_plan(copied)
    found = estimates(plan, plan.steps, StudyFolder(copied))
    assert "random-*-pruned" in {one.name for one in found}
    for one in found:
        assert len([step for step in plan.matching([one.name]) if step.wave == one.wave]) == one.steps
        assert command(copied, "--dry-run", "--only", one.name)[0] == 0


def test_a_dry_run_shows_what_is_forced_as_to_be_done(copied: Path, command: Any) -> None:
    code, out, _ = command(copied, "--dry-run", "--force", "sst2/*/good-pruned", "--json")
    assert code == 0
    found = {one["name"]: one for one in json.loads(out)["steps"]}
    seeds = len(read_plan(copied).study.seeds)
    good = found.pop("good-pruned")
    assert good["steps"] - good["done"] == seeds
    assert good["left"] > 0
    assert all(one["done"] == one["steps"] for one in found.values())
    assert (copied / "sst2/seed_1/good-pruned" / METRICS).is_file()
    code, out, _ = command(copied, "--dry-run", "--force", "sst2/*/good-pruned")
    assert f"34 steps, {34 - seeds} done" in " ".join(out.split())
    assert "is done again too if they come out otherwise" in out


def test_progress_is_steps_and_time(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, folder = read_plan(copied), StudyFolder(copied)
    assert progress(plan, plan.steps, folder, 1) == "34 of 34"
    searches = [step for step in plan.steps if step.name == "search-weights"]
    read = StudyFolder.read

    def slow(self: StudyFolder, step: Step) -> dict[str, Any]:
        found = read(self, step)
        if step.name == "search-weights":
            found["step"]["seconds"] = 90.0
        return found

    monkeypatch.setattr(StudyFolder, "read", slow)
    folder.remove(searches[0])
    folder.remove(searches[1])
    assert progress(plan, plan.steps, folder, 1) == "32 of 34, 3 min 0 s left"
    assert progress(plan, plan.steps, folder, 2) == "32 of 34, 1 min 30 s left"
    assert progress(plan, plan.steps[:3], StudyFolder(copied / "elsewhere"), 1) == "0 of 3"


def test_progress_is_told_while_a_study_runs(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    looked, told_of = Event(), Event()
    done = StudyFolder.is_done

    def look(self: StudyFolder, step: Step) -> bool:
        if step == plan.steps[-1]:  # the last of a round
            looked.set()
        return done(self, step)

    def say(line: str) -> None:
        said.append(line)
        told_of.set()

    monkeypatch.setattr("pruning.study.progress._SECONDS", 0.01)
    monkeypatch.setattr("pruning.study.progress.say", say)
    monkeypatch.setattr(StudyFolder, "is_done", look)
    plan, folder = read_plan(copied), StudyFolder(copied)
    kept = folder.of(plan.steps[0]).with_name("kept")
    folder.of(plan.steps[0]).rename(kept)
    folder.remove(plan.steps[1])
    looked.clear()
    with told(plan, plan.steps, folder, 1):
        assert looked.wait(60)
        kept.rename(folder.of(plan.steps[0]))
        assert told_of.wait(60)
    assert len(said) == 1
    assert re.fullmatch(r"33 of 34, [\d.e+]+ (a minute|an hour), .* s left", said[0])


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_terminal_a_study_says_once_a_minute_what_is_at_work(
    copied: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    said: list[str] = []
    told_of = Event()
    monkeypatch.setattr("pruning.study.progress._SECONDS", 0.01)
    monkeypatch.setattr("pruning.study.progress.EVERY", 0.05)
    monkeypatch.setattr("pruning.study.progress.say", lambda line: (said.append(line), told_of.set()))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    plan, folder = read_plan(copied), StudyFolder(copied)
    at_work, left_over = plan.steps[0], plan.steps[1]
    for step in (at_work, left_over):
        folder.remove(step)
        folder.starts_file(step, plan.identity(step)).parent.mkdir(parents=True)
        folder.starts_file(step, plan.identity(step)).write_text("{}")
    os.utime(folder.starts_file(left_over, plan.identity(left_over)), (1, 1))  # of a run that was killed
    with told(plan, plan.steps, folder, 1):
        folder.starts_file(at_work, plan.identity(at_work)).touch()
        assert told_of.wait(1 if terminal else 60) == (not terminal)
    if not terminal:
        assert re.fullmatch(rf"32 of 34, .* left; at work: {at_work.path} \(\d\.\d s\)", said[-1])


def test_a_dry_run_says_what_is_left_and_for_how_long(copied: Path, command: Any) -> None:
    shutil.rmtree(copied / "sst2/seed_1/good-fine-tuned")
    shutil.rmtree(copied / "mrpc/seed_2/search-weights")
    code, out, _ = command(copied, "--dry-run")
    assert code == 0
    assert "34 steps, 32 done" in out
    assert "…" not in out
    assert not (copied / "sst2/seed_1/good-fine-tuned").exists()
    plan, folder = read_plan(copied), StudyFolder(copied)
    found = {one.name: one for one in estimates(plan, plan.steps, folder)}
    other = folder.read(plan.by_path["sst2/seed_2/good-fine-tuned"])["step"]["seconds"]
    assert found["good-fine-tuned"].left == pytest.approx(other)
    assert (found["good-fine-tuned"].done, found["good-fine-tuned"].steps) == (3, 4)
    assert (found["fine-tune"].done, found["fine-tune"].steps, found["fine-tune"].left) == (4, 4, 0)
    code, out, _ = command(copied, "--dry-run", "--json")
    told = {one["name"]: one["steps"] - one["done"] for one in json.loads(out)["steps"]}
    assert {name for name, left in told.items() if left} == {"good-fine-tuned", "search-weights"}
    assert set(told.values()) == {0, 1}


@pytest.mark.slow
def test_a_folder_says_itself_which_study_to_go_on_with_or_repeat(
    copied: Path, run_command: Any, tmp_path: Path
) -> None:
    score = (copied / "sst2/seed_1/good-pruned" / METRICS).read_text()
    shutil.rmtree(copied / "sst2/seed_1/good-pruned")
    code, _, err = run_command(run_study, copied)
    assert code == 0, err
    assert "34 of 34 steps are done" in err
    again = json.loads((copied / "sst2/seed_1/good-pruned" / METRICS).read_text())
    assert again["score"] == json.loads(score)["score"]
    code, out, _ = run_command(run_study, copied, "--output", tmp_path / "again", "--dry-run", "--json")
    assert code == 0
    told = json.loads(out)["steps"]
    assert (sum(one["steps"] for one in told), sum(one["done"] for one in told)) == (34, 0)
    for content in (None, "{}", "[]"):
        if content:
            (tmp_path / STUDY).write_text(content)
        code, _, err = run_command(run_study, tmp_path)
        assert code == 2
        assert STUDY in err


def test_repeating_takes_the_revision_that_was_used(
    copied: Path, run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((copied / STUDY).read_text())
    record["materials"]["model"]["revision"] = "abc123"
    (copied / STUDY).write_text(json.dumps(record))
    seen = []

    def begin(study: Study, **rest: Any) -> None:
        seen.append(study.revision)
        raise InputError("seen")

    monkeypatch.setattr("pruning.study.job.RunStudy", begin)
    for words in ((), ("--output", tmp_path / "again"), ("--output", tmp_path / "again", "--model", "other")):
        assert run_command(run_study, copied, *words)[0] == 2
    assert seen == [None, "abc123", None]


# The report


def test_a_report_is_of_finished_steps_alone(copied: Path, run_command: Any) -> None:
    shutil.rmtree(copied / "mrpc")
    (copied / STUDY).write_text((copied / STUDY).read_text())
    code, out, _ = run_command(run_study, "report", copied, "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["done"], told["steps"]) == (17, 34)
    assert {row["task"] for row in told["scores"]} == {"sst2"}
    assert not (copied / "report/figures/3_shared_heads.png").exists()
    assert (copied / "report/figures/4_scores.png").exists()


def test_a_report_has_every_table_in_three_forms_and_every_figure_with_its_data(reported_study: Path) -> None:
    home, figures = reported_study / "report/tables", reported_study / "report/figures"
    for name in ("scores", "score_summary", "survivors", "stability", "patterns", "conclusions"):
        frame = pd.read_parquet(home / f"{name}.parquet")
        assert len(frame) == len(pd.read_csv(home / f"{name}.csv"))
        assert r"\toprule" in (home / f"{name}.tex").read_text()
    forests = [f"6_comparisons_{question}" for question in ("good", "full", "learn", "stable", "patterns")]
    for name in ("1_survival", "2_importance", "3_shared_heads", "4_scores", "5_patterns", *forests):
        assert len(pd.read_csv(figures / f"{name}.csv"))
        for ending in ("png", "pdf"):
            assert (figures / f"{name}.{ending}").stat().st_size > 1000
    assert "What these data support" in (reported_study / "report/report.md").read_text()
    page = (reported_study / "report/report.html").read_text()
    assert len(page) < 5_000_000
    assert page.count("data:image/png;base64,") == len(
        list((reported_study / "report/figures").glob("*.png"))
    )
    assert 'src="http' not in page
    start, end = page.index('id="in-short"'), page.index("Good, random and bad subnetworks")
    short = re.sub("<[^>]+>", " ", page[start : page.index("</section>", start)])
    assert not re.search(r"[+-]\d\.\d{3}|\[", short)  # plain sentences; numbers are in the plot and the table
    assert page[start:end].count("data:image/png;base64,") == len(forests)
    for figure in FIGURES:  # each once, with its words, above its table
        if figure.question in ("closed", "random"):  # no heads are closed in this study, nothing is bad
            assert escape(figure.alt) not in page
            continue
        assert page.count(f'alt="{escape(figure.alt)}') == 1
        table = f"conclusions-{figure.question}" if figure.question else figure.name
        assert page.index(escape(figure.alt)) < page.index(f'id="table-{table}"')
    shown = re.findall(r'id="table-([^"]+)"', page)
    assert len(set(shown)) == len(shown)
    assert not {"score_summary", "patterns", "importance", "conclusions"} & set(shown)  # behind a figure
    assert {"scores", "survivors", "stability"} <= set(shown)


def test_a_report_is_made_again_from_its_own_tables(
    reported_study: Path, published: Path, run_command: Any, tmp_path: Path
) -> None:
    """As somebody has them who was given the tables: without the study, and elsewhere."""
    first, given = reported_study / "report", published.parent
    assert not folders_in(published, reported_study.parent.parent)
    code, _, err = run_command(run_study, "report", given, "--output", tmp_path / "made")
    assert code == 0
    assert str(tmp_path / "made") in err

    def files(home: Path) -> dict[str, bytes]:
        paths = [path for path in home.rglob("*") if path.is_file() and path.suffix not in (".html", ".pdf")]
        return {path.relative_to(home).as_posix(): path.read_bytes() for path in paths if path.name[0] != "."}

    assert files(tmp_path / "made") == files(first)
    page = (tmp_path / "made/report.html").read_text()
    assert f"run-study report {given}" in page
    assert "Head by head" not in page

    (given / "tables/maps.csv").write_text("mine")  # of this table only Parquet is written
    assert run_command(run_study, "report", given)[0] == 0  # in its place
    assert f"run-study report {given}" in (given / "report.html").read_text()
    assert (given / "tables/maps.csv").read_text() == "mine"
    code, _, err = run_command(run_study, "report", given, "--output", given / "tables/inside")
    assert (code, "which is read" in err) == (2, True)
    told = json.loads((given / "tables/study.json").read_text())
    told["materials"]["model"]["sha256"] = "another"
    other = shutil.copytree(given, tmp_path / "other")
    (other / "tables/study.json").write_text(json.dumps(told))
    before = (tmp_path / "made/report.md").read_bytes()
    code, _, err = run_command(run_study, "report", other, "--output", tmp_path / "made")
    assert (code, "holds the report of another study" in err) == (2, True)
    assert (tmp_path / "made/report.md").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    code, _, err = run_command(run_study, "report", given, "--output", tmp_path / "mine")
    assert (code, "no earlier output of run-study report" in err) == (2, True)


def folders_in(tables: Path, start: Path) -> list[str]:
    """Return the files of tables in which a path that begins so stands, in Parquet's texts too."""
    found = []
    for file in tables.iterdir():
        text = pd.read_parquet(file).to_csv() if file.suffix == ".parquet" else file.read_text()
        if str(start) in text:
            found.append(file.name)
    return found


def test_published_tables_name_no_folder_of_a_machine(copied: Path, tmp_path: Path) -> None:
    """Of a model that is gone, of a task's own data, and in what steps warned of."""
    record = json.loads((copied / STUDY).read_text())
    study = record["study"]
    model, rows = "/gone/with/bert", "/gone/with/rows"
    study |= {"model": model, "data": rows}
    study["own_tasks"] = [
        {"name": "stars", "texts": ["a"], "label": "label", "labels": ["x", "y"], "data": f"{rows}/stars"}
    ]
    study["tasks"].append("stars")
    record["materials"]["data"]["stars"] = {"train": "t", "validation": "v"}
    (copied / STUDY).write_text(json.dumps(record))
    metrics = copied / "sst2/seed_1/search-heads-and-mlps" / METRICS
    told = json.loads(metrics.read_text())
    told["warnings"] = [f"--model {model} is odd"]
    told["step"].pop("checksum")
    metrics.write_text(json.dumps(told))
    tables = tmp_path / "tables"
    read_steps(StudyFolder(copied)).save(tables)
    assert not folders_in(tables, Path("/gone"))
    assert json.loads((tables / "study.json").read_text())["study"]["own_tasks"][0]["data"] == "stars"
    assert list(pd.read_parquet(tables / "warnings.parquet")["message"]) == ["--model bert is odd"]


def test_a_folder_that_is_part_of_something_else_is_refused(
    reported_study: Path, published: Path, run_command: Any, tmp_path: Path
) -> None:
    code, _, err = run_command(run_study, "report", reported_study / "report")
    assert (code, "is the report of the study in" in err) == (2, True)
    given = published.parent
    for words in (("report", given / "tables"), (given / "tables",)):
        code, _, err = run_command(run_study, *words)
        assert (code, "holds the tables of a report, and no study" in err) == (2, True)
    (given / "report.md").write_text("my own paper")
    code, _, err = run_command(run_study, "report", given)
    assert (code, "report.md" in err) == (2, True)
    assert (given / "report.md").read_text() == "my own paper"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tables").symlink_to(given / "tables")
    code, _, err = run_command(run_study, "report", linked)
    assert (code, "is a link" in err) == (2, True)
    assert [file.name for file in linked.iterdir()] == ["tables"]


@pytest.mark.slow
def test_a_report_of_a_studys_file_takes_its_references_and_goes_where_it_is_told(
    reported_study: Path, study_materials: Path, run_command: Any, tmp_path: Path
) -> None:
    copied, file = shutil.copytree(reported_study, tmp_path / "study"), tmp_path / "study.toml"
    top = (study_materials / "study.toml").read_text()
    file.write_text(f'output = "{copied}"\n{top}{REFERENCES}')
    before = (copied / "report/report.md").read_text()
    code, _, err = run_command(run_study, "report", file, "--output", tmp_path / "elsewhere")
    assert code == 0, err
    there = tmp_path / "elsewhere"
    assert list(pd.read_csv(there / "tables/references.csv")["score"]) == [0.85, 0.7, 0.41]
    assert "| biLSTM (somebody, 2018, table 3) | 0.850 | 0.700 |" in (there / "report.md").read_text()
    assert "biLSTM: somebody, 2018, table 3" in (there / "report.html").read_text()
    assert (copied / "report/report.md").read_text() == before


@pytest.mark.parametrize("name", ["steps", "kept", "maps", "kept_weights", "importance"])
def test_a_published_table_that_is_not_what_was_written_is_refused(
    published: Path, run_command: Any, name: str
) -> None:
    file = published / f"{name}.parquet"
    frame = pd.read_parquet(file)
    frame.iloc[1:].to_parquet(file, index=False)
    code, out, err = run_command(run_study, "report", published.parent)
    assert (code, out) == (2, "")
    assert f"{file} is not what was written there" in err
    file.unlink()
    code, _, err = run_command(run_study, "report", published.parent)
    assert (code, f"{file} is missing" in err) == (2, True)


REFERENCES = """
[[references]]
name = "biLSTM"
source = "somebody, 2018, table 3"
scores = { SST-2 = 0.85, mrpc = 0.7, rte = 0.41 }
"""


def test_published_scores_stand_as_lines_beside_those_of_the_study(
    copied: Path, study_materials: Path, tmp_path: Path
) -> None:
    from pruning.study.report.figures import scores

    file = tmp_path / "study.toml"
    file.write_text((study_materials / "study.toml").read_text() + REFERENCES)
    study = read_study(file, **{name: str(study_materials / name) for name in ("model", "data")})
    assert study.references == (
        Reference("biLSTM", "somebody, 2018, table 3", {"sst2": 0.85, "mrpc": 0.7, "rte": 0.41}),
    )
    (copied / STUDY).write_text(
        json.dumps({**json.loads((copied / STUDY).read_text()), "study": asdict(study)})
    )
    data = StudyData(read_steps(StudyFolder(copied)))
    axes = scores(data.score_summary, data.by_seed, data.drawn_references).axes
    drawn = [{float(line.get_ydata()[0]) for line in one.lines} for one in axes]
    assert [sum(score in levels for levels in drawn) for score in (0.85, 0.7, 0.41)] == [1, 1, 0]
    assert sum(any(text.get_text() == "biLSTM" for text in one.texts) for one in axes) == 2


def test_published_scores_change_no_step() -> None:
    reference = Reference("biLSTM", "somebody", {"sst2": 0.85})
    assert identities(replace(SMALL, references=(reference,))) == identities()


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (5, "each is a Reference"),
        (({"name": "a"},), "references.source is missing|source is missing"),
        (({"name": 5, "source": "b", "scores": {"sst2": 0.5}},), "name = 5"),
        (({"name": "a", "source": "b", "scores": {}},), "give a score for each task"),
        (({"name": "a", "source": "b", "scores": {"sst2": True}},), "scores.sst2 = True: give a number"),
        (({"name": "a", "source": "b", "scores": {"sst2": math.inf}},), "give a score for each task"),
        (({"name": "a", "source": "b", "scores": {"SST-2": 0.5, "sst2": 0.9}},), "sst2 has two"),
    ],
)
def test_a_reference_in_python_is_looked_at_too(references: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, references=references)


def test_a_reference_may_be_of_mnlis_other_rows() -> None:
    one = {"name": "a", "source": "b", "scores": {"MNLI-mm": 0.5, "MNLI": 0.6}}
    assert replace(SMALL, references=one).references[0].scores == {"mnli-mm": 0.5, "mnli": 0.6}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('references = "x"', r"write \[\[references\]\]"),
        ('[references]\nname = "a"', r"write \[\[references\]\]"),
        ('[[references]]\nname = "a"\nsource = "b"', "references.scores is missing"),
        ('[[references]]\nname = "a"\nsource = " "\nscores = { sst2 = 0.5 }', "references.source = ' '"),
        (
            '[[references]]\nname = "a"\nsource = "b"\nscores = { sst2 = 85 }',
            r"sst2 = 85.0; its score is accuracy, from 0 to 1",
        ),
        ('[[references]]\nname = "a"\nsource = "b"\nscores = { sentiment = 0.5 }', "sentiment"),
        ('[[references]]\nname = "a"\nsource = "b"\nscores = 0.5', "give a score for each task"),
        (
            '[[references]]\nname = "a"\nsource = "b"\nscores = { sst2 = "high" }',
            "references.scores.sst2 = 'high'",
        ),
        ('[[references]]\nname = "a"\nwhere = "b"\nscores = { sst2 = 0.5 }', "unknown key references.where"),
        (
            2 * '[[references]]\nname = "a"\nsource = "b"\nscores = { sst2 = 0.5 }\n',
            "two of them have one name",
        ),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused(tmp_path: Path, table: str, message: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'model = "m"\ntasks = ["sst2"]\nseeds = [1, 2]\n{table}')
    with pytest.raises(InputError, match=message):
        read_study(file)


def again(home: Path, name: str, change: Any) -> None:
    """Change a table, and what is said of it, so that it passes for what was written."""
    file = home / f"{name}.parquet"
    change(pd.read_parquet(file)).to_parquet(file, index=False)
    told = json.loads((home / "study.json").read_text())
    told["tables"][name] = file_digest(file)
    (home / "study.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("steps", lambda table: pd.concat((table, table.tail(1))), "has a step twice"),
        ("steps", lambda table: table.assign(path=table["path"].str.replace("seed_2", "seed_3")), "seed_3"),
        (
            "kept",
            lambda table: table[table["path"] != table["path"].iloc[0]],
            "kept.parquet lacks the rows of",
        ),
        ("kept", lambda table: table.iloc[1:], "has not each head of each layer once"),
        ("importance", lambda table: table.assign(task="cola"), "has rows of cola"),
        ("maps", lambda table: table.assign(label="round"), "'round', which is none of the five"),
    ],
)
def test_tables_that_are_not_of_the_steps_are_refused(
    published: Path, name: str, change: Any, message: str
) -> None:
    again(published, name, change)
    with pytest.raises(InputError, match=message):
        StudyTables.load(published)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "newer version"),
        ("tables", {"weights": "0"}, "'weights', which is no table"),
        ("tables", {}, "lacks"),
        ("study", {"magnitude": 5}, "lacks 'fine_tuning'|magnitude"),
    ],
)
def test_a_record_of_tables_that_cannot_be_meant_is_refused(
    published: Path, key: str, value: Any, message: str
) -> None:
    told = json.loads((published / "study.json").read_text())
    if isinstance(value, dict) and value:
        told[key] |= value
    elif value == {}:
        told[key] = {name: digest for name, digest in told[key].items() if name != "kept"}
    else:
        told[key] = value
    (published / "study.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=message):
        StudyTables.load(published)


RESULTS = {
    "fine-tune": FineTuneResult,
    "fine-tuned": FineTuneResult,
    "search": HeadsSummary,
    "search-weights": WeightsSummary,
    "pruned": PrunedResult,
    "patterns": PatternsSummary,
}


def keys_of(*types: Any) -> set[str]:
    unless_asked = {"task_definition", "criterion", "stack", "roles"}
    return {key for one in types for key in one.__annotations__} - unless_asked


def test_results_have_the_keys_of_their_types(finished_study: Path) -> None:
    plan = read_plan(finished_study)
    for step in plan.steps:
        found = json.loads((finished_study / step.path / METRICS).read_text())
        more = {one.name for one in fields(StructuredSearch)} if step.kind == "search" else set()
        assert set(found) - {"step", "checksum"} == keys_of(RESULTS[step.kind]) | more, step.path
        assert set(found["step"]) == keys_of(StepRecord)
        lines = {"search": HeadsLine, "search-weights": WeightsLine}
        if step.kind in lines:
            for line in (finished_study / step.path / HISTORY).read_text().splitlines():
                assert set(json.loads(line)) - {"checksum"} == keys_of(lines[step.kind])
    assert {step.kind for step in plan.steps} == set(RESULTS)


def test_no_two_figures_of_a_study_have_a_name_or_words_in_common() -> None:
    for part in ("name", "title", "alt"):
        assert len({getattr(one, part) for one in FIGURES}) == len(FIGURES)


def test_scores_are_those_of_the_steps(finished_study: Path) -> None:
    data = StudyData(read_steps(StudyFolder(finished_study)))
    frame = data.scores
    assert len(frame) == 4 * 5
    for _, row in frame.iterrows():
        name = {"full": "fine-tune"}.get(row["state"], f"{row['subnetwork']}-{row['state']}")
        name = name.replace("random-", "random-1-")
        told = json.loads((finished_study / row["task"] / f"seed_{row['seed']}" / name / METRICS).read_text())
        assert row["score"] == told["score"]
    found = next(one for one in findings_of(data) if one.of == "sst2" and one.question == "good")
    picked = frame[(frame["task"] == "sst2") & (frame["state"] == "fine-tuned")]
    means = picked.groupby("subnetwork")["score"].mean()
    assert found.effect == pytest.approx(means["good"] - means["random"])
    assert found.verdict == "not testable: cannot be significant with 2 seeds: p is at least .500"
    assert (found.low, found.high, found.p_value) == (None, None, None)
    answers = " ".join(answer for one in conclusions(findings_of(data)) for answer in one["answers"])
    assert "Not testable over all runs" in answers


def test_what_subnetworks_reach_stands_beside_the_full_model_and_the_commonest_label(
    finished_study: Path,
) -> None:
    data = StudyData(read_steps(StudyFolder(finished_study)))
    scores = data.scores[data.scores["task"] == "mrpc"]
    found = {
        one.comparison: one.effect
        for one in findings_of(data)
        if one.question in ("full", "learn") and one.of == "mrpc"
    }
    full = scores[scores["state"] == "full"]
    told = {}
    for kind, of_kind in scores[scores["state"] == "fine-tuned"].groupby("subnetwork"):
        mean = of_kind.groupby("seed")["score"].mean().mean()
        told[f"structured: {kind} - full model"] = pytest.approx(mean - full["score"].mean())
        told[f"structured: {kind} - commonest label"] = pytest.approx(mean - full["majority"].mean())
    assert len(told) == 4
    assert found == told


def test_timings_are_those_of_the_steps(finished_study: Path) -> None:
    table = StudyData(read_steps(StudyFolder(finished_study))).timings.set_index(["step", "task"])
    seconds = [
        json.loads((finished_study / f"mrpc/seed_{seed}/search-weights" / METRICS).read_text())["step"][
            "seconds"
        ]
        for seed in (1, 2)
    ]
    one = table.loc[("search-weights", "mrpc")]
    assert (one["steps"], one["seconds"]) == (2, pytest.approx(np.mean(seconds)))
    assert one["hours"] == pytest.approx(sum(seconds) / 3600)
    assert table["steps"].sum() == len(read_plan(finished_study).steps)


def test_most_heads_matter_little_where_few_matter(finished_study: Path) -> None:
    data = StudyData(read_steps(StudyFolder(finished_study)))
    table = data.importance_summary.set_index(["task", "component"])
    one = pd.read_parquet(finished_study / "sst2/seed_1/search-heads-and-mlps" / IMPORTANCE)
    other = pd.read_parquet(finished_study / "sst2/seed_2/search-heads-and-mlps" / IMPORTANCE)
    shares = []
    for of_seed in (one, other):
        first = of_seed[(of_seed["iteration"] == 0) & (of_seed["component"] == "head")]["normalized"]
        shares.append((first < 0.2).mean())
    assert table.loc[("sst2", "head"), "low"] == pytest.approx(np.mean(shares))
    assert table.loc[("sst2", "head"), "low_std"] == pytest.approx(np.std(shares, ddof=1))
    assert (table["median"].between(0, 1)).all()
    tables = read_steps(StudyFolder(finished_study))
    gone = tables.importance.copy()  # of a model that lacked heads from the beginning
    gone.loc[gone["layer"] == 0, "normalized"] = np.nan
    left = StudyData(replace(tables, importance=gone)).importance_summary.set_index(["task", "component"])
    heads = gone[(gone["task"] == "sst2") & (gone["component"] == "head") & (gone["layer"] > 0)]
    assert left.loc[("sst2", "head"), "low"] == pytest.approx(
        heads.groupby("seed")["normalized"].agg(lambda values: (values < 0.2).mean()).mean()
    )


def test_what_can_be_tested_is_told_first_and_what_cannot_in_a_sentence() -> None:
    def finding(comparison: str, of: str, n: int, p: float, smallest: float) -> Finding:
        known = (0.01, 0.09) if smallest <= 0.05 else (None, None)
        return Finding("good", comparison, of, n, 0.05, *known, 1.5, p, smallest, p)

    found = [
        *(finding(c, "qqp", 5, 0.0625, 0.0625) for c in ("a - b", "a - c", "a - d")),
        finding("a - b", ACROSS_RUNS, 20, 0.001, 1e-5),
        *(finding(c, ACROSS_RUNS, 3, 0.25, 0.25) for c in ("a - c", "a - d")),
    ]
    good, _, _, _, stable, *_ = conclusions(found)
    assert good["answers"] == [
        "a - b, over all runs (these tasks, other seeds) (n = 20): +0.050 [+0.010, +0.090], "
        "+1.50 standard deviations, p = .001 (Holm): higher.",
        "Not testable task by task (cannot be significant with 5 seeds: p is at least .062): a - b.",
        "Not testable over all runs (these tasks, other seeds) (cannot be significant with 3 runs: p is at least "
        ".250) or task by task (cannot be significant with 5 seeds: p is at least .062): a - c +0.050; a - d +0.050.",
    ]
    assert stable["answers"] == ["not testable: no step of it is done."]


def test_what_was_not_testable_is_no_answer_to_the_question() -> None:
    heads = "heads: kappa above chance (as many at random)"
    found = [
        Finding("stable", heads, task, 72, None, None, None, None, None, None) for task in ("qqp", "rte")
    ]
    *_, stable, patterns, _ = conclusions(
        [*found, Finding("patterns", "raw maps", "qqp", 36, 0.1, 0.0, 0.2, None, None, None)]
    )
    assert stable["answers"] == [f"Not testable task by task (n = 72): {heads}."]
    assert patterns["answers"] == ["Not testable task by task (n = 36): raw maps."]


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "pearson_spearman"])
def test_an_interval_of_scores_stays_within_the_metrics_range_and_holds_the_mean(metric: str) -> None:
    span = range_of(metric)
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.beta(*rng.uniform(0.2, 4, 2), rng.integers(3, 7)) * (span[1] - span[0]) + span[0]
        low, high = t_interval(values, span)
        assert span[0] <= low < values.mean() < high <= span[1]
    for two in ([0.2, 0.9], [0.5]):
        assert np.isnan(t_interval(np.array(two), span)).all()
    assert np.isnan(t_interval(np.full(5, 0.7), span)).all()  # no width is no interval
    assert np.isnan(t_interval(np.full(5, 1.0), span)).all()


@pytest.mark.parametrize("metric", ["r2", "neg_log_loss", "mutual_info_score"])
def test_so_does_one_of_scores_whose_range_has_one_end(metric: str) -> None:
    span = range_of(metric)
    rng = np.random.default_rng(0)
    for _ in range(200):
        away = rng.gamma(rng.uniform(0.2, 4), 1, rng.integers(3, 7))
        values = span[1] - away if np.isfinite(span[1]) else span[0] + away
        low, high = t_interval(values, span)
        assert span[0] <= low < values.mean() < high <= span[1]
    values = 5 + rng.normal(0, 0.01, 6)  # far from the end, and without one
    plain = student.interval(0.95, 5, values.mean(), values.std(ddof=1) / 6**0.5)
    assert t_interval(values, (0.0, np.inf)) == pytest.approx(plain, abs=1e-4)
    assert t_interval(values, (-np.inf, np.inf)) == pytest.approx(plain)


def test_far_from_its_ends_it_is_the_interval_of_student() -> None:
    values = 0.5 + np.random.default_rng(1).normal(0, 0.01, 5)
    plain = student.interval(0.95, 4, values.mean(), values.std(ddof=1) / 5**0.5)
    assert t_interval(values, (0.0, 1.0)) == pytest.approx(plain, abs=1e-4)


def test_an_interval_of_scores_covers_the_mean_that_there_is() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(1000):
        low, high = t_interval(rng.beta(18, 2, 5), (0.0, 1.0))
        held.append(low <= 0.9 <= high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_interval_p_and_verdict_of_a_study_say_the_same() -> None:
    """Each interval leaves 0 out if and only if p <= .05, stays in range, holds the effect, and has a width."""
    rng = np.random.default_rng(3)
    verdicts, disagreed = set(), 0
    for number in range(60):
        spans = {f"t{i}": ((-1.0, 1.0), (0.0, 1.0))[i % 2] for i in range(rng.integers(1, 4))}
        by_task = {
            # Scores are shares of few rows, so that ties are common.
            task: np.round(rng.normal(rng.choice([0, 0.05, 0.6]), 0.08, rng.integers(2, 20)), 2).clip(-1, 1)
            for task in spans
        }
        apart = [
            one for name in "ab"[: number % 2 + 1] for one in _paired("good", name, by_task, spans, set())
        ]
        told = adjusted(apart)
        for one in told:
            verdicts.add(one.verdict.split(":")[0])
            if one.low is None:
                assert one.high is None
                assert one.verdict not in ("higher", "lower")
                continue
            assert one.testable
            assert one.p_holm is not None
            assert one.high is not None
            assert -2 <= one.low <= one.effect <= one.high <= 2
            assert (one.low > 0 or one.high < 0) == (one.p_holm <= 0.05)
            assert (one.verdict in ("higher", "lower")) == (one.p_holm <= 0.05)
            alone = adjusted([one])[0]
            disagreed += ((alone.low or 0) > 0) != (one.low > 0)
    assert verdicts == {"higher", "no difference shown", "not testable"}
    assert disagreed  # uncorrected intervals would have said otherwise


@pytest.mark.parametrize(("seeds", "can"), [(2, False), (5, False), (6, True)])
def test_a_difference_that_cannot_be_significant_has_neither_verdict_nor_interval(
    seeds: int, can: bool
) -> None:
    values = np.linspace(0.1, 0.2, seeds)
    one = adjusted(_paired("good", "a - b", {"qqp": values}, {"qqp": (0.0, 1.0)}, set()))[0]
    smallest = f"{2 / 2**seeds:.3f}".removeprefix("0")
    if can:
        assert one.verdict == "higher"
        # Of six pairs p <= .05 only if all have one sign: what is taken off may be the least of them, or the most.
        assert (one.low, one.high) == pytest.approx((0.1, 0.2))
    else:
        assert (
            one.verdict == f"not testable: cannot be significant with {seeds} seeds: p is at least {smallest}"
        )
        assert (one.low, one.high, one.p_value, one.p_holm) == (None, None, None, None)
        assert "[" not in conclusions([one])[0]["answers"][0]


def test_what_cannot_be_significant_beside_so_many_says_so() -> None:
    by_task = {f"t{i}": np.linspace(0.1, 0.2, 6) for i in range(4)}
    found = adjusted(_paired("good", "a - b", by_task, dict.fromkeys(by_task, (0.0, 1.0)), set()))
    assert {one.verdict for one in found[:4]} == {
        "not testable: cannot be significant with 6 seeds: p, corrected for the number of comparisons, "
        "is at least .125"
    }
    assert found[4].of == ACROSS_RUNS
    assert found[4].verdict == "higher"


def test_stability_has_the_one_sided_interval_of_its_test() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        drawn = np.round(rng.normal(0, 0.1, 199), 2)
        kappa = float(np.round(rng.normal(0.15, 0.1), 2))
        p = beside_chance(kappa, drawn, "size").p_value
        for level in (0.05, 0.02):
            low = at_least(kappa, drawn, level)
            assert (low > 0) == (p <= level)
            assert low <= kappa - drawn.mean()
    assert np.isnan(at_least(0.5, drawn, 0.001))  # no p of 199 draws is that small


def test_over_runs_the_mean_of_the_tasks_means_is_what_is_tested() -> None:
    by_task = {"qqp": np.array([0.5, 0.52, 0.51, 0.5, 0.53, 0.5]), "rte": np.array([0.01, 0.0, 0.02])}
    found = adjusted(_paired("good", "a - b", by_task, dict.fromkeys(by_task, (0.0, 1.0)), set()))
    one = next(one for one in found if one.of == ACROSS_RUNS)
    weights = np.array([1 / 12] * 6 + [1 / 6] * 3)
    values = np.concatenate(list(by_task.values()))
    means = [(weights * values) @ signs for signs in itertools.product((-1, 1), repeat=9)]
    assert one.effect == pytest.approx((by_task["qqp"].mean() + 0.01) / 2)
    assert one.p_value == pytest.approx(np.mean(np.abs(means) >= abs(one.effect) - 1e-12))
    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.effect <= one.high


def test_a_task_below_the_commonest_label_is_testable_nowhere_and_left_out_of_the_rest() -> None:
    by_task = {task: np.linspace(0.1, 0.2, 6) for task in ("qqp", "rte", "sst2")}
    spans = dict.fromkeys(by_task, (0.0, 1.0))
    found = {one.of: one for one in _paired("good", "a - b", by_task, spans, {"rte"})}
    assert found["rte"].verdict == f"not testable: {BELOW_MAJORITY}"
    assert found["qqp"].verdict == "higher"
    assert (found[ACROSS_RUNS].n, found[ACROSS_TASKS].n) == (12, 2)
    marked = [replace(one, question="good") for one in found.values()]
    assert "not testable" in conclusions(marked)[0]["answers"][1]


def test_in_short_is_a_plain_sentence_a_question() -> None:
    def finding(comparison: str, of: str, effect: float, p: float | None) -> Finding:
        return Finding(
            "good", comparison, of, 9, effect, None, None, None, p, None if p is None else 0.001, p
        )

    found = [
        finding("structured: good - bad", ACROSS_RUNS, 0.2, 0.001),
        finding("structured: good - random", "qqp", 0.2, 0.001),
        finding("structured: good - random", ACROSS_RUNS, 0.01, 0.4),
        finding("magnitude: good - bad", ACROSS_RUNS, -0.1, 0.01),
        finding("magnitude: good - random", ACROSS_RUNS, 0.1, None),
    ]
    good, _, _, _, stable, *_ = in_short(found)
    assert good.endswith(
        "Higher for structured: good - bad; lower for magnitude: good - bad; no difference shown for "
        "structured: good - random; not testable for magnitude: good - random."
    )
    assert stable.endswith("No step of it is done.")


def test_the_forest_plot_shows_every_comparison_and_nothing_is_cut_off() -> None:
    found = [
        Finding(
            "good", f"{method}: good - {other}", of, 5, effect, effect - 0.1, effect + 0.1, 1, p, 0.001, p
        )
        for method in ("structured", "magnitude")
        for other in ("random", "bad")
        for of, effect, p in (("qqp", 0.2, 0.01), (ACROSS_RUNS, 0.05, 0.5), (ACROSS_TASKS, 0.1, None))
    ]
    figure = draw.forest(found)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    words = [text.get_text() for text in texts]
    for one in found:
        assert one.comparison in words
        assert words.count(one.of) == 4
    assert words.count("higher") == words.count("no difference shown") == words.count("not testable") == 4
    for text in texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()


def nine_tasks() -> dict[str, Figure]:
    """Every figure of a study of nine tasks and of a model of 12 x 12 heads."""
    rng = np.random.default_rng(0)
    tasks = list(TASKS)
    places = [(layer, head) for layer in range(12) for head in (-1, *range(12))]
    heads = pd.DataFrame(
        [
            {
                "task": task,
                "method": method,
                "layer": layer,
                "head": head,
                "mean": rng.random(),
                "std": rng.random(),
            }
            for task in tasks
            for method in ("structured", "magnitude")
            for layer, head in places
        ]
    )
    importance = pd.DataFrame(
        [
            {
                "task": task,
                "seed": seed,
                "component": "mlp" if head < 0 else "head",
                "normalized": rng.random(),
            }
            for task in tasks
            for seed in (1, 2)
            for _, head in places
        ]
    )
    pairs = pd.DataFrame(
        [
            {
                "task": one,
                "other": other,
                "pairs": 5,
                "shared": 50,
                "null": null,
                "chance": 48,
                "low": 44,
                "high": 52,
            }
            for one, other in itertools.combinations(tasks, 2)
            for null in stability.NULLS
        ]
    )
    by_seed = pd.DataFrame(
        [
            {
                "task": task,
                "method": method,
                "subnetwork": kind,
                "state": state,
                "metric": "accuracy",
                "seed": seed,
            }
            | {"score": rng.uniform(0.5, 0.9)}
            for task in tasks
            for method, kind in [("", "full"), *itertools.product(("structured", "magnitude"), STRUCTURED)]
            for state in (("full",) if kind == "full" else ("pruned", "fine-tuned"))
            for seed in (1, 2, 3)
        ]
    )
    keys = ["task", "method", "subnetwork", "state", "metric"]
    summary = (
        by_seed.groupby(keys, sort=False, as_index=False)["score"].mean().rename(columns={"score": "mean"})
    )
    summary = summary.assign(
        low=summary["mean"] - 0.1, high=summary["mean"] + 0.1, majority=0.6, guessing=0.5
    )
    side = {
        "heads": 20,
        "distribution": dict.fromkeys(PATTERNS, 0.2),
        "interpretable_ratio": 0.2,
        "empty_maps": 0,
    }
    sides = dict.fromkeys(SIDES, side | {"interpretable_ratio_ci95": [0.1, 0.3]})
    found = [
        Finding("good", f"structured: good - {other}", of, 9, 0.1, -0.1, 0.3, 1, 0.5, 0.001, 0.5)
        for other in ("random", "bad")
        for of in (*tasks, ACROSS_RUNS)
    ]
    return {
        "survival": draw.survival(heads),
        "importance": draw.importance(importance),
        "shared": draw.shared(pairs),
        "scores": draw.scores(summary, by_seed),
        "patterns": pattern_bars({task: dict.fromkeys(("raw", "norm"), sides) for task in tasks}),
        "forest": draw.forest(found),
    }


@pytest.mark.slow
def test_figures_of_nine_tasks_are_legible_and_whole() -> None:
    """Words are at least 9 CSS pixels high however narrow the screen is, since figures are not made narrower."""
    for name, figure in nine_tasks().items():
        block = FigureBlock.of(figure, "What it shows, in words.")
        pixels = block.least / (figure.get_figwidth() * 72)  # of a point
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) * pixels >= 9, name
        assert block.least <= 1104, name  # no wider than the picture has dots
        FigureCanvasAgg(figure).draw()
        width, height = figure.get_size_inches()
        drawn = figure.get_tightbbox()
        assert drawn.x0 > -0.02 < drawn.y0, name
        assert drawn.x1 < width + 0.02, name
        assert drawn.y1 < height + 0.02, name


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_paired_test_is_that_of_all_changes_of_sign(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    means = [np.mean(differences * signs) for signs in itertools.product((-1, 1), repeat=n)]
    found = sign_flip_test(differences)
    assert found.p_value == pytest.approx(np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12))
    assert found.smallest_p == 2 / 2**n
    assert sign_flip_test(np.full(5, 0.1)).p_value == 0.0625


@pytest.mark.parametrize("n", [7, 40])
def test_the_interval_of_pairs_is_all_that_their_test_would_not_reject(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.1, 0.1, n)
    low, high = sign_flip_test(differences).interval()
    assert low < differences.mean() < high
    for end, inwards in ((low, 1e-3), (high, -1e-3)):
        assert sign_flip_test(differences - end - inwards).p_value > 0.05
        assert sign_flip_test(differences - end + inwards).p_value <= 0.05


def test_the_interval_of_pairs_covers_the_mean_that_there_is() -> None:
    rng = np.random.default_rng(6)
    held = []
    for _ in range(600):
        low, high = sign_flip_test(rng.normal(0.3, 0.1, 8)).interval()
        held.append(low <= 0.3 <= high)
    assert 0.93 <= np.mean(held) <= 0.98


def test_the_examples_can_be_read() -> None:
    for file in sorted((Path(__file__).parents[3] / "examples/studies").glob("*.toml")):
        study = read_study(file)
        assert set(study.searches) == set(SEARCHES)
        plan: Plan = plan_of(study, Materials({}, {task: {} for task in study.tasks}))
        assert len(plan.steps) == len(plan.by_path)


@pytest.mark.parametrize(
    ("kept", "tables_there"),
    [
        (["fine-tune"], {"scores", "score_summary", "timings"}),
        (["patterns"], {"timings"}),
        (["search-weights"], {"weight_survival", "timings"}),
        (
            ["search-heads-and-mlps"],
            {"timings", "survivors", "importance", "importance_summary", "stability"},
        ),
    ],
)
def test_a_report_of_some_steps_has_what_they_say(
    copied: Path, kept: list[str], tables_there: set[str]
) -> None:
    for step in read_plan(copied).steps:
        if step.name not in kept:
            shutil.rmtree(copied / step.path)
    data = StudyData(read_steps(StudyFolder(copied)))
    assert set(tables_of(data)) == tables_there
    answers = [one["answers"] for one in conclusions(findings_of(data))]
    assert all(answers)
    if kept == ["fine-tune"]:
        assert all("no step of it is done" in answer[0] for answer in answers)


def test_nine_tasks_are_whole_on_sixty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = [
        {
            "task": task,
            "method": method,
            "subnetwork": "good",
            "state": "fine-tuned",
            "mean": 0.5 + place / 100,
        }
        | {"std": place / 1000, "majority": 0.5, "guessing": None}
        for place, task in enumerate(TASKS)
        for method in ("structured", "magnitude")
    ]
    print_report({"scores": rows, "done": 9, "steps": 9, "conclusions": [], "warnings": []})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    for place, task in enumerate(TASKS):
        assert task in out.split()
        assert out.count(f"{0.5 + place / 100:.3f} ±{place / 1000:.3f}") == 2


@pytest.mark.parametrize(
    ("name", "steps", "known"),
    [
        ("minilm", 484, "ddf40b16c3e254187a985466d9cb1b237a03f876268b80c4b0e40d615f1cfcdf"),
        ("paper", 1089, "f52f31cd31f8fe6110d4c9d51f1cc7e63504e2138a436f20959098f8d3da67d1"),
        ("smoke", 98, "65a9a67489e96c4cc2caef554b593d0554f1923089f4262fab4aa60fed5a44c1"),
    ],
)
def test_steps_are_known_by_what_they_were_known_by_in_0_1(name: str, steps: int, known: str) -> None:
    """Else a finished study would be done again: digests of all paths and identities, as 0.1 gave them."""
    study = read_study(Path(__file__).parents[3] / "examples" / "studies" / f"{name}.toml")
    if name == "minilm":  # as its file was then
        study = replace(study, fine_tuning=replace(study.fine_tuning, max_examples=2000, precision="fp32"))
    data = {task: {"train": "1" * 64, "validation": "2" * 64} for task in study.tasks}
    plan = plan_of(study, Materials({"sha256": "0" * 64}, data))
    told = "".join(f"{step.path} {plan.identity(step)}\n" for step in plan.steps)
    assert (len(plan.steps), hashlib.sha256(told.encode()).hexdigest()) == (steps, known)
