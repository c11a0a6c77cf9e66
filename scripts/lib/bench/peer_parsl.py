"""Parsl's HighThroughputExecutor: one block on this machine, no scaling, no memoization.

Commands are functions that start them: its Bash apps write files for each.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import parsl  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from parsl.config import Config  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from parsl.executors import HighThroughputExecutor  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from parsl.providers import LocalProvider  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer

from bench import loads

NAME = "Parsl HTEX"
LOADS = dict.fromkeys(loads.LOADS, 1.0)


class Parsl:
    """An open `DataFlowKernel`."""

    name = NAME
    takes_futures = True

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._apps: dict[Callable[..., Any], Any] = {}

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one app call."""
        app = self._apps.get(function)
        if app is None:
            app = parsl.python_app(function, data_flow_kernel=self._kernel, cache=False)
            self._apps[function] = app
        return app(*args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit calls one by one: there is no other way."""
        return [self.submit(function, *row) for row in rows]

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures."""
        if concurrent.futures.wait(futures, timeout_s).not_done:
            raise TimeoutError(f"{self.name} was not done after {timeout_s:.0f} s")
        return [future.result() for future in futures]


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[Parsl]:  # noqa: ARG001 - as for others
    """Open Parsl with so many workers."""
    config = Config(
        executors=[
            HighThroughputExecutor(
                label="bench",
                address="127.0.0.1",
                max_workers_per_node=workers,
                prefetch_capacity=4 * workers,
                provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
            )
        ],
        strategy="none",
        initialize_logging=False,
        run_dir=str(directory / "parsl"),
    )
    kernel = parsl.DataFlowKernel(config)
    try:
        yield Parsl(kernel)
    finally:
        kernel.cleanup()
