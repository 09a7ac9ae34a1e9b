"""The annotated maps that come with headscope: whole, as they say, and enough to learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from annotations import AnnotatedMaps
from annotations.dataset import groups_of
from patterns.classifier.scores import score
from patterns.classifier.training import Training, train
from patterns.taxonomy import KINDS, PATTERNS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples() -> AnnotatedMaps:
    return AnnotatedMaps.load(EXAMPLES / "annotations")


def test_every_map_has_three_labels_and_every_pattern_occurs(examples: AnnotatedMaps) -> None:
    votes = examples.annotations.groupby("id").size()
    assert (votes == 3).all()
    assert len(votes) == len(examples)
    info = examples.info
    assert info["base_model"].nunique() >= 4
    for kind in KINDS:
        assert set(info[info["kind"] == kind]["label"].dropna()) == set(map(str, PATTERNS))
    assert info["n_tokens"].between(16, 512).all()


def test_the_inputs_are_our_own_texts(examples: AnnotatedMaps) -> None:
    for task, of in examples.info.groupby("task"):
        if task == "long":  # several of the others one after the other
            continue
        lines = (EXAMPLES / str(task) / "validation.jsonl").read_text(encoding="utf-8").splitlines()
        known = {json.loads(line)["idx"] for line in lines}
        assert set(of["example"]) <= known


def test_a_small_classifier_learns_from_them_in_seconds(examples: AnnotatedMaps) -> None:
    labelled = examples.labelled()
    labelled = labelled.select(np.flatnonzero(labelled.info["n_tokens"] <= 96))
    heads, _ = groups_of(labelled)
    unseen = np.isin(heads, np.random.default_rng(0).permutation(np.unique(heads))[:50])
    seen, held = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    maps, labels = labelled.maps, [label for label in labelled.labels if label is not None]
    small = Training(epochs=8, size=24, stages=((8,), (16,), (32,)), trees=0)
    classifier = train("raw", [maps[i] for i in seen], [labels[i] for i in seen], small)
    scores = score([labels[i] for i in held], classifier.predict_proba([maps[i] for i in held]), heads[held])
    assert scores["ci95"]["accuracy"][0] > scores["majority_accuracy"] + 0.05
    assert scores["macro_f1"] > 0.4
