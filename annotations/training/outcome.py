"""What training and evaluating a classifier return, with the scores as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from models.common.results import Result, marks_of
from patterns.classifier.scores import Metric

if TYPE_CHECKING:
    import pandas as pd

    from patterns.classifier.scores import GroupedScores


_METRICS: tuple[Metric, ...] = get_args(Metric)
_SHARES = ("accuracy", "macro_f1", "f1")
"""The scores that one figure can show: all from 0 to 1, the higher the better."""


class _Scored(Result[Mapping[str, Any]]):
    """What holds scores."""

    def _scores(self) -> GroupedScores | None:
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Return a row a score, none where nothing was scored.

        Columns: ``score`` (``accuracy, macro_f1, log_loss, brier, ece``, and ``f1`` of each pattern), ``pattern``
        (None of all maps), ``maps`` (of that label), ``value``, and ``low, high``, its 95% interval over heads.
        """
        import pandas as pd

        rows: list[tuple[object, ...]] = []
        if scores := self._scores():
            within = scores["ci95"]
            for name in _METRICS:
                rows.append((name, None, scores["maps"], scores[name], *within[name]))
            for pattern, value in scores["f1"].items():
                rows.append(("f1", pattern, scores["support"][pattern], value, *within["f1"][pattern]))
        frame = pd.DataFrame(rows, columns=["score", "pattern", "maps", "value", "low", "high"])
        return frame.astype({"maps": "int64"} | dict.fromkeys(("value", "low", "high"), "float64"))

    def _marks(self) -> pd.DataFrame:
        return marks_of(
            (f"{score} {pattern or ''}".strip().replace("_", " "), value, low, high)
            for score, pattern, _, value, low, high in self.to_frame().itertuples(index=False, name=None)
            if score in _SHARES
        )


class Evaluated(_Scored):
    """A classifier's scores: the keys of :class:`annotations.training.job.Evaluation`."""

    def _scores(self) -> GroupedScores:
        return cast("GroupedScores", self)


class Trained(_Scored):
    """A training: the keys of :class:`annotations.training.job.TrainingReport`; its scores are those out of fold."""

    def _scores(self) -> GroupedScores | None:
        return cast("GroupedScores | None", self["out_of_fold"])
