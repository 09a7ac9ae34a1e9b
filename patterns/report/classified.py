"""The report of ``classify-heads``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.common.pages import Section, TableBlock, command_line, options_of, short_name
from models.common.words import interval, percent
from models.subnetwork import IMPORTANCE_FILE
from models.tasks.task import TASKS

from ..distribution import COVERS, bootstrap_ci95, interpretable_shares
from ..estimate import COVERS as ESTIMATE_COVERS
from ..estimate import ENOUGH
from ..maps.examples import ExampleMaps
from ..result import HeadPatterns, errors_elsewhere, estimate_sentences
from ..taxonomy import INTERPRETABLE
from .heads import head_findings, read_importance, sampling_command, write_report
from .summary import KindSummary, Summary
from .view import HeadsView

if TYPE_CHECKING:
    from models.tasks.rows import Rows


class Asked(Protocol):
    """What the page says of what was asked for: :class:`patterns.job.ClassifyHeads` has it."""

    @property
    def model(self) -> str:
        """Folder or Hub id."""
        ...

    @property
    def task(self) -> object:
        """None where a file of texts stands in its place."""
        ...

    @property
    def split(self) -> str:
        """Of the data."""
        ...

    @property
    def seed(self) -> int:
        """Of the draw of rows and of the bootstrap."""
        ...

    @property
    def maps(self) -> tuple[str, ...]:
        """Kinds of them."""
        ...

    @property
    def subnetwork(self) -> str | None:
        """Whose heads are counted."""
        ...

    @property
    def subnetwork_mode(self) -> str:
        """What happens to the rest."""
        ...

    @property
    def classifiers(self) -> Mapping[str, str | None] | None:
        """By kind, those that are not shipped."""
        ...


def write_classified(
    path: Path,
    job: Asked,
    patterns: HeadPatterns,
    summary: Summary,
    rows: Rows,
    maps: ExampleMaps | None,
    observed: HeadPatterns,
    survives: npt.NDArray[np.bool_] | None,
) -> None:
    """Write what one run of ``classify-heads`` found.

    Args:
        path: of the HTML file.
        job: what was asked for.
        patterns: what was found.
        summary: what ``summary.json`` holds.
        rows: where the examples were drawn from.
        maps: what was kept to look at.
        observed: all heads that were observed, where `patterns` counts those of a subnetwork alone.
        survives: ``[L, H]``, the heads of that subnetwork.
    """
    within = job.subnetwork is not None and job.subnetwork_mode == "select"
    view = HeadsView(
        name="",
        patterns=observed if within else patterns,
        maps=maps,
        survives=survives if within else None,
        importance=_importance(job, observed),
        annotate=annotation_command(job),
        to_estimate=summary["to_estimate"] or "",
        covers=COVERS + (f", of an estimate {ESTIMATE_COVERS}" if patterns.estimates else ""),
        notes=tuple(filter(None, [errors_elsewhere(patterns)])),
    )
    examples, counted, all_heads = summary["examples"], summary["heads"]["counted"], summary["heads"]["all"]
    whose = "their " if within else ""
    task = summary["task"].upper() if summary["task"] in TASKS else summary["task"]
    split = f", split {job.split}" if job.task is not None else ""
    findings, sections = head_findings(view), []
    if within:
        frame, sentences = beside_full(patterns, observed, job.seed)
        sentences = [*estimate_sentences(patterns, " of the subnetwork's heads"), *sentences]
        findings += sentences
        table = TableBlock.of(
            frame,
            "full-and-subnetwork",
            "Share of maps",
            titles={"low": "95% from", "high": "to"},
            shares=("share", "low", "high"),
        )
        sections = [Section("Full model and subnetwork", tuple(sentences), tables=(table,))]
    write_report(
        path,
        [view],
        title=f"Attention heads of {short_name(job.model)} on {task}",
        about=f"{examples} examples of {rows.source}{split}; model {job.model}.",
        facts=[
            (str(counted), "heads" if counted == all_heads else f"of {all_heads} heads"),
            (str(examples), "examples"),
            *(
                (percent((part["estimate"] or part)["interpretable_ratio"]), _fact(whose, kind, part))
                for kind, part in summary["maps"].items()
            ),
        ],
        findings=findings,
        warnings=patterns.warnings,
        sections=sections,
        provenance=summary["provenance"],
        command=repeat_command(job, summary),
    )  # fmt: skip


def beside_full(part: HeadPatterns, full: HeadPatterns, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Compare the heads of a subnetwork with all heads of the model: a row per kind, set and pattern, and words."""
    rows, sentences = [], []
    for kind in full.kinds:
        for name, one in (("all heads", full), ("subnetwork", part)):
            low, high = one.interpretable_ratio_ci95(kind)
            for pattern, share in one.distribution(kind).items():
                bounds = (low, high) if pattern == INTERPRETABLE else (np.nan, np.nan)
                row = {"kind": kind, "heads": name, "pattern": pattern}
                rows.append(row | {"share": share, "low": bounds[0], "high": bounds[1]})
        apart = interpretable_shares(part.labels[kind][:, part.heads]) - interpretable_shares(
            full.labels[kind][:, full.heads]
        )
        apart = apart[~np.isnan(apart)]
        low, high = bootstrap_ci95(apart, seed)
        words = interval(low, high)
        sentences.append(
            f"Of the {kind} maps of the subnetwork's {int(part.heads.sum())} heads "
            f"{percent(part.interpretable_ratio(kind))} are heterogeneous, of all heads "
            f"{percent(full.interpretable_ratio(kind))}: {100 * apart.mean():+.1f} percentage points"
            + (f", 95% interval {words}, which covers {COVERS}" if words else "")
            + ". Whether survivors differ from other heads takes several seeds: see compare-survivors."
        )
    return pd.DataFrame(rows), sentences


def _fact(whose: str, kind: str, part: KindSummary) -> str:
    by = "" if part["estimate"] is None else f", from {part['estimate']['labels']} labels"
    return f"of {whose}{kind} maps heterogeneous{by}{_beside(part)}"


def _beside(part: KindSummary) -> str:
    control = part["control"]
    return "" if control is None else f" (control {percent(control['interpretable_ratio'])})"


def repeat_command(job: Asked, summary: Summary) -> str:
    """Return the command that repeats a run; of a model from the Hub, with the commit that was looked at."""
    options = {"model": job.model, "revision": summary["provenance"]["model"]["revision"]} | options_of(job)
    return command_line(
        ["classify-heads"], options | _classifiers(job) | {"overwrite": None, "push_to_hub": None}
    )


def annotation_command(job: Asked) -> str:
    """Return the command that samples the least certain maps of the same model and data for annotation."""
    return sampling_command(options_of(job) | _classifiers(job))


def estimation_command(job: Asked) -> str | None:
    """Return the command that samples maps at random for labels, from which the shares of this run can be estimated.

    None where the heads are looked at as they are in something else than the whole model.
    """
    if job.subnetwork_mode != "select":
        return None
    count = ENOUGH * len(job.maps)
    return sampling_command(options_of(job) | _classifiers(job), "random", count=count)


def _importance(job: Asked, observed: HeadPatterns) -> npt.NDArray[np.float64] | None:
    """Of the search that a subnetwork comes from, if its folder is at hand."""
    if job.subnetwork is None:
        return None
    place = Path(job.subnetwork)
    layers, heads = observed.heads.shape
    return read_importance((place if place.is_dir() else place.parent) / IMPORTANCE_FILE, (layers, heads))


def _classifiers(job: Asked) -> dict[str, str | None]:
    given = {f"{kind}_classifier": source for kind, source in (job.classifiers or {}).items() if source}
    return {"classifiers": None, **given}
