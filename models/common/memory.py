"""Memory: what the process keeps of what it has freed, and what it looks like when there is none left."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor, for the rest of the process.

    By default glibc gives a large block back to the system as soon as it is freed. A model on the CPU frees and
    takes several of them in every layer, and the system hands each out as pages that must be faulted in one by one:
    7 to 12% of a forward pass of BERT-base (batch 16, 128 tokens, 2 cores). Peak memory was the same in a forward
    pass, and 7% higher in a training.

    Returns:
        Whether it was done: not where the C library is another one, nor if it was tuned by ``MALLOC_`` variables or
        ``GLIBC_TUNABLES``, as users do and Dask does.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if tuned or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def memory_ran_out(error: BaseException) -> bool:
    """Return whether a computation failed for want of memory; PyTorch's error has a type of its own on GPUs only."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error))
    )
