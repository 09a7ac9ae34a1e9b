"""What is said of a classifier's errors on models that it never saw is what was measured of that very classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from patterns import load_classifier
from patterns.classifier import left_out as module
from patterns.classifier.left_out import LeftOut, errors_in_words, left_out
from patterns.taxonomy import KINDS

ONE = LeftOut("one", False, "raw", "abc", 200, true=0.10, said=0.13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_classifiers_are_those_that_were_tried(kind: str) -> None:
    """After new weights: ``benchmarks/estimate_coverage.py --bases ... --write``."""
    mine = [one for one in left_out() if one.kind == kind]
    assert {one.causal for one in mine} == {False, True}
    assert {one.classifier for one in mine} == {load_classifier(kind).version}


def test_the_figures_are_those_of_the_fair_samples(shared: Path) -> None:
    folder = shared / "annotations-bases"
    if not folder.is_dir():
        pytest.skip("no fair samples there")
    labels = {
        (base, kind): pd.read_csv(folder / f"{base}_{kind}.csv")["label"].dropna()
        for base, kind in {(one.base, one.kind) for one in left_out()}
        if (folder / f"{base}_{kind}.csv").is_file()
    }
    assert labels
    for one in left_out():
        if (found := labels.get((one.base, one.kind))) is not None:
            assert one.maps == len(found)
            assert one.true == pytest.approx((found == "heterogeneous").mean(), abs=1e-4)
            with np.load(folder / f"{one.base}_{one.kind}.npz") as maps:
                numbers = pd.read_csv(folder / f"{one.base}_{one.kind}.csv")["map"][found.index]
                said = load_classifier(one.kind).predict(
                    [maps[f"{n:04d}"].astype(np.float32) for n in numbers]
                )
            share = np.mean([pattern == "heterogeneous" for pattern in said])
            assert one.said == pytest.approx(
                share, abs=0.011
            )  # another machine may round two maps of 200 otherwise


def test_one_model_is_named_and_several_have_a_median(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "left_out", lambda: (ONE,))
    assert errors_in_words({"raw": "abc"}, False) == (
        "On the one real two-sided model tried that was left out of training (one), the ratio was off by 3 points on "
        "raw maps."
    )
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
