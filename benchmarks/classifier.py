"""How good the pattern classifier is on heads that it has not seen, beside other classifiers.

    python benchmarks/classifier.py --annotations DIR [DIR ...] --output benchmarks/classifier.json

Five folds over heads; a map is predicted by a classifier that has seen neither its head nor its input. The same
folds, for comparison: the published network with the published crops, the same with the padding it was trained
with, gradient boosting on hand-made features, and one annotator against the majority. And the shipped recipe is trained
on our own maps alone (``--own``), to see what the others add. Base models that are left out whole are the business of
:mod:`left_out`. Intervals resample heads. Hours on two cores, most of them for the published network
(``--skip published``); every step is kept in ``--cache`` and not done twice.
Every method's probabilities are calibrated by a temperature that the other folds ask for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from baselines import FeatureBoosting, PublishedRecipe
from caching import ROOT, SHIPPED, cached
from tqdm import tqdm

from annotations.dataset import groups_of, load_labelled
from annotations.training.job import OTHER_KIND
from models.common.files import write_json
from models.common.provenance import provenance
from patterns.classifier.scores import difference, score
from patterns.classifier.training import Training, calibrated, split_folds, train
from patterns.taxonomy import KINDS, PATTERNS, Pattern

METHODS = {
    "headscope": "the shipped recipe",
    "published": "the published network by its recipe (in bfloat16), crops at inference",
    "published_padded": "the published network (in bfloat16), padded at inference as in training",
    "boosting": "gradient boosting on hand-made features",
    "own_alone": "the shipped recipe, trained on our own maps alone",
}
CODE = (ROOT / "benchmarks/baselines.py", Path(__file__))
"""What the other classifiers are made by."""
Change = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]


def stretched(n: int) -> Change:
    """Every map at n tokens, each token repeated (or some left out of longer ones): the same picture."""

    def change(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        chosen = np.arange(n) * len(values) // n
        return values[np.ix_(chosen, chosen)]

    return change


def noisy(share: float) -> Change:
    """Absolute Gaussian noise of this share of the map's maximum."""

    def change(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        noise = np.random.default_rng(len(values)).standard_normal(values.shape)
        return (values + share * values.max() * np.abs(noise)).astype(np.float32)

    return change


CHANGES: dict[str, Change] = {
    "as it is": lambda values: values,
    "float16": lambda values: values.astype(np.float16),
    "times 0.001": lambda values: values * np.float32(0.001),
    "times 1000": lambda values: values * np.float32(1000),
    "noise 0.5%": noisy(0.005),
    "noise 1%": noisy(0.01),
    "noise 2%": noisy(0.02),
    "noise 5%": noisy(0.05),
    **{f"stretched to {n}": stretched(n) for n in (128, 256, 512)},
}


class Data:
    """The annotated maps in the form the methods take."""

    def __init__(self, folders: list[Path], own: Path | None = None) -> None:
        self.annotated = load_labelled(folders)
        self.info = self.annotated.info
        ids = set(load_labelled([own]).info["id"]) if own else set()
        self.is_own = self.info["id"].isin(ids).to_numpy()
        self.maps = self.annotated.maps
        self.labels = [Pattern(label) for label in self.annotated.labels if label is not None]
        self.targets = np.array([PATTERNS.index(label) for label in self.labels])
        self.heads, self.inputs = groups_of(self.annotated)
        self.base = self.info["base_model"].to_numpy(dtype=str)
        self.kind = self.info["kind"].to_numpy(dtype=str)

    def folds(self, seed: int) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Name, training and test positions of the five folds."""
        for i, (seen, unseen) in enumerate(split_folds(self.targets, self.heads, self.inputs, 5, seed)):
            yield f"fold {i}", seen, unseen


def predictions(
    data: Data, kind: str, method: str, seen: npt.NDArray[np.int64], unseen: npt.NDArray[np.int64], seed: int
) -> dict[str, npt.NDArray[np.floating]]:
    """Train a method on some maps and return its probabilities on others, by name of change or of variant."""
    own = data.kind == kind
    if method == "published":
        mine = seen[own[seen]]
        network = PublishedRecipe(seed=13 + seed).fit([data.maps[i] for i in mine], data.targets[mine])
        tested = [data.maps[i] for i in unseen]
        return {
            "published": network.predict_proba(tested, as_trained=False),
            "published_padded": network.predict_proba(tested, as_trained=True),
        }
    weights = np.where(own, 1.0, OTHER_KIND[kind])[seen]
    if method == "boosting":
        boosting = FeatureBoosting(seed).fit([data.maps[i] for i in seen], data.targets[seen], weights)
        return {"boosting": boosting.predict_proba([data.maps[i] for i in unseen])}
    classifier = train(
        kind,
        [data.maps[i] for i in seen],
        [data.labels[i] for i in seen],
        Training(seed=seed),
        weights=weights,
    )
    changes = {method: CHANGES["as it is"]} if method == "own_alone" else CHANGES
    return {
        name: classifier.predict_proba([change(data.maps[i]) for i in unseen])
        for name, change in changes.items()
    }


def evaluate(data: Data, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one kind of maps."""
    own = data.kind == kind
    methods = [m for m in ("headscope", "boosting", "published") if m not in options.skip]
    steps = [
        (name, method, seen, unseen[own[unseen]])
        for method in methods
        for name, seen, unseen in data.folds(options.seed)
        if own[unseen].any()
    ]
    folds: dict[str, npt.NDArray[np.floating]] = {}
    if data.is_own.any():
        steps += [
            (name, "own_alone", seen[data.is_own[seen]], test)
            for name, seen, unseen in data.folds(options.seed)
            if len(test := unseen[own[unseen] & data.is_own[unseen]])
        ]
    fold_of = np.zeros(len(own), dtype=np.int64)
    for name, method, seen, unseen in tqdm(steps, desc=kind):
        found = cached(
            options.cache,
            f"{kind}-{method}",
            (kind, options.seed)
            if method == "published"
            else (OTHER_KIND[kind], Training(seed=options.seed)),
            CODE if method in ("published", "boosting") else (*SHIPPED, Path(__file__)),
            [data.annotated.select(chosen) for chosen in (seen, unseen)],
            partial(predictions, data, kind, method, seen, unseen, options.seed),
        )
        fold_of[unseen] = int(name.split()[1])
        for variant, said in found.items():
            folds.setdefault(variant, np.zeros((len(own), len(PATTERNS))))[unseen] = said
    mine = np.flatnonzero(own)
    alone = folds.pop("own_alone", None)
    labels = [data.labels[i] for i in mine]
    heads = data.heads[mine]
    for found in folds.values():
        found[mine] = calibrated(np.log(found[mine].clip(1e-6)), labels, fold_of[mine])
    changed = {name: folds.pop(name)[mine] for name in CHANGES}
    folds = {"headscope": changed["as it is"], **{name: found[mine] for name, found in folds.items()}}
    own_alone = {}
    if alone is not None:
        at = np.flatnonzero(data.is_own[mine])
        of = [labels[i] for i in at]
        rebuilt = calibrated(np.log(alone[mine[at]].clip(1e-6)), of, fold_of[mine[at]])
        whole = folds["headscope"][at]
        own_alone = {
            "headscope": score(of, whole, heads[at], options.seed),
            "own_alone": score(of, rebuilt, heads[at], options.seed),
            "headscope_minus": difference(of, whole, rebuilt, heads[at], options.seed),
        }
    base, length = data.base[mine], data.info["n_tokens"].to_numpy()[mine]

    def part(chosen: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.floating]) -> dict[str, Any]:
        at = np.flatnonzero(chosen)
        return score([labels[i] for i in at], probabilities[at], heads[at], options.seed)

    return {
        "maps": len(mine),
        "heads": len(set(heads)),
        "unseen_heads": {name: score(labels, found, heads, options.seed) for name, found in folds.items()},
        "headscope_minus": {
            name: difference(labels, folds["headscope"], found, heads, options.seed)
            for name, found in folds.items()
            if name != "headscope"
        },
        "own_maps": own_alone,
        "one_annotator": annotators(data, mine, options.seed),
        "by_base": {name: part(base == name, folds["headscope"]) for name in np.unique(base)},
        "by_length": {
            f"{low}-{high - 1}": part((low <= length) & (length < high), folds["headscope"])
            for low, high in ((16, 32), (32, 64), (64, 128), (128, 513))
            if ((low <= length) & (length < high)).any()
        },
        "changed": {
            name: {
                key: value for key, value in score(labels, found).items() if key in ("accuracy", "macro_f1")
            }
            | {"same_label": float((found.argmax(1) == folds["headscope"].argmax(1)).mean())}
            for name, found in changed.items()
        },
    }


def annotators(data: Data, mine: npt.NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Each annotator against the majority (to which that annotator belongs), and where they differ."""
    ids = data.info["id"].to_numpy()[mine]
    place = {name: i for i, name in enumerate(ids)}
    votes = data.annotated.annotations
    votes = votes[votes["id"].isin(place)].drop_duplicates(["id", "annotator"], keep="last")
    found = {}
    for source, of in votes.groupby("annotator"):
        at = [place[name] for name in of["id"]]
        given = np.eye(len(PATTERNS))[[PATTERNS.index(Pattern(label)) for label in of["label"]]]
        whole = score([data.labels[mine[i]] for i in at], given, data.heads[mine[at]], seed)
        found[str(source)] = {
            "maps": whole["maps"],
            **{m: whole[m] for m in ("accuracy", "macro_f1")},
            "ci95": {m: whole["ci95"][m] for m in ("accuracy", "macro_f1")},
        }
    return found


def main() -> None:
    """Evaluate both kinds and write one JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--own", type=Path, help="one of these folders, on which alone the recipe is trained too"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(".classifier-cache"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--skip", nargs="*", choices=["boosting", "published"], default=[])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = Data(options.annotations, options.own)
    result: dict[str, Any] = {kind: evaluate(data, kind, options) for kind in options.kinds}
    result["methods"] = METHODS
    result["provenance"] = provenance()
    write_json(options.output, result)


if __name__ == "__main__":
    main()
