"""The card of a result on the Hub: ``README.md``, by which ``datasets.load_dataset`` finds its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.common.pages import short_name
from models.common.provenance import headscope_version
from models.common.words import interval, markdown_table, percent

from ..distribution import COVERS
from ..result import HeadPatterns, bars_frame, errors_elsewhere, estimate_sentences
from ..taxonomy import PATTERNS
from .summary import BARS, DISTRIBUTION, HEADS, MAPS, REPORT, SUMMARY, Summary

if TYPE_CHECKING:
    import pandas as pd

CARD = "README.md"
_TABLES = {
    "heads": (HEADS, "a row a kind of maps and head: how often it shows each pattern"),
    "maps": (MAPS, "a row a kind, example and head: its pattern and five probabilities"),
}
"""By what ``load_dataset`` calls it, the file and what it holds; one repository's tables are all of one format."""
_SAVED = ("attention", "maps/maps-*.parquet", "every map itself, cells as float16 times a scale")


def card(patterns: HeadPatterns, summary: Summary, command: str, saved_maps: bool) -> str:
    """Return the card of a run of ``classify-heads``.

    Args:
        patterns: what was found.
        summary: what ``summary.json`` holds.
        command: repeats the run.
        saved_maps: whether every map is there, too.
    """
    tables = dict(_TABLES) | ({_SAVED[0]: _SAVED[1:]} if saved_maps else {})
    configs = "\n".join(
        f"- config_name: {name}\n" + ("  default: true\n" * (name == "heads")) + f"  data_files: {file}"
        for name, (file, _) in tables.items()
    )
    of = f"{short_name(summary['model'])} on {summary['examples']} examples of {summary['task']}"
    said = [*estimate_sentences(patterns), errors_elsewhere(patterns)]
    warned = [f"- {warning}" for warning in patterns.warnings]
    lines = [
        "---\ntags:\n- headscope\n- attention\n- interpretability\nconfigs:\n" + configs + "\n---",
        f"# Attention patterns: {of}",
        f"{summary['heads']['counted']} of {summary['heads']['all']} heads, by headscope {headscope_version()}. "
        f"Intervals are 95% and cover {COVERS}.",
        _shares(bars_frame(patterns)),
        *filter(None, said),
        *(["Read with this in mind:", "\n".join(warned)] if warned else []),
        "## Tables",
        "\n".join(f"- `{name}` (`{file}`): {holds}" for name, (file, holds) in tables.items()),
        f"`{DISTRIBUTION}` and `{BARS}.csv` are the shares as above. `{SUMMARY}` says what was done with which files "
        f"and versions, `{REPORT}` shows every head's maps.",
        "## How it was made",
        f"```sh\n{command}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def _shares(bars: pd.DataFrame) -> str:
    """Return the shares as a table in Markdown."""
    names = [pattern.value for pattern in PATTERNS]
    head = ["maps", *(name.replace("_", " ") for name in names), "interpretable ratio"]
    rows = [
        [
            bar["bar"],
            *(percent(bar[name]) for name in names),
            f"{percent(bar['interpretable_ratio'])} {interval(bar['low'], bar['high'])}".strip(),
        ]
        for bar in bars.to_dict(orient="records")
    ]
    return markdown_table(head, rows).rstrip()


def write_card(
    folder: Path, patterns: HeadPatterns, summary: Summary, command: str, saved_maps: bool
) -> None:
    """Write :func:`card` into a folder."""
    (folder / CARD).write_text(card(patterns, summary, command, saved_maps), encoding="utf-8")
