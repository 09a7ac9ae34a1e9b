"""How good the classifier is on models that it has not learned from: every real base model left out in turn.

    python benchmarks/left_out.py --output benchmarks/left_out.json --cards patterns/weights

``--fair`` holds fair samples of labelled maps (every map of a model as likely as another), so that what is measured on
them is what holds for the model: accuracy, macro-F1, and how far the interpretable ratio is off. For each of its base
models and kinds, the shipped recipe is trained on all other maps, and predicts that base's. Texts are shared by some
base models; heads never are. An hour on two cores; every step is kept in ``--cache`` and not done twice.

What was said of every map is written beside the figures (``.npz``): :mod:`estimate_coverage` draws from it. ``--cards``
writes the table into the shipped classifiers' cards, and the errors on real models where ``classify-heads`` reads them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from caching import ROOT, SHIPPED, Arrays, cached
from tqdm import tqdm

from annotations.dataset import AnnotatedMaps, groups_of, load_labelled
from annotations.training.job import OTHER_KIND
from models.common.files import atomic_file, write_json
from models.common.provenance import provenance
from patterns.classifier.left_out import FILE, LeftOut
from patterns.classifier.network import load_classifier
from patterns.classifier.scores import score
from patterns.classifier.training import Training, train
from patterns.maps.store import is_causal
from patterns.taxonomy import INTERPRETABLE, KINDS, PATTERNS

EXAMPLES = ROOT / "examples"
OTHERS = ("annotations-causal", "annotations-minilm", "annotations")
START, END = "## On models left out", "## Not for"  # headings of the card
TOYS = "headscope-"
FEW = 5
RATIO = PATTERNS.index(INTERPRETABLE)
Floats = npt.NDArray[np.floating]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows of one kind as a table in Markdown, two-sided models first."""
    lines = [
        "| base model left out | maps | accuracy | macro-F1 | interpretable ratio by the labels | by the classifier |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["causal"], row["base"])):
        low, high = row["ci95"]
        cells = [f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]", f"{row['macro_f1']:.3f}"]
        name = f"{row['base']}{', causal' if row['causal'] else ''}"
        lines.append(
            f"| {name} | {row['maps']} | {' | '.join(cells)} | {row['true']:.1%} | {row['said']:.1%} |"
        )
    return lines


def section(rows: list[dict[str, Any]]) -> str:
    """Return the section of a kind's card."""
    return "\n".join(
        [
            START,
            "Measured by `benchmarks/left_out.py`: for each of these base models the same recipe is trained on all "
            "other base models' maps (their texts may be shared), and tried on a fair sample of its maps "
            "(`examples/annotations-bases`: every map of the model as likely as another). In brackets 95% intervals "
            f"over heads; macro-F1 over the patterns with {FEW} maps or more. The classifier that is kept has learned "
            "from these models too.",
            "",
            *table(rows),
            "",
            "",
        ]
    )


def predicted(kind: str, learned: AnnotatedMaps, tried: AnnotatedMaps, cache: Path, seed: int) -> Floats:
    """Train the shipped recipe on some maps and return its probabilities ``[M, 5]`` on others."""

    def made() -> Arrays:
        weights = np.where(learned.info["kind"] == kind, 1.0, OTHER_KIND[kind])
        labels = [label for label in learned.labels if label is not None]
        classifier = train(kind, learned.maps, labels, Training(seed=seed), weights=weights)
        return {"said": classifier.predict_proba(tried.maps)}

    settings = (kind, Training(seed=seed), OTHER_KIND[kind])
    return cached(cache, f"{kind}-left-out", settings, SHIPPED, (learned, tried), made)["said"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fair", type=Path, default=EXAMPLES / "annotations-bases")
    parser.add_argument("--annotations", type=Path, nargs="*", default=[EXAMPLES / name for name in OTHERS])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(".classifier-cache"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cards", type=Path, help="Folder of the shipped classifiers, to be told too.")
    options = parser.parse_args()
    if options.cards and set(options.kinds) != set(KINDS):
        parser.error("--cards needs both --kinds.")
    every = load_labelled([options.fair, *options.annotations])
    fair = set(load_labelled([options.fair]).info["id"])
    info = every.info
    bases = sorted(set(info["base_model"][info["id"].isin(fair)]))
    rows: list[dict[str, Any]] = []
    said: dict[str, Floats] = {}
    for base, kind in tqdm([(base, kind) for base in bases for kind in options.kinds]):
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
                "causal": all(map(is_causal, tried.maps)),
                "kind": kind,
                "maps": len(tried),
                "accuracy": scores["accuracy"],
                "ci95": scores["ci95"]["accuracy"],
                "macro_f1": float(
                    np.mean([scores["f1"][p] for p, n in scores["support"].items() if n >= FEW])
                ),
                "true": float((truth == RATIO).mean()),
                "said": float((found.argmax(axis=1) == RATIO).mean()),
            }
        )
    with pd.option_context("display.width", 200, "display.float_format", "{:.3f}".format):
        print(pd.DataFrame(rows).drop(columns="ci95"))
    write_json(options.output, {"bases": rows, "provenance": provenance()})
    with (
        atomic_file(options.output.with_suffix(".npz")) as temporary,
        temporary.open("wb") as stream,
    ):
        np.savez(stream, **said)  # type: ignore[arg-type]
    if options.cards:
        write_cards(rows, options.cards)


def write_cards(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the sections of the shipped classifiers' cards, and the errors where ``classify-heads`` reads them."""
    version = {kind: load_classifier(kind).version for kind in KINDS}
    for kind in KINDS:
        file = folder / kind / "README.md"
        text = file.read_text(encoding="utf-8")
        start = text.index(START) if START in text else text.index(END)
        new = section([row for row in rows if row["kind"] == kind])
        file.write_text(text[:start] + new + text[text.index(END) :], encoding="utf-8")
    kept = [
        asdict(
            LeftOut(
                row["base"], row["causal"], row["kind"], version[row["kind"]], row["maps"],
                round(row["true"], 4), round(row["said"], 4),
            )
        )
        for row in rows
        if not row["base"].startswith(TOYS)
    ]  # fmt: skip
    FILE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
