"""What ``measure_agreement`` returns: what ``agreement.json`` holds, with its statistics as a table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.common.results import Result, marks_of

from .statistics import Agreement

if TYPE_CHECKING:
    import pandas as pd


class Agreed(Result[Agreement]):
    """How far annotators agree: the keys of :class:`annotations.agreement.job.Report`."""

    def __init__(self, found: Agreement) -> None:
        """Take what was found."""
        super().__init__(found, "Agreement of annotators, with 95% intervals")

    def to_frame(self) -> pd.DataFrame:
        """Return a row a statistic.

        Columns: ``statistic`` (``percent, alpha, fleiss_kappa`` of all annotators; ``percent`` and ``cohen_kappa`` of
        two of them; ``agreement`` and ``alpha`` of a pattern), ``of`` (``all``, ``ann, bob``, ``vertical`` ...), its
        ``value``, and ``low, high``, its 95% interval where it has one.
        """
        import pandas as pd

        found = self.record
        rows: list[tuple[str | float | None, ...]] = []
        for name, one in (
            ("percent", found["percent"]),
            ("alpha", found["alpha"]),
            ("fleiss_kappa", found["fleiss"]),
        ):
            rows.append((name, "all", one["value"], *one["ci95"]))
        for pair in found["pairs"]:
            both = f"{pair['a']}, {pair['b']}"
            rows.append(("percent", both, pair["percent"], None, None))
            rows.append(("cohen_kappa", both, pair["kappa"], *pair["ci95"]))
        for pattern, about in found["patterns"].items():
            rows.append(("agreement", pattern, about["agreement"], None, None))
            rows.append(("alpha", pattern, about["alpha"], None, None))
        frame = pd.DataFrame(rows, columns=["statistic", "of", "value", "low", "high"])
        return frame.astype(dict.fromkeys(("value", "low", "high"), "float64"))

    def _marks(self) -> pd.DataFrame:
        return marks_of(
            (f"{statistic.replace('_', ' ')}, {of}", value, low, high)
            for statistic, of, value, low, high in self.to_frame().itertuples(index=False, name=None)
        )
