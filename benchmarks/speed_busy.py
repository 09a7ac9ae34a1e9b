"""What classifying costs while something else runs: one busy loop on one of the cores.

As on a shared cluster. A process of its own sets up its threads as every command does, times a plain forward pass and
the whole per-batch work of ``classify-heads`` on the idle machine and beside the loop. :mod:`speed` runs it with the
rest; by itself it prints the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from models.common.memory import keep_freed_memory
from models.common.threads import share_the_machine

BARS = {
    "busy_ratio": ("at most", 2.0),
    "busy_slower": ("at most", 3.0),
}
_LOOP = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True:\n    pass"


def busy_ratios(small: bool, repeats: int) -> dict[str, float | None]:
    """Return classifying over a plain pass, both beside the loop; and classifying beside the loop over without it."""
    if not hasattr(os, "sched_setaffinity"):
        return dict.fromkeys(BARS)  # measured on Linux only
    command = [sys.executable, __file__, "--repeats", str(repeats), *(["--small"] if small else [])]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    idle, busy = found["idle"], found["busy"]
    return {
        "busy_ratio": busy["classify"] / busy["forward"],
        "busy_slower": busy["classify"] / idle["classify"],
    }


def main() -> None:
    """Time, and print the seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--spinning", action="store_true", help="as OpenMP has it by default")
    options = parser.parse_args()
    keep_freed_memory()
    if not options.spinning:
        share_the_machine()
    # Only now, since torch loads OpenMP.
    import torch
    from speed import build, classification
    from speed_pruning import interleaved

    model, batch = build(options.small, 16 if options.small else 128)
    with torch.inference_mode():
        work = {"forward": lambda: model(**batch), "classify": classification(model, batch)}
        idle = interleaved(work, options.repeats)
        loop = subprocess.Popen([sys.executable, "-c", _LOOP])
        try:
            busy = interleaved(work, options.repeats)
        finally:
            loop.kill()
            loop.wait()
    print(json.dumps({"idle": idle, "busy": busy}))


if __name__ == "__main__":
    main()
