r"""How good is the estimate from 60 labels? Coverage, bias and standard error on fair samples of real models.

    python benchmarks/estimate_coverage.py --bases ../shared/annotations-bases \
        --output benchmarks/estimate_coverage.json
    python benchmarks/estimate_coverage.py --bases ../shared/annotations-bases --write

Each fair sample of labelled maps (``NAME_KIND.npz`` and ``.csv``) stands for its model: 60 labelled maps and 2,000
others, each of an input of its own, are drawn from it with replacement, 1,000 times, and the estimate of
:mod:`patterns.estimate` is made of what the shipped classifier says of them. Printed are the true interpretable ratio,
the classifier's, the mean estimate, its standard deviation over draws beside that of labels alone, the mean widths of
both intervals, and how often they hold the truth.

Then what a correction by confusion matrix makes of the same ratios (adjusted counting, Forman 2008): with the
confusions of the shipped classifier on annotated heads that it had not seen, with those of the other fair samples of
the same kind, and with both.

``--write`` keeps the classifiers' own errors, for models that they have not learned from, where ``classify-heads``
reads them. Bases that are named by ``--learned`` are left out of that.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.common.files import write_json
from patterns.classifier.left_out import FILE, LeftOut
from patterns.classifier.network import load_classifier
from patterns.estimate import prediction_powered
from patterns.taxonomy import INTERPRETABLE, KINDS, PATTERNS

LABELS, OTHERS, DRAWS = 60, 2000, 1000
CAUSAL = ("smollm2", "gpt", "qwen", "llama")
"""How names of causal bases begin."""
RATIO = PATTERNS.index(INTERPRETABLE)
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class FairSample:
    """The labelled maps of one kind of one base, and what a classifier says of them."""

    base: str
    kind: str
    labels: npt.NDArray[np.int64]
    said: Floats
    """``[M, 5]``."""
    version: str
    """Of the classifier."""

    @property
    def true(self) -> float:
        """Interpretable ratio by the labels."""
        return float((self.labels == RATIO).mean())

    @property
    def plain(self) -> float:
        """The same by the classifier."""
        return float((self.said.argmax(axis=1) == RATIO).mean())

    @property
    def confusion(self) -> Floats:
        """``[5, 5]``: rows labels, columns predictions."""
        found = np.zeros((len(PATTERNS), len(PATTERNS)))
        np.add.at(found, (self.labels, self.said.argmax(axis=1)), 1)
        return found


def fair_samples(folder: Path) -> list[FairSample]:
    """Read all samples of a folder and classify their maps; those without a majority are left out."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        base, _, kind = path.stem.rpartition("_")
        if kind not in KINDS:
            continue
        table = pd.read_csv(path).dropna(subset="label")
        with np.load(path.with_suffix(".npz")) as maps:
            chosen = [maps[f"{number:04d}"].astype(np.float32) for number in table["map"]]
        classifier = load_classifier(kind)
        labels = np.array([PATTERNS.index(label) for label in table["label"]])
        found.append(FairSample(base, kind, labels, classifier.predict_proba(chosen), classifier.version))
    return found


def simulate(sample: FairSample, draws: int, seed: int = 0) -> dict[str, float]:
    """Estimate the ratio from 60 labels many times."""
    rng = np.random.default_rng(seed)
    inputs = np.arange(LABELS + OTHERS)
    rows = []
    for _ in range(draws):
        labelled = rng.integers(len(sample.labels), size=LABELS)
        every = np.concatenate([labelled, rng.integers(len(sample.labels), size=OTHERS)])
        one = prediction_powered(
            sample.labels[labelled], sample.said[labelled], inputs[:LABELS], sample.said[every], inputs
        )
        alone, ratio = one.labels_alone, one.ratio
        rows.append(
            {
                "estimate": ratio.share, "se": ratio.standard_error, "tuning": one.tuning, "width": ratio.width,
                "covers": ratio.low <= sample.true <= ratio.high, "labels": alone.share, "labels_width": alone.width,
                "labels_cover": alone.low <= sample.true <= alone.high, "wider": ratio.width > alone.width,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows).astype(float)
    return {
        "true": sample.true,
        "classifier": sample.plain,
        "mean_estimate": table["estimate"].mean(),
        "standard_deviation": table["estimate"].std(),
        "mean_standard_error": table["se"].mean(),
        "labels_alone_standard_deviation": table["labels"].std(),
        "mean_lambda": table["tuning"].mean(),
        "coverage": table["covers"].mean(),
        "labels_alone_coverage": table["labels_cover"].mean(),
        "mean_width": table["width"].mean(),
        "labels_alone_mean_width": table["labels_width"].mean(),
        "wider_than_labels_alone": table["wider"].mean(),
    }


def corrected(predicted: Floats, confusion: Floats) -> Floats:
    """Return the shares ``[5]`` under which predicted counts are most likely, given counts of confusions.

    One map is added to each row of these, predicted right as often as all maps are and else as they are.
    """
    right = np.trace(confusion) / confusion.sum()
    given = confusion + right * np.eye(len(PATTERNS)) + (1 - right) * confusion.sum(axis=0) / confusion.sum()
    given /= given.sum(axis=1, keepdims=True)
    observed, shares = predicted / predicted.sum(), np.full(len(PATTERNS), 1 / len(PATTERNS))
    for _ in range(20_000):
        shares = shares * (given @ (observed / (shares @ given).clip(1e-12)))
    return shares / shares.sum()


def corrections(samples: list[FairSample]) -> pd.DataFrame:
    """Compare the ratio by the classifier with three corrections, each from other bases' maps alone."""
    rows = []
    for sample in samples:
        shipped = load_classifier(sample.kind).confusions.numpy().sum(axis=0).astype(float)
        others = sum(
            (one.confusion for one in samples if one.kind == sample.kind and one.base != sample.base),
            np.zeros_like(shipped),
        )
        counts = sample.confusion.sum(axis=0)
        row = {"base": sample.base, "kind": sample.kind, "true": sample.true, "classifier": sample.plain}
        for name, known in (("shipped", shipped), ("fair", others), ("both", shipped + others)):
            row[name] = float(corrected(counts, known)[RATIO]) if known.sum() else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def left_out(samples: list[FairSample], learned: tuple[str, ...]) -> list[LeftOut]:
    """Return the classifiers' errors on bases that they have not learned from."""
    return [
        LeftOut(
            one.base,
            one.base.startswith(CAUSAL),
            one.kind,
            one.version,
            len(one.labels),
            round(one.true, 4),
            round(one.plain, 4),
        )
        for one in samples
        if one.base not in learned
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, required=True, help="Folder of fair samples.")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--output", type=Path, help="JSON file for the figures.")
    parser.add_argument(
        "--write", action="store_true", help="Keep the errors for classify-heads, and do no more."
    )
    parser.add_argument("--learned", nargs="*", default=[], help="Bases that the classifiers learned from.")
    options = parser.parse_args()
    if not any(options.bases.glob("*_raw.csv")):
        print(f"{options.bases} holds no fair samples; nothing to do.", file=sys.stderr)
        return
    samples = fair_samples(options.bases)
    if options.write:
        FILE.write_text(
            json.dumps([asdict(one) for one in left_out(samples, tuple(options.learned))], indent=2) + "\n"
        )
        return
    table = pd.DataFrame(
        {"base": sample.base, "kind": sample.kind, **simulate(sample, options.draws)} for sample in samples
    )
    other = corrections(samples)
    with pd.option_context(
        "display.width", 200, "display.max_columns", 20, "display.float_format", "{:.3f}".format
    ):
        print(table.set_index(["base", "kind"]).T)
        print("\nThe ratio corrected by a confusion matrix:\n", other)
    if options.output:
        write_json(
            options.output,
            {
                "draws": options.draws,
                "labels": LABELS,
                "others": OTHERS,
                "estimate": table.to_dict("records"),
                "correction": other.to_dict("records"),
            },
        )


if __name__ == "__main__":
    main()
