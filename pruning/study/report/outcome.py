"""What a study and its report return: what they hold, with the table and the figure of the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.common.errors import InputError
from models.common.results import Result

from ..records import Report, StudyDone

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .data import StudyData


class StudyReport(Result[Report]):
    """What a report says: the keys of :class:`pruning.study.records.Report`."""

    def __init__(self, found: Report, place: Path, data: StudyData) -> None:
        """Take what is said, where it lies, and what it is made of."""
        super().__init__(found)
        self.place = place
        self._data = data

    def to_frame(self) -> pd.DataFrame:
        """Return a row a task, method, subnetwork and state: the mean score with its interval over seeds."""
        return self._data.score_summary.copy()

    def plot(self) -> Figure:
        """Draw what good, random and bad subnetworks score: means with their intervals, and each seed."""
        from .figures import scores

        return scores(self._data.score_summary, self._data.by_seed, self._data.drawn_references)


class Studied(Result[StudyDone]):
    """A run of a study: the keys of :class:`pruning.study.records.StudyDone`; table and figure are the report's."""

    @property
    def _report(self) -> StudyReport:
        report: StudyReport | None = self["report"]
        if report is None:
            raise InputError(
                f"{self['done']} of {self['steps']} steps of this study are done, and scores are told when all are; go "
                "on with run_study, or look at what is there with write_report."
            )
        return report

    def to_frame(self) -> pd.DataFrame:
        """Return a row a task, method, subnetwork and state: the mean score with its interval over seeds.

        Raises:
            InputError: not all of the study is done.
        """
        return self._report.to_frame()

    def plot(self) -> Figure:
        """Draw what good, random and bad subnetworks score.

        Raises:
            InputError: not all of the study is done.
        """
        return self._report.plot()
