"""MNLI's rows of other genres in a study: scored where it asks for them, beside the others, and tested nowhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from models import InputError
from models.common.files import read_json
from pruning.study.config import Study, read_study
from pruning.study.folder import METRICS, StudyFolder
from pruning.study.job import RunStudy
from pruning.study.plan import Materials, plan_of
from pruning.study.report.data import StudyData
from pruning.study.report.pages import write_report
from pruning.study.report.tables import read_steps

TABLES = """
[subnetworks]
structured = ["good", "random"]
magnitude = ["good"]

[magnitude]
fraction = 0.4
max_steps = 1

[patterns]
maps = []
"""
SMALL = Study(model="m", tasks=("mnli", "mrpc"), seeds=(1, 2))
SPLITS = {"train": "t", "validation": "v"}


def identities(study: Study, mnli: dict[str, str] = SPLITS) -> dict[str, str]:
    plan = plan_of(study, Materials({"sha256": "m"}, {"mnli": mnli, "mrpc": SPLITS}))
    return {step.path: plan.identity(step) for step in plan.steps}


def test_a_study_that_does_not_ask_for_them_keeps_its_identity_and_other_tasks_do_in_any_case() -> None:
    before = identities(SMALL)
    whole = hashlib.sha256("".join(before.values()).encode()).hexdigest()
    assert (len(before), whole) == (98, "27e786d754a38a84becf568e2a62f8e28daa33e45cab5006b05891f3febd60b6")
    asked = identities(replace(SMALL, mismatched=True), SPLITS | {"validation_mismatched": "w"})
    of_others = identities(replace(SMALL, mismatched=True), SPLITS | {"validation_mismatched": "x"})
    for path in before:
        same = path.startswith("mrpc/")
        assert (asked[path] == before[path], of_others[path] == asked[path]) == (same, same), path


def test_they_are_asked_for_where_there_are_some() -> None:
    with pytest.raises(InputError, match=r"^mismatched = true: none of tasks = \['sst2'\] has rows of other"):
        Study(model="m", tasks=("sst2",), seeds=(1,), mismatched=True)
    own = {"name": "mnli-mm", "texts": ["a"], "labels": ["no", "yes"]}
    with pytest.raises(InputError, match=r"^mismatched = true: a task of your own is called mnli-mm"):
        Study(model="m", tasks=("mnli", "mnli-mm"), own_tasks=(own,), seeds=(1, 2), mismatched=True)


def test_a_study_without_the_rows_that_it_asks_for_is_refused(make_study: Any, tmp_path: Path) -> None:
    home = make_study(TABLES, "mnli", top="mismatched = true")
    with pytest.raises(InputError, match="no mnli/validation_mismatched"):
        RunStudy(read_study(home / "study.toml"), tmp_path / "study").run()
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_scores_on_them_stand_beside_the_others_and_no_comparison_counts_them(
    make_study: Any, tmp_path: Path
) -> None:
    """Every label of the other rows is wrong, so that of two classes their accuracy is one minus the matched rows'."""
    home = make_study(TABLES, "mnli", top="mismatched = true")
    matched = (home / "data/mnli/validation.jsonl").read_text().splitlines()
    wrong = [json.dumps({**(row := json.loads(line)), "label": 1 - row["label"]}) + "\n" for line in matched]
    (home / "data/mnli/validation_mismatched.jsonl").write_text("".join(wrong))
    folder = tmp_path / "study"
    done = RunStudy(read_study(home / "study.toml"), folder).run()
    assert done["done"] == done["steps"], done
    report = write_report(folder)

    home_of = StudyFolder(folder)
    data = StudyData(read_steps(home_of))
    keys = ["seed", "method", "subnetwork", "draw", "state"]
    scores = pd.read_parquet(folder / "report/tables/scores.parquet")
    one, other = (scores[scores["task"] == task].set_index(keys) for task in ("mnli", "mnli-mm"))
    assert len(one) == len(other) == 2 * (1 + 2 * 3)
    for step in data.done:
        if step.kind in ("fine-tune", "pruned", "fine-tuned"):
            told = read_json(home_of.of(step) / METRICS)["scores"]
            assert set(told) == {"accuracy", "mismatched_accuracy"}
    # No third class is ever said by these models, so that what is wrong here is right there.
    assert (one["score"] + other["score"]).to_numpy() == pytest.approx(1.0)
    assert (one["score"] != other["score"]).any()
    for name in ("encoder_share", "heads", "mlps"):
        assert one[name].equals(other[name])
    assert one["majority"].notna().all()
    assert other["majority"].notna().all()
    assert {row["task"] for row in report["scores"]} == {"mnli", "mnli-mm"}
    assert "| mnli | mnli-mm |" in (folder / "report/report.md").read_text()
    drawn = pd.read_csv(folder / "report/figures/4_scores.csv")
    assert set(drawn["task"]) == {"mnli", "mnli-mm"}
    compared = pd.read_csv(folder / "report/tables/conclusions.csv")
    assert "mnli" in set(compared["of"])
    assert "mnli-mm" not in set(compared["of"])
    of_runs = compared[compared["comparison"] == "structured: good - random"]
    assert set(of_runs["n"]) == {2}  # seeds
