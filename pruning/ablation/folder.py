"""The folder of one ablation: written after every pass, so that one that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from models.common.papers import FORMATS
from models.common.reading import check_fields

from ..search.folder import CHECKSUMS, HISTORY, SUMMARY, SearchFolder
from .records import AblationSummary, SetsLine

COMMAND = "ablate-patterns"
CONFIG = "ablation.json"  # not a search's config.json: compare-survivors would take the folder for one
GROUPS, DRAWS, SINGLE = "groups.csv", "draws.parquet", "single_heads.parquet"
GROUPS_FIGURE, SINGLE_FIGURE, REPORT = "groups", "single_heads", "report.html"
"""The figures' names are without endings, which the data beside them share."""

_TEST = {"verdict": "text", "why": "text"}
_SUMMARY = {
    **dict.fromkeys(("command", "model", "task", "split", "metric", "how", "by"), "text"),
    **dict.fromkeys(("score", "loss", "majority_score"), "number"),
    **dict.fromkeys(("examples", "draws", "pattern_examples"), "count"),
    "heads": {"counted": "count", "all": "count"},
    "found": "list",
    "notes": "texts by name",
    "warnings": "texts",
}


class AblationFolder(SearchFolder[SetsLine, AblationSummary]):
    """An ablation on disk; see :class:`pruning.search.folder.SearchFolder`."""

    noun: ClassVar[str] = "an ablation"
    config_file: ClassVar[str] = CONFIG
    files: ClassVar[Sequence[str]] = (
        *(SUMMARY, HISTORY, CHECKSUMS, CONFIG, DRAWS, SINGLE, REPORT),
        *(
            f"{stem}.{ending}"
            for stem in (GROUPS_FIGURE, SINGLE_FIGURE)
            for ending in (*FORMATS, "csv", "tex")
        ),
    )
    fields: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        COMMAND: {"sets": "count", "masks": "text", "scores": "list", "losses": "list"}
    }

    def reopen(self) -> None:
        """Take back that it is finished, before its files are written again; its history stays."""
        (self.path / SUMMARY).unlink(missing_ok=True)

    def check_summary(self, file: Path, found: Any) -> None:
        """Refuse a summary without what will be read of it.

        Raises:
            InputError: naming the field.
        """
        check_fields(file, found, _SUMMARY)
        for number, one in enumerate(found["found"]):
            where = f"{file}, group {number + 1}"
            check_fields(where, one, {"kind": "text", "title": "text", "heads": "count", "together": _TEST})
            if one.get("one_by_one") is not None:
                check_fields(f"{where}, 'one_by_one'", one["one_by_one"], _TEST)
