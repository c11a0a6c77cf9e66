"""A site of this machine on which any number of tasks wait.

It has a second pool with one core, and a task on it that does not end: others of that pool wait for
the core, and others of any pool may wait for that task's result.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import pilot
from bench import tasks
from bench.loads import WARM_S
from bench.measure import Deadline
from bench.stage import Stage
from pilot.site import Site
from pilot.site_configs import template_text

#: The pool that is full, and the other one. A task that names none may be queued behind what does
#: not end.
FULL, FREE = "full", "main"
#: Tasks in one call.
_CHUNK = 10_000


class Backlog:
    """A session on a site with a backlog."""

    def __init__(self, site: Site, session: pilot.Session, gate: Any) -> None:
        self.site = site
        self.session = session
        self._gate = gate
        self._in_full = pilot.task(pool=FULL)(tasks.nothing)

    def for_core(self, count: int) -> None:
        """Submit `count` more tasks that wait for the core."""
        for some in _chunks(count):
            self.session.submit_many(self._in_full, [()] * some)

    def for_result(self, count: int) -> None:
        """Submit `count` more tasks that wait for the result."""
        for some in _chunks(count):
            self.session.submit_many(tasks.same, [(self._gate,)] * some)


@contextlib.contextmanager
def opened(stage: Stage) -> Iterator[Backlog]:
    """Open a fresh site on which the endless task runs; what waits for it never runs."""
    content = yaml.safe_load(template_text("local"))
    (pool,) = content["pools"].values()
    content["pools"][FULL] = {**pool, "cores_per_node": 1}
    fifo = stage.directory / f"gate-{time.time_ns()}"
    os.mkfifo(fifo)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(stage.site(str(yaml.safe_dump(content, sort_keys=False))))
        with pilot.Session(site, name="bench") as session:
            gate = session.submit(pilot.task(pool=FULL)(tasks.until_closed), str(fifo))
            stack.callback(os.close, _open_when_read(fifo))
            try:
                yield Backlog(site, session, gate)
            finally:
                session.detach()


def _open_when_read(fifo: Path) -> int:
    """Return the writing end of a named pipe, once somebody reads there."""
    deadline = Deadline(WARM_S)
    while deadline.left_s():
        with contextlib.suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.01)
    raise AssertionError("a deadline that has passed raises")


def _chunks(count: int) -> Iterator[int]:
    for first in range(0, count, _CHUNK):
        yield min(_CHUNK, count - first)
