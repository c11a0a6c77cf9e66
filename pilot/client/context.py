"""The context of a running task: what it can know of itself, by ``pilot.context()``.

The executor sets the context before each task and clears it afterwards; outside of a task there is
none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pilot.client import current
from pilot.client.stopping import ATTEMPT, TASK, Callbacks, Stopping
from pilot.errors import PilotError
from pilot.pickled import public
from pilot.scheduler.resources import Resources

if TYPE_CHECKING:
    from pilot.client.child_tasks import TaskSession
    from pilot.client.command import CommandResult, ShellCommand
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
    nodes
        The names of its nodes, the one where it runs first; of a rank that one alone.
    rank, ranks
        The rank of this process, and the number of ranks; 0 and 1 for a plain task.
    session
        Submits tasks from this one: ``session.submit(…)``.
    number, stopping
        The task's id as a number, and the words by which it is told to stop; for executors.
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
        number: int,
        stopping: Stopping,
        nodes: tuple[str, ...] = (),
    ) -> None:
        self.nodes = nodes
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
        self._number = number
        self._stopping = stopping
        self._words = stopping.words
        self._listens = False
        self._callbacks: Callbacks | None = None
        #: Runs a command as this task's; None: it is one of functions alone.
        self.commands: Callable[[ShellCommand], CommandResult] | None = None

    def run_command(self, command: ShellCommand) -> CommandResult:
        """Run a command without parameters as a task that is this command would: on the task's
        ranks, in its container, ended with it.

        In a task of functions alone it is run as if called directly.

        Raises
        ------
        CommandFailed
            It cannot be started; in a task of functions, also where it ends with a failure.
        """
        return command() if self.commands is None else self.commands(command)

    @property
    def should_stop(self) -> bool:
        """True once the task is to save its state and stop: its pilot ends soon.

        A look costs less than a microsecond, so a loop may look in each step. A task that looks is
        given the time that `stop_reason` and `stop_at` tell of; one that never does runs on, and is
        interrupted at the end. What to do then: save a checkpoint, and raise `pilot.Stopped`.
        """
        if not self._listens:
            self._listen()
        words = self._words
        return words[TASK] == self._number and words[ATTEMPT] == self.attempt

    @property
    def stop_reason(self) -> str:
        """The reason why the task is to stop, in words; empty while it is not."""
        return self._stopping.notice()[1] if self.should_stop else ""

    @property
    def stop_at(self) -> float | None:
        """The time when the task is ended if it has not stopped, in seconds since the epoch; None
        while it is not to stop."""
        return self._stopping.notice()[0] if self.should_stop else None

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, without arguments, once the task is to stop.

        It is called in a thread of its own, at most once, within 0.1 s; at once where the task is
        to stop already; on each rank for itself. So it may set what the task looks at, or save what
        the task does not change meanwhile. What it raises is printed, and has no other effect: the
        task itself raises `pilot.Stopped`. The task does not end before a callback that runs.
        """
        if not callable(callback):
            raise TypeError(f"on_stop takes a function without arguments, not {callback!r}")
        if self._callbacks is None:
            self._callbacks = Callbacks(lambda: self.should_stop)
        if not self._listens:
            self._listen()
        self._callbacks.add(callback)

    def _listen(self) -> None:
        self._listens = self._stopping.listen(self._number)

    def close(self) -> None:
        """Call no more callbacks; for executors."""
        if self._callbacks is not None:
            self._callbacks.close()

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
