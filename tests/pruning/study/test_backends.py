"""The processes that a study runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]

PARENT = """
import time
from pruning.study.backends import workers

if __name__ == "__main__":
    with workers("loky", 2) as pool:
        pool(time.sleep, [0.5, 0.5])
        print("idle", flush=True)
        time.sleep(600)
"""


def test_workers_without_work_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Loky's own would wait for five minutes more, holding their memory."""
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "idle\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        assert not psutil.wait_procs(workers, timeout=60)[1]
