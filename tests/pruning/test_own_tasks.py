"""Searches, comparisons and studies of tasks that are none of GLUE's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import write_rows

from models.common.errors import InputError
from models.tasks.task import task_named
from pruning import compare_survivors, prune_heads
from pruning.search.runs import find_groups
from pruning.study.config import read_study
from pruning.study.job import RunStudy
from pruning.study.plan import Materials, plan_of


@pytest.fixture(scope="module")
def twins(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """QQP's model and rows as a task of one's own, whose labels have names and another order."""
    home = tmp_path_factory.mktemp("twins")
    rows = (tuned / "data" / "qqp" / "validation.jsonl").read_text().splitlines()
    names = ("not_duplicate", "duplicate")
    told = [json.loads(row) for row in rows]
    (home / "rows").mkdir()
    (home / "rows" / "validation.jsonl").write_text(
        "".join(json.dumps(row | {"label": names[row["label"]]}) + "\n" for row in told)
    )
    (home / "twins.toml").write_text(
        'texts = ["question1", "question2"]\nlabels = ["duplicate", "not_duplicate"]\nmetric = "f1_macro"\n'
        'data = "rows"\n'
    )
    return home / "twins.toml"


@pytest.fixture(scope="module")
def searches(tuned: Path, twins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searches")
    for seed in (1, 2):
        prune_heads(str(tuned / "model"), str(twins), folder / f"seed_{seed}", seed=seed, head_step=0.3)
    return folder


def test_a_search_goes_by_the_tasks_own_metric(tuned: Path, searches: Path) -> None:
    told = json.loads((searches / "seed_1" / "summary.json").read_text())
    assert (told["task"], told["metric"]) == ("twins", "f1_macro")
    # The labels are what the model says, so that the full model is right everywhere.
    assert told["full_score"] == 1.0
    assert 0.9 <= told["score"] < 1.0


def test_survivors_are_compared_and_their_patterns_on_the_tasks_own_rows(
    twins: Path, searches: Path, tmp_path: Path
) -> None:
    groups, _ = find_groups([searches])
    assert [(group.task, group.described) for group in groups] == [("twins", task_named(twins))]
    done = compare_survivors(
        searches,
        data=str(twins.parent / "rows"),
        output=tmp_path / "out",
        examples=6,
        maps=("raw",),
        permutations=99,
    )
    assert set(done.patterns) == {"twins"}
    assert (tmp_path / "out" / "report.html").is_file()


def test_masks_alone_need_to_be_told_what_their_task_is(
    twins: Path, searches: Path, tmp_path: Path, tuned: Path
) -> None:
    for seed in (1, 2):
        (tmp_path / f"seed_{seed}").mkdir()
        shutil.copy(searches / f"seed_{seed}" / "subnetwork.safetensors", tmp_path / f"seed_{seed}")
    assert find_groups([tmp_path])[0][0].task == "twins"
    words: dict[str, Any] = {"data": str(twins.parent / "rows"), "model": str(tuned / "model"), "examples": 6}
    with pytest.raises(InputError, match=r"No run of twins says what that task is; give --task"):
        compare_survivors(tmp_path, **words)
    words |= {"maps": ("raw",), "permutations": 99, "task": str(twins)}
    assert set(compare_survivors(tmp_path, **words).patterns) == {"twins"}


def test_no_output_lies_in_the_data_that_a_task_names(
    twins: Path, tuned: Path, study_materials: Path, run_command: Any
) -> None:
    """The folder is named by the task's file alone, not by --data."""
    from annotations.cli import app
    from models.finetuning.cli import finetune_glue
    from patterns.cli import classify_heads
    from pruning.cli import prune_heads as prune_heads_command
    from pruning.cli import prune_weights
    from pruning.study.cli import run_study

    rows = twins.parent / "rows"
    before = sorted(rows.iterdir())
    study = rows.parent / "study.toml"
    study.write_text(f'model = "{study_materials / "model"}"\ntasks = ["{twins}"]\nseeds = [1, 2]\n')
    model = ["--model", tuned / "model", "--task", twins, "--output", rows / "out"]
    for command, words in (
        (classify_heads, model),
        (app, ["sample", *model]),
        (finetune_glue, model),
        (prune_heads_command, model),
        (prune_weights, model),
        (run_study, [study, "--output", rows / "out"]),
    ):
        code, _, err = run_command(command, *words)
        assert code == 2, command
        assert "rows" in err
        assert sorted(rows.iterdir()) == before


class TestStudies:
    @pytest.fixture
    def home(self, study_materials: Path, tmp_path: Path) -> Path:
        write_rows(tmp_path / "data", "sst2")
        (tmp_path / "data" / "sst2").rename(tmp_path / "films")
        (tmp_path / "films.toml").write_text(
            f'texts = ["sentence"]\nlabels = ["bad", "good"]\ndata = "{tmp_path / "films"}"\nmetric = "f1_macro"\n'
        )
        text = (
            (study_materials / "study.toml")
            .read_text()
            .replace('["sst2", "mrpc"]', f'["{tmp_path}/films.toml"]')
        )
        (tmp_path / "study.toml").write_text(
            "".join(f"{x}\n" for x in text.splitlines() if not x.startswith("data"))
        )
        return tmp_path

    def test_the_definition_decides_the_steps_and_where_it_lies_does_not(self, home: Path) -> None:
        study = read_study(home / "study.toml")
        assert study.tasks == ("films",)
        assert study.task("films") == task_named(home / "films.toml")
        materials = Materials({"sha256": "1"}, {"films": {"train": "2", "validation": "3"}})
        plan = plan_of(study, materials)
        step = plan.steps[0]
        assert plan.configs[step.path]["task_definition"]["metric"] == "f1_macro"
        moved = replace(study, own_tasks=(study.own_tasks[0] | {"data": "elsewhere"},))
        assert plan_of(moved, materials).identity(step) == plan.identity(step)
        other = replace(study, own_tasks=(study.own_tasks[0] | {"metric": "accuracy"},))
        assert plan_of(other, materials).identity(step) != plan.identity(step)

    def test_steps_of_glue_are_known_by_what_they_always_were(self, study_materials: Path) -> None:
        study = read_study(study_materials / "study.toml")
        plan = plan_of(study, Materials({}, {task: {} for task in study.tasks}))
        assert all("task_definition" not in config for config in plan.configs.values())
        assert study.own_tasks == ()

    @pytest.mark.slow
    def test_one_is_run_whole_and_its_report_speaks_of_the_metric(self, home: Path, tmp_path: Path) -> None:
        from pruning import write_report

        done = RunStudy(read_study(home / "study.toml"), tmp_path / "study").run()
        assert done["done"] == done["steps"] > 10, done
        write_report(tmp_path / "study")
        tables = tmp_path / "study" / "report" / "tables"
        assert "f1_macro" in (tables / "scores.csv").read_text()
        again = RunStudy(read_study(home / "study.toml"), tmp_path / "study").run()
        assert again == done
