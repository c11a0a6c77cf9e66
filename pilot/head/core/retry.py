"""The price of an attempt: what its end counts as, and the final state that follows, if any. Pure.

How an attempt ended is said by its pilot (`pilot.agent.rules`); `pilot_reports` sees
that each end is counted once.

Invariants
----------
- A task's own error costs a retry, a process that died costs a crash; neither uses the other up.
- A time-out costs a retry, too, and ends the task unless its template says otherwise.
- What is named as never retried is not, whatever else is named.
- An attempt that was interrupted (preempted, walltime, node lost) or stopped costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilot.model.states import COMPLETED, FAILED, TIMED_OUT, FinalState, Outcome
from pilot.model.tasks import Completion, Template


def counted(outcome: Outcome, errors: int, crashes: int) -> tuple[int, int]:
    """Return the numbers of a task's errors and crashes when another attempt has ended so.

    Parameters
    ----------
    outcome
        The end of the attempt.
    errors, crashes
        The numbers before it.
    """
    return errors + (outcome in ("error", "timeout")), crashes + (outcome == "crash")


def verdict(
    template: Template, completion: Completion, errors: int, crashes: int
) -> FinalState | None:
    """Return the final state that follows from an attempt, or None if the task is tried again.

    Parameters
    ----------
    template
        The policy of the task.
    completion
        The pilot's report of how the attempt ended.
    errors, crashes
        The numbers of attempts that have ended so, this one included (see `counted`).
    """
    outcome = completion.outcome
    if outcome == "ok":
        return COMPLETED
    if outcome in ("interrupted", "cancelled"):
        # A task that somebody cancelled has left by then: this one was only stopped in one place,
        # because a head did not know (yet) that it is wanted.
        return None
    if outcome == "timeout":
        return None if template.retry_timeouts and errors <= template.retries else TIMED_OUT
    if outcome == "crash":
        return None if crashes <= template.max_crashes else FAILED
    bases = completion.failure.bases if completion.failure else ()
    return None if is_named(template, bases) and errors <= template.retries else FAILED


def is_named(template: Template, bases: Iterable[str]) -> bool:
    """Tell whether a failure with these names is one that is tried again."""
    named = not template.retry_on or not set(template.retry_on).isdisjoint(bases)
    return named and set(template.no_retry_on).isdisjoint(bases)
