r"""How good is the estimate from 60 labels? Coverage, bias and standard error on fair samples of real models.

    python benchmarks/estimate_coverage.py --said benchmarks/left_out.npz --output benchmarks/estimate_coverage.json

Each fair sample of labelled maps (labels, and what a classifier that has not learned from this model says of them:
:mod:`left_out` makes them) stands for its model: 60 labelled maps and 2,000 others, each of an input of its own, are
drawn from it with replacement, 1,000 times, and the estimate of :mod:`patterns.estimate` is made. Printed are the true
interpretable ratio, the classifier's, the mean estimate, its standard deviation over draws beside that of labels
alone, the mean widths of both intervals, and how often they hold the truth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.common.files import write_json
from patterns.estimate import prediction_powered
from patterns.taxonomy import INTERPRETABLE, PATTERNS

LABELS, OTHERS, DRAWS = 60, 2000, 1000
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

    @property
    def true(self) -> float:
        """Interpretable ratio by the labels."""
        return float((self.labels == RATIO).mean())

    @property
    def plain(self) -> float:
        """The same by the classifier."""
        return float((self.said.argmax(axis=1) == RATIO).mean())


def fair_samples(file: Path) -> list[FairSample]:
    """Read all samples of a file of :mod:`left_out`."""
    found = []
    with np.load(file, allow_pickle=False) as said:
        for name in said:
            base, _, kind = name.rpartition("_")
            found.append(FairSample(base, kind, said[name][:, 0].astype(np.int64), said[name][:, 1:]))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--said", type=Path, required=True, help="What left_out.py wrote beside its figures.")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--output", type=Path, help="JSON file for the figures.")
    options = parser.parse_args()
    samples = fair_samples(options.said)
    table = pd.DataFrame(
        {"base": sample.base, "kind": sample.kind, **simulate(sample, options.draws)} for sample in samples
    )
    with pd.option_context(
        "display.width", 200, "display.max_columns", 20, "display.float_format", "{:.3f}".format
    ):
        print(table.set_index(["base", "kind"]).T)
    if options.output:
        write_json(
            options.output,
            {
                "draws": options.draws,
                "labels": LABELS,
                "others": OTHERS,
                "estimate": table.to_dict("records"),
            },
        )


if __name__ == "__main__":
    main()
