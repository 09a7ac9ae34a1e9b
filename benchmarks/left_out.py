"""How good the classifier is on models that it has not learned from: every real base model left out in turn.

    python benchmarks/left_out.py --fair examples/annotations-bases \
        --annotations examples/annotations-minilm examples/annotations --output benchmarks/left_out.json --write

``--fair`` holds fair samples of labelled maps (every map of a model as likely as another), so that what is measured on
them is what holds for the model: accuracy, macro-F1, and how far the interpretable ratio is off. For each of its base
models and kinds, the shipped recipe is trained on all other maps, and predicts that base's. Texts are shared by some
base models; heads never are. An hour on two cores; every step is kept in ``--cache`` and not done twice.

``--write`` keeps the errors where ``classify-heads`` reads them, and what was said of every map
(``--output`` with ``.npz``), of which :mod:`estimate_coverage` draws.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from annotations.dataset import AnnotatedMaps, digests, groups_of, load_labelled
from annotations.training.job import OTHER_KIND
from models.common.files import atomic_file, write_json
from models.common.provenance import provenance
from patterns.classifier.left_out import FILE, LeftOut
from patterns.classifier.network import load_classifier
from patterns.classifier.scores import score
from patterns.classifier.training import Training, train
from patterns.taxonomy import INTERPRETABLE, KINDS, PATTERNS

RATIO = PATTERNS.index(INTERPRETABLE)
Floats = npt.NDArray[np.floating]


def is_causal(maps: list[npt.NDArray[np.float32]]) -> bool:
    """Whether nothing lies above the diagonal of any of them."""
    return not any(np.triu(values, 1).any() for values in maps)


def predicted(kind: str, learned: AnnotatedMaps, tried: AnnotatedMaps, cache: Path, seed: int) -> Floats:
    """Train the shipped recipe on some maps and return its probabilities ``[M, 5]`` on others."""
    settings = repr((kind, Training(seed=seed), OTHER_KIND[kind]))
    digest = hashlib.sha256(settings.encode())
    for one in (learned, tried):
        digest.update("".join(digests(one)).encode() + repr(one.labels).encode())
    file = cache / f"{kind}-{digest.hexdigest()[:16]}.npy"
    if not file.is_file():
        weights = np.where(learned.info["kind"] == kind, 1.0, OTHER_KIND[kind])
        labels = [label for label in learned.labels if label is not None]
        classifier = train(kind, learned.maps, labels, Training(seed=seed), weights=weights)
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, classifier.predict_proba(tried.maps))
    found: Floats = np.load(file, allow_pickle=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fair", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("left-out-cache"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="Keep the errors for classify-heads too.")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    every = load_labelled([options.fair, *options.annotations])
    fair = set(load_labelled([options.fair]).info["id"])
    info = every.info
    bases = sorted(set(info["base_model"][info["id"].isin(fair)]))
    rows: list[dict[str, Any]] = []
    said: dict[str, Floats] = {}
    for base, kind in tqdm([(base, kind) for base in bases for kind in KINDS]):
        own = (info["base_model"] == base).to_numpy()
        tried = every.select(np.flatnonzero(own & (info["kind"] == kind) & info["id"].isin(fair)))
        if not len(tried):
            continue
        found = predicted(kind, every.select(np.flatnonzero(~own)), tried, options.cache, options.seed)
        labels = [label for label in tried.labels if label is not None]
        scores = score(labels, found, groups_of(tried)[0], options.seed)
        truth = np.array([PATTERNS.index(label) for label in labels])
        said[f"{base}_{kind}"] = np.column_stack([truth, found])
        rows.append(
            {
                "base": base,
                "causal": is_causal(tried.maps),
                "kind": kind,
                "maps": len(tried),
                **{name: scores[name] for name in ("accuracy", "macro_f1")},
                "ci95": {name: scores["ci95"][name] for name in ("accuracy", "macro_f1")},
                "true": float((truth == RATIO).mean()),
                "said": float((found.argmax(axis=1) == RATIO).mean()),
            }
        )
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 200, "display.float_format", "{:.3f}".format):
        print(table.drop(columns="ci95"))
    write_json(options.output, {"bases": rows, "provenance": provenance()})
    with (
        atomic_file(options.output.with_suffix(".npz")) as temporary,
        temporary.open("wb") as stream,
    ):
        np.savez(stream, **said)  # type: ignore[arg-type]
    if options.write:
        version = {kind: load_classifier(kind).version for kind in KINDS}
        kept = [
            asdict(
                LeftOut(
                    row["base"], row["causal"], row["kind"], version[row["kind"]], row["maps"],
                    round(row["true"], 4), round(row["said"], 4),
                )
            )
            for row in rows
        ]  # fmt: skip
        FILE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
