"""The report of ``compare-survivors``: the heads of each task with what survives, and the comparison in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from models.common.pages import (
    FigureBlock,
    PageText,
    Section,
    TableBlock,
    command_line,
    write_page,
)
from models.common.words import count_words, p_equals, percent
from patterns import HeadPatterns
from patterns.maps.examples import ExampleMaps
from patterns.report.heads import read_importance, sampling_command, write_report
from patterns.report.view import HeadsView, distribution_row

from ..permutation import HIGHER, LOWER, UNTESTABLE
from ..search.folder import IMPORTANCE
from ..search.runs import Group
from ..stability import HARDEST
from ..survivors import super_survivors
from .consistency import COCHRAN, stability_frame, survivors_frame
from .figures import PATTERNS_FIGURE, SURVIVAL_FIGURE
from .summary import Patterns, Summary, TaskSummary, patterns_of
from .survivor_patterns import COMPARISONS, Measured, PatternComparison, SideName
from .survivor_patterns import INTERVALS as INTERVALS_COVER
from .terminal import INTERVALS, interval_words, points_words

_MOST = 8  # findings at the top; all of them are in the sections
_SIDES: dict[SideName, str] = {
    "super_survivors": "super-survivor",
    "super_survivors_alone": "super-survivor",
    "non_survivors": "other head",
    "all": "head",
}


def heads_view(
    group: Group,
    measured: Measured,
    found: Mapping[str, PatternComparison],
    maps: ExampleMaps | None,
    options: Mapping[str, object],
) -> HeadsView:
    """Return the heads of a task's full models, over all of its seeds, with what survives pruning.

    Args:
        group: the task's runs.
        measured: the patterns in each run's full model.
        found: by kind, what :func:`pruning.comparison.survivor_patterns.adjust` returned.
        maps: what was kept to look at.
        options: of the run.
    """
    model, revision = measured.models[0]
    task = options.get("task") or (f"{group.task}.toml" if group.described.own else group.task)
    bars = [
        distribution_row(
            f"{kind}, {count_words(part['heads'], words)}{' alone' if side.endswith('alone') else ''}",
            part["distribution"],
            part["interpretable_ratio_ci95"],
            kind,
        )
        for kind, one in found.items()
        for side, words in _SIDES.items()
        if (part := one[side]) is not None
    ]
    return HeadsView(
        name=group.name,
        patterns=pooled(measured),
        maps=maps,
        survives=super_survivors(group.subnetworks).heads,
        kept=np.sum([one.heads for one in group.subnetworks], axis=0),
        seeds=len(group.runs),
        importance=mean_importance(group),
        annotate=sampling_command({**options, "model": model, "revision": revision, "task": task}),
        bars=tuple(bars),
        covers=INTERVALS_COVER["interpretable_ratio_ci95"],
    )


def pooled(measured: Measured) -> HeadPatterns:
    """Return the maps of all different checkpoints of a task as one result; its intervals mean nothing."""
    first = {model: place for place, model in reversed(list(enumerate(measured.models)))}
    places = sorted(first.values())
    several = [measured.patterns[place] for place in places]
    kinds = several[0].kinds
    return HeadPatterns(
        labels={kind: np.concatenate([one.labels[kind] for one in several]) for kind in kinds},
        probabilities={kind: np.concatenate([one.probabilities[kind] for one in several]) for kind in kinds},
        examples=np.concatenate([one.examples for one in several]),
        n_tokens=np.concatenate([one.n_tokens for one in several]),
        heads=np.logical_and.reduce([one.heads for one in several]),
        causal=several[0].causal,
        classifiers=several[0].classifiers,
    )


def mean_importance(group: Group) -> npt.NDArray[np.float64] | None:
    """Return ``[L, H]``, each head's importance in the full model, normalised by layer, averaged over the searches.

    None if one of the runs does not hold importances: masks alone, or a search for weights.
    """
    layers, heads = group.subnetworks[0].heads.shape
    found = [read_importance(run.source / IMPORTANCE, (layers, heads)) for run in group.runs]
    several = [one for one in found if one is not None]
    return np.mean(several, axis=0) if len(several) == len(found) else None


def write_comparison(
    path: Path,
    runs: Sequence[Path | str],
    options: Mapping[str, object],
    groups: Sequence[Group],
    summary: Summary,
    views: Sequence[HeadsView],
    table: pd.DataFrame | None,
    figures: Mapping[str, Figure],
) -> None:
    """Write what one run of ``compare-survivors`` found.

    Args:
        path: of the HTML file.
        runs: where the searches lie.
        options: of the run, to repeat it by.
        groups: the runs, by task.
        summary: what ``summary.json`` holds.
        views: the heads of each task, if patterns were looked at.
        table: what ``patterns.csv`` holds, if there is one.
        figures: by the names of their files, without endings.
    """
    tasks, layers_heads = summary["tasks"], groups[0].subnetworks[0].heads.shape
    tested = [
        pattern_words(name, kind, one)
        for name, task in tasks.items()
        for kind, one in task.get("patterns", {}).items()
    ]
    kept = [survival_words(name, task) for name, task in tasks.items()]
    searches = [f"{group.name} with {count_words(len(group.runs), 'seed')}" for group in groups]
    sections = _sections(groups, summary, kept, tested, table, figures)
    page: PageText = {
        "title": f"Heads that survive pruning: {', '.join(tasks)}",
        "about": f"Searches compared: {', '.join(searches)}.",
        "facts": [
            (str(layers_heads[0] * layers_heads[1]), "heads"),
            *(
                (str(task["heads"]["super_survivors"]), f"survive every seed of {name}")
                for name, task in list(tasks.items())[:5]
            ),
        ],
        "findings": [*kept, *(said for said, _ in tested)][:_MOST],
        "warnings": summary["warnings"],
        "provenance": summary["provenance"],
        "command": command_line(
            ["compare-survivors", *runs], {**options, "overwrite": None}
        ),
    }  # fmt: skip
    if views:
        write_report(path, views, sections=sections, **page)
    else:
        write_page(path, sections=sections, **page)


def _sections(
    groups: Sequence[Group],
    summary: Summary,
    kept: Sequence[str],
    tested: Sequence[tuple[str, str]],
    table: pd.DataFrame | None,
    figures: Mapping[str, Figure],
) -> list[Section]:
    sections = []
    if table is not None:
        patterns = patterns_of(summary)
        block = TableBlock.of(
            table,
            "patterns",
            "Patterns of super-survivors, of all heads, and of the others",
            titles={"low": "95% from", "high": "to", "n_heads": "heads", "heads": "of"},
            shares=("share", "low", "high"),
            folded=True,
        )
        figure = FigureBlock.of(
            figures[PATTERNS_FIGURE],
            "Stacked bars, one pair a task and kind of maps: patterns of super-survivors above those of all heads. "
            + " ".join(said for said, _ in tested),
            "The line below a bar is the 95% interval of its share of heterogeneous maps: "
            f"{INTERVALS_COVER['interpretable_ratio_ci95']}.",
        )
        words = (*(words for pair in tested for words in pair if words), INTERVALS)
        tests = TableBlock.of(frame_of_tests(patterns), "tests", "The tests in numbers", folded=True)
        sections.append(Section("Full model and subnetwork", words, (figure,), (tests, block)))
    survival = FigureBlock.of(
        figures[SURVIVAL_FIGURE],
        "Grids of layers and heads, one a task, the darker the more seeds keep a head. " + " ".join(kept),
        "The darker, the more seeds keep the head; a dot is on those that every seed keeps.",
        TableBlock.of(
            survivors_frame(groups),
            "survivors",
            "Every head and MLP: under how many seeds it is kept",
            folded=True,
        ),
    )
    stability = TableBlock.of(
        stability_frame(summary["tasks"], summary["shared_heads"]),
        "stability",
        "Each statistic beside its chance level",
        titles={"chance_low": "95% from", "chance_high": "to", "chance_p": "p by chance"},
        folded=True,
    )
    sections.append(Section("Who survives", (*kept, COCHRAN), (survival,), (stability,)))
    return sections


def survival_words(name: str, task: TaskSummary) -> str:
    """Say how far the seeds of a task agree on which heads to keep."""
    part, numbers = task["heads"], [run["heads"] for run in task["runs"]]
    kept = f"{numbers[0]}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
    if len(numbers) == 1:
        return f"{name}: the one search keeps {kept} of {part['all']} heads."
    if why := task["untestable"]:
        return (
            f"{name}: {part['super_survivors']} of {part['all']} heads survive under every seed; whether that means "
            f"anything is {UNTESTABLE}: {why}."
        )
    chance = part["chance"]["super_survivors"][HARDEST]
    kappa = part["fleiss_kappa"]
    return (
        f"{name}: the searches of {len(numbers)} seeds keep {kept} of {part['all']} heads each, and "
        f"{part['super_survivors']} survive under every seed; random choices of as many heads in every layer would "
        f"share {chance['mean']:.1f} on average (p {p_equals(chance['p_value'])})."
        + ("" if kappa is None else f" Fleiss' kappa is {kappa:.2f}; 1 is full agreement, 0 that of chance.")
    )  # fmt: skip


def pattern_words(name: str, kind: str, found: PatternComparison) -> tuple[str, str]:
    """Say in plain language how super-survivors' patterns differ from the other heads', and how that was tested."""
    survivors, others, one = found["super_survivors"], found["non_survivors"], found["difference"]
    if survivors is None:
        return f"{name}, {kind} maps: no head survives under every seed, so there is nothing to compare.", ""
    said = (
        f"{name}, {kind} maps: {percent(survivors['interpretable_ratio'])} of the maps of the "
        f"{count_words(survivors['heads'], 'super-survivor')} are heterogeneous"
    )
    if others is None:
        return f"{said}; every head survives, so there is nothing to compare.", ""
    of_others = percent(others["interpretable_ratio"])
    said += f", {of_others} of those of the {count_words(others['heads'], 'other head')}"
    if one["verdict"] == UNTESTABLE:
        return f"{said}; whether that is more than chance is {UNTESTABLE}: {one['why']}.", ""
    difference = f"{points_words(one['value'])} percentage points {interval_words(one['ci95'])}"
    told = _VERDICTS.get(one["verdict"], _VERDICTS[""])
    tested = (
        f"The test, {name}, {kind} maps: of the {points_words(one['total'])} points between super-survivors and the "
        f"other heads, {points_words(one['by_layers'])} are explained by the layers in which they lie. The rest, "
        f"{difference}, is what was tested: of {one['permutations']} shuffles of heads within layers a share of "
        f"p {p_equals(one['p_value'])} is at least as far from 0; corrected for the number of comparisons, "
        f"p {p_equals(one['p_holm'])}. The interval is that of this test, corrected likewise."
    )
    return f"{said}: {told} ({difference}, p {p_equals(one['p_holm'])}).", tested


_VERDICTS = {
    HIGHER: "more often than the layers they lie in explain",
    LOWER: "less often than the layers they lie in explain",
    "": "no difference shown to the other heads of their layers",
}


def frame_of_tests(patterns: Patterns) -> pd.DataFrame:
    """Return one row per task, kind and comparison."""
    words = dict(zip(COMPARISONS, ("under every seed", "each seed's own"), strict=True))
    rows = []
    for task, kinds in patterns.items():
        for kind, found in kinds.items():
            for name in COMPARISONS:
                one = found[name]
                low, high = one["ci95"]
                rows.append(
                    {
                        "task": task,
                        "kind": kind,
                        "survivors": words[name],
                        "super_minus_others": one["total"],
                        "by_layers": one["by_layers"],
                        "difference": one["value"],
                        "low": low,
                        "high": high,
                        "p_value": one["p_value"],
                        "smallest_p": one["smallest_p"],
                        "permutations": one["permutations"],
                        "verdict": one["verdict"],
                        "why": one["why"],
                        "p_holm": one["p_holm"],
                    }
                )
    return pd.DataFrame(rows).convert_dtypes()
