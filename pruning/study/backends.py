"""The engines that a study runs on, as joblib's config has them: processes of this machine, Ray, Dask."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from threading import Thread
from typing import Any

import joblib

from models.common.errors import InputError

BACKENDS = ("loky", "ray", "dask")


class Workers:
    """Workers that stay from one call to the next; after a call that failed there are new ones.

    Args:
        jobs: calls at once.
        config: the backend and its options, as :class:`joblib.parallel_config` takes them.
    """

    def __init__(self, jobs: int, **config: Any) -> None:
        self._jobs, self._config = jobs, config
        self._parallel: Any = None

    def __call__(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> None:
        """Call a function with each of the arguments.

        Raises:
            Exception: whatever a call raises, or the backend when a worker is gone.
        """
        if self._parallel is None:
            with joblib.parallel_config(n_jobs=self._jobs, **self._config):
                self._parallel = joblib.Parallel(batch_size=1)  # pyright: ignore[reportArgumentType]
            self._parallel.__enter__()
        try:
            self._parallel(joblib.delayed(function)(argument) for argument in arguments)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the workers go."""
        parallel, self._parallel = self._parallel, None
        if parallel is not None:
            parallel.__exit__(None, None, None)


@contextmanager
def workers(
    backend: str, jobs: int, address: str | None = None, gpus: float | None = None
) -> Iterator[Workers]:
    """Yield the workers of a backend; a cluster started here is shut down again.

    Args:
        backend: one of :data:`BACKENDS`.
        jobs: steps at once.
        address: of a Ray or Dask cluster that is there already; else one is started on this machine.
        gpus: of each step, on Ray.

    Raises:
        InputError: the backend is not installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_safe_path())
        config: dict[str, Any] = {}
        if backend == "loky":
            config |= {"initializer": end_with, "initargs": (os.getpid(),)}
        elif backend == "ray":
            config["ray_remote_args"] = _ray(stack, jobs, address, gpus)
        elif backend == "dask":
            config["client"] = _dask(stack, jobs, address)
        found = Workers(jobs, backend=backend, **config)
        stack.callback(found.close)
        yield found


@cache
def end_with(parent: int) -> None:
    """Have this process, a child of that one, end when its parent is gone: nobody waits for the result.

    A worker calls it as the first thing, since one without work would wait for some minutes. This module
    is quickly imported for the same reason.
    """
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _ray(stack: ExitStack, jobs: int, address: str | None, gpus: float | None) -> dict[str, Any]:
    ray = _imported("ray", "ray")
    from ray.util.joblib import register_ray

    register_ray()
    if not ray.is_initialized():
        local = {} if address else {"num_cpus": jobs, "include_dashboard": False}
        ray.init(address=address or "local", **local)
        stack.callback(ray.shutdown)
    return {} if gpus is None else {"num_gpus": gpus}


def _dask(stack: ExitStack, jobs: int, address: str | None) -> Any:
    distributed = _imported("distributed", "dask")
    if address:
        return stack.enter_context(distributed.Client(address))
    local = distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    return stack.enter_context(distributed.Client(stack.enter_context(local)))


@contextmanager
def _safe_path() -> Iterator[None]:
    """Workers that begin meanwhile take no folder beside them for one of our packages."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _imported(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"--backend {extra} needs {module}, which is not installed: pip install 'headscope[{extra}]'."
        ) from error
