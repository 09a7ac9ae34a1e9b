"""Heads of each pattern are closed in a study that asks for it, and in no other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from models import InputError, Subnetwork
from pruning.study.config import Ablation, Study, read_study
from pruning.study.folder import StudyFolder
from pruning.study.job import RunStudy, read_plan
from pruning.study.plan import Materials, plan_of
from pruning.study.report.conclusions import findings_of
from pruning.study.report.data import StudyData
from pruning.study.report.pages import write_report
from pruning.study.report.tables import StudyTables, read_steps

TABLES = """
[subnetworks]
structured = []
magnitude = []

[patterns]
maps = ["raw"]
examples = 6
pretrained = false

[ablation]
models = ["full", "good"]
maps = ["raw"]
how = "mean"
draws = 4
"""
SMALL = Study(model="m", tasks=("sst2", "mrpc"), seeds=(1, 2))
HERE = Materials({"sha256": "m"}, {task: {"train": "t", "validation": "v"} for task in ("sst2", "mrpc")})


def identities(study: Study) -> dict[str, str]:
    plan = plan_of(study, HERE)
    return {step.path: plan.identity(step) for step in plan.steps}


def test_a_study_that_does_not_ask_for_it_keeps_its_identity_and_one_that_does_keeps_its_other_steps() -> (
    None
):
    before = identities(SMALL)
    whole = hashlib.sha256("".join(before.values()).encode()).hexdigest()
    assert (len(before), whole) == (98, "b5077cb2f6239d1877007a6b9e6dea86b0692fdb53049fe2a680cee05c8da053")
    assert identities(replace(SMALL, ablation=Ablation(how="mean", draws=7))) == before
    asked = identities(replace(SMALL, ablation=Ablation(models=("full", "good"))))
    assert {path: asked[path] for path in before} == before
    new = sorted(set(asked) - set(before))
    assert new == sorted(
        f"{task}/seed_{seed}/{name}"
        for task in ("sst2", "mrpc")
        for seed in (1, 2)
        for name in ("ablation", "good-ablation")
    )
    other = identities(replace(SMALL, ablation=Ablation(models=("full",), how="mean")))
    assert other["sst2/seed_1/ablation"] != asked["sst2/seed_1/ablation"]
    assert len(other) == 102


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": ("best",)}, "'best'; the nearest is"),
        ({"how": "shuffle"}, "--how shuffle"),
        ({"by": "most"}, "--by most"),
        ({"draws": 0}, r"ablation.draws=0"),
        ({"groups": ("look",)}, "--groups look"),
        ({"maps": ("red",)}, "red"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Ablation(**values)


def test_good_ones_need_the_search_that_finds_them() -> None:
    with pytest.raises(InputError, match="good ones come from the search"):
        replace(
            SMALL,
            searches=("heads",),
            subnetworks=replace(SMALL.subnetworks, structured=(), magnitude=()),
            ablation=Ablation(models=("good",)),
        )


@pytest.mark.slow
def test_the_steps_are_ablations_of_each_seeds_own_models(make_study: Any, tmp_path: Path) -> None:
    home = make_study(TABLES, "sst2", top='searches = ["heads-and-mlps"]\nholdout = 0.5')
    study = read_study(home / "study.toml")
    done = RunStudy(study, tmp_path / "study").run()
    assert not done["failed"], done
    plan, folder = read_plan(tmp_path / "study"), StudyFolder(tmp_path / "study")
    steps = [step for step in plan.steps if step.kind == "ablation"]
    assert len(steps) == 4
    for step in steps:
        result: Any = folder.read(step)
        place = folder.path / "sst2" / step.place
        kept = Subnetwork.load(place / "search-heads-and-mlps")
        good = step.name == "good-ablation"
        assert result["examples"] == 16  # the held-out half of 32 rows
        assert result["heads"]["counted"] == (kept.n_heads if good else kept.heads.size)
        assert result["how"] == "mean"
        assert result["seed"] == study.seed
        if not good:
            tuned: Any = folder.read(plan.by_path[f"sst2/{step.place}/fine-tune"])
            assert result["score"] == pytest.approx(tuned["score"])
        assert (folder.of(step) / "report.html").is_file()
        assert folder.damage(plan, step) is None
    write_report(folder.path)
    table = pd.read_parquet(folder.path / "report" / "tables" / "ablation.parquet")
    published = StudyTables.load(folder.path / "report" / "tables")
    assert findings_of(StudyData(published)) == findings_of(StudyData(read_steps(folder)))
    published.save(tmp_path / "again")
    nothing = replace(published, ablation_draws=published.ablation_draws.iloc[:0])  # no group has heads
    nothing.save(tmp_path / "nothing")
    assert not len(StudyTables.load(tmp_path / "nothing").ablation_draws)
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (folder.path / "report" / "tables" / file.name).read_bytes(), file.name
    assert set(zip(table["seed"], table["of"], strict=True)) == {
        (s, o) for s in (1, 2) for o in ("full", "good")
    }
    assert len(table) == 20
    html = (folder.path / "report" / "report.html").read_text()
    assert "heads of its subnetwork closed" in html
    found = pd.read_csv(folder.path / "report" / "tables" / "conclusions.csv")
    found = found[found["question"] == "closed"]
    assert set(found["of"]) == {"sst2", "all models"}
    assert len(found) == 2 * 2 * 6  # of each task and of all; full and good; five patterns, and heads alone
    assert "Does the pattern of a head matter?" in html
    assert (folder.path / "report" / "figures" / "6_comparisons_closed.png").is_file() == found[
        "effect"
    ].notna().any()
