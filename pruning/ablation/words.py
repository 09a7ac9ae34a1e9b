"""What an ablation found, in words."""

from __future__ import annotations

from models.common.words import count_words, p_equals, p_words

from ..permutation import HIGHER, LOWER, UNTESTABLE
from .records import AblationSummary, Beside, GroupRecord, Tested


def label(one: GroupRecord) -> str:
    """``norm: vertical (12 heads)``."""
    return f"{one['kind']}: {one['title']} ({count_words(one['heads'], 'head')})"


def number_words(value: float | None) -> str:
    """With its sign, to four places."""
    return "-" if value is None else f"{value:+.4f}"


def p_and_verdict(test: Tested) -> str:
    """``p .010, higher``."""
    if test["verdict"] == UNTESTABLE:
        return UNTESTABLE
    return f"p {p_words(test['p_holm'])}, {test['verdict']}"


def together_words(one: GroupRecord, metric: str) -> str:
    """Say what closing a group costs beside random sets."""
    test, random = one["together"], one["together"]["random"]
    name = f"{one['title']} ({one['kind']} maps)"
    if random is None:
        return f"{name}: {UNTESTABLE}, {test['why']}."
    low, high = map(number_words, random["ci95"])
    said = (
        f"{name}: closing all {count_words(one['heads'], 'head')} costs {number_words(test['drop'])} {metric}"
        f"{_over_inputs(test)}; random sets of as many in the same layers cost {number_words(random['mean'])} on "
        f"average, 95% of them {low} to {high}"
    )
    if test["verdict"] == UNTESTABLE:
        return f"{said}; whether that is more than chance is {UNTESTABLE}: {test['why']}."
    return f"{said}: {_BESIDE.get(test['verdict'], _BESIDE[''])} (p {p_equals(test['p_holm'])})."


def _over_inputs(test: Beside) -> str:
    """The interval of a drop, if there is one."""
    low, high = test["drop_ci95"]
    return "" if low is None else f" [{number_words(low)}, {number_words(high)}] (95% over inputs)"


def alone_words(one: GroupRecord, metric: str) -> str:
    """Say what closing single heads of a group costs beside the others of their layers."""
    test = one["one_by_one"]
    name = f"{one['title']} ({one['kind']} maps)"
    if test is None:
        return f"{name}: {UNTESTABLE}, no head is of this group."
    said = f"{name}: closed alone, its heads cost {number_words(test['mean_drop'])} {metric} each"
    if test["others"] is None:
        return f"{said}; every head is of this group, so there is nothing to compare."
    said += f", the other heads {number_words(test['others'])}"
    if test["verdict"] == UNTESTABLE:
        return f"{said}; whether that is more than chance is {UNTESTABLE}: {test['why']}."
    low, high = test["ci95"]
    return (
        f"{said}; {number_words(test['by_layers'])} of the difference are explained by the layers in which they lie, "
        f"and the rest is {number_words(test['difference'])} [{number_words(low)}, {number_words(high)}]: "
        f"{_EACH.get(test['verdict'], _EACH[''])} (p {p_equals(test['p_holm'])})."
    )


_BESIDE = {
    HIGHER: "more than as many others of the same layers",
    LOWER: "less than as many others of the same layers",
    "": "no difference shown to as many others of the same layers",
}
_EACH = {
    HIGHER: "more than the other heads of their layers",
    LOWER: "less than the other heads of their layers",
    "": "no difference shown to the other heads of their layers",
}


def headline(summary: AblationSummary) -> str:
    """Say what was scored, and how."""
    within = f" within {summary['subnetwork']}" if summary["subnetwork"] else ""
    return (
        f"{summary['model']}{within}, {summary['task']} {summary['split']}, {summary['examples']} examples: "
        f"{summary['metric']} {summary['score']:.4f} with nothing closed, {summary['majority_score']:.4f} of always "
        f"saying the commonest label; {summary['heads']['counted']} of {summary['heads']['all']} heads looked at."
    )
