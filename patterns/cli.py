"""The commands ``classify-heads`` and ``compare-heads``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from models.common.commands import ClassifierOption, JsonOption, command, say
from models.common.options import Maker, takes

from .functions import CLASSIFY_HEADS, COMPARE_HEADS

if TYPE_CHECKING:
    from .comparison.job import CompareHeads
    from .job import ClassifyHeads


@command
@takes(CLASSIFY_HEADS)
def classify_heads(
    make: Maker,
    raw_classifier: ClassifierOption = None,
    norm_classifier: ClassifierOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the attention pattern of every head of a model.

    Every head's attention map is classified on a random sample of inputs. Printed are each head's dominant
    pattern, the share of each pattern, and the interpretable ratio with a 95% bootstrap interval that covers which
    examples were drawn, alone; beside them the same for untrained weights (--control). With labels of a random sample
    of the maps (--annotations), first an estimate that is right however wrong the classifier is. With --measure, what
    each head does, without any label.

    Example: classify-heads --model bert-base-uncased --task qqp --examples 100 --output out/bert-qqp
    """
    from .job import empty_maps, interval_notes
    from .result import distributions, estimate_sentences, ratios

    job: ClassifyHeads = make(classifiers={"raw": raw_classifier, "norm": norm_classifier})
    if job.stack == "cross":
        _measure_cross(job, as_json)
        return
    done = job.run(progress=True)
    if done.rows.unread:
        say(f"read {done.rows.source}; not read: {', '.join(done.rows.unread)}")
    for warning in done.patterns.warnings:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from models.common.terminal import print_command, print_text

        from .tables import print_patterns, print_roles

        counted = done.summary["heads"]
        whose = "" if job.text else f" ({done.summary['task']})"
        print_text(
            f"{job.model} on {done.summary['examples']} examples of {done.rows.source}{whose}, "
            f"{counted['counted']} of {counted['all']} heads"
        )
        patterns = done.patterns
        for sentence in estimate_sentences(patterns):
            print_text(sentence)
        if done.summary["to_estimate"]:
            print_text(
                "The shares below are the classifier's. For an estimate whose interval covers its errors, label maps "
                "that are drawn at random, and give their folder as --annotations:"
            )
            print_command(done.summary["to_estimate"])
        print_text()
        shown = distributions(patterns)
        print_patterns(
            patterns.to_frame(),
            shown,
            ratios(patterns),
            empty=empty_maps(patterns),
            notes=interval_notes(patterns),
        )
        if job.measure:
            print_text()
            print_roles(patterns.measurements())
    if job.output is not None:
        names = [name for stem in ("heads", "distribution") for name in job.figures.names(stem)]
        say(f"figures: {', '.join(str(job.output / name) for name in names)}; tables beside them")
        say(f"report: {job.output / 'report.html'}")
    if done.published is not None:
        say(f"published: {done.published}")


@command
@takes(COMPARE_HEADS)
def compare_heads(make: Maker, as_json: JsonOption = False) -> None:
    """Show what the same heads do otherwise in another model: fine-tuned, of another seed, later in training.

    All heads are looked at on the same inputs. Printed are, for each model and the next, how often a map goes from
    which pattern to which, with 95% intervals over heads and inputs, the heads with another dominant pattern, and how
    what heads do changes (attention on the previous token, on the separators, ...). Of more than two models, the first
    is compared with the last, too. A compacted model is compared by the heads that it has left.

    Example: compare-heads bert-base-uncased out/qqp/seed_42 --task qqp --output out/qqp-changes
    """
    job: CompareHeads = make()
    done = job.run(progress=True, say=say)
    for warning in done.summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from .comparison.terminal import print_comparison

        print_comparison(done.summary)
    if job.output is not None:
        from .comparison.job import GRIDS

        say(
            f"figure: {', '.join(str(job.output / name) for name in job.figures.names(GRIDS))}; tables beside it"
        )
        say(f"report: {job.output / 'report.html'}")


def _measure_cross(job: ClassifyHeads, as_json: bool) -> None:
    """Show how the heads of cross-attention read, which is measured and not classified."""
    from .cross.job import FIGURE, MeasureCross

    done = MeasureCross(job).run(progress=True)
    if done.rows.unread:
        say(f"read {done.rows.source}; not read: {', '.join(done.rows.unread)}")
    for warning in done.summary["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from models.common.terminal import print_text

        from .cross.tables import print_measured

        print_text(
            f"Cross-attention of {job.model} on {done.summary['examples']} examples of {done.rows.source}, "
            f"{done.summary['heads']} heads"
        )
        print_text(done.summary["note"])
        print_text()
        print_measured(done.attention)
        for name, meaning in done.summary["measures"].items():
            print_text(f"{name}: {meaning}.")
    if job.output is not None:
        stems = [FIGURE.format(kind=kind) for kind in done.attention.kinds]
        names = [name for stem in stems for name in job.figures.names(stem)]
        say(f"figures: {', '.join(str(job.output / name) for name in names)}; tables beside them")
        say(f"report: {job.output / 'report.html'}")
