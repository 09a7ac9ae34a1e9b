"""Put a study beside the paper that it replicates: Prasanna, Rogers and Rumshisky (EMNLP 2020).

    python benchmarks/replication.py docs/replication

The folder holds the tables of the study's report (``tables/``), figures of the paper (``paper.csv``: what it prints,
and what follows from its released masks; BERT-base, eight tasks of GLUE; STS-B by the mean of Pearson's and Spearman's
correlation, as studies score it, and without its random baseline), and ``README.md``. Between each ``<!-- NAME -->``
and ``<!-- end -->`` of that page goes the table of that name, so that no number in them is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from models.common.files import atomic_file

PAPER = "the paper"
STATES = ("pruned", "fine-tuned")
SUBNETWORKS = {
    "structured": ("good", "random", "bad", "super-good", "super-random", "super-bad"),
    "magnitude": ("good", "random", "bad"),
}
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

    def components(self, what: str) -> int:
        """How many heads or MLPs the model has."""
        survivors = self.table("survivors")
        return len(
            survivors[survivors["what"] == what.removesuffix("s")][["layer", "head"]].drop_duplicates()
        )


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is words and whose others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def number(value: float | None, decimals: int = 2) -> str:
    """Return a number, or a dash for none."""
    return "–" if value is None or pd.isna(value) else f"{value:.{decimals}f}"


def _ratio(value: float, chance: float) -> str:
    return number(value / chance if chance else None)


def p_value(p: float | None) -> str:
    return (
        "" if p is None or pd.isna(p) else "; p < .001" if p < 0.001 else f"; p = {p:.3f}".replace("0.", ".")
    )


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
    found = study.table("stability")
    found = found[found["other"].fillna("").eq("") & found["null"].eq("size")]
    rows = []
    for statistic, what, words, decimals in _STABILITY:
        ours, theirs = [], []
        for task in study.tasks:
            here = found[
                (found["task"] == task) & (found["what"] == what) & (found["statistic"] == statistic)
            ]
            paper = study.of_paper(statistic, task, what)
            chance = "" if paper is None or pd.isna(paper["chance"]) else f" ({number(paper['chance'], 1)})"
            theirs.append("–" if paper is None else number(paper["value"], decimals) + chance)
            if not len(here):  # of one search nothing is known by chance
                ours.append("–")
                continue
            one = here.iloc[0]
            chance = number(one["chance"], max(decimals, 1))
            low, high = (number(one[f"chance_{end}"], decimals) for end in ("low", "high"))
            ours.append(
                f"{number(one['value'], decimals)} ({chance} [{low}, {high}]{p_value(one['chance_p'])})"
            )
        many = f", of {study.components(what)}" if not decimals else ""
        rows += [
            [words + many, *ours],
            [f"{PAPER}{', of 144' if what == 'heads' else ', of 12'}" if many else PAPER, *theirs],
        ]
    return markdown(["", *study.tasks], rows)


def importance(study: Study) -> str:
    """How many heads and MLPs of the full models matter little."""
    found = study.table("importance_summary").set_index(["task", "component"])
    rows = []
    for component, words in (("head", "heads"), ("mlp", "MLPs")):
        each = [found.loc[(task, component)] for task in study.tasks]
        rows.append([f"median importance of {words}", *(number(one["median"]) for one in each)])
        rows.append(
            [
                f"share of {words} below .2",
                *(f"{number(one['low'])} ± {number(one['low_std'])}" for one in each),
            ]
        )
    return markdown(["", *study.tasks], rows)


def shared(study: Study) -> str:
    """Heads that the subnetworks of two tasks share, seed by seed, over what is expected of random ones."""
    found = study.table("stability")
    found = found[found["statistic"].eq("shared, same-seed pairs") & found["null"].eq("size")]
    rows = []
    for one in found[found["what"] == "heads"].to_dict("records"):
        paper = study.of_paper("shared", one["task"], "heads", one["other"])
        if paper is None:
            paper = study.of_paper("shared", one["other"], "heads", one["task"])
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
    return markdown(["tasks", *columns, *(f"{PAPER}: {name}" for name in columns)], rows)


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
        rows.append(
            [
                PAPER,
                *("–" if one is None else f"{number(one['value'])} ± {number(one['std'])}" for one in theirs),
            ]
        )
    commonest = found[found["state"] == "full"].set_index("task")["majority"]
    rows.append(["commonest label", *(number(commonest[task]) for task in study.tasks)])
    return markdown(["", *study.tasks], rows)


def comparisons(study: Study, *questions: str) -> str:
    """What was tested over all runs and over tasks, adjusted by Holm within a question."""
    found = study.table("conclusions")
    found = found[found["question"].isin(questions)]
    single = found["of"].isin(study.tasks)
    # What is below the commonest label's score counts in no overall comparison, and neither does it in the paper's.
    there = found[single & found["effect"].notna() & ~found["verdict"].str.contains("commonest label")]
    counted = {name: list(there[there["comparison"] == name]["of"]) for name in found["comparison"]}
    rows = []
    for one in found[~single].to_dict("records"):
        between = "–" if pd.isna(one["low"]) else f"[{number(one['low'], 3)}, {number(one['high'], 3)}]"
        p = "–" if pd.isna(one["p_holm"]) else f"{one['p_holm']:.3f}"
        theirs = _difference(study, one["comparison"], counted[one["comparison"]])
        rows.append(
            [
                one["comparison"],
                f"{one['of']} ({one['n']:.0f})",
                number(one["effect"], 3),
                between,
                p,
                str(one["verdict"]),
                theirs,
            ]
        )
    return markdown(["comparison", "over", "difference", "95% interval", "p (Holm)", "verdict", PAPER], rows)


def _difference(study: Study, comparison: str, tasks: Sequence[str]) -> str:
    """The paper's mean difference over these tasks, of a comparison such as ``structured: good - random``.

    Where it lacks a score of some of them, over how many it is stands behind.
    """
    place, _, sides = comparison.partition(": ")
    named = {"full model": "full", "commonest label": "majority"}
    differences = []
    for task in tasks:
        one, other = (
            study.of_paper("score", task, named.get(side, f"{place} {side} fine-tuned"))
            for side in sides.split(" - ")
        )
        if one is not None and other is not None:
            differences.append(float(one["value"]) - float(other["value"]))
    if not differences:
        return "–"
    short = f" ({len(differences)} tasks)" if len(differences) < len(tasks) else ""
    return number(sum(differences) / len(differences), 3) + short


def patterns(study: Study) -> str:
    """The interpretable ratio of super-survivors and of all heads, and the test of the former against others."""
    if not (study.home / "tables" / "patterns.parquet").is_file():
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
    return markdown(["maps", *columns], rows)


TABLES: dict[str, Callable[[Study], str]] = {
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
