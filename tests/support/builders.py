"""Small builders of messages, for tests of the pure parts."""

from __future__ import annotations

from typing import Any

from pilot.model.states import Outcome
from pilot.model.tasks import Completion, TaskFailure, TaskSpec, Template
from pilot.scheduler.resources import Resources
from pilot.wire.messages.pilot import AttemptSpec


def template(number: int = 1, session: int = 1, **changes: Any) -> Template:
    """A template of a plain Python task on one core."""
    fields: dict[str, Any] = {
        "name": f"t{number}",
        "kind": "python",
        "function": b"f%d" % number,
        "resources": Resources(),
    }
    return Template(id=number, session=session, **{**fields, **changes})


def spec(
    number: int, template: int = 1, needs: tuple[int, ...] = (), after: tuple[int, ...] = ()
) -> TaskSpec:
    """A task that needs the first results of others, and starts after the ends of some."""
    inputs = tuple((source, 0) for source in needs)
    return TaskSpec(number, template, b"payload", inputs, after=after)


def work(task: int, attempt: int = 1, template: int = 1) -> AttemptSpec:
    """An attempt as a pilot gets it."""
    return AttemptSpec(task, attempt, template, b"payload")


def done(task: int, outcome: Outcome = "ok", attempt: int = 1, **changes: Any) -> Completion:
    """How an attempt ended, after one second."""
    failure = None
    if outcome == "error":
        failure = TaskFailure("ValueError", "as told", bases=("ValueError", "Exception"))
    elif outcome != "ok":
        failure = TaskFailure(outcome, f"it was {outcome}")
    fields: dict[str, Any] = {"failure": failure, "started": 1.0, "ended": 2.0}
    return Completion(task, attempt, outcome, **{**fields, **changes})
