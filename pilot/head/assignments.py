"""Assignments: the messages that give a pilot tasks, with everything that the tasks need.

A message has the environment of the session, the template and the function, if the pilot has not
been sent them before, and for each task its arguments and the values of its inputs.

Invariants
----------
- Arguments are in memory up to a limit; above it they are dropped once the database has them, and
  read when they are needed.
- A session's functions are here as long as it may have tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pilot.errors import StorageError
from pilot.head.connections import PilotPeer, Sent
from pilot.head.core.state import Task
from pilot.head.store.reader import Reader
from pilot.model.ids import task_label
from pilot.model.tasks import Function, SessionInfo, TaskSpec, Template
from pilot.model.values import Value
from pilot.wire.messages.pilot import Assign, AttemptSpec, InputValue

#: The bytes of arguments of waiting tasks that are kept in memory; others are read when needed.
PAYLOAD_BYTES = 256 << 20


class _Session(NamedTuple):
    info: SessionInfo
    functions: dict[bytes, Function]


class AssignmentPacker:
    """The sessions that have not ended, their functions, and the arguments of waiting tasks."""

    def __init__(self, store: Reader) -> None:
        self._store = store
        self._sessions: dict[int, _Session] = {}
        self._payloads: dict[int, bytes] = {}
        self._payload_bytes = 0

    def open(self, info: SessionInfo, functions: dict[bytes, Function]) -> None:
        """Register a session that may have tasks, with the functions that it has, by digest."""
        self._sessions[info.id] = _Session(info, functions)

    def is_open(self, session: int) -> bool:
        """Tell whether a session may have tasks."""
        return session in self._sessions

    def close(self, session: int) -> None:
        """Forget a session that will have no more tasks."""
        self._sessions.pop(session, None)

    def learn(self, session: int, functions: Iterable[Function]) -> None:
        """Add functions to a session."""
        for function in functions:
            self._sessions[session].functions[function.digest] = function

    def unlearn(self, session: int, digest: bytes) -> None:
        """Remove a function that cannot be stored from a session."""
        if session in self._sessions:
            self._sessions[session].functions.pop(digest, None)

    def has(self, session: int, digest: bytes) -> bool:
        """Tell whether a session has a function; True for an empty digest."""
        return not digest or digest in self._sessions[session].functions

    @property
    def is_full(self) -> bool:
        """True when the arguments in memory have reached `PAYLOAD_BYTES`."""
        return self._payload_bytes >= PAYLOAD_BYTES

    def keep(self, spec: TaskSpec) -> None:
        """Keep the arguments of a waiting task in memory."""
        self._payloads[spec.id] = spec.payload
        self._payload_bytes += len(spec.payload)

    def drop_all(self, tasks: Iterable[int]) -> None:
        """Drop the arguments of these tasks, which the database has; they are read when needed."""
        for task in tasks:
            self.drop(task)

    def drop(self, task: int) -> None:
        """Drop the arguments of a task that will not run again, or that the database has."""
        payload = self._payloads.pop(task, None)
        if payload is not None:
            self._payload_bytes -= len(payload)

    def pack(
        self, peer: PilotPeer, tasks: Sequence[Task], values: Mapping[int, tuple[Value, ...]]
    ) -> Assign:
        """Make the message that gives a pilot these tasks and everything that they need.

        Parameters
        ----------
        peer
            The pilot.
        tasks
            The tasks that the pilot is to run.
        values
            The values of inputs, by the task that made them; the pilot makes the others itself.
        """
        work: list[AttemptSpec] = []
        assignment = Assign([], [], [], work)
        missing = [task.id for task in tasks if task.id not in self._payloads]
        read = self._store.payloads(missing) if missing else {}
        for task in tasks:
            template = task.template
            sent = peer.sent.get(template.session)
            if sent is None or template.id not in sent.templates:
                for each in task.own_class.versions:
                    if each.version is not None:
                        self._introduce(each.version, peer, assignment)
                self._introduce(template, peer, assignment)
            payload = self._payloads.get(task.id, read.get(task.id))
            if payload is None:
                raise StorageError(
                    f"the arguments of task {task_label(task.id)} are not in the database any more"
                )
            work.append(
                AttemptSpec(
                    task.id,
                    task.attempt,
                    (task.task_class.version or template).id,
                    payload,
                    tuple(
                        InputValue(
                            source, index, values[source][index] if source in values else None
                        )
                        for source, index in task.given
                    )
                    if task.inputs
                    else (),
                )
            )
        return assignment

    def _introduce(self, template: Template, peer: PilotPeer, assignment: Assign) -> None:
        """Add a template that the pilot does not know yet, with its session and function."""
        session = self._sessions[template.session]
        sent = peer.sent.get(template.session)
        if sent is None:
            sent = peer.sent[template.session] = Sent(set(), set())
            assignment.sessions.append(session.info)
        sent.templates.add(template.id)
        assignment.templates.append(template)
        if template.function not in sent.functions:
            sent.functions.add(template.function)
            assignment.functions.append(session.functions[template.function])
