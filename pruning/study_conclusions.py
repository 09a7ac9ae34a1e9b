"""The conclusions of Prasanna et al. (2020), tested on the data of one study, with effect sizes and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .consistency import kappas
from .permutation import HIGHER, LEVEL, LOWER, NO_DIFFERENCE, UNTESTABLE, holm, verdict
from .stability import Bools, stacked
from .study_data import METHODS, MIN_VALUES, STATES, StudyData, metric_range, t_interval, within_range
from .tables import p_words

if TYPE_CHECKING:
    import pandas as pd

ACROSS_RUNS, ACROSS_TASKS = "all tasks' runs", "tasks"
BELOW_MAJORITY = "the threshold lies below the commonest label's score"
"""Why a task's survivors are not testable."""
_SHARES = (-1.0, 1.0)  # of a difference of shares
_OVERALL = {ACROSS_RUNS: "over all runs (these tasks, other seeds)", ACROSS_TASKS: "over tasks"}
_NULLS = {"size": "as many at random", "size-per-layer": "as many in every layer"}
_MOST_EXACT = 16  # from 2**16 changes of sign on, a sample of them is drawn
_RESAMPLES = 2000
_QUESTIONS = {
    "good": "Are good subnetworks better than others of their size after fine-tuning again?",
    "stable": "Is survival more stable over seeds than by chance?",
    "patterns": "Are the maps of super-survivors heterogeneous more or less often than those of the other heads of "
    "their layers?",
}


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    question: str
    """One of the keys of ``_QUESTIONS``."""
    comparison: str
    of: str
    """A task, or over what: all runs of all tasks (these tasks, other seeds), or tasks (other tasks)."""
    n: int
    """Pairs, heads or tasks."""
    effect: float | None
    """In the units of the metric, of kappa, or in shares."""
    low: float | None
    high: float | None
    """95% interval of the effect."""
    size: float | None
    """Mean of the paired differences by their standard deviation; None for what is not paired."""
    p_value: float | None
    smallest_p: float | None
    """What the test could have given at best."""
    p_holm: float | None = None
    """Adjusted for all testable comparisons of its question over the same of-kind."""
    why: str = ""
    """Why it is not testable whatever the numbers say."""

    @property
    def testable(self) -> bool:
        """Whether the test could have come out below the level."""
        return not self.why and self.p_value is not None and (self.smallest_p or 0.0) <= LEVEL

    @property
    def verdict(self) -> str:
        """What the data say, in a word or two."""
        if not self.testable or self.effect is None:
            if self.why:
                return f"{UNTESTABLE}: {self.why}"
            if self.smallest_p is not None:
                return f"{UNTESTABLE}: no p below {p_words(self.smallest_p)} is possible with n = {self.n}"
            return UNTESTABLE
        return verdict(self.effect, self.p_value if self.p_holm is None else self.p_holm, self.smallest_p)


def findings_of(data: StudyData) -> list[Finding]:
    """Return all comparisons, the p-values adjusted by Holm within each question, tasks apart from overall ones."""
    found = [*_good(data), *_stable(data), *_patterns(data)]
    adjusted: dict[int, float | None] = {}
    families: dict[tuple[str, bool], list[int]] = {}
    for i, one in enumerate(found):
        families.setdefault((one.question, one.of in _OVERALL), []).append(i)
    for places in families.values():
        values = holm([found[i].p_value if found[i].testable else None for i in places])
        adjusted |= dict(zip(places, values, strict=True))
    return [Finding(**{**asdict(one), "p_holm": adjusted[i]}) for i, one in enumerate(found)]


def findings_frame(found: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a comparison."""
    import pandas as pd

    names = ["question", "comparison", "of", "n", "effect", "low", "high", "size", "p_value", "p_holm"]
    rows = [{**{name: getattr(one, name) for name in names}, "verdict": one.verdict} for one in found]
    frame = pd.DataFrame(rows, columns=[*names, "verdict"])
    return frame.astype(dict.fromkeys(names[4:], "float64"))


def sign_flip(differences: npt.NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """Return the two-sided p-value of a paired permutation test of the mean, and the smallest that is possible.

    Under the hypothesis that the two of a pair are exchangeable, every sign is as likely as the other. All ways
    to change signs are looked at, for more than 16 pairs a random sample of them.
    """
    from scipy.stats import permutation_test

    n = len(differences)
    exact = n <= _MOST_EXACT
    resamples = 2**n if exact else 99_999
    found = permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(found.pvalue)), min(1.0, 2.0 / (2**n if exact else resamples + 1))


def conclusions(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return each question with what this study's data support, in sentences: ``key``, ``question``, ``answers``.

    What can be tested comes first, then in a sentence what cannot. :func:`findings_frame` has every number.
    """
    told = []
    for key, question in _QUESTIONS.items():
        of = [one for one in found if one.question == key]
        overall = [one for one in of if one.of in _OVERALL]
        single = [one for one in of if one.of not in _OVERALL]
        sentences = _both_nulls(single) if key == "stable" else []
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
    bounds = "" if one.low is None else f" [{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.effect:+.3f}{bounds}"


def _limit(one: Finding) -> str:
    """Over what a comparison was not testable, and what p it could have given at best."""
    best = "" if one.smallest_p is None else f", at best p {_p(one.smallest_p)}"
    return f"{_OVERALL.get(one.of, 'task by task')} (n = {one.n}{best})"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _both_nulls(found: Sequence[Finding]) -> list[str]:
    """Whether heads survive more stably than both kinds of random subnetworks: the layers explain the easier part."""
    by_task: dict[str, list[Finding]] = {}
    for one in found:
        if one.comparison.startswith("heads"):
            by_task.setdefault(one.of, []).append(one)
    by_task = {task: both for task, both in by_task.items() if all(one.testable for one in both)}
    if not by_task:
        return []
    above = [task for task, both in by_task.items() if all(one.verdict == "higher" for one in both)]
    named = ": " + ", ".join(above) if above else ""
    told = f"in {len(above)} of {len(by_task)} tasks{named}"
    return [
        f"Heads survive more stably than random ones of the same number, in all and in every layer, {told}."
    ]


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


def _good(data: StudyData) -> list[Finding]:
    """Good against random and bad, and super good likewise, seed by seed."""
    scores = data.by_seed
    scores = scores[scores["state"] == STATES[1]]
    found = []
    for method in METHODS:
        of_method = scores[scores["method"] == method]
        for one, other in (
            ("good", "random"),
            ("good", "bad"),
            ("super-good", "super-random"),
            ("super-good", "super-bad"),
        ):
            table = of_method[of_method["subnetwork"].isin((one, other))].pivot(
                index=["task", "seed"], columns="subnetwork", values="score"
            )
            if not {one, other} <= set(table.columns):
                continue
            pairs = (table[one] - table[other]).dropna()
            order = [task for task in data.plan.study.tasks if task in pairs.index.get_level_values("task")]
            by_task = {task: pairs.xs(task, level="task").to_numpy() for task in order}
            metrics = dict(zip(scores["task"], scores["metric"], strict=True))
            spans = {task: metric_range(metrics[task]) for task in order}
            vain = {task for task, of in data.untestable if of == method}
            found += _paired("good", f"{method}: {one} - {other}", by_task, spans, vain)
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
        one = _one(question, comparison, task, values, t_interval(values, (-width, width)))
        found.append(replace(one, p_value=None, why=BELOW_MAJORITY) if task in vain else one)
    rest = {task: values for task, values in by_task.items() if task not in vain}
    if rest:
        widest = max(high - low for low, high in (spans[task] for task in rest))
        means = np.array([values.mean() for values in rest.values()])
        runs = np.concatenate(list(rest.values()))
        fixed = _fixed_tasks(list(rest.values()), (-widest, widest))
        found.append(_one(question, comparison, ACROSS_RUNS, runs, fixed, float(means.mean())))
        found.append(_one(question, comparison, ACROSS_TASKS, means, t_interval(means, (-widest, widest))))
    return found


def _one(
    question: str,
    comparison: str,
    of: str,
    values: npt.NDArray[np.floating],
    bounds: tuple[float, float],
    effect: float | None = None,
) -> Finding:
    """Return one comparison of paired values; its effect is their mean if none is given."""
    effect = float(values.mean()) if effect is None else effect
    p, smallest = sign_flip(values) if len(values) > 1 else (None, 1.0)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Finding(
        question,
        comparison,
        of,
        len(values),
        effect,
        _known(bounds[0]),
        _known(bounds[1]),
        effect / spread if spread > 0 else None,
        p,
        smallest,
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _fixed_tasks(
    by_task: Sequence[npt.NDArray[np.floating]], span: tuple[float, float]
) -> tuple[float, float]:
    """95% interval of the mean of the tasks' means, when other seeds are drawn of the same tasks."""
    from scipy.stats import t

    if any(len(values) < MIN_VALUES for values in by_task):
        return float("nan"), float("nan")
    df = sum(len(values) - 1 for values in by_task)
    error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in by_task)) / len(by_task)
    mean = float(np.mean([values.mean() for values in by_task]))
    return within_range(mean, float(t.ppf(0.975, df) * error), span)


def _stable(data: StudyData) -> list[Finding]:
    """Fleiss' kappa less its mean by chance; the interval resamples heads (or MLPs)."""
    found = []
    for what in ("heads", "mlps"):
        above: dict[str, list[float]] = {}
        for group in data.groups():
            part = data.stability[group.name][what]
            kappa = part["fleiss_kappa"]
            for null, level in part["chance"].get("fleiss_kappa", {}).items():
                name = f"{'MLPs' if what == 'mlps' else what}: kappa above chance ({_NULLS[null]})"
                n = part["all"]
                why = BELOW_MAJORITY if group.untestable else ""
                if kappa is None or level["mean"] is None:
                    found.append(Finding("stable", name, group.task, n, None, None, None, None, None, None))
                    continue
                effect = kappa - level["mean"]
                low, high = _kappa_interval(stacked(group.subnetworks, what), kappa, data.plan.study.seed)
                bounds = _known(low - level["mean"]), _known(high - level["mean"])
                smallest = 1 / (level["draws"] + 1)
                found.append(
                    Finding(
                        "stable",
                        name,
                        group.task,
                        n,
                        effect,
                        bounds[0],
                        bounds[1],
                        None,
                        None if why else level["p_value"],
                        smallest,
                        why=why,
                    )
                )
                if why:
                    continue
                above.setdefault(name, []).append(effect)
        for name, effects in above.items():
            values = np.array(effects)
            found.append(_one("stable", name, ACROSS_TASKS, values, t_interval(values, (-2.0, 2.0))))
    return found


def _kappa_interval(masks: Bools, kappa: float, seed: int) -> tuple[float, float]:
    """95% bootstrap interval over heads of the kappa of masks ``[S, ...]``, symmetric (Hall 1988) and within its range.

    Kappas of resampled heads lie lower on average, so that percentiles may leave out the kappa itself. NaN where all
    of them are the same, which says nothing of how far others would lie off.
    """
    flat = masks.reshape(len(masks), -1)
    places = np.random.default_rng(seed).integers(flat.shape[1], size=(_RESAMPLES, flat.shape[1]))
    values = kappas(np.moveaxis(flat[:, places], 0, 1))
    values = values[~np.isnan(values)]
    half = float(np.percentile(np.abs(values - kappa), 95)) if len(values) else 0.0
    if not half > 0:
        return float("nan"), float("nan")
    return max(kappa - half, -1 / (len(masks) - 1)), min(kappa + half, 1.0)


def _patterns(data: StudyData) -> list[Finding]:
    """The one difference of super-survivors and the other heads, see :func:`pruning.survivor_patterns.compare`."""
    found = []
    gaps: dict[str, list[float]] = {}
    for name, kinds in data.patterns.items():
        task, model = name.split(" ", 1)
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
            low, high = one["ci95"]
            p, smallest = (None, None) if why else (one["p_value"], one["smallest_p"])
            found.append(
                Finding("patterns", comparison, task, n, one["value"], low, high, None, p, smallest, why=why)
            )
            if not why:
                gaps.setdefault(comparison, []).append(one["value"])
    for comparison, effects in gaps.items():
        values = np.array(effects)
        found.append(_one("patterns", comparison, ACROSS_TASKS, values, t_interval(values, _SHARES)))
    return found


def in_short(found: Sequence[Finding]) -> list[str]:
    """Return one plain sentence a question: what came out how, what could not be tested; numbers stand elsewhere."""
    told = []
    for key, question in _QUESTIONS.items():
        of = [one for one in found if one.question == key]
        sentence = _both_nulls([one for one in of if one.of not in _OVERALL])[:1] if key == "stable" else []
        told.append(f"{question} {sentence[0] if sentence else _plainly(of)}")
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
            by_verdict.setdefault(overall[0].verdict, []).append(words)
        else:
            for one in testable:
                by_verdict.setdefault(one.verdict, []).append(f"{comparison} ({one.of})")
    if not by_verdict:
        return "No step of it is done."
    parts = [words.format(", ".join(by_verdict[one])) for one, words in _SAID.items() if one in by_verdict]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."
