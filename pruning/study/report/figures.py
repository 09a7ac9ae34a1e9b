"""The figures of a study, each from the table that is written beside it; see :mod:`models.common.drawing`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.common.drawing import SMALL, Page, page_width, text_style, text_width
from models.common.palette import BLUE, FAINT, GREY, INK, NEVER, VERMILION

from ...comparison.consistency import SharedHeads
from ...comparison.figures import number_heads, pattern_bars
from ...permutation import HIGHER, LOWER, NO_DIFFERENCE
from ...stability import NULLS
from ..config import STRUCTURED, Reference
from .conclusions import ACROSS_RUNS, ACROSS_TASKS, QUESTIONS, Finding, findings_frame
from .data import FULL, METHODS, STATES, StudyData

if TYPE_CHECKING:
    import pandas as pd

_OVERALL = (ACROSS_RUNS, ACROSS_TASKS)
_WIDTH = 6.9  # inches: the text width of a two-column page
_COLOURS = {STATES[0]: VERMILION, STATES[1]: BLUE}
_MAPS = {"mean": "Blues", "std": "Oranges"}
_WORDS = {
    (METHODS[0], "mean"): "share of seeds that keep it",
    (METHODS[1], "mean"): "share of weights kept",
    (METHODS[0], "std"): "standard deviation over seeds",
    (METHODS[1], "std"): "standard deviation over seeds",
}


def survival_frame(data: StudyData) -> pd.DataFrame:
    """Return ``task, method, what, layer, head, seeds, mean, std`` of both methods, for :func:`survival`."""
    import pandas as pd

    columns = ["task", "what", "layer", "head", "seeds", "mean", "std"]
    frames = []
    if len(data.survivors):
        frames.append(data.joint_survivors[columns].assign(method=METHODS[0]))
    if len(data.weight_survival):
        frames.append(data.weight_survival[columns].assign(method=METHODS[1]))
    names = ["task", "method", *columns[1:]]
    return pd.concat(frames, ignore_index=True)[names] if frames else pd.DataFrame(columns=names)


def survival(frame: pd.DataFrame) -> Figure:
    """Draw how much of each head survives on average and how that varies over seeds, a row a task.

    Left structured pruning (share of seeds that keep a head), right magnitude pruning (share of weights kept).
    Rows are layers, 0 on top; MLPs stand beside.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    methods = [method for method in METHODS if method in set(frame["method"])]
    layers, heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    panels = [(method, value) for method in methods for value in _MAPS]
    left = 0.5 + max(text_width(task, SMALL) for task in tasks)
    between, above, below = 0.2, 0.5, 0.72
    cell = min((page_width(_WIDTH) - left - 0.1 - between * len(panels)) / (len(panels) * (heads + 1.6)), 0.2)
    cell = min(cell, 8.2 / (len(tasks) * (layers + 1.2)))
    if page_width(_WIDTH) < _WIDTH:  # so narrow only as words can be read above the panels
        cell = max(cell, max(text_width(_WORDS[panel], 5) for panel in panels) / (heads + 1.6))
    panel_w, panel_h = cell * (heads + 1.6), cell * layers
    pitch = panel_h + cell * 1.2
    width = max(left + len(panels) * (panel_w + between) + 0.1, page_width(0))
    page = Page(width, above + len(tasks) * pitch + below)
    for number, (method, value) in enumerate(panels):
        of_method = frame[frame["method"] == method]
        x = left + number * (panel_w + between)
        scale = _scale(of_method[value], value, method)
        cmap = colormaps[_MAPS[value]]
        if value == "mean":
            page.text(x, page.height - 0.15, f"{method} pruning")
        words = _WORDS[method, value]
        room = min(SMALL - 1, (SMALL - 1) * panel_w / text_width(words, SMALL - 1))
        page.text(x, page.height - 0.36, words, room)
        for row, task in enumerate(tasks):
            y = page.height - above - (row + 1) * pitch + cell * 1.2
            part = of_method[of_method["task"] == task]
            axes = page.axes(x, y, panel_w, panel_h)
            _cells(axes, part, value, (layers, heads), cmap, scale, cell)
            axes.tick_params(labelleft=number == 0, labelbottom=row == len(tasks) - 1)
            if number == 0:
                page.text(0.08, y + panel_h / 2, task)
                axes.set_ylabel("layer", labelpad=1, **text_style(SMALL - 1))
            if row == len(tasks) - 1:
                axes.set_xlabel("head", labelpad=0, **text_style(SMALL - 1))
        bar = page.axes(x, 0.28, panel_w * 0.94, 0.08)
        colours = page.figure.colorbar(ScalarMappable(scale, cmap), cax=bar, orientation="horizontal")
        colours.outline.set_visible(False)
        colours.locator = MaxNLocator(2)
        colours.update_ticks()
        for label in bar.get_xticklabels():
            label.set(**text_style(SMALL - 1))
        bar.tick_params(length=2, width=0.6, pad=1)
    page.text(0.08, 0.32, "M: MLP", SMALL - 1)
    return page.figure


def importance(frame: pd.DataFrame) -> Figure:
    """Draw how the importances in the full model are distributed: heads above, MLPs below, a column a task.

    Bars are mean numbers over seeds of heads (or MLPs) with such a normalised importance; whiskers reach one
    standard deviation up and down.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    left, between, panel_h = 0.62, 0.22, 0.95
    wanted = page_width(_WIDTH + 0.05) - 0.05
    columns = max(1, min(len(tasks), 5, int((wanted - left) / 1.2)))
    bands = -(-len(tasks) // columns)
    panel_w = min((wanted - left - between * columns) / columns, 2.4)
    pitch = 2 * (panel_h + 0.3) + 0.5
    page = Page(max(left + columns * (panel_w + between) + 0.05, page_width(0)), bands * pitch + 0.2)
    edges = {"head": np.linspace(0, 1, 21), "mlp": np.linspace(0, 1, 11)}
    for row, (component, words) in enumerate((("head", "heads"), ("mlp", "MLPs"))):
        counts = {
            task: _histograms(
                frame[(frame["task"] == task) & (frame["component"] == component)], edges[component]
            )
            for task in tasks
        }
        top = max(float((c.mean(axis=0) + _spread(c)).max()) for c in counts.values()) * 1.08
        for number, task in enumerate(tasks):
            band, column = divmod(number, columns)
            x = left + column * (panel_w + between)
            y = page.height - 0.3 - band * pitch - (row + 1) * panel_h - row * 0.3
            axes = page.axes(x, y, panel_w, panel_h)
            middles = (edges[component][1:] + edges[component][:-1]) / 2
            count = counts[task]
            axes.bar(
                middles,
                count.mean(axis=0),
                width=np.diff(edges[component]) * 0.9,
                color=_COLOURS[STATES[1]],
                yerr=_spread(count),
                error_kw={"elinewidth": 0.7, "ecolor": INK},
            )
            axes.set(xlim=(0, 1), ylim=(0, top))
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            _plain(axes)
            axes.tick_params(labelleft=column == 0, labelbottom=row == 1)
            if row == 0:
                page.text(x, y + panel_h + 0.14, task)
            elif column == 0:  # once a row of panels, which are narrower than these words
                across = min(columns, len(tasks) - band * columns)
                middle = left + (across * (panel_w + between) - between) / 2
                page.text(middle, y - 0.3, "normalised importance", ha="center")
            if column == 0:
                axes.set_ylabel(words, labelpad=2, **text_style(SMALL))
    return page.figure


def shared_frame(pairs: Sequence[SharedHeads]) -> pd.DataFrame:
    """Return ``task, other, shared, null, chance, low, high, p_value``: same-seed pairs, else all pairs."""
    import pandas as pd

    rows = []
    for pair in pairs:
        part = pair["same-seed"] or pair["all"]
        if part is None:
            continue
        for null, level in part["chance"].items():
            one, other = pair["tasks"]
            rows.append(
                {
                    "task": one,
                    "other": other,
                    "pairs": part["pairs"],
                    "shared": part["mean"],
                    "null": null,
                    "chance": level["mean"],
                    "low": level["ci95"][0],
                    "high": level["ci95"][1],
                    "p_value": level["p_value"],
                }
            )
    return pd.DataFrame(rows)


def shared(frame: pd.DataFrame) -> Figure:
    """Draw how many heads every two tasks share beside what two kinds of random subnetworks of their sizes do."""
    pairs = list(dict.fromkeys(zip(frame["task"], frame["other"], strict=True)))
    names = [f"{one} - {other}" for one, other in pairs]
    left = 0.2 + max(text_width(name, SMALL) for name in names)
    height = 0.24 * len(pairs)
    words = "heads that both keep, mean over pairs of searches"
    least = left + 0.25 + text_width(words, SMALL)
    page = Page(max(page_width(min(_WIDTH, left + 3.8)), least), height + 0.95)
    axes = page.axes(left, 0.75, page.width - left - 0.15, height)
    for row, (one, other) in enumerate(pairs):
        part = frame[(frame["task"] == one) & (frame["other"] == other)]
        shifts = np.linspace(-0.13, 0.13, len(NULLS))
        for null, shift, colour in zip(NULLS, shifts, cycle((FAINT, GREY)), strict=False):
            level = part[part["null"] == null]
            axes.plot(
                [level["low"].item(), level["high"].item()],
                [row + shift] * 2,
                color=colour,
                linewidth=4,
                solid_capstyle="butt",
            )
            axes.plot(level["chance"], [row + shift], "|", color=INK, markersize=6, markeredgewidth=1)
        axes.plot(part["shared"].iloc[0], row, "o", color=_COLOURS[STATES[1]], markersize=5)
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlim=(0, None))
    axes.set_yticks(range(len(pairs)), names)
    axes.set_xlabel(words, labelpad=1, **text_style(SMALL))
    _plain(axes)
    y = 0.16
    keys = (
        ("o", _COLOURS[STATES[1]], "found"),
        ("s", FAINT, "chance, 95%"),
        ("s", GREY, "with as many in every layer"),
    )
    x = 0.12
    legend = page.axes(0, 0, page.width, 0.32)
    legend.set(xlim=(0, page.width), ylim=(0, 0.32))
    legend.set_axis_off()
    for marker, colour, words in keys:
        legend.plot(x, y, marker, color=colour, markersize=5)
        legend.text(x + 0.1, y, words, **text_style(SMALL), va="center")
        x += text_width(words, SMALL) + 0.36
    return page.figure


def scores(summary: pd.DataFrame, by_seed: pd.DataFrame, references: Sequence[Reference] = ()) -> Figure:
    """Draw what subnetworks score, pruned and fine-tuned again, beside the full model and baselines, a row a task.

    Large marks are means over seeds with 95% intervals (from three seeds on), small dots the seeds. The band is the
    full model's interval; an interval that leaves the picture goes on outside it.

    Args:
        summary: ``score_summary`` of :class:`pruning.study.report.data.StudyData`.
        by_seed: its scores of each seed.
        references: published scores, drawn as lines.
    """
    tasks = list(dict.fromkeys(summary["task"]))
    kinds = [
        (method, kind)
        for method in METHODS
        for kind in STRUCTURED
        if ((summary["method"] == method) & (summary["subnetwork"] == kind)).any()
    ]
    lines = 1 + max((kind.count("-") for _, kind in kinds), default=0)  # of the names below
    left, right, panel_h, between, below, above = 0.62, 0.82, 1.15, 0.26, 0.57 + 0.14 * lines, 0.25
    right = max([right, *(0.12 + text_width(one.name, SMALL - 1) for one in references)])
    width = page_width(min(_WIDTH, max(3.6, left + right + 0.62 * len(kinds))))
    width = max(width, left + right + 0.155 * len(kinds), 3.2)
    upright: dict[str, Any] = {}
    if width < _WIDTH and (width - left - right) / max(1, len(kinds)) < 0.5:  # words would touch side by side
        upright, below = {"rotation": 90}, 0.62 + max(text_width(kind, SMALL) for _, kind in kinds)
    page = Page(width, above + len(tasks) * (panel_h + between) + below)
    for row, task in enumerate(tasks):
        y = page.height - above - (row + 1) * panel_h - row * between
        axes = page.axes(left, y, width - left - right, panel_h)
        of_task, seeds = summary[summary["task"] == task], by_seed[by_seed["task"] == task]
        levels = _levels(axes, of_task, references)
        points = [value for value, _ in levels]
        for place, (method, kind) in enumerate(kinds):
            for state, shift in zip(STATES, (-0.17, 0.17), strict=True):
                mask = [
                    (f["method"] == method) & (f["subnetwork"] == kind) & (f["state"] == state)
                    for f in (of_task, seeds)
                ]
                mean, dots = of_task[mask[0]], seeds[mask[1]]["score"].to_numpy()
                if not len(mean):
                    continue
                _mark(axes, place + shift, mean.iloc[0], dots, state)
                points += list(dots)
        room = 0.08 * max(max(points) - min(points), 0.02)
        axes.set(xlim=(-0.6, len(kinds) - 0.4), ylim=(min(points) - room, max(points) + room))
        _name_levels(axes, levels)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        labels = [kind if upright else kind.replace("-", "\n") for _, kind in kinds]
        axes.set_xticks(range(len(kinds)), labels if row == len(tasks) - 1 else [""] * len(kinds), **upright)
        _plain(axes)
        metric = str(of_task["metric"].iloc[0]).replace("_", " and ")
        axes.set_ylabel(metric, labelpad=2, **text_style(SMALL))
        page.text(left, y + panel_h + 0.1, task)
        for edge in [i - 0.5 for i in range(1, len(kinds)) if kinds[i][0] != kinds[i - 1][0]]:
            axes.axvline(edge, color=FAINT, linewidth=0.6)
    _score_key(page, kinds, left, (width - left - right) / len(kinds) if kinds else 0)
    return page.figure


_VERDICT_COLOURS = {HIGHER: BLUE, LOWER: VERMILION, NO_DIFFERENCE: INK}


def forest(found: Sequence[Finding]) -> Figure:
    """Draw the comparisons of one question: effect and 95% interval, a row each, beside the line of no difference.

    Rows stand under their comparison. Filled marks are higher or lower after Holm's
    correction, open ones show no difference, grey ones are not testable; the verdict stands at the right.

    Args:
        found: comparisons of one question; those without an effect are left out.
    """
    drawn = [one for one in found if one.effect is not None]
    rows: list[str | Finding] = []
    for name in dict.fromkeys(one.comparison for one in drawn):
        rows += [name, *(one for one in drawn if one.comparison == name)]
    left = 0.3 + max(text_width(one.of, SMALL) for one in drawn)
    right = 0.2 + max(text_width(one.outcome, SMALL) for one in drawn)
    width = max(page_width(max(5.2, left + right + 2.2)), left + right + 1.2)
    step, below, above = 0.2, 0.5, 0.12
    height = step * len(rows)
    page = Page(width, below + height + above)
    axes = page.axes(left, below, width - left - right, height)
    axes.set_facecolor("none")  # names of comparisons reach into it
    axes.axvline(0, color=FAINT, linewidth=0.9)
    for place, row in enumerate(rows):
        y = below + height - step * (place + 0.5)
        if isinstance(row, str):
            page.text(0.08, y, row, SMALL)
            continue
        effect = float(row.effect or 0.0)
        colour = _VERDICT_COLOURS.get(row.outcome, GREY)
        if row.low is not None:
            end = effect if row.high is None else row.high  # of a one-sided interval, the mark
            axes.plot([row.low, end], [place, place], color=colour, linewidth=1.1)
        filled = row.outcome in (HIGHER, LOWER)
        axes.plot(
            effect,
            place,
            "s",
            color=colour,
            markersize=5 if row.of in _OVERALL else 4,
            markerfacecolor=colour if filled else "white",
        )
        page.text(0.22, y, row.of, SMALL)
        page.text(width - right + 0.1, y, row.outcome, SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("difference, with its 95% interval where there is one", labelpad=2, **text_style(SMALL))
    _plain(axes)
    axes.spines["left"].set_visible(False)
    return page.figure


def _levels(axes: Axes, of_task: pd.DataFrame, references: Sequence[Reference]) -> list[tuple[float, str]]:
    """Draw the full model, the baselines and what was published as lines across; return their values and names."""
    styles: dict[str, Any] = {"majority": (0, (4, 3)), "guessing": (0, (1, 2))}
    lines = [(of_task[name].mean(), name, style) for name, style in styles.items()]
    task = str(of_task["task"].iloc[0])
    lines += [(one.scores[task], one.name, (0, (6, 2, 1, 2))) for one in references if task in one.scores]
    full = of_task[of_task["subnetwork"] == FULL]
    if len(full):
        mean, low, high = (full[name].item() for name in ("mean", "low", "high"))
        lines.append((mean, "full model", "-"))
        if low == low:
            axes.axhspan(low, high, color=NEVER, linewidth=0)
    known = [line for line in lines if line[0] == line[0]]
    for value, _, style in known:
        axes.axhline(value, color=GREY, linewidth=0.9, linestyle=style)
    return [(float(value), name) for value, name, _ in known]


def _name_levels(axes: Axes, levels: Sequence[tuple[float, str]]) -> None:
    """Their names at the right edge, moved upwards where they would touch."""
    low, high = axes.get_ylim()
    previous = -np.inf
    for value, name in sorted(levels):
        place = max((value - low) / (high - low), previous + 0.12)
        axes.text(1.01, place, name, transform=axes.transAxes, va="center", **text_style(SMALL - 1, GREY))
        previous = place


def _mark(axes: Axes, x: float, mean: Any, dots: Any, state: str) -> None:
    colour = _COLOURS[state]
    axes.plot([x + 0.1] * len(dots), dots, ".", color=colour, markersize=2.5, alpha=0.7)
    if mean["low"] == mean["low"]:
        axes.plot([x, x], [mean["low"], mean["high"]], color=colour, linewidth=1)
    filled = state == STATES[1]
    axes.plot(
        x,
        mean["mean"],
        "s" if filled else "o",
        color=colour,
        markersize=5,
        markerfacecolor=colour if filled else "white",
        markeredgewidth=1.1,
    )


def _score_key(page: Page, kinds: Sequence[tuple[str, str]], left: float, pitch: float) -> None:
    for method in dict.fromkeys(method for method, _ in kinds):
        places = [i for i, (of, _) in enumerate(kinds) if of == method]
        page.text(left + pitch * (sum(places) / len(places) + 0.5), 0.48, method, SMALL, ha="center")
    legend = page.axes(0, 0, page.width, 0.34)
    legend.set(xlim=(0, page.width), ylim=(0, 0.34))
    legend.set_axis_off()
    x = left
    for state, words in zip(STATES, ("pruned", "pruned, then fine-tuned again"), strict=True):
        filled = state == STATES[1]
        legend.plot(
            x,
            0.17,
            "s" if filled else "o",
            color=_COLOURS[state],
            markersize=5,
            markerfacecolor=_COLOURS[state] if filled else "white",
        )
        legend.text(x + 0.1, 0.17, words, **text_style(SMALL), va="center")
        x += text_width(words, SMALL) + 0.4


def _scale(values: pd.Series, value: str, method: str) -> Normalize:
    """Shares of seeds from 0 to 1; shares of weights, and deviations, over the range that they have."""
    if value == "mean" and method == METHODS[0]:
        return Normalize(0, 1)
    high = float(values.max()) if values.notna().any() else 1.0
    return Normalize(0 if value == "std" else float(values.min()), high if high > 0 else 1.0)


def _cells(
    axes: Axes,
    part: pd.DataFrame,
    value: str,
    shape: tuple[int, int],
    cmap: Colormap,
    scale: Normalize,
    cell: float,
) -> None:
    """A heat map of heads, and the MLPs' column 0.6 of a cell behind it."""
    layers, heads = shape
    grid, mlps = np.full(shape, np.nan), np.full((layers, 1), np.nan)
    for layer, head, number in zip(part["layer"], part["head"], part[value], strict=True):
        if head < 0:
            mlps[layer, 0] = number
        else:
            grid[layer, head] = number
    for values, x in ((grid, 0.0), (mlps, heads + 0.6)):
        edges = x + np.arange(values.shape[1] + 1), np.arange(layers + 1)
        axes.pcolormesh(
            *edges, np.ma.masked_invalid(values), cmap=cmap, norm=scale, edgecolors="white", linewidth=0.3
        )
    number_heads(axes, layers, heads, cell, "M")
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontsize(SMALL - 1)


def _histograms(part: pd.DataFrame, edges: Any) -> Any:
    """Counts ``[S, bins]``."""
    return np.stack([np.histogram(of_seed["normalized"], edges)[0] for _, of_seed in part.groupby("seed")])


def _spread(counts: Any) -> Any:
    return counts.std(axis=0, ddof=1) if len(counts) > 1 else np.zeros(counts.shape[1])


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(**text_style(SMALL))
    axes.tick_params(colors=INK, width=0.6, length=3)


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a study: what the report's folder and its page have of it."""

    name: str
    """Of its files."""
    title: str
    alt: str
    """What it shows, for those who cannot see it."""
    frame: Callable[[StudyData, Sequence[Finding]], pd.DataFrame]
    """The data behind it, which are written beside it; empty as long as no step is done that it needs."""
    draw: Callable[[pd.DataFrame, StudyData, Sequence[Finding]], Figure]
    """Draws it, from its data if there are some."""
    caption: str = ""
    question: str = ""
    """The key of the question that it answers, with which it is shown."""
    references: bool = False
    """Whether published scores are drawn in it, whose sources are its caption then."""


def _forest_of(key: str, question: str) -> StudyFigure:
    """Return the figure that answers a question."""

    def drawn(found: Sequence[Finding]) -> list[Finding]:
        return [one for one in found if one.question == key and one.effect is not None]

    return StudyFigure(
        f"6_comparisons_{key}",
        question,
        f"{question} A row a comparison: the difference as a mark, its 95% interval as a line, beside the "
        "line of no difference, and the verdict. The numbers are in the table.",
        lambda data, found: findings_frame(drawn(found)),
        lambda frame, data, found: forest(drawn(found)),
        "Filled: higher or lower after Holm's correction. Open: no difference shown. Grey: not testable. The "
        "interval is that of the test, corrected likewise: it holds 0 if and only if no difference is shown. A "
        "line that ends at its mark is a one-sided interval: at least so much.",
        key,
    )


FIGURES = (
    StudyFigure(
        "4_scores",
        "Good, random and bad subnetworks",
        "Scores of subnetworks, pruned and fine-tuned again, with intervals over seeds, beside those of the full "
        "model, of always saying the commonest label, and of guessing.",
        lambda data, found: data.score_summary,
        lambda frame, data, found: scores(frame, data.by_seed, data.drawn_references),
        references=True,
    ),
    StudyFigure(
        "1_survival",
        "What survives",
        "Layer by head grids of each task: how often each head and MLP is kept over the seeds, and its standard "
        "deviation, by structured and by magnitude pruning. The numbers are in the table.",
        lambda data, found: survival_frame(data),
        lambda frame, data, found: survival(frame),
    ),
    StudyFigure(
        "5_patterns",
        "Patterns of super-survivors and of all heads",
        "Stacked bars of how often each pattern occurs among super-survivors and among all heads, by task and kind "
        "of maps.",
        lambda data, found: data.patterns_frame,
        lambda frame, data, found: pattern_bars(data.named_patterns),
    ),
    StudyFigure(
        "3_shared_heads",
        "Heads that tasks share",
        "How many heads two tasks keep in common under the same seed, beside what chance would give.",
        lambda data, found: shared_frame(data.shared),
        lambda frame, data, found: shared(frame),
    ),
    StudyFigure(
        "2_importance",
        "Importance before anything is pruned",
        "Histograms of the normalised importance of heads and MLPs in the full models, by task.",
        lambda data, found: data.tables.importance,
        lambda frame, data, found: importance(frame),
    ),
    *(_forest_of(key, question) for key, question in QUESTIONS.items()),
)
"""Every figure of a study, in the order in which its page shows them; those of a question stand with it."""
