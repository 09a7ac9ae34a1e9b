"""What fine-tuning returns: what ``metrics.json`` holds, with its learning curve as a table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.results import Result, marks_of
from .result import FineTuneResult, SeveralSeeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Tuned(Result[FineTuneResult]):
    """One fine-tuning: the keys of :class:`models.finetuning.result.FineTuneResult`."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row an epoch: ``epoch, step, loss, learning_rate`` and each score."""
        from .learning_curve import curve_frame

        return curve_frame(self.record)

    def plot(self) -> Figure:
        """Draw the loss and the score after every epoch."""
        from .learning_curve import learning_curve

        return learning_curve(self.record)


class TunedSeeds(Result[SeveralSeeds]):
    """Several seeds: the keys of :class:`models.finetuning.result.SeveralSeeds`."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row a seed: ``task, metric, seed, score`` (the metric's), and each of its scores."""
        import pandas as pd

        return pd.DataFrame(
            {name: run[name] for name in ("task", "metric", "seed", "score")} | run["scores"]
            for run in self["runs"]
        )

    def _marks(self) -> pd.DataFrame:
        scores = {f"seed {run['seed']}": run["score"] for run in self["runs"]}
        scores["mean"] = self["mean"][self["metric"]]
        return marks_of((name, score, None, None) for name, score in scores.items())
