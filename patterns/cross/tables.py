"""Cross-attention on a terminal: a row a layer."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from models.common.terminal import print_table
from models.common.words import percent

from .attention import CrossAttention
from .measures import MEASURES


def print_measured(found: CrossAttention) -> None:
    """Print each measure's mean over the heads of each layer, one table a kind."""
    console = Console(highlight=False, markup=False, emoji=False)
    frame = found.to_frame()
    for kind in found.kinds:
        print(f"{kind} maps, means of each layer's heads")
        table = Table("layer", *MEASURES, box=SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            column.justify = "right"
        means = frame[frame["kind"] == kind].groupby("layer")[list(MEASURES)].mean()
        for layer, values in zip(means.index.tolist(), means.to_numpy().tolist(), strict=True):
            table.add_row(str(layer), *map(percent, values))
        print_table(console, table)
