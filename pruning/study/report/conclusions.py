"""The conclusions of Prasanna et al. (2020), tested on the data of one study, with effect sizes and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.common.files import known
from models.common.words import p_words
from models.tasks.measures import range_of

from ...comparison.consistency import kappas, random_masks
from ...permutation import (
    HIGHER,
    LEVEL,
    LOWER,
    NO_DIFFERENCE,
    UNTESTABLE,
    holm,
    holm_at_best,
    holm_levels,
    sign_flip_test,
    verdict,
)
from ...stability import NULLS, WHAT, What, at_least
from ..records import Conclusion
from . import closing
from .data import FULL, METHODS, STATES, StudyData

if TYPE_CHECKING:
    import pandas as pd

ACROSS_RUNS, ACROSS_TASKS, ACROSS_MODELS = "all tasks' runs", "tasks", "all models"
BELOW_MAJORITY = "the threshold lies below the commonest label's score"
"""Why a task's survivors are not testable."""
_SHARES = (-1.0, 1.0)  # of a difference of shares
_OVERALL = {
    ACROSS_RUNS: "over all runs (these tasks, other seeds)",
    ACROSS_TASKS: "over tasks",
    ACROSS_MODELS: "over all models (these tasks and seeds)",
}
_UNITS = {
    "good": "seeds",
    "random": "seeds",
    "full": "seeds",
    "learn": "seeds",
    "stable": "heads or MLPs",
    "patterns": "heads",
    "closed": "models",
    ACROSS_MODELS: "models",
    ACROSS_RUNS: "runs",
    ACROSS_TASKS: "tasks",
}
"""What `n` counts, of one task by the question, or over all."""
QUESTIONS = {
    "good": "Are good subnetworks better than others of their size after fine-tuning again?",
    "random": "Are random subnetworks better than bad ones after fine-tuning again?",
    "full": "Do subnetworks come back to the full model's score after fine-tuning again?",
    "learn": "Do subnetworks do better than the commonest label after fine-tuning again?",
    "stable": "Is survival more stable over seeds than by chance?",
    "patterns": "Are the maps of super-survivors heterogeneous more or less often than those of the other heads of "
    "their layers?",
    "closed": "Does the pattern of a head matter?",
}


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    question: str
    """One of the keys of ``QUESTIONS``."""
    comparison: str
    of: str
    """A task, or over what: all runs of all tasks (these tasks, other seeds), or tasks (other tasks)."""
    n: int
    """Pairs, heads or tasks."""
    effect: float | None
    """In the units of the metric, of kappa, or in shares."""
    low: float | None
    high: float | None
    """95% interval of the effect: of the test, and corrected as its p-value is, so that 0 lies outside if and only if
    ``p_holm`` is at most .05. A one-sided test has no `high`; what cannot come out significant has neither."""
    size: float | None
    """Mean of the paired differences by their standard deviation; None for what is not paired."""
    p_value: float | None
    smallest_p: float | None
    """What the test could have given at best."""
    p_holm: float | None = None
    """Adjusted for all testable comparisons of its question over the same of-kind."""
    smallest_holm: float | None = None
    """What that could have been at best."""
    why: str = ""
    """Why it is not testable whatever the numbers say."""
    interval: Callable[[float], tuple[float, float]] | None = field(default=None, compare=False, repr=False)
    """The interval that belongs to the test at a level; NaN for an end that there is not."""
    what: What | None = None
    """Whether it is of heads or of MLPs, where there is a comparison of each."""

    @property
    def at_best(self) -> float | None:
        """The smallest p-value that was possible, adjusted if that is known."""
        return self.smallest_p if self.smallest_holm is None else self.smallest_holm

    @property
    def testable(self) -> bool:
        """Whether the test could have come out below the level."""
        return not self.why and self.p_value is not None and (self.at_best or 0.0) <= LEVEL

    @property
    def many(self) -> str:
        """`5 seeds`."""
        unit = _UNITS.get(self.of, _UNITS.get(self.question, "values"))
        return f"{self.n} {unit.removesuffix('s') if self.n == 1 else unit}"

    @property
    def outcome(self) -> str:
        """What the data say: one of the words of :mod:`pruning.permutation`."""
        if not self.testable or self.effect is None:
            return UNTESTABLE
        return verdict(self.effect, self.p_value if self.p_holm is None else self.p_holm, self.at_best)

    @property
    def verdict(self) -> str:
        """The same, and why what is not testable is not."""
        if self.testable and self.effect is not None:
            return self.outcome
        why = self.why or ("" if self.at_best is None else _in_vain(self))
        return f"{self.outcome}: {why}" if why else self.outcome


def findings_of(data: StudyData) -> list[Finding]:
    """Return all comparisons, adjusted by Holm within each question, tasks apart from overall ones."""
    return adjusted([*_tuned(data), *_stable(data), *_patterns(data), *_closed(data)])


def adjusted(found: Sequence[Finding]) -> list[Finding]:
    """Return comparisons with their p-values and intervals adjusted by Holm, so that both say the same.

    A comparison that could not have come out significant has no interval, which would be all values.
    """
    told = list(found)
    families: dict[tuple[str, bool], list[int]] = {}
    for i, one in enumerate(found):
        families.setdefault((one.question, one.of in _OVERALL), []).append(i)
    for places in families.values():
        values = [found[i].p_value if found[i].testable else None for i in places]
        best = holm_at_best([found[i].smallest_p or 0.0 if found[i].testable else None for i in places])
        for i, p, least, level in zip(places, holm(values), best, holm_levels(values), strict=True):
            one = replace(found[i], p_holm=p, smallest_holm=least)
            ends = one.interval(level) if one.testable and one.interval else (math.nan, math.nan)
            told[i] = replace(one, low=known(ends[0]), high=known(ends[1]))
    return told


def findings_frame(found: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a comparison."""
    import pandas as pd

    names = ["question", "comparison", "of", "n", "effect", "low", "high", "size", "p_value", "p_holm"]
    rows = [{**{name: getattr(one, name) for name in names}, "verdict": one.verdict} for one in found]
    frame = pd.DataFrame(rows, columns=[*names, "verdict"])
    return frame.astype(dict.fromkeys(names[4:], "float64"))


def conclusions(found: Sequence[Finding]) -> list[Conclusion]:
    """Return each question with what this study's data support, in sentences.

    What can be tested comes first, then in a sentence what cannot. :func:`findings_frame` has every number.
    """
    told: list[Conclusion] = []
    for key, question in QUESTIONS.items():
        of = [one for one in found if one.question == key]
        overall = [one for one in of if one.of in _OVERALL]
        single = [one for one in of if one.of not in _OVERALL]
        sentences = _FIRST[key](of) if key in _FIRST else []
        sentences += [_sentence(one) for one in overall if one.testable]
        untestable: dict[tuple[str, ...], list[str]] = {}
        for comparison in dict.fromkeys(one.comparison for one in of):
            alike = [one for one in single if one.comparison == comparison]
            if any(one.testable for one in alike):
                sentences.append(f"{comparison}, task by task: {_counted(alike)}.")
            vain = [one for one in overall if one.comparison == comparison and not one.testable]
            limits = [_limit(one) for one in vain]
            if alike and not any(one.testable for one in alike):
                limits.append(_limit(min(alike, key=lambda one: one.smallest_p or 1.0)))
            if limits:
                words = " ".join([comparison, *map(_effect, vain[:1])])
                untestable.setdefault(tuple(limits), []).append(words.strip())
        sentences += [
            f"Not testable {_listed(limits)}: {'; '.join(comparisons)}."
            for limits, comparisons in untestable.items()
        ]
        answers = sentences or [f"{UNTESTABLE}: no step of it is done."]
        told.append({"key": key, "question": question, "answers": answers})
    return told


def _sentence(one: Finding) -> str:
    size = "" if one.size is None else f", {one.size:+.2f} standard deviations"
    words = f"{one.comparison}, {_OVERALL[one.of]} (n = {one.n}): {_effect(one)}{size}"
    return f"{words}, p {_p(one.p_holm)} (Holm): {one.verdict}."


def _effect(one: Finding) -> str:
    if one.effect is None:
        return ""
    bounds = ""
    if one.low is not None:
        bounds = f" (at least {one.low:+.3f})" if one.high is None else f" [{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.effect:+.3f}{bounds}"


def _limit(one: Finding) -> str:
    """Over what a comparison was not testable, and why."""
    words = f"n = {one.n}" if one.why or one.at_best is None else _in_vain(one)
    return f"{_OVERALL.get(one.of, 'task by task')} ({words})"


def _in_vain(one: Finding) -> str:
    """That no numbers could have made a comparison significant."""
    corrected = one.smallest_p is not None and one.smallest_p <= LEVEL
    beside = ", corrected for the number of comparisons," if corrected else ""
    return f"cannot be significant with {one.many}: p{beside} is at least {p_words(one.at_best)}"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _both_nulls(found: Sequence[Finding]) -> list[str]:
    """Whether heads survive more stably than both kinds of random subnetworks: the layers explain the easier part."""
    by_task: dict[str, list[Finding]] = {}
    for one in found:
        if one.what == "heads" and one.of not in _OVERALL:
            by_task.setdefault(one.of, []).append(one)
    by_task = {task: both for task, both in by_task.items() if all(one.testable for one in both)}
    if not by_task:
        return []
    above = [task for task, both in by_task.items() if all(one.outcome == HIGHER for one in both)]
    named = ": " + ", ".join(above) if above else ""
    told = f"in {len(above)} of {len(by_task)} tasks{named}"
    return [
        f"Heads survive more stably than random ones of the same number, in all and in every layer, {told}."
    ]


def _worth(found: Sequence[Finding]) -> list[str]:
    """How many patterns cost more than random sets, and whether heterogeneous heads matter more; a sentence for each
    kind of maps and models."""
    by_place: dict[str, list[Finding]] = {}
    for one in found:
        if one.of == ACROSS_MODELS:
            by_place.setdefault(one.comparison.split(": ")[0], []).append(one)
    told = []
    for place, several in by_place.items():
        names: dict[str, list[str]] = {HIGHER: [], LOWER: [], NO_DIFFERENCE: [], UNTESTABLE: []}
        each = ""
        for one in several:
            title, _, compared = one.comparison.removeprefix(f"{place}: ").partition(", ")
            if compared == closing.BESIDE:
                names[one.outcome].append(title)
            else:
                each = f"{title} heads, closed one at a time, beside the others of their layers: {_effect(one)} a head"
                each = f"not testable ({each})" if one.outcome == UNTESTABLE else f"{each}, {one.outcome}"
        testable = sum(map(len, names.values())) - len(names[UNTESTABLE])
        if testable:
            more = f" ({', '.join(names[HIGHER])})" if names[HIGHER] else ""
            words = (
                f"closing all heads of a pattern costs more than random sets of as many in the same layers for "
                f"{len(names[HIGHER])} of {testable} patterns{more}"
            )
            rest = {
                LOWER: "less for",
                NO_DIFFERENCE: "no difference shown for",
                UNTESTABLE: "not testable for",
            }
            words += "".join(f"; {said} {', '.join(names[key])}" for key, said in rest.items() if names[key])
        else:
            words = "what closing all heads of a pattern costs beside random sets is not testable"
        told.append(
            f"{place[0].upper()}{place[1:]} ({several[0].many}): {words}. {each[:1].upper()}{each[1:]}."
        )
    return told


_FIRST: Mapping[str, Callable[[Sequence[Finding]], list[str]]] = {"stable": _both_nulls, "closed": _worth}
"""By question, what is said of it before its comparisons, and in short."""


def _counted(found: Sequence[Finding]) -> str:
    """`higher in qqp (+0.050), rte (+0.040); no difference shown in mrpc (+0.001)`."""
    by_verdict: dict[str, list[str]] = {}
    for one in found:
        effect = "" if one.effect is None else f" ({one.effect:+.3f})"
        by_verdict.setdefault(one.verdict, []).append(one.of + effect)
    return "; ".join(f"{verdict} in {', '.join(tasks)}" for verdict, tasks in by_verdict.items())


def _p(p: float | None) -> str:
    words = p_words(p)
    return words if words.startswith("<") else f"= {words}"


_FULL, _MAJORITY = "full model", "commonest label"
_KINDS = ("good", "random", "bad")
_TUNED: Mapping[str, Sequence[tuple[str, str]]] = {
    "good": (
        ("good", "random"),
        ("good", "bad"),
        ("super-good", "super-random"),
        ("super-good", "super-bad"),
    ),
    "random": (("random", "bad"),),
    "full": tuple((kind, _FULL) for kind in _KINDS),
    "learn": tuple((kind, _MAJORITY) for kind in _KINDS),
}
"""By question, what is compared of subnetworks fine-tuned again. Each question is a family of its own: what is asked
beside it does not change what can be said of it."""


def _tuned(data: StudyData) -> list[Finding]:
    """Subnetworks fine-tuned again beside each other, the full model of their seed, and the commonest label."""
    return [one for question, pairs in _TUNED.items() for one in _differences(data, question, pairs)]


def _differences(data: StudyData, question: str, pairs: Sequence[tuple[str, str]]) -> list[Finding]:
    """Differences of scores of subnetworks fine-tuned again, or of what stands beside them, seed by seed."""
    scores = data.by_seed
    of_seed = scores.set_index(["task", "seed"])
    metrics = dict(zip(scores["task"], scores["metric"], strict=True))
    found = []
    for method in METHODS:
        tuned = of_seed[(of_seed["state"] == STATES[1]) & (of_seed["method"] == method)]
        full = of_seed[of_seed["state"] == FULL]
        values = {kind: part["score"] for kind, part in tuned.groupby("subnetwork", sort=False)}
        values |= {_FULL: full["score"], _MAJORITY: full["majority"]} if values else {}
        vain = {task for task, of in data.untestable if of == method}
        for one, other in pairs:
            if not {one, other} <= set(values):
                continue
            differences = (values[one] - values[other]).dropna()
            there = set(differences.index.get_level_values("task"))
            by_task = {
                task: differences.xs(task, level="task").sort_index().to_numpy()
                for task in data.plan.study.tasks
                if task in there
            }
            spans = {task: range_of(metrics[task]) for task in by_task}
            found += _paired(question, f"{method}: {one} - {other}", by_task, spans, vain)
    return found


def _paired(
    question: str,
    comparison: str,
    by_task: Mapping[str, npt.NDArray[np.floating]],
    spans: Mapping[str, tuple[float, float]],
    vain: Set[str],
) -> list[Finding]:
    """Return the comparison for each task, over all runs, and over tasks; over the latter without those in vain.

    Args:
        question: its key.
        comparison: its name.
        by_task: differences of scores, one a seed.
        spans: each task's lowest and highest score.
        vain: tasks whose subnetworks are not testable.
    """
    found = []
    for task, values in by_task.items():
        width = spans[task][1] - spans[task][0]
        one = _one(question, comparison, task, values, (-width, width))
        found.append(replace(one, p_value=None, why=BELOW_MAJORITY) if task in vain else one)
    rest = {task: values for task, values in by_task.items() if task not in vain}
    if rest:
        widest = max(high - low for low, high in (spans[task] for task in rest))
        span = (-widest, widest)
        # The mean of the tasks' means, whatever the number of seeds of each: what is tested is what is shown.
        weights = np.concatenate([np.full(len(of), 1 / len(rest) / len(of)) for of in rest.values()])
        runs = np.concatenate(list(rest.values()))
        found.append(_one(question, comparison, ACROSS_RUNS, runs, span, weights))
        means = np.array([values.mean() for values in rest.values()])
        found.append(_one(question, comparison, ACROSS_TASKS, means, span))
    return found


def _one(
    question: str,
    comparison: str,
    of: str,
    values: npt.NDArray[np.floating],
    span: tuple[float, float],
    weights: npt.NDArray[np.floating] | None = None,
) -> Finding:
    """Return one comparison of paired values, by the test of all changes of sign; its interval comes with Holm's level.

    Args:
        question: its key.
        comparison: its name.
        of: a task, or over what.
        values: a difference each.
        span: lowest and highest difference that there can be.
        weights: of the mean, equal if None.
    """
    test = sign_flip_test(values, weights)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    effect = float(test.difference or 0.0)

    def interval(level: float) -> tuple[float, float]:
        low, high = test.interval(level, span)
        # No width is no interval; nor is all that there can be.
        return (low, high) if low < high and (low, high) != span else (math.nan, math.nan)

    return Finding(
        question,
        comparison,
        of,
        len(values),
        effect,
        None,
        None,
        effect / spread if spread > 0 else None,
        test.p_value if test.testable else None,
        test.smallest_p,
        interval=interval,
    )


def _stable(data: StudyData) -> list[Finding]:
    """Fleiss' kappa less its mean by chance; test and interval are one-sided, of the same random subnetworks."""
    found = []
    for what in WHAT:
        above: dict[str, list[float]] = {}
        for group in data.groups():
            part = data.stability[group.name][what]
            kappa = part["fleiss_kappa"]
            for null, level in part["chance"].get("fleiss_kappa", {}).items():
                name = f"{'MLPs' if what == 'mlps' else what}: kappa above chance ({NULLS[null].words})"
                why = BELOW_MAJORITY if group.untestable else ""
                one = Finding(
                    "stable",
                    name,
                    group.task,
                    part["all"],
                    *(None,) * 6,
                    why=why,
                    what=what,
                )
                if kappa is None or level["mean"] is None:
                    found.append(replace(one, why=""))
                    continue
                effect = kappa - level["mean"]
                drawn = kappas(random_masks(group, what, null, level["draws"], data.plan.study.seed))
                found.append(
                    replace(
                        one,
                        effect=effect,
                        p_value=None if why else level["p_value"],
                        smallest_p=1 / (level["draws"] + 1),
                        interval=_above(kappa, drawn, -1 / (len(group.runs) - 1)),
                    )
                )
                if not why:
                    above.setdefault(name, []).append(effect)
        for name, effects in above.items():
            found.append(_one("stable", name, ACROSS_TASKS, np.array(effects), (-2.0, 2.0)))
    return found


def _above(
    kappa: float, drawn: npt.NDArray[np.float64], lowest: float
) -> Callable[[float], tuple[float, float]]:
    """How far kappa is at least above its mean by chance, as a function of the level; it is `lowest` at least."""
    mean = float(np.nanmean(drawn))
    return lambda level: (max(at_least(kappa, drawn, level), lowest - mean), math.nan)


def _patterns(data: StudyData) -> list[Finding]:
    """The one difference of super-survivors and the other heads, see
    :func:`pruning.comparison.survivor_patterns.compare`."""
    found = []
    gaps: dict[str, list[float]] = {}
    for (task, model), kinds in data.patterns.items():
        for kind, of_kind in kinds.items():
            comparison = f"{kind} maps, {model}: super-survivors - others"
            n = of_kind["super_survivors"]["heads"] if of_kind["super_survivors"] else 0
            one = of_kind["difference"]
            why = (
                BELOW_MAJORITY
                if task in {of for of, method in data.untestable if method == METHODS[0]}
                else ""
            )
            if one["value"] is None or not n:
                found.append(
                    Finding("patterns", comparison, task, n, None, None, None, None, None, None, why=why)
                )
                continue
            low, high = (math.nan if bound is None else bound for bound in one["ci95"])
            p, smallest = (None, None) if why else (one["p_value"], one["smallest_p"])
            finding = Finding(
                "patterns", comparison, task, n, one["value"], None, None, None, p, smallest, why=why
            )
            # Adjusted already, over the same comparisons: see pruning.comparison.survivor_patterns.adjust.
            found.append(replace(finding, interval=partial(_fixed, (low, high))))
            if not why:
                gaps.setdefault(comparison, []).append(one["value"])
    for comparison, effects in gaps.items():
        found.append(_one("patterns", comparison, ACROSS_TASKS, np.array(effects), _SHARES))
    return found


def _closed(data: StudyData) -> list[Finding]:
    """What closing the heads of each pattern costs beside chance, see :func:`.closing.comparisons`."""
    study = data.plan.study
    found = []
    for one in closing.comparisons(data.ablated, study.patterns.permutations, study.seed):
        test = one.test if one.test is not None and one.test.difference is not None else None
        finding = Finding(
            "closed", one.comparison, one.task or ACROSS_MODELS, one.models, *(None,) * 6,
            why="" if test else "no model has such heads beside others",
        )  # fmt: skip
        if test is not None:
            finding = replace(
                finding,
                effect=test.difference,
                p_value=test.p_value if test.testable else None,
                smallest_p=test.smallest_p,
                interval=partial(test.interval, span=one.span),
            )
        found.append(finding)
    return found


def _fixed(ends: tuple[float, float], level: float) -> tuple[float, float]:
    """An interval that is of the right level already."""
    return ends


def in_short(found: Sequence[Finding]) -> list[str]:
    """Return one plain sentence a question: what came out how, what could not be tested; numbers stand elsewhere."""
    told = []
    for key, question in QUESTIONS.items():
        of = [one for one in found if one.question == key]
        sentences = _FIRST[key](of) if key in _FIRST else []
        told.append(f"{question} {' '.join(sentences) or _plainly(of)}")
    return told


_SAID = {
    HIGHER: "Higher for {}",
    LOWER: "lower for {}",
    NO_DIFFERENCE: "no difference shown for {}",
    UNTESTABLE: "not testable for {}",
}


def _plainly(found: Sequence[Finding]) -> str:
    """`Higher for a - b; no difference shown for a - c.`: over all runs where that is testable, else over tasks, else
    in any single task."""
    by_verdict: dict[str, list[str]] = {}
    for comparison in dict.fromkeys(one.comparison for one in found):
        alike = [one for one in found if one.comparison == comparison]
        order = [*_OVERALL, *(one.of for one in alike if one.of not in _OVERALL)]
        testable = sorted((one for one in alike if one.testable), key=lambda one: order.index(one.of))
        overall = [one for one in testable if one.of in _OVERALL]
        words = comparison if overall else ""
        if not testable:
            by_verdict.setdefault(UNTESTABLE, []).append(comparison)
        elif words:
            by_verdict.setdefault(overall[0].outcome, []).append(words)
        else:
            for one in testable:
                by_verdict.setdefault(one.outcome, []).append(f"{comparison} ({one.of})")
    if not by_verdict:
        return "No step of it is done."
    parts = [words.format(", ".join(by_verdict[one])) for one, words in _SAID.items() if one in by_verdict]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."
