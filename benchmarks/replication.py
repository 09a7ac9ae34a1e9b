"""Put a study beside the paper that it replicates: Prasanna, Rogers and Rumshisky (EMNLP 2020).

    python benchmarks/replication.py docs/replication

The folder holds the tables of the study's report (``tables/``), figures of the paper (``paper.csv``: what it prints,
and what follows from its released masks; BERT-base, eight tasks of GLUE; STS-B by the mean of Pearson's and Spearman's
correlation, as studies score it, and without its random baseline), and ``README.md``. Between each ``<!-- NAME -->``
and ``<!-- end -->`` of that page goes the table of that name, so that no number in them is written by hand.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from models.common.files import atomic_file
from models.common.words import markdown_table, p_equals, p_words
from pruning.permutation import HIGHER, LOWER, NO_DIFFERENCE, UNTESTABLE
from pruning.study.report.conclusions import ACROSS_RUNS as RUNS

PAPER = "the paper"
STATES = ("pruned", "fine-tuned")
SUBNETWORKS = {
    "structured": ("good", "random", "bad", "super-good", "super-random", "super-bad"),
    "magnitude": ("good", "random", "bad"),
}
AKIN = (frozenset({"mrpc", "qqp", "stsb"}), frozenset({"mnli", "qnli", "rte"}))
"""Tasks that ask the same of two sentences: whether they mean the same, and whether one follows from the other."""
NEAR = 0.02
"""Scores that differ by no more are taken for equally good."""
Row = tuple[str, str, str]
"""What the paper found, what the study found, and whether that is the same."""
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Study:
    """The tables of a study, and the paper's figures."""

    home: Path
    """The folder that holds them."""

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the study's report.

        Raises:
            FileNotFoundError: no step is done that it is made of.
        """
        return pd.read_parquet(self.home / "tables" / f"{name}.parquet")

    @property
    def looked_at_patterns(self) -> bool:
        """Whether steps of patterns are done."""
        return (self.home / "tables" / "patterns.parquet").is_file()

    @cached_property
    def tasks(self) -> list[str]:
        """The study's tasks, in its order."""
        return list(dict.fromkeys(self.table("stability")["task"]))

    @cached_property
    def paper(self) -> pd.DataFrame:
        """The paper's figures: ``value`` and ``std`` over five seeds, or ``value`` and that expected by ``chance``."""
        return pd.read_csv(self.home / "paper.csv", keep_default_na=False, na_values=[""]).fillna(
            {"other": ""}
        )

    def of_paper(self, quantity: str, task: str, what: str, other: str = "") -> pd.Series | None:
        """Return one of them; None if the paper has none."""
        paper = self.paper
        for name, value in (("quantity", quantity), ("task", task), ("what", what), ("other", other)):
            paper = paper[paper[name] == value]
        return paper.iloc[0] if len(paper) else None

    def papers(self, quantity: str, what: str) -> pd.DataFrame:
        """Return one of them of all the study's tasks that it has it of."""
        paper = self.paper
        return paper[
            (paper["quantity"] == quantity) & (paper["what"] == what) & paper["task"].isin(self.tasks)
        ]

    def of_paper_pair(self, one: str, other: str) -> pd.Series | None:
        """Return how many heads two tasks share in the paper, whichever stands first."""
        there = self.of_paper("shared", one, "heads", other)
        return self.of_paper("shared", other, "heads", one) if there is None else there

    def stable(self, statistic: str, what: str = "heads") -> pd.DataFrame:
        """Return a statistic of agreement over seeds, a row a task, beside random subnetworks of the same sizes."""
        found = self.table("stability")
        found = found[found["other"].fillna("").eq("") & found["null"].eq("size")]
        return found[(found["what"] == what) & (found["statistic"] == statistic)].set_index("task")

    def judged(self, statistic: str) -> pd.DataFrame:
        """The same of heads, without tasks whose threshold lies below the commonest label's score."""
        told = self.table("conclusions")
        structured = ~told["comparison"].str.startswith("magnitude: ")
        vain = told[structured & told["verdict"].str.contains("commonest label's score")]["of"]
        found = self.stable(statistic)
        return found[~found.index.isin(vain)]

    def pairs(self, what: str = "heads") -> list[dict[str, Any]]:
        """Return how many heads each two tasks share, seed by seed, beside random subnetworks of the same sizes."""
        found = self.table("stability")
        found = found[found["statistic"].eq("shared, same-seed pairs") & found["null"].eq("size")]
        return [
            {str(key): value for key, value in row.items()}
            for row in found[found["what"] == what].to_dict("records")
        ]

    def counted(self, comparison: str) -> list[str]:
        """Return the tasks that count in an overall comparison.

        What is below the commonest label's score does not, and neither does it in the paper's.
        """
        found = self.table("conclusions")
        there = found[found["of"].isin(self.tasks) & found["comparison"].eq(comparison)]
        there = there[there["effect"].notna() & ~there["verdict"].str.contains("commonest label")]
        return list(there["of"])

    def difference(self, comparison: str, tasks: Sequence[str]) -> float | None:
        """The paper's mean difference over these tasks, of a comparison such as ``structured: good - random``."""
        differences = self.differences(comparison, tasks)
        return sum(differences) / len(differences) if differences else None

    def differences(self, comparison: str, tasks: Sequence[str]) -> list[float]:
        """The same of each task that the paper has both scores of."""
        place, _, sides = comparison.partition(": ")
        named = {"full model": "full", "commonest label": "majority"}
        found = []
        for task in tasks:
            one, other = (
                self.of_paper("score", task, named.get(side, f"{place} {side} fine-tuned"))
                for side in sides.split(" - ")
            )
            if one is not None and other is not None:
                found.append(float(one["value"]) - float(other["value"]))
        return found

    def components(self, what: str) -> int:
        """How many heads or MLPs the model has."""
        survivors = self.table("survivors")
        return len(
            survivors[survivors["what"] == what.removesuffix("s")][["layer", "head"]].drop_duplicates()
        )


def number(value: float | None, decimals: int = 2, signed: bool = False) -> str:
    """Return a number, or a dash for none."""
    return "–" if value is None or pd.isna(value) else f"{value:{'+' if signed else ''}z.{decimals}f}"


def _ratio(value: float, chance: float) -> str:
    return number(value / chance if chance else None)


def _p(p: float) -> str:
    return "" if pd.isna(p) else f"; p {p_equals(p)}"


_STABILITY = (
    ("super_survivors", "heads", "heads that every seed keeps", 0),
    ("never_survivors", "heads", "heads that no seed keeps", 0),
    ("unstable_share", "heads", "share of the other, unstable heads", 2),
    ("fleiss_kappa", "heads", "Fleiss' kappa of heads", 2),
    ("super_survivors", "mlps", "MLPs that every seed keeps", 0),
    ("fleiss_kappa", "mlps", "Fleiss' kappa of MLPs", 2),
)


def stability(study: Study) -> str:
    """What survives over seeds, beside random subnetworks of the same sizes (their 95% range in brackets)."""
    rows = []
    for statistic, what, words, decimals in _STABILITY:
        found = study.stable(statistic, what)
        ours, theirs = [], []
        for task in study.tasks:
            paper = study.of_paper(statistic, task, what)
            chance = "" if paper is None or pd.isna(paper["chance"]) else f" ({number(paper['chance'], 1)})"
            theirs.append("–" if paper is None else number(paper["value"], decimals) + chance)
            if task not in found.index:  # of one search nothing is known by chance
                ours.append("–")
                continue
            one = found.loc[task]
            chance = number(one["chance"], max(decimals, 1))
            low, high = (number(one[f"chance_{end}"], decimals) for end in ("low", "high"))
            ours.append(f"{number(one['value'], decimals)} ({chance} [{low}, {high}]{_p(one['chance_p'])})")
        many = f", of {study.components(what)}" if not decimals else ""
        rows += [
            [words + many, *ours],
            [f"{PAPER}{', of 144' if what == 'heads' else ', of 12'}" if many else PAPER, *theirs],
        ]
    return markdown_table(["", *study.tasks], rows)


def importance(study: Study) -> str:
    """How many heads and MLPs of the full models matter little, beside those of the masks that the paper released."""
    found = study.table("importance_summary").set_index(["task", "component"])
    rows = []
    for component, words in (("head", "heads"), ("mlp", "MLPs")):
        each = [found.loc[(task, component)] for task in study.tasks]
        paper = [study.of_paper("importance_low", task, words.lower()) for task in study.tasks]
        medians = [study.of_paper("importance_median", task, words.lower()) for task in study.tasks]
        rows += [
            [f"median importance of {words}", *(number(one["median"]) for one in each)],
            [PAPER, *("–" if one is None else number(one["value"]) for one in medians)],
            [
                f"share of {words} below .2",
                *(f"{number(one['low'])} ± {number(one['low_std'])}" for one in each),
            ],
            [PAPER, *map(_spread, paper)],
        ]
    return markdown_table(["", *study.tasks], rows)


def _spread(one: pd.Series | None) -> str:
    """Return the mean and standard deviation of one of the paper's figures over its seeds."""
    return "–" if one is None else f"{number(one['value'])} ± {number(one['std'])}"


def shared(study: Study) -> str:
    """Heads that the subnetworks of two tasks share, seed by seed, over what is expected of random ones."""
    rows = []
    for one in study.pairs():
        paper = study.of_paper_pair(one["task"], one["other"])
        chance = (
            f"{number(one['chance'], 1)} [{number(one['chance_low'], 1)}, {number(one['chance_high'], 1)}]"
        )
        cells = [number(one["value"], 1), chance, _ratio(one["value"], one["chance"])]
        if paper is None:
            cells += ["–", "–", "–"]
        else:
            cells += [
                number(paper["value"], 1),
                number(paper["chance"], 1),
                _ratio(paper["value"], paper["chance"]),
            ]
        rows.append([f"{one['task']}, {one['other']}", *cells])
    columns = ["shared", "by chance", "ratio"]
    return markdown_table(["tasks", *columns, *(f"{PAPER}: {name}" for name in columns)], rows)


def _mean(one: pd.Series) -> str:
    """Return a mean over seeds with its interval, where it has one."""
    interval = "" if pd.isna(one["low"]) else f" [{number(one['low'])}, {number(one['high'])}]"
    return number(one["mean"]) + interval


def scores(study: Study, method: str) -> str:
    """Means over seeds with their 95% intervals, and below each the paper's mean and standard deviation."""
    found = study.table("score_summary").fillna({"method": ""})
    kinds = [("", "full", "full")] + [
        (method, subnetwork, state) for subnetwork in SUBNETWORKS[method] for state in STATES
    ]
    rows = []
    for of, subnetwork, state in kinds:
        here = found[
            (found["method"] == of) & (found["subnetwork"] == subnetwork) & (found["state"] == state)
        ]
        if not len(here):
            continue
        by_task = here.set_index("task")
        ours = [_mean(by_task.loc[task]) if task in by_task.index else "–" for task in study.tasks]
        what = f"{of} {subnetwork} {state}" if of else "full"
        theirs = [study.of_paper("score", task, what) for task in study.tasks]
        rows.append([f"{subnetwork}, {state}" if of else "full model", *ours])
        rows.append([PAPER, *map(_spread, theirs)])
    commonest = found[found["state"] == "full"].set_index("task")["majority"]
    rows.append(["commonest label", *(number(commonest[task]) for task in study.tasks)])
    return markdown_table(["", *study.tasks], rows)


def comparisons(study: Study, *questions: str) -> str:
    """What was tested over all runs and over tasks, adjusted by Holm within a question."""
    found = study.table("conclusions")
    found = found[found["question"].isin(questions)]
    rows = []
    for one in found[~found["of"].isin(study.tasks)].to_dict("records"):
        if one["of"] != RUNS and str(one["verdict"]).startswith(UNTESTABLE):
            continue
        between = (
            "–" if pd.isna(one["low"]) else f"[{number(one['low'], 3, True)}, {number(one['high'], 3, True)}]"
        )
        rows.append(
            [
                one["comparison"],
                f"{one['of']} ({one['n']:.0f})",
                number(one["effect"], 3, True),
                between,
                "–" if pd.isna(one["p_holm"]) else p_words(one["p_holm"]),
                str(one["verdict"]),
                _difference(study, one["comparison"]),
            ]
        )
    return markdown_table(
        ["comparison", "over", "difference", "95% interval", "p (Holm)", "verdict", PAPER], rows
    )


def _difference(study: Study, comparison: str) -> str:
    """The paper's mean difference; where it lacks a score of some tasks, over how many it is stands behind."""
    tasks = study.counted(comparison)
    told = study.differences(comparison, tasks)
    short = f" ({len(told)} tasks)" if 0 < len(told) < len(tasks) else ""
    return number(study.difference(comparison, tasks), 3, True) + short


def patterns(study: Study) -> str:
    """The interpretable ratio of super-survivors and of all heads, and the test of the former against others."""
    if not study.looked_at_patterns:
        return "No step of patterns is done.\n"
    shares = study.table("patterns")
    shares = shares[shares["pattern"] == "heterogeneous"].set_index(["task", "kind", "heads"])["share"]
    tested = study.table("conclusions").set_index(["comparison", "of"])
    rows = []
    for kind in ("raw", "norm"):
        for model in ("fine-tuned", "pre-trained"):
            for task in study.tasks:
                where = (f"{task} {model}", kind)
                if (*where, "all") not in shares.index:
                    continue
                test = (f"{kind} maps, {model}: super-survivors - others", task)
                one = tested.loc[test] if test in tested.index else None
                cells = [
                    f"{100 * shares.get((*where, heads), float('nan')):.1f}%"
                    for heads in ("super_survivors", "all")
                ]
                if one is None or pd.isna(one["low"]):
                    cells.append("–" if one is None else str(one["verdict"]).split(":")[0])
                else:
                    cells.append(
                        f"{100 * one['effect']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
                    )
                for heads in ("super_survivors", "all"):
                    paper = study.of_paper("heterogeneous", task, f"{heads} {model} {kind}")
                    cells.append("–" if paper is None else f"{100 * paper['value']:.1f}%")
                rows.append([f"{kind}, {model}, {task}", *cells])
    columns = [
        "super-survivors",
        "all heads",
        "difference within layers",
        f"{PAPER}: super-survivors",
        f"{PAPER}: all",
    ]
    return markdown_table(["maps", *columns], rows)


def _spans(values: Sequence[float], decimals: int = 2) -> str:
    """`0.19 to 0.32`; a dash where there are none."""
    if not len(values):
        return "–"
    low, high = number(min(values), decimals), number(max(values), decimals)
    return low if low == high else f"{low} to {high}"


def _where(holds: Mapping[str, bool]) -> str:
    """In which tasks something is so; a dash where it is known of none."""
    if not holds:
        return "–"
    there = [task for task, so in holds.items() if so]
    return "yes" if len(there) == len(holds) else f"in {', '.join(there)} only" if there else "no"


def _survive(study: Study) -> Row:
    found, paper = study.judged("super_survivors"), study.papers("super_survivors", "heads")
    return (
        f"{_spans(list(paper['value']), 0)} of 144 heads, {_spans(list(paper['chance']), 1)} by chance",
        f"{_spans(list(found['value']), 0)} of {study.components('heads')} heads, {_spans(list(found['chance']), 1)} "
        f"by chance, which reaches {_spans(list(found['chance_high']), 0)} (95%)",
        _where(dict(found["value"] > found["chance_high"])),
    )


def _unstable(study: Study) -> Row:
    found, paper = study.judged("unstable_share"), study.papers("unstable_share", "heads")
    return (
        f"{_spans(list(paper['value']))} of the heads",
        f"{_spans(list(found['value']))}, {_spans(list(found['chance']))} by chance",
        _where(dict(found["value"] > 0.5)),
    )


def _agree_weakly(study: Study) -> Row:
    found, paper = study.judged("fleiss_kappa"), study.papers("fleiss_kappa", "heads")
    return (
        _spans(list(paper["value"])),
        f"{_spans(list(found['value']))}; by chance "
        f"{_spans([found['chance_low'].min(), found['chance_high'].max()])} (95%)",
        _where(dict(found["value"].round(1).between(0.1, 0.3))),
    )


def _matter_little(study: Study) -> Row:
    found = study.table("importance_summary").query("component == 'head'").set_index("task")
    found, paper = found.loc[study.tasks], study.papers("importance_low", "heads")
    return (
        f"{_spans(list(paper['value']))} of the heads below .2",
        f"{_spans(list(found['low']))} (standard deviation over seeds at most {number(found['low_std'].max())})",
        _where(dict(found["low"] > 0.5)),
    )


def _kinship(study: Study) -> Row:
    theirs, ours = {}, {}
    for one in study.pairs():
        pair = one["task"], one["other"]
        if one["chance"]:  # none where a search leaves no head
            ours[pair] = one["value"] / one["chance"]
        if (paper := study.of_paper_pair(*pair)) is not None:
            theirs[pair] = paper["value"] / paper["chance"]

    def told(ratios: Mapping[tuple[str, str], float]) -> tuple[str, bool | None]:
        akin = {pair: ratio for pair, ratio in ratios.items() if any(set(pair) <= kin for kin in AKIN)}
        others = [ratio for pair, ratio in ratios.items() if pair not in akin]
        if not akin or not others:
            return "no pairs of both sorts", None
        return (
            f"shared over chance {_spans(list(akin.values()))} ({', '.join('–'.join(pair) for pair in akin)}, akin), "
            f"{_spans(others)} (the other pairs)",
            max(akin.values()) < max(others),
        )

    (paper_words, _), (words, follows_not) = told(theirs), told(ours)
    return paper_words, words, "–" if follows_not is None else "yes" if follows_not else "no"


def _compared(study: Study, comparison: str, between: tuple[float, float] | None = None) -> Row:
    """A comparison over all runs; `between`: it is claimed that in each task the difference lies between these."""
    found = study.table("conclusions").query("comparison == @comparison")
    overall = found[found["of"] == RUNS]
    if not len(overall):
        return "–", "–", "–"
    one = overall.iloc[0]
    counted = study.counted(comparison)
    effects = found[found["of"].isin(counted)].set_index("of")["effect"]
    paper = study.difference(comparison, counted)
    ends = "" if pd.isna(one["low"]) else f" [{number(one['low'], 3, True)}, {number(one['high'], 3, True)}]"
    tasks = ", ".join(f"{task} {number(effect, 2, True)}" for task, effect in effects.items())
    ours = f"{number(one['effect'], 3, True)}{ends} over {one['n']:.0f} runs ({tasks})"
    if between is not None:
        alike = _where(dict(effects.between(*between)))
    elif str(one["verdict"]) in (HIGHER, LOWER):
        alike = "yes" if paper is None or one["effect"] * paper > 0 else "no"
    else:
        alike = str(one["verdict"]).split(":")[0]
    return number(paper, 3, True), ours, alike


def _not_more_heterogeneous(study: Study, kind: str) -> Row:
    """Of fine-tuned models."""
    if not study.looked_at_patterns:
        return "–", "–", "–"
    shares = study.table("patterns")
    shares = shares[shares["pattern"] == "heterogeneous"].set_index(["task", "kind", "heads"])["share"]
    paper, plain, within, verdicts = [], [], [], []
    tested = study.table("conclusions").set_index(["comparison", "of"])
    for task in study.tasks:
        supers, all_heads = (
            study.of_paper("heterogeneous", task, f"{heads} fine-tuned {kind}")
            for heads in ("super_survivors", "all")
        )
        if supers is not None and all_heads is not None:
            paper.append(100 * (supers["value"] - all_heads["value"]))
        where = (f"{task} fine-tuned", kind)
        if (*where, "super_survivors") not in shares.index:
            continue
        plain.append(100 * (shares[(*where, "super_survivors")] - shares[(*where, "all")]))
        one = tested.loc[(f"{kind} maps, fine-tuned: super-survivors - others", task)]
        within.append(100 * one["effect"])
        verdicts.append(str(one["verdict"]).split(":")[0])
    if not plain:
        return "–", "–", "–"
    # That nothing is shown is no proof of the claim.
    order = {HIGHER: "no", NO_DIFFERENCE: NO_DIFFERENCE, LOWER: "yes"}
    alike = next((words for outcome, words in order.items() if outcome in verdicts), UNTESTABLE)
    return (
        f"{_spans_signed(paper)} points, not tested" if paper else "–",
        f"{_spans_signed(plain)} points; within layers {_spans_signed(within)} (intervals below)",
        alike,
    )


def _spans_signed(values: Sequence[float]) -> str:
    return f"{min(values):+z.0f} to {max(values):+z.0f}"


CLAIMS: Mapping[str, Callable[[Study], Row]] = {
    "Some heads survive under every seed (super-survivors)": _survive,
    "About 70% of the heads are unstable: kept under some seeds only": _unstable,
    "Seeds agree weakly: Fleiss' kappa of .1 to .3": _agree_weakly,
    "Most heads are of equally low importance": _matter_little,
    "Which heads two tasks share does not follow their kinship": _kinship,
    "Magnitude: good subnetworks train to the full score (good - full model)": partial(
        _compared, comparison="magnitude: good - full model", between=(-NEAR, math.inf)
    ),
    "Magnitude: random ones to less (good - random)": partial(
        _compared, comparison="magnitude: good - random"
    ),
    "Magnitude: bad ones to least (random - bad)": partial(_compared, comparison="magnitude: random - bad"),
    "Structured: random ones train nearly as well as good ones (good - random)": partial(
        _compared, comparison="structured: good - random", between=(-math.inf, NEAR)
    ),
    "Structured: even bad ones train (bad - commonest label)": partial(
        _compared, comparison="structured: bad - commonest label"
    ),
    "Super-survivors are not more often heterogeneous, raw maps": partial(
        _not_more_heterogeneous, kind="raw"
    ),
    "Super-survivors are not more often heterogeneous, norm maps": partial(
        _not_more_heterogeneous, kind="norm"
    ),
}
"""The paper's claims, and what speaks for each there and here."""


def claims(study: Study) -> str:
    """Every claim of the paper with its figures, those of the study, and whether they say the same."""
    return markdown_table(
        ["claim", PAPER, "this study", "the same here"],
        [[words, *of(study)] for words, of in CLAIMS.items()],
        figures=False,
    )


TABLES: dict[str, Callable[[Study], str]] = {
    "claims": claims,
    "stability": stability,
    "importance": importance,
    "shared": shared,
    "structured": partial(scores, method="structured"),
    "magnitude": partial(scores, method="magnitude"),
    "differences": lambda study: comparisons(study, "good", "random", "full", "learn"),
    "patterns": patterns,
}
"""By the names that stand in the page."""


def filled(page: str, study: Study) -> str:
    """Return a page with each table in its place."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]](study)}\n{match[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    page = parser.parse_args().folder / "README.md"
    text = filled(page.read_text(encoding="utf-8"), Study(page.parent))
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
