"""The context of a running task: what it can know of itself, by ``pilot.context()``.

The executor sets the context before each task and clears it afterwards; outside of a task there is
none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pilot.client import current
from pilot.errors import PilotError
from pilot.pickled import public
from pilot.scheduler.resources import Resources

if TYPE_CHECKING:
    from pilot.client.child_tasks import TaskSession
    from pilot.data.checkpoint import Checkpoint


class _ToStderr(logging.Handler):
    """A handler that writes to the current `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


class Context:
    """The task that runs in this process.

    Attributes
    ----------
    task_id, name
        The task's id, as lists show it, and its name.
    session_id
        The id of its session.
    attempt
        Number of this attempt; the first is 1.
    resources
        The resources that it was given: ``resources.cores``, ``resources.amounts["matlab"]``.
    indices
        The identities of the resources that it was given: ``indices["gpus"]`` is ``("0", "3")``.
    deadline
        The end of its time limit, in seconds since the epoch; None: no limit.
    rank, ranks
        Its rank and their number; 0 and 1 for a plain task.
    session
        Submits tasks from this one: ``session.submit(…)``.
    """

    def __init__(
        self,
        *,
        task_id: str,
        name: str,
        session_id: int,
        attempt: int,
        resources: Resources,
        indices: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        deadline: float | None,
        rank: int,
        ranks: int,
        checkpoints: Path,
        session: TaskSession,
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.session_id = session_id
        self.attempt = attempt
        self.resources = resources
        self.indices = indices
        self.deadline = deadline
        self.rank = rank
        self.ranks = ranks
        self._checkpoints = checkpoints
        self.session = session

    @cached_property
    def logger(self) -> logging.Logger:
        """A logger whose output, from INFO on, is part of the task's."""
        logger = logging.getLogger(f"pilot.task.{self.name}")
        if not logger.handlers:
            handler = _ToStderr()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        return logger

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The task's own checkpoints: ``save(step, state)`` and ``load()``."""
        from pilot.data.checkpoint import Checkpoint
        from pilot.data.directories import make_private
        from pilot.data.patience import patiently

        directory = self._checkpoints / str(self.session_id) / self.task_id
        site = self._checkpoints.parent
        patiently(lambda: make_private(directory, site))
        return Checkpoint(directory, self.rank, self.ranks, attempt=self.attempt, within=site)

    def __repr__(self) -> str:
        return f"<pilot context of task {self.task_id}, attempt {self.attempt}>"


_current: Context | None = None
_serves_tasks = False


@public
def context() -> Context:
    """Return the context of the task that runs in this process.

    Raises
    ------
    PilotError
        No task runs in this process: the caller is the user's own program.
    """
    if _current is None:
        raise PilotError("there is no context: this code does not run in a task")
    return _current


def running_context() -> Context | None:
    """Return the context of the task that runs in this process; None where none does."""
    return _current


def set_context(value: Context | None) -> None:
    """Set or clear the context; for executors."""
    global _current
    _current = value
    current.set_running(None if value is None else value.session)


def serve_tasks() -> None:
    """Note that this process runs tasks, whatever the modules that they import do."""
    global _serves_tasks
    _serves_tasks = True


def serves_tasks() -> bool:
    """Tell whether this process runs tasks (or is forked from one that does)."""
    return _serves_tasks
