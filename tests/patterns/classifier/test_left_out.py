"""What is said of a classifier's errors on models that it never saw is what was measured of that very classifier."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from annotations import AnnotatedMaps
from models.common.reading import read_json
from patterns import load_classifier
from patterns.classifier import left_out as module
from patterns.classifier.left_out import LeftOut, errors_in_words, left_out
from patterns.taxonomy import KINDS

ROOT = Path(__file__).parents[3]
ONE = LeftOut("one", False, "raw", "abc", 200, true=0.10, said=0.13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_classifiers_are_those_that_were_tried(kind: str) -> None:
    """After new weights: ``make bench-left-out``."""
    mine = [one for one in left_out() if one.kind == kind]
    assert {one.causal for one in mine} == {False, True}
    assert {one.classifier for one in mine} == {load_classifier(kind).version}


def test_the_figures_are_those_of_the_fair_samples() -> None:
    info = AnnotatedMaps.load(ROOT / "examples" / "annotations-bases").info.dropna(subset="label")
    measured = read_json(ROOT / "benchmarks" / "left_out.json")["bases"]
    said = {(one["base"], one["kind"]): one["said"] for one in measured}
    assert len({one.base for one in left_out()}) == 7
    for one in left_out():
        labels = info["label"][(info["base_model"] == one.base) & (info["kind"] == one.kind)]
        assert one.maps == len(labels)
        assert one.true == pytest.approx((labels == "heterogeneous").mean(), abs=1e-4)
        assert one.said == pytest.approx(said[one.base, one.kind], abs=1e-4)


def test_the_page_on_trust_says_what_was_measured() -> None:
    """Every row of its two tables, to the last digit that it shows."""
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    measured = read_json(ROOT / "benchmarks" / "left_out.json")["bases"]
    rows = [
        f"| {one['base']}{' (causal)' * one['causal']} | {one['kind']} | {one['maps']} | {one['accuracy']:.3f} | "
        f"{one['macro_f1']:.3f} | {100 * one['true']:.1f}% | {100 * one['said']:.1f}% |"
        for one in measured
    ]
    estimates = read_json(ROOT / "benchmarks" / "estimate_coverage.json")["estimate"]
    columns = ("true", "classifier", "mean_estimate", "standard_deviation", "labels_alone_standard_deviation")
    rows += [
        f"| {one['base']}, {one['kind']} | "
        + " | ".join(f"{one[column]:.3f}" for column in (*columns, "coverage"))
        + " |"
        for one in estimates
    ]
    assert len(rows) == 2 * len(measured) == 2 * len(estimates)
    shown = re.findall(r"^\| [\w-]+(?:,| \(causal\) \|| \|) (?:raw|norm) \|.*$", page, re.MULTILINE)
    assert sorted(shown) == sorted(rows)


def test_one_model_is_named_and_several_have_a_median(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "left_out", lambda: (ONE,))
    assert errors_in_words({"raw": "abc"}, False) == (
        "On the one real two-sided model tried that was left out of training (one), the ratio was off by 3 points on "
        "raw maps."
    )
    monkeypatch.setattr(module, "left_out", lambda: (replace(ONE, said=0.102),))
    assert errors_in_words({"raw": "abc"}, False).endswith("off by less than 1 point on raw maps.")
    several = (ONE, replace(ONE, base="two", said=0.05), replace(ONE, base="three", said=0.0))
    more = (replace(ONE, kind="norm", classifier="def", said=0.11),)
    monkeypatch.setattr(module, "left_out", lambda: several + more)
    assert errors_in_words({"raw": "abc", "norm": "def"}, False) == (
        "On 3 real two-sided models left out of training (one, three, two), the ratio was off by 5 points at the "
        "median and 10 at most on raw maps and 1 point on norm maps."
    )


def test_nothing_is_said_of_another_classifier_nor_of_another_sort_of_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "left_out", lambda: (ONE,))
    assert errors_in_words({"raw": "own"}, False).endswith(
        "two-sided models that it never saw was not measured."
    )
    assert "causal models that it never saw was not measured" in errors_in_words({"raw": "abc"}, True)
