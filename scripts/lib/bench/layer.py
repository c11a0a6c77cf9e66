"""Programs for PyCOMPSs as contenders: the same loads, by calls of tasks in place of `submit`.

With an application they run on Pilot's site; without one they are what ``python prog.py`` does: one
call after the other, in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.stage import Stage, traffic_and_size
from pilot.compat.compss import api, application, running
from pilot.compat.compss.decoration import task
from pilot.site import Site


class Layer:
    """A program for PyCOMPSs, whose tasks are the functions of loads."""

    takes_futures = True

    def __init__(self, name: str, site: Site | None) -> None:
        self.name = name
        self._site = site
        self._tasks: dict[Callable[..., Any], Callable[..., Any]] = {}

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a task; return what the program gets."""
        called = self._tasks.get(function)
        if called is None:
            called = self._tasks[function] = task(returns=1)(function)
        return called(*args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Call a task several times."""
        return [self.submit(function, *row) for row in rows]

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of all."""
        del timeout_s
        return [api.compss_wait_on(future) for future in futures]

    def wait(self, futures: Sequence[Any], timeout_s: float) -> None:
        """Wait for all tasks that there are."""
        del futures, timeout_s
        api.compss_barrier()

    def release(self, futures: Sequence[Any]) -> None:
        """Have the program forget objects."""
        api.compss_delete_object(*futures)

    def traffic(self) -> dict[str, float]:
        """Return what the site's processes have written and read."""
        return {} if self._site is None else traffic_and_size(self._site)


@contextlib.contextmanager
def program_on_pilot(stage: Stage) -> Iterator[Layer]:
    """Give a program for PyCOMPSs that runs on a fresh site."""
    with stage.site() as site:
        running.current = application.Application("bench", site=site)
        try:
            yield Layer("by tasks of PyCOMPSs", site)
        finally:
            application.stop()


def plain_program() -> Layer:
    """Return a program for PyCOMPSs that runs in this process, without Pilot."""
    return Layer("python prog.py", None)
