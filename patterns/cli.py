"""The command ``classify-heads``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from models.common.commands import ClassifierOption, JsonOption, command, say
from models.common.options import Maker, takes

from .functions import CLASSIFY_HEADS

if TYPE_CHECKING:
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
    of the maps (--annotations), first an estimate that is right however wrong the classifier is.

    Example: classify-heads --model bert-base-uncased --task qqp --examples 100 --output out/bert-qqp
    """
    from .job import empty_maps, interval_notes
    from .result import distributions, estimate_sentences, ratios

    job: ClassifyHeads = make(classifiers={"raw": raw_classifier, "norm": norm_classifier})
    done = job.run(progress=True)
    if done.rows.unread:
        say(f"read {done.rows.source}; not read: {', '.join(done.rows.unread)}")
    for warning in done.patterns.warnings:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        from models.common.terminal import print_command, print_text

        from .tables import print_patterns

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
    if job.output is not None:
        names = [name for stem in ("heads", "distribution") for name in job.figures.names(stem)]
        say(f"figures: {', '.join(str(job.output / name) for name in names)}; tables beside them")
        say(f"report: {job.output / 'report.html'}")
    if done.published is not None:
        say(f"published: {done.published}")
