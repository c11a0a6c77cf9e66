"""The rows of the database: their values in Python, and the structs that columns hold encoded.

Invariants
----------
- A damaged row is noticed where it is read (`damage`), and never taken for another value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from pilot.head.core.events import Change
from pilot.head.store.damage import DAMAGED, damaged_task
from pilot.model.bounds import UNREADABLE
from pilot.model.ids import Ref
from pilot.model.objects import Naming
from pilot.model.states import FAILED, SESSION_STATES, FinalState, SessionState
from pilot.model.tasks import (
    Completion,
    Environment,
    FileStamp,
    LogSpan,
    TaskFailure,
    TaskOutcome,
    Template,
)
from pilot.model.values import Value

encode = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(tuple[tuple[Value, ...], TaskFailure | None]).decode
_decode_inputs = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...]).decode
_decode_commutative = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...]).decode
_decode_after = msgspec.msgpack.Decoder(tuple[int, ...]).decode
_decode_variables = msgspec.msgpack.Decoder(dict[str, str]).decode
_decode_environment = msgspec.msgpack.Decoder(Environment).decode
_decode_failure = msgspec.msgpack.Decoder(TaskFailure).decode
_decode_changes = msgspec.msgpack.Decoder(list[Change]).decode
_decode_logs = msgspec.msgpack.Decoder(tuple[LogSpan, ...]).decode
#: Returns the template in the row of a task.
decode_template = msgspec.msgpack.Decoder(Template).decode
#: Returns the files that a result depends on.
decode_files = msgspec.msgpack.Decoder(tuple[FileStamp, ...]).decode
#: Returns the values of a task that delegates, and the children that have the others.
decode_owed = msgspec.msgpack.Decoder(tuple[tuple[Value, ...], dict[int, Ref]]).decode

#: The types of the columns of an unfinished task.
_MAYBE = (bytes, type(None))
_UNFINISHED: tuple[tuple[type, ...], ...] = (
    *((int,), (int,), (int,), (bytes,), _MAYBE, (int,), (int,), (int,)),
    *((float, int), _MAYBE, _MAYBE, _MAYBE, _MAYBE),
)
#: Most results have no failure and one small value: their encoding without the encoder's set-up.
_NO_VALUES = encode(((), None))


class SessionRow(NamedTuple):
    """A session as the database has it."""

    id: int
    name: str
    #: OPEN, STOPPED, CLOSING, CLOSED or PURGED.
    state: SessionState
    paused: bool
    weight: float
    priority: int
    options: bytes
    environment: Environment
    #: It ends when its clients have been gone for so long, in seconds; 0: it does not.
    grace_s: float


def session_row(row: tuple[Any, ...]) -> SessionRow:
    """Return the session in a row; raise one of `DAMAGED` if it is none."""
    session, name, state, paused, weight, priority, options, environment, grace, its = row
    kinds = ((weight, float), (priority, int), (options, bytes), (name, str), (grace or 0.0, float))
    for value, wanted in kinds:
        if not isinstance(value, wanted):
            raise TypeError(f"{type(value).__name__} in place of {wanted.__name__}")
    if state not in SESSION_STATES:
        raise ValueError(f"{state!r:.40} is not a state of a session")
    return SessionRow(
        session,
        name,
        state,
        bool(paused),
        weight,
        priority,
        options,
        _environment(environment, its),
        grace or 0.0,
    )


def _environment(environment: bytes, inherited: bytes | None) -> Environment:
    found = _decode_environment(environment)
    if inherited is None:
        return found
    return msgspec.structs.replace(found, inherited=_decode_variables(inherited))


def check_unfinished(kinds: tuple[type, ...]) -> None:
    """Check the types of the columns of an unfinished task's row."""
    for kind, wanted in zip(kinds, _UNFINISHED, strict=True):
        if kind not in wanted:
            raise TypeError(f"{kind.__name__} in place of {wanted[0].__name__}")


def changes_of(count: Any, session: int, changes: bytes) -> list[Change]:
    """Decode a row of the log; a damaged one gives as many events without content."""
    if type(count) is not int or count < 1:
        count = 1
    try:
        found = _decode_changes(changes)
        if sum(change.count for change in found) == count:
            return found
        why = "it has another number of events"
    except DAMAGED as error:
        why = str(error)
    told = f"{count} events cannot be read: their row in the database is damaged ({why})"
    return [Change("head", "DAMAGED", session, 0.0, told, []) for _ in range(count)]


def attempt_row(
    c: Completion, pilot: str, times: tuple[float | None, float | None, float | None], now: float
) -> tuple[object, ...]:
    """Return the row of an attempt that has ended."""
    return (
        c.task,
        c.attempt,
        c.outcome,
        pilot,
        c.node,
        *times,
        c.received,
        c.fetched,
        c.started,
        c.ended,
        c.reported,
        now,
        c.placement or None,
        encode(c.failure) if c.failure else None,
        encode(c.logs) if c.logs else None,
        c.cpu_s or None,
        c.peak_mib or None,
        c.version or None,
    )


def object_row(
    naming: Naming, task: int, place: int, size: int, maker: int, now: float, *, put: bool
) -> dict[str, object]:
    """Return the row of a version of a named object, without its number."""
    return {
        "name": naming.name,
        "task": task,
        "place": place,
        "put": int(put),
        "maker": maker,
        "made": now,
        "user": naming.user,
        "size": size,
        "type": naming.type,
        "tags": naming.tags,
        "expires": now + naming.keep_s if naming.keep_s else None,
    }


def outcome_of(task: int, state: FinalState, result: bytes | None) -> TaskOutcome:
    """Return the outcome of a task; one whose row is damaged has failed."""
    try:
        return TaskOutcome(task, state, *_decode_result(result or _NO_VALUES))
    except UNREADABLE as error:
        failure = TaskFailure("StorageError", damaged_task(task, error))
        return TaskOutcome(task, FAILED, (), failure)


def decode_result(result: bytes | None) -> tuple[tuple[Value, ...], TaskFailure | None]:
    """Return the values and the failure in the ``result`` column of a task."""
    return _decode_result(result or _NO_VALUES)


def decode_failure(failure: bytes | None) -> TaskFailure | None:
    """Return the failure in the row of an attempt."""
    return _decode_failure(failure) if failure else None


def decode_logs(logs: bytes | None) -> tuple[LogSpan, ...]:
    """Return the places of the output of an attempt."""
    return _decode_logs(logs) if logs else ()


def decode_delegated(delegated: bytes | None) -> tuple[tuple[Value, ...], dict[int, Ref]]:
    """Return a delegating task's own values, and the children that have the others."""
    return decode_owed(delegated) if delegated else ((), {})


def decode_commutative(parts: bytes | None) -> tuple[tuple[int, int], ...]:
    """Return what a task takes by turns: places of its inputs, and of its results."""
    return _decode_commutative(parts) if parts else ()


def decode_after(after: bytes | None) -> tuple[int, ...]:
    """Return the tasks that end before a task starts."""
    return _decode_after(after) if after else ()


def decode_inputs(inputs: bytes | None) -> tuple[tuple[int, int], ...]:
    """Return the results that a task needs."""
    return _decode_inputs(inputs) if inputs else ()
