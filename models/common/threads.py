"""Threads: none that spins while it waits, and no more than a container's quota lets run."""

from __future__ import annotations

import os
from pathlib import Path

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""What GNU's and LLVM's OpenMP read when they are loaded.

By default a thread that is done spins until the others are, at the end of every operation; where another process has
one of the cores, each of thousands of small operations waits for that one's time slice.
"""
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def share_the_machine() -> None:
    """Set how OpenMP's threads wait and how many there are, unless the user has; before torch is loaded.

    OpenMP counts the cores that the process may run on, but not the quota of a container: with two cores' time on a
    machine of 64 there would be 64 threads, which are stopped most of the time. Where no quota binds, the number stays
    the libraries' own, which is of real cores and not of their hyperthreads.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    if "OMP_NUM_THREADS" not in os.environ and any(map(Path.exists, _QUOTAS)):
        from joblib import cpu_count  # affinity and quota, whichever is less

        if (allowed := cpu_count()) < len(os.sched_getaffinity(0)):  # such files are on Linux alone
            os.environ["OMP_NUM_THREADS"] = str(allowed)
