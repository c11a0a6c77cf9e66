"""Receivers of what becomes of tasks, as a client's connection to the head calls them."""

from __future__ import annotations

from typing import Protocol

from pilot.model.tasks import TaskOutcome


class Awaited(Protocol):
    """A receiver of the outcome of a task."""

    def settle(self, outcome: TaskOutcome) -> None:
        """Take the outcome of the task, which has ended."""

    def refuse(self, error: Exception) -> None:
        """Take the error with which the head refused the task."""

    def fail(self, error: Exception) -> None:
        """Take the error after which nothing more will be heard of the task."""

    def started(self) -> None:
        """Note that the task runs."""

    def disown(self, error: Exception) -> None:
        """Take the error that this process is a forked copy of the one that waits for the task."""


class Both:
    """Two receivers that wait for the same task."""

    def __init__(self, first: Awaited, second: Awaited) -> None:
        self._each = (first, second)

    def settle(self, outcome: TaskOutcome) -> None:
        for awaited in self._each:
            awaited.settle(outcome)

    def refuse(self, error: Exception) -> None:
        for awaited in self._each:
            awaited.refuse(error)

    def fail(self, error: Exception) -> None:
        for awaited in self._each:
            awaited.fail(error)

    def started(self) -> None:
        for awaited in self._each:
            awaited.started()

    def disown(self, error: Exception) -> None:
        for awaited in self._each:
            awaited.disown(error)
