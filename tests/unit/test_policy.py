"""What follows from how an attempt ended."""

from __future__ import annotations

from typing import Any

import pytest
from support.builders import done, template

from pilot.head.core.retry import counted, verdict
from pilot.model.states import COMPLETED, FAILED, TIMED_OUT, Outcome
from pilot.model.tasks import TaskFailure

AGAIN = None


@pytest.mark.parametrize(
    ("outcome", "options", "errors", "crashes", "state"),
    [
        ("ok", {}, 0, 0, COMPLETED),
        ("error", {}, 1, 0, FAILED),
        ("error", {"retries": 2}, 1, 0, AGAIN),
        ("error", {"retries": 2}, 2, 0, AGAIN),
        ("error", {"retries": 2}, 3, 0, FAILED),
        ("crash", {"max_crashes": 0}, 0, 1, FAILED),
        ("crash", {}, 0, 3, AGAIN),
        ("crash", {}, 0, 4, FAILED),
        ("timeout", {"retries": 9}, 1, 0, TIMED_OUT),
        ("timeout", {"retries": 1, "retry_timeouts": True}, 1, 0, AGAIN),
        ("timeout", {"retries": 1, "retry_timeouts": True}, 2, 0, TIMED_OUT),
        ("timeout", {"retry_timeouts": True}, 1, 0, TIMED_OUT),
        # It has no class, so none is asked for.
        ("timeout", {"retries": 1, "retry_timeouts": True, "retry_on": ("OSError",)}, 1, 0, AGAIN),
        ("cancelled", {}, 9, 9, AGAIN),
        ("interrupted", {}, 0, 0, AGAIN),
        # One does not use the other up.
        ("error", {"retries": 1}, 1, 3, AGAIN),
        ("crash", {"max_crashes": 1}, 5, 1, AGAIN),
        ("interrupted", {"max_crashes": 0}, 9, 9, AGAIN),
    ],
)
def test_verdict(
    outcome: Outcome, options: dict[str, Any], errors: int, crashes: int, state: str | None
) -> None:
    assert verdict(template(**options), done(1, outcome), errors, crashes) == state


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        ("error", (3, 5)),
        ("timeout", (3, 5)),
        ("crash", (2, 6)),
        *((costs_nothing, (2, 5)) for costs_nothing in ("ok", "interrupted", "cancelled")),
    ],
)
def test_what_an_attempt_counts_as(outcome: Outcome, counts: tuple[int, int]) -> None:
    assert counted(outcome, 2, 5) == counts


@pytest.mark.parametrize(
    ("named", "state"),
    [
        ((), AGAIN),
        (("ValueError",), AGAIN),
        (("Exception",), AGAIN),
        (("OSError", "ValueError"), AGAIN),
        (("OSError",), FAILED),
        (("Value",), FAILED),
    ],
)
def test_only_named_errors_are_retried(named: tuple[str, ...], state: str | None) -> None:
    failure = TaskFailure("ValueError", "no", bases=("ValueError", "Exception", "BaseException"))
    completion = done(1, "error", failure=failure)
    assert verdict(template(retries=5, retry_on=named), completion, 1, 0) == state


@pytest.mark.parametrize(
    ("named", "never", "state"),
    [
        ((), ("OSError",), AGAIN),
        ((), ("ValueError",), FAILED),
        ((), ("OSError", "Exception"), FAILED),
        (("ValueError",), ("Exception",), FAILED),  # whatever else is named
        (("Exception",), ("KeyError",), AGAIN),
        ((), ("exit 3",), FAILED),
        (("exit 3",), (), AGAIN),
        (("exit 3",), ("exit 4",), AGAIN),
        (("exit 4",), (), FAILED),
    ],
)
def test_what_is_named_so_is_never_retried(
    named: tuple[str, ...], never: tuple[str, ...], state: str | None
) -> None:
    bases = ("ValueError", "Exception", "BaseException", "exit 3")
    completion = done(1, "error", failure=TaskFailure("ValueError", "no", bases=bases))
    kind = template(retries=5, retry_on=named, no_retry_on=never)
    assert verdict(kind, completion, 1, 0) == state
    # A process that died has raised nothing.
    assert verdict(kind, done(1, "crash"), 0, 1) is AGAIN
