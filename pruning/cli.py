"""The commands ``prune-heads``, ``prune-weights``, ``ablate-patterns`` and ``compare-survivors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models.common.commands import JsonOption, command, resumable, say
from models.common.options import Maker, takes

from .functions import ABLATE_PATTERNS, COMPARE_SURVIVORS, PRUNE_HEADS, PRUNE_WEIGHTS

if TYPE_CHECKING:
    from .ablation.job import AblatePatterns
    from .comparison.job import CompareSurvivors
    from .search.heads_job import PruneHeads
    from .search.weights_job import PruneWeights

if TYPE_CHECKING:
    from .search.records import HeadsSummary


@resumable
@takes(PRUNE_HEADS)
def prune_heads(make: Maker, as_json: JsonOption = False) -> None:
    """Find the heads and MLPs that a fine-tuned model needs for its task.

    The least important heads and MLPs are removed step by step, without training, as long as the model keeps 90%
    of its score: first together, then heads alone, then MLPs alone (Prasanna, Rogers & Rumshisky 2020).
    The folder holds the subnetwork, the history of every step and all importances. Run the same command again to
    continue a search that was stopped.

    Example: prune-heads --model out/mrpc/seed_42 --task mrpc --output searches/mrpc/seed_42
    """
    job: PruneHeads = make()
    _show(job.run(progress=True, say=say), job.output, as_json)


@resumable
@takes(PRUNE_WEIGHTS)
def prune_weights(make: Maker, as_json: JsonOption = False) -> None:
    """Find how many of the smallest weights a fine-tuned model can lose.

    A share of the encoder's weights that are left, the smallest of all layers together, is set to zero step by
    step, without training, as long as the model keeps 90% of its score (Prasanna, Rogers & Rumshisky 2020).
    The folder holds the weight masks (a bit a weight), how much of each head and MLP survives, and the history.
    Run the same command again to continue a search that was stopped.

    Example: prune-weights --model out/mrpc/seed_42 --task mrpc --output searches/mrpc-weights/seed_42
    """
    job: PruneWeights = make()
    _show(job.run(progress=True, say=say), job.output, as_json)


@resumable
@takes(ABLATE_PATTERNS)
def ablate_patterns(make: Maker, as_json: JsonOption = False) -> None:
    """Show whether the pattern of a head matters to a fine-tuned model's task.

    All heads of a pattern are closed, and the score is compared with that of random sets of as many heads in every
    layer; then each head is closed alone, and a pattern's heads are compared with the others of their layers. A closed
    head puts out zero, its mean, or what it puts out on another input (--how). With --subnetwork, inside a pruned
    model. Run the same command again to continue an ablation that was stopped.

    Example: ablate-patterns --model out/qqp/seed_42 --task qqp --examples 500 --how mean --output out/qqp-ablation
    """
    job: AblatePatterns = make()
    said: list[str] = []

    def once(line: str) -> None:
        if line not in said:
            said.append(line)
            say(line)

    summary = job.run(progress=True, say=once)
    for warning in summary["warnings"]:
        once(f"warning: {warning}")
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        from .ablation.terminal import print_ablation

        print_ablation(summary)
    names = ("groups.png", "single_heads.png")[: 1 + job.alone]
    say(f"figures: {', '.join(str(job.output / name) for name in names)}; tables beside them")
    say(f"report: {job.output / 'report.html'}")


@command
@takes(COMPARE_SURVIVORS)
def compare_survivors(make: Maker, as_json: JsonOption = False) -> None:
    """Show which heads survive pruning under every seed, how stable that is, and what patterns they have.

    Searches are grouped by task. Printed are the survivors, how far the seeds agree beside what chance would give,
    and how many heads tasks share. With --data, the attention patterns of super-survivors are compared with those
    of the other heads of their layers, measured in each seed's own full model: one difference, one interval, one
    test, one verdict.

    Example: compare-survivors searches --data glue --output out/survivors
    """
    job: CompareSurvivors = make()
    done = job.run(announce=say)
    for warning in done.summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from .comparison.terminal import print_comparison

        print_comparison(done.summary)
    if job.output is not None:
        stems = ("survival", "patterns")[: 1 + bool(job.data)]
        names = [name for stem in stems for name in job.figures.names(stem)]
        say(f"figures: {', '.join(str(job.output / name) for name in names)}; tables beside them")
        say(f"report: {job.output / 'report.html'}")


def _show(summary: Mapping[str, Any], output: Path, as_json: bool) -> None:
    for warning in summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    from models.common.terminal import print_text

    lines = [
        f"{summary['model']}, {summary['task']} {summary['split']}, {summary['examples']} examples",
        f"{summary['metric']}: full model {summary['full_score']:.4f}, subnetwork {summary['score']:.4f} "
        f"(threshold {summary['threshold'] * summary['full_score']:.4f})",
        *(
            f"{name} kept: {summary[key]['kept']} of {summary[key]['all']} "
            f"({summary[key]['kept'] / max(summary[key]['all'], 1):.1%})"
            for key, name in (("heads", "heads"), ("mlps", "MLPs"), ("weights", "weights"))
            if key in summary
        ),
    ]
    if share := summary.get("encoder_share"):
        lines.append(
            f"of the encoder: {share['parameters']:.1%} of the parameters, {share['flops']:.1%} of the work"
        )
    report = summary["reported_on"]
    if report["held_out"]:
        name = summary["metric"]
        lines.append(
            f"on {report['examples']} held-out examples: full model {report['full'][name]:.4f}, "
            f"subnetwork {report['subnetwork'][name]:.4f}"
        )
    else:
        lines.append(report["note"])
    print_text("\n".join(lines))
    if summary["command"] == "prune-heads":
        from models.subnetwork import Subnetwork
        from models.weights import SUBNETWORK_FILE

        from .comparison.terminal import print_kept
        from .search.folder import HISTORY

        steps = (output / HISTORY).read_text(encoding="utf-8").splitlines()
        print()
        print_kept(
            Subnetwork.load(output / SUBNETWORK_FILE),
            [json.loads(step) for step in steps],
            cast("HeadsSummary", summary),
        )
    elif "majority_score" in summary:
        print_text(f"always saying the commonest label: {summary['majority_score']:.4f}")
    say(f"written to {output}")
