"""The command ``annotate-maps`` and its sub-commands around choosing and judging; see also ``studio_commands``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.common.commands import ClassifierOption, JsonOption, group, printable, say
from models.common.options import Maker, takes

from .functions import AGREEMENT, SAMPLE
from .label_studio.cli import COMMANDS

if TYPE_CHECKING:
    from .agreement.job import MeasureAgreement, Report
    from .sampling.job import SampleMaps


@takes(SAMPLE)
def sample(
    make: Maker,
    raw_classifier: ClassifierOption = None,
    norm_classifier: ClassifierOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose attention maps of a model that are worth labelling, never two of one (example, layer, head).

    Every map of the rows drawn is classified; the chosen ones go to the output folder in the order in which to
    label them, with their tokens and what the classifier says of each.

    Example: annotate-maps sample --model bert-base-uncased --task qqp --strategy uncertain-diverse --output my-maps
    """
    job: SampleMaps = make(classifiers={"raw": raw_classifier, "norm": norm_classifier})
    report = job.run(progress=True)
    if report["not_read"]:
        say(f"read {report['data']['source']}; not read: {', '.join(report['not_read'])}")
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from models.common.terminal import print_text

    kinds = " and ".join(f"{n} {kind}" for kind, n in report["maps"].items())
    print_text(
        f"{kinds} maps of {report['heads']} heads and {report['inputs']} inputs, out of "
        f"{sum(report['candidates'].values())} maps of {report['examples']} examples of {report['data']['source']}"
    )
    if job.exclude:
        print_text(
            f"excluded: {report['exclude']['found']} places that {', '.join(map(str, job.exclude))} has already"
        )
    print_text(f"predicted: {_counted(report['predicted'])}; mean margin {report['mean_margin']:.2f}")
    say(f"maps to label: {job.output}")


@takes(AGREEMENT)
def agreement(make: Maker, as_json: JsonOption = False) -> None:
    """Say how far annotators agree, where they differ, and which labels follow.

    Printed are percent agreement, Cohen's kappa of each pair, Fleiss' kappa and Krippendorff's alpha, with 95%
    intervals over heads; agreement on each pattern; who calls what what. With --output also a table of labels
    (majority; Dawid and Skene's estimate from three annotators on), pictures of every disputed map, and the statistics
    as a figure and tables. --figure-format and --figure-width are of that figure; the pictures stay PNG, to be looked
    at.

    Example: annotate-maps agreement my-maps --output my-agreement
    """
    job: MeasureAgreement = make()
    report = job.run()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_agreement(report)
    if job.output is not None:
        sheets = f"sheets of the {report['disputed']} disputed maps"
        say(f"agreement.json, labels.parquet, statistics, {sheets}: {job.output}")


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of maps, labelled or not.")],
    as_json: JsonOption = False,
) -> None:
    """Say how many maps are labelled and open, by annotator and by pattern, and what is predicted of the open ones.

    Example: annotate-maps status my-maps
    """
    from models.common.terminal import print_text

    from .status import status as status_of

    report = status_of(folder)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    undecided = f", {report['undecided']} labelled without a majority" if report["undecided"] else ""
    print_text(f"{report['maps']} maps: {report['labelled']} labelled, {report['open']} open{undecided}")
    if len(report["kinds"]) > 1:
        parts = (f"{kind} {of['labelled']} of {of['maps']}" for kind, of in report["kinds"].items())
        print_text(f"labelled by kind: {', '.join(parts)}")
    for name, of in report["annotators"].items():
        print_text(
            f"{printable(name)}: {of['labelled']} labelled, {of['open']} open ({_counted(of['labels'])})"
        )
    if report["labelled"]:
        print_text(f"label of the majority: {_counted(report['patterns'])}")
    if report["predicted"] and report["predicted"]["maps"]:
        found = report["predicted"]
        print_text(
            f"predicted of {found['maps']} open maps: {_counted(found['labels'])}; "
            f"mean margin {found['mean_margin']:.2f}"
        )
    for note in report["notes"]:
        print_text(printable(note))


def _counted(labels: dict[str, int]) -> str:
    return ", ".join(f"{n} {pattern}" for pattern, n in labels.items() if n) or "none"


def _number(value: float | None, bounds: list[float | None] | None = None) -> str:
    if value is None:
        return "-"
    if bounds is None or bounds[0] is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _print_agreement(report: Report) -> None:
    from models.common.terminal import print_text
    from patterns.taxonomy import ABBREVIATIONS, PATTERNS

    from .labellers import labelled_by

    who = labelled_by(report["annotators"], report["passes"])
    print_text(
        f"{report['maps']} maps, {report['labelled']} labelled by {who}; "
        f"{report['compared']} with two labels or more, "
        f"{report['disputed']} of them disputed"
    )
    if report["compared"]:
        fleiss = report["fleiss"]
        for name, of in (
            ("percent agreement", report["percent"]),
            ("Krippendorff's alpha", report["alpha"]),
            (f"Fleiss' kappa ({fleiss['maps']} maps, {fleiss['labels']} labels each)", fleiss),
        ):
            print_text(f"{name}: {_number(of['value'], of['ci95'])}")
        print(f"\n{'pattern':18} {'labels':>6} {'agreement':>9} {'alpha':>6}")
        for pattern, one in report["patterns"].items():
            print(
                f"{pattern:18} {one['labels']:6d} {_number(one['agreement']):>9} {_number(one['alpha']):>6}"
            )
    for pair in report["pairs"]:
        a, b = printable(pair["a"]), printable(pair["b"])
        if not pair["maps"]:
            print_text(f"\n{a} and {b}: no map in common")
            continue
        print_text(
            f"\n{a} and {b}, {pair['maps']} maps: percent {_number(pair['percent'])}, "
            f"Cohen's kappa {_number(pair['kappa'], pair['ci95'])}"
        )
        cell = max(4, *(len(str(n)) for row in pair["confusion"] for n in row))
        print(f"{'row: first says':18} " + " ".join(f"{ABBREVIATIONS[p]:>{cell}}" for p in PATTERNS))
        for pattern, row in zip(PATTERNS, pair["confusion"], strict=True):
            print(f"{pattern.value:18} " + " ".join(f"{n:{cell}d}" for n in row))
    if report["labelled"]:
        majority = dict(report["majority"])
        ties = f"; {ties} tied" if (ties := majority.pop("none")) else ""
        print_text(f"\nlabel of the majority: {_counted(majority)}{ties}")
    if found := report["dawid_skene"]:
        print_text(
            f"Dawid and Skene: {_counted(found['labels'])}; {found['changed']} against the majority, "
            f"{found['decided']} where it was tied"
        )
        accuracies = (f"{printable(name)} {a['accuracy']:.3f}" for name, a in found["annotators"].items())
        print_text(f"estimated share of right labels: {', '.join(accuracies)}")
    for note in report["notes"]:
        print_text(printable(note))


app = group(
    "annotate-maps",
    "Choose attention maps, have people label them, and know how good the labels are.\n\n"
    "Example: annotate-maps sample --model bert-base-uncased --task qqp --output my-maps",
    {"sample": sample, **COMMANDS, "status": status, "agreement": agreement},
)
