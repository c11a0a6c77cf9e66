"""Completions of attempts, in the words that the head and the user are told. Pure functions.

Invariants
----------
- An attempt that was told to end has ended for that reason, whatever it raised on its way out.
- A failure of several ranks is told as one: the first rank's exception, everybody's traceback.
- A task that stops unfinished, though nobody has told it to, has failed.
"""

from __future__ import annotations

import signal

import msgspec

from pilot.errors import StorageError, TaskOutOfMemory
from pilot.limits import ERROR_TEXT_BYTES, LAST_WORD_BYTES
from pilot.model.states import Outcome
from pilot.model.tasks import NOT_HERE, Completion, TaskFailure, Template
from pilot.scheduler.resources import Resources
from pilot.texts import shortened
from pilot.wire.messages.pilot import AttemptSpec

#: How the stack of a process begins that tells where it is, and how much is shown of it.
_STACK = "Stack (most recent call first):"
_FRAMES = 20
#: Outcome → class of the error that is told.
_KINDS = {"timeout": "TaskTimedOut", "crash": "TaskCrashed"}


def describe_exit(status: int) -> str:
    """Describe an exit status in words; negative ones, and 128 + N from launchers, are signals."""
    number = -status if status < 0 else status - 128
    if number > 0:
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"exit status {status}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit status {status}"


def cannot_start(node: str, count: int, status: int, tail: str) -> str:
    """Say why a node is given up: `count` failed starts, with the exit status and last output of
    the last one."""
    said = [line.strip() for line in tail.splitlines() if line.strip()]
    last = f": {shortened(said[-1], LAST_WORD_BYTES)}" if said else ""
    return f"{count} executors in a row did not start on {node} ({describe_exit(status)}{last})"


def cannot_enter(status: int, tail: str) -> str:
    """Say why a task's process could not be started in its environment or container."""
    said = [line.strip() for line in tail.splitlines() if line.strip()]
    last = f": {shortened(said[-1], LAST_WORD_BYTES)}" if said else ""
    return f"its environment or container could not be entered ({describe_exit(status)}{last})"


def ended(
    work: AttemptSpec, outcome: Outcome, message: str, now: float, node: str = "", tail: str = ""
) -> Completion:
    """Return the completion of an attempt that did not report its end itself.

    Parameters
    ----------
    work
        The attempt.
    outcome
        ``crash``, ``timeout``, ``interrupted`` or ``cancelled``.
    message
        Why.
    now
        Seconds since the epoch.
    node
        The node that the attempt ran on; empty if it did not run.
    tail
        The last lines of its output.
    """
    return Completion(
        task=work.task,
        attempt=work.attempt,
        outcome=outcome,
        failure=TaskFailure(
            type=_KINDS.get(outcome, outcome),
            message=shortened(message, ERROR_TEXT_BYTES),
            detail=shortened(tail, ERROR_TEXT_BYTES),
            node=node,
            attempt=work.attempt,
        ),
        node=node,
        ended=now,
    )


def is_not_here(completion: Completion) -> bool:
    """Tell whether an attempt was not begun, since its process has not got an input ahead of which
    it was sent."""
    return completion.failure is not None and completion.failure.type == NOT_HERE


def killed(
    work: AttemptSpec, outcome: Outcome, template: Template, now: float, node: str, tail: str
) -> Completion:
    """Return the completion of an attempt that was killed: over its time limit, cancelled, or with
    its pilot."""
    return ended(work, outcome, _why_killed(outcome, template), now, node, tail)


def out_of_memory(work: AttemptSpec, why: str, now: float, node: str, tail: str = "") -> Completion:
    """Return the completion of an attempt that was ended because it had more memory than it asked
    for: an error of its own, which another try would make again."""
    completion = ended(work, "error", why, now, node, tail)
    assert completion.failure is not None
    names = _names(TaskOutOfMemory)
    failure = msgspec.structs.replace(completion.failure, type=names[0], bases=names)
    return msgspec.structs.replace(completion, failure=failure)


def _names(kind: type[Exception]) -> tuple[str, ...]:
    """Return the names of a class and of its bases."""
    return tuple(base.__name__ for base in kind.__mro__ if base is not object)


def told_to_end(completion: Completion, outcome: Outcome, template: Template) -> Completion:
    """Return the completion of an attempt that raised because it was told to end, which is not its
    own error."""
    assert completion.failure is not None
    failure = msgspec.structs.replace(
        completion.failure,
        type=_KINDS.get(outcome, outcome),
        message=_why_killed(outcome, template),
        exception=b"",
        bases=(),
    )
    return msgspec.structs.replace(completion, outcome=outcome, failure=failure)


def stopped(completion: Completion, was_told: bool) -> Completion:
    """Return the completion of an attempt that has raised `pilot.Stopped`, or that its process
    gives back, which names no class of an error.

    Parameters
    ----------
    completion
        The process's report.
    was_told
        True if the attempt was told to stop; else it is an error, or the task could stop for ever.
    """
    assert completion.failure is not None
    if not completion.failure.bases:
        return completion
    message = completion.failure.message
    if was_told:
        message = message or "it has stopped, as it was told to"
        # It is no error that anybody may want to see.
        failure = msgspec.structs.replace(
            completion.failure, type="Stopped", message=message, exception=b"", bases=()
        )
        return msgspec.structs.replace(completion, failure=failure)
    message = "it raised pilot.Stopped, and was not told to stop: look at context().should_stop"
    failure = msgspec.structs.replace(completion.failure, message=message, exception=b"")
    return msgspec.structs.replace(completion, outcome="error", failure=failure)


def lost(completion: Completion, outcome: Outcome, kind: str, reason: str) -> Completion:
    """Return the completion of an attempt that has ended and whose results are lost.

    Parameters
    ----------
    completion
        The end that is lost.
    outcome
        How the attempt ends instead.
    kind, reason
        Class name of the error, and why.
    """
    failure = TaskFailure(
        type=kind,
        message=shortened(reason, ERROR_TEXT_BYTES),
        bases=_names(StorageError) if kind == StorageError.__name__ else (),
        node=completion.node,
        attempt=completion.attempt,
    )
    return msgspec.structs.replace(
        completion, outcome=outcome, failure=failure, values=(), children=None, files=()
    )


def merge_failures(
    work: AttemptSpec, failures: dict[int, Completion], left: int, need: Resources
) -> Completion:
    """Merge the failures of several ranks into one completion.

    Parameters
    ----------
    work
        The attempt.
    failures
        The failures that ranks have told, by rank; one at least.
    left
        How many ranks have left the task.
    need
        With the number of ranks.
    """
    # Where some have stopped as they were told, and one has failed, the task has.
    failed = [rank for rank, its in failures.items() if its.outcome != "interrupted"]
    first = failures[min(failed or failures)]
    assert first.failure is not None
    if need.ranks == 1 or not failed:
        return first
    title = f"{len(failures)} of {need.ranks} ranks failed"
    if left < need.ranks:
        title += f", {need.ranks - left} did not leave the task and were killed"
    # Ranks that failed alike are told once.
    alike: dict[str, list[int]] = {}
    for rank, completion in sorted(failures.items()):
        detail = completion.failure.detail if completion.failure else ""
        alike.setdefault(detail, []).append(rank)
    details = [
        f"rank {', '.join(map(str, ranks))}:\n{detail.rstrip()}" for detail, ranks in alike.items()
    ]
    detail = shortened("\n".join([title, *details]), ERROR_TEXT_BYTES)
    failure = msgspec.structs.replace(first.failure, detail=detail)
    return msgspec.structs.replace(first, task=work.task, failure=failure, values=())


def merge_tails(tails: dict[int, str]) -> str:
    """Return the last lines of the output of ranks in one text; equal ones are told once."""
    alike: dict[str, list[int]] = {}
    for rank, tail in sorted(tails.items()):
        if text := _inner_end(tail):
            alike.setdefault(text, []).append(rank)
    if not alike:
        return ""
    return "\n".join(f"rank {', '.join(map(str, ranks))}:\n{text}" for text, ranks in alike.items())


def _inner_end(tail: str) -> str:
    """Return the last lines of a rank's output; of the stack that it ends with, the inner end."""
    said, stack, frames = tail.rpartition(_STACK)
    shown = frames.strip("\n").splitlines()[: _FRAMES if stack else None]
    return "\n".join([*said.splitlines()[-_FRAMES:], *([stack] if stack else []), *shown]).strip()


def with_tails(completion: Completion, tails: dict[int, str]) -> Completion:
    """Return the completion of a task of which some ranks have failed, with the last lines of the
    output of the others, which did not leave it."""
    text = merge_tails(tails)
    if not text or completion.failure is None:
        return completion
    detail = shortened(f"{completion.failure.detail}\n{text}", ERROR_TEXT_BYTES)
    failure = msgspec.structs.replace(completion.failure, detail=detail)
    return msgspec.structs.replace(completion, failure=failure)


def _why_killed(outcome: Outcome, template: Template) -> str:
    return {
        "timeout": f"it ran longer than its time limit of {template.time_limit_s:g} s",
        "cancelled": "cancelled while it ran",
        "interrupted": "the pilot ended",
    }[outcome]
