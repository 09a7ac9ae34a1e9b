"""What ``ablate_patterns`` returns: what ``summary.json`` holds, with the table and the figure of the groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.common.reading import read_frame
from models.common.results import Result

from .folder import DRAWS
from .records import AblationSummary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Ablated(Result[AblationSummary]):
    """An ablation: the keys of :class:`pruning.ablation.records.AblationSummary`."""

    def __init__(self, found: AblationSummary, folder: Path) -> None:
        """Take what was found, and the folder that holds the random sets."""
        super().__init__(found)
        self._folder = folder

    def to_frame(self) -> pd.DataFrame:
        """Return a row a group: what ``groups.csv`` holds."""
        from .tables import groups_frame

        return groups_frame(self.record["found"])

    def plot(self) -> Figure:
        """Draw how far the score drops while each group is closed, beside random sets, which the folder holds.

        Raises:
            InputError: the folder's ``draws.parquet`` is gone.
        """
        from .figures import groups_figure

        columns = dict.fromkeys(("kind", "sort", "name"), "O") | {"drop": "f"}
        draws = read_frame(self._folder / DRAWS, columns, "the random sets of an ablation")

        return groups_figure(self.record, draws)
