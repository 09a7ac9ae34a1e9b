"""Is it worth choosing which maps to label? Learning curves of every strategy of ``annotate-maps sample``.

    python benchmarks/annotation_loop.py --annotations examples/annotations-minilm \
        --output benchmarks/annotation_loop.json --figure docs/annotation-loop.png

Labelled maps play the unlabelled pool: from 20 maps at random, a strategy chooses 20, 40, then 80 more, each time by
what a classifier trained on the maps chosen so far says of the rest, as in the loop. The classifier is scored on
maps of the 30% of heads that the pool has none of. Every seed draws other heads, other first maps and other
weights, the same for all strategies, so that differences from random are paired. Intervals (95%) are Student's t over
seeds. Beside the scores stand what explains them: of how many heads the chosen maps are (``heads``), and which share
of them the annotators themselves disagreed on (``disputed``).

Two learners: ``measurements``, logistic regression on the features that the trees go by which teach a classifier, a few
minutes for all; and with ``--networks-seeds 10``, ``networks``, made as the shipped classifiers are, but smaller and
trained for 100 steps, and not part of the published numbers. Every run is kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from annotations.agreement.statistics import Votes
from annotations.dataset import groups_of, load_labelled
from annotations.sampling.strategies import STRATEGIES, choose, image_features
from models.common.files import write_json
from models.common.palette import BLUE, GREEN, INK, ORANGE, RED
from models.common.provenance import provenance
from patterns.classifier.features import features_of
from patterns.classifier.network import images_of
from patterns.classifier.scores import score
from patterns.classifier.training import Training, train
from patterns.taxonomy import KINDS, PATTERNS, Pattern

BUDGETS = (20, 40, 80, 160)
METRICS = ("accuracy", "macro_f1", "heads", "disputed")
LEARNERS = ("measurements", "networks")
STEPS, BATCH = 100, 32
LONGEST = 96  # tokens; a few maps of 500 would take most of the time


class Pool:
    """The labelled maps of one kind in a folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        maps = load_labelled([folder])
        info = maps.info
        self.kind = kind
        self.maps = maps.select(
            np.flatnonzero((info["kind"] == kind) & (info["n_tokens"] <= LONGEST)).tolist()
        )
        self.values = self.maps.maps
        self.labels = [Pattern(label) for label in self.maps.labels if label is not None]
        self.features = np.concatenate([image_features(values[None]) for values in self.values])
        images = images_of(self.values, 32)
        self.measured = np.clip(features_of(images).numpy(), -1e3, 1e3)
        self.head_of = groups_of(self.maps)[0]
        self.disputed = Votes.of(self.maps).disputed
        self.digest = hashlib.sha256(repr([(row.id, row.n_tokens) for row in self.maps.rows]).encode())
        self.digest.update(repr(self.labels).encode())

    def split(self, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions of the pool and of the maps to score on, which share no head."""
        place = {row.id: i for i, row in enumerate(self.maps.rows)}
        rest, test = self.maps.split(fraction=0.3, seed=seed)
        return np.array([place[row.id] for row in rest.rows]), np.array([place[row.id] for row in test.rows])


@lru_cache(maxsize=8)  # the first maps of a seed are the same for every strategy
def predicted(pool: Pool, learner: str, chosen: tuple[int, ...], seed: int) -> npt.NDArray[np.floating]:
    """Probabilities ``[N, 5]`` of all maps of the pool after learning from these."""
    labels = [pool.labels[i] for i in chosen]
    if learner == "networks":
        training = Training(
            epochs=round(STEPS / -(-len(chosen) // BATCH)),
            batch_size=BATCH,
            generated=0,
            stages=((8,), (16,), (32,)),
            seed=seed,
        )
        return train(pool.kind, [pool.values[i] for i in chosen], labels, training).predict_proba(pool.values)
    targets = [PATTERNS.index(label) for label in labels]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    found = model.fit(pool.measured[list(chosen)], targets).predict_proba(pool.measured)
    probabilities = np.full((len(found), len(PATTERNS)), 1e-9)
    probabilities[:, model.classes_] = found
    return probabilities


def curve(pool: Pool, learner: str, strategy: str, seed: int) -> list[list[float]]:
    """Metrics ``[budgets][metrics]`` of one strategy under one seed."""
    rest, test = pool.split(seed)
    first, later = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    chosen = first.permutation(rest)[: BUDGETS[0]]
    found = []
    for budget, following in zip(BUDGETS, (*BUDGETS[1:], None), strict=True):
        probabilities = predicted(pool, learner, tuple(chosen.tolist()), seed)
        scores = score([pool.labels[i] for i in test], probabilities[test])
        found.append(
            [
                scores["accuracy"],
                scores["macro_f1"],
                float(len(set(pool.head_of[chosen]))),
                float(pool.disputed[chosen].mean()),
            ]
        )
        if following is not None:
            left = np.setdiff1d(rest, chosen)
            more = choose(strategy, probabilities[left], pool.features[left], following - budget, later)
            chosen = np.concatenate([chosen, left[more]])
    return found


def summarise(curves: dict[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Means and intervals of curves ``[seeds, budgets, metrics]`` by strategy, and of their lead over random."""
    base = curves["random"]
    result: dict[str, Any] = {}
    for strategy, found in curves.items():
        lead = found - base
        result[strategy] = {
            metric: {
                "mean": found[:, :, m].mean(axis=0).tolist(),
                "ci95": [interval(found[:, b, m]) for b in range(len(BUDGETS))],
                "minus_random": lead[:, :, m].mean(axis=0).tolist(),
                "minus_random_ci95": [interval(lead[:, b, m]) for b in range(len(BUDGETS))],
                # The area between the curves: the mean over all budgets that a strategy had a say in.
                "area_minus_random": float(lead[:, 1:, m].mean()),
                "area_minus_random_ci95": interval(lead[:, 1:, m].mean(axis=1)),
            }
            for m, metric in enumerate(METRICS)
        }
    return result


def interval(values: npt.NDArray[np.float64]) -> list[float]:
    """Student's 95% interval of the mean."""
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - reach), float(values.mean() + reach)]


def draw(result: dict[str, Any], path: Path) -> None:
    """Macro-F1 by number of labelled maps, a panel each pool and kind."""
    from matplotlib.figure import Figure

    from models.common.drawing import save_figure

    panels = result["pools"]
    figure = Figure(figsize=(3.1 * len(panels), 2.9), layout="constrained")
    for axes, (name, pool) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for strategy, colour in zip(STRATEGIES, (INK, GREEN, ORANGE, BLUE, RED), strict=True):
            of = pool["measurements"][strategy]["macro_f1"]
            low, high = np.array(of["ci95"]).T
            axes.plot(
                BUDGETS, of["mean"], color=colour, label=strategy, marker="o", markersize=3, linewidth=1.2
            )
            if strategy in ("random", "uncertain-diverse"):
                axes.fill_between(BUDGETS, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axes.minorticks_off()
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("labelled maps", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel("macro-F1 on unseen heads", fontsize=8)
    figure.axes[0].legend(fontsize=6.5, frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Run what the cache does not have, and write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--networks-seeds", type=int, default=0)
    parser.add_argument("--measurements-seeds", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path(".annotation-loop-cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    seeds = {learner: getattr(options, f"{learner}_seeds") for learner in LEARNERS}
    result: dict[str, Any] = {"budgets": BUDGETS, "seeds": seeds, "steps": STEPS, "pools": {}}
    for folder, kind in product(options.annotations, options.kinds):
        pool = Pool(folder, kind)
        of = result["pools"][f"{folder.name}, {kind}"] = {
            "maps": len(pool.labels),
            "heads": len(set(pool.head_of)),
            "disputed": float(pool.disputed.mean()),
            "labels": {p.value: pool.labels.count(p) for p in PATTERNS},
        }
        for learner in LEARNERS:
            curves: dict[str, list[Any]] = {strategy: [] for strategy in STRATEGIES}
            for seed in tqdm(range(seeds[learner]), desc=f"{folder.name}, {kind}, {learner}"):
                for strategy in STRATEGIES:
                    name = f"{kind}-{learner}-{strategy}-{seed}-{pool.digest.hexdigest()[:12]}.json"
                    if not (file := options.cache / name).is_file():
                        write_json(file, curve(pool, learner, strategy, seed))
                    curves[strategy].append(json.loads(file.read_text()))
            if seeds[learner] > 1:
                of[learner] = summarise({name: np.array(found) for name, found in curves.items()})
    result["provenance"] = provenance()
    write_json(options.output, result)
    if options.figure:
        draw(result, options.figure)


if __name__ == "__main__":
    main()
