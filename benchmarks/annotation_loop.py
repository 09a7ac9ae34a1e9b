"""Is it worth choosing which maps to label? Learning curves of every strategy of ``annotate-maps sample``.

    python benchmarks/annotation_loop.py --annotations examples/annotations-minilm examples/annotations \
        --output benchmarks/annotation_loop.json --figure docs/annotation-loop.png

Labelled maps play the unlabelled pool: from 20 maps at random, a strategy chooses 20, 40, then 80 more, each time by
what a classifier trained on the maps chosen so far says of the rest, as in the loop. The classifier is scored on
maps of the 30% of heads that the pool has none of. Every seed draws other heads, other first maps and other
weights, the same for all strategies, so that differences from random are paired. Intervals (95%) are Student's t over
seeds. The classifier is made as the shipped ones are, but of one small network on images and one on measurements, trained
for 100 steps: the curves of ten seeds then take half an hour on one core. Every run is kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from tqdm import tqdm

from annotations.stages import groups_of, load_labelled
from annotations.strategies import STRATEGIES, choose, image_features
from models.files import write_json
from models.provenance import provenance
from patterns.classifier import PatternClassifier
from patterns.evaluation import score
from patterns.taxonomy import KINDS, PATTERNS, Pattern
from patterns.training import Training, train

BUDGETS = (20, 40, 80, 160)
METRICS = ("accuracy", "macro_f1")
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
        self.heads = len(set(groups_of(self.maps)[0]))
        self.digest = hashlib.sha256(repr([(row.id, row.n_tokens) for row in self.maps.rows]).encode())
        self.digest.update(repr(self.labels).encode())

    def split(self, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions of the pool and of the maps to score on, which share no head."""
        place = {row.id: i for i, row in enumerate(self.maps.rows)}
        rest, test = self.maps.split(fraction=0.3, seed=seed)
        return np.array([place[row.id] for row in rest.rows]), np.array([place[row.id] for row in test.rows])


@lru_cache(maxsize=8)  # the first maps of a seed are the same for every strategy
def fitted(pool: Pool, chosen: tuple[int, ...], seed: int) -> PatternClassifier:
    """A classifier trained on these maps of the pool."""
    training = Training(
        epochs=round(STEPS / -(-len(chosen) // BATCH)),
        batch_size=BATCH,
        members=1,
        generated=0,
        profiles=1,
        stages=((8,), (16,), (32,)),
        seed=seed,
    )
    return train(pool.kind, [pool.values[i] for i in chosen], [pool.labels[i] for i in chosen], training)


def curve(pool: Pool, strategy: str, seed: int) -> list[list[float]]:
    """Metrics ``[budgets][metrics]`` of one strategy under one seed."""
    rest, test = pool.split(seed)
    first, later = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    chosen = first.permutation(rest)[: BUDGETS[0]]
    found = []
    for budget, following in zip(BUDGETS, (*BUDGETS[1:], None), strict=True):
        classifier = fitted(pool, tuple(chosen.tolist()), seed)
        scores = score(
            [pool.labels[i] for i in test], classifier.predict_proba([pool.values[i] for i in test])
        )
        found.append([scores[metric] for metric in METRICS])
        if following is not None:
            left = np.setdiff1d(rest, chosen)
            probabilities = classifier.predict_proba([pool.values[i] for i in left])
            more = choose(strategy, probabilities, pool.features[left], following - budget, later)
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

    from patterns.figures import save_figure

    panels = result["pools"]
    figure = Figure(figsize=(3.1 * len(panels), 2.9), layout="constrained")
    for axes, (name, pool) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for strategy, colour in zip(
            STRATEGIES, ("#222222", "#009E73", "#E69F00", "#0072B2", "#C1121F"), strict=True
        ):
            of = pool["strategies"][strategy]["macro_f1"]
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
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path(".annotation-loop-cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"budgets": BUDGETS, "seeds": options.seeds, "steps": STEPS, "pools": {}}
    for folder in options.annotations:
        for kind in options.kinds:
            pool = Pool(folder, kind)
            curves: dict[str, list[Any]] = {strategy: [] for strategy in STRATEGIES}
            for seed in tqdm(range(options.seeds), desc=f"{folder.name}, {kind}"):
                for strategy in STRATEGIES:
                    step = f"{kind}-{strategy}-{seed}-{pool.digest.hexdigest()[:12]}.json"
                    if not (options.cache / step).is_file():
                        write_json(options.cache / step, curve(pool, strategy, seed))
                    curves[strategy].append(json.loads((options.cache / step).read_text()))
            result["pools"][f"{folder.name}, {kind}"] = {
                "maps": len(pool.labels),
                "heads": pool.heads,
                "labels": {p.value: pool.labels.count(p) for p in PATTERNS},
                "strategies": summarise({name: np.array(found) for name, found in curves.items()}),
            }
    result["provenance"] = provenance()
    write_json(options.output, result)
    if options.figure:
        draw(result, options.figure)


if __name__ == "__main__":
    main()
