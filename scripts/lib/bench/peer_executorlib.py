"""executorlib's SingleNodeExecutor with resident workers (``block_allocation``).

Dependencies are resolved by a thread of the client that looks around every 10 ms by default; here
every 0.1 ms in W3, and not at all where there are none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from executorlib import SingleNodeExecutor  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer

from bench import loads

NAME = "executorlib"
LOADS = dict.fromkeys(loads.LOADS, 1.0)


class Executorlib:
    """An open executor."""

    name = NAME
    takes_futures = True

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call."""
        return self._executor.submit(function, *args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit calls one by one: there is no other way that gives futures."""
        return [self._executor.submit(function, *row) for row in rows]

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures."""
        if concurrent.futures.wait(futures, timeout_s).not_done:
            raise TimeoutError(f"{self.name} was not done after {timeout_s:.0f} s")
        return [future.result() for future in futures]


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[Executorlib]:  # noqa: ARG001 - as for others
    """Open an executor with so many resident workers."""
    graphs: dict[str, Any] = {"refresh_rate": 0.0001}
    settings = graphs if workload == "W3" else {"disable_dependencies": True}
    with SingleNodeExecutor(max_workers=workers, block_allocation=True, **settings) as executor:
        yield Executorlib(executor)
