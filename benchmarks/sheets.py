"""Draw numbered sheets of maps, to label them by eye or to look at what a classifier says of them.

    python benchmarks/sheets.py --maps FOLDER --output sheets [--classifier raw] [--count 100] [--seed 0]

FOLDER is any Parquet folder of maps (saved by ``classify-heads --save-maps``, or annotated). Maps are drawn as an
annotator sees them: viridis, linear from 0 to the map's maximum, a red line after each [SEP]. Beside the
sheets lies ``index.csv``: sheet, number on it, id of the map; with ``--classifier`` its label and probability,
which then also stand above each map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from annotations.agreement.sheets import draw_sheets
from models.common.outputs import Output
from patterns.classifier.network import load_classifier
from patterns.maps.rendering import save_png
from patterns.maps.store import iter_maps
from patterns.taxonomy import PATTERNS


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--classifier", help="raw, norm, a folder or a Hub id; its labels stand above the maps"
    )
    parser.add_argument("--count", type=int, help="this many maps at random; default all")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--lines", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the order (and the choice)")
    options = parser.parse_args()

    rows = list(iter_maps(options.maps))
    classifier = load_classifier(options.classifier) if options.classifier else None
    if classifier:
        rows = [row for row in rows if row.kind == classifier.kind]
    order = np.random.default_rng(options.seed).permutation(len(rows))[: options.count]
    rows = [rows[i] for i in order]
    per_sheet = options.columns * options.lines
    index = pd.DataFrame(
        {
            "sheet": [i // per_sheet for i in range(len(rows))],
            "number": [i % per_sheet + 1 for i in range(len(rows))],
            "id": [row.id for row in rows],
        }
    )
    titles = [str(number) for number in index["number"]]
    if classifier:
        found = classifier.predict_proba([row.map for row in rows])
        index["label"] = [str(PATTERNS[i]) for i in found.argmax(axis=1)]
        index["probability"] = found.max(axis=1).round(3)
        titles = [f"{n} {p} {q:.2f}" for n, p, q in index[["number", "label", "probability"]].to_numpy()]
    with Output(options.output, "benchmarks/sheets.py").making() as folder:
        for i, sheet in enumerate(draw_sheets(rows, titles, options.columns, options.lines)):
            save_png(sheet, folder / f"sheet-{i:03d}.png")
        index.to_csv(folder / "index.csv", index=False)


if __name__ == "__main__":
    main()
