"""Dask's distributed scheduler: single-threaded worker processes on this machine, no dashboard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from distributed import Client, LocalCluster, wait  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer

from bench import loads, measure

NAME = "Dask distributed"
LOADS = dict.fromkeys(loads.LOADS, 1.0)


class Dask:
    """An open client."""

    name = NAME
    takes_futures = True

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call."""
        return self._client.submit(function, *args, pure=False)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit calls in one graph; calls without arguments go one by one: there is nothing to map
        over."""
        if not rows or not rows[0]:
            return [self.submit(function) for _ in rows]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return list(self._client.map(function, *columns, pure=False))

    def wait(self, futures: Sequence[Any], timeout_s: float) -> None:
        """Wait until all have ended."""
        wait(futures, timeout=timeout_s)

    def release(self, futures: Sequence[Any]) -> None:
        """Let go of futures: their values go with the last task that needs them."""
        for future in futures:
            future.release()

    def traffic(self) -> dict[str, float]:
        """Return what the workers have written to disks, and got from each other."""
        found = self._client.run(_traffic).values()
        return {name: sum(one[name] for one in found) for name in ("written", "moved")}

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures, in one request."""
        wait(futures, timeout=timeout_s)
        return list(self._client.gather(list(futures)))


def _traffic(dask_worker: Any) -> dict[str, int]:
    return {
        "written": measure.written(os.getpid()),
        "moved": dask_worker.transfer_outgoing_bytes_total,
    }


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[Dask]:
    """Open a local cluster with so many workers."""
    settings = {
        "temporary-directory": str(directory / "dask"),
        "distributed.scheduler.active-memory-manager.start": False,
        # Tasks without a length are better left where they are.
        "distributed.scheduler.work-stealing": workload == "CURVES",
        "distributed.scheduler.worker-saturation": float("inf"),
        "distributed.admin.tick.interval": "1s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Dask(client)
