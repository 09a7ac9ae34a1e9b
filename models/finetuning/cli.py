"""The command ``finetune-glue``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..common.commands import JsonOption, resumable, say
from ..common.options import Maker, takes
from .functions import FINETUNE

if TYPE_CHECKING:
    from .job import FineTuneGlue


@resumable
@takes(FINETUNE)
def finetune_glue(make: Maker, as_json: JsonOption = False) -> None:
    """Fine-tune a model on a task, with the settings of Prasanna et al. (2020) if none are given.

    The model, its tokenizer, a learning curve and metrics.json go to the output folder. Printed are the scores on
    the dev rows, beside those of always saying the commonest label and of guessing. If it is stopped, the same
    command goes on from the last checkpoint, which lies in OUTPUT.partial until all is done.

    Several GPUs: accelerate launch --num_processes 2 $(command -v finetune-glue) --model ...

    Example: finetune-glue --model bert-base-uncased --task mrpc --seeds 1337 42 86 71 166 --output out/mrpc
    """
    from ..common.terminal import print_text
    from .loop import is_main_process
    from .run import score_table

    job: FineTuneGlue = make()
    done = job.run(progress=True, announce=say)
    if not is_main_process():
        return
    say(f"model: {', '.join(str(folder) for _, folder in job.runs)}")
    if as_json:
        print(json.dumps(done.summary, indent=2))
        return
    first = done.results[0]
    print_text(
        f"{job.model} on {first['task']}: {first['examples']['train']} rows of {done.train.source}, "
        f"scored on {first['examples']['dev']} of {done.dev.source}"
    )
    print_text(first["selection"]["note"])
    print(score_table(done.results))
