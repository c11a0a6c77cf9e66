"""The small results of the last tasks of a process, for tasks that were sent to it ahead of them.

Invariants
----------
- Of a task that has run twice here, the result of the last time counts.
- What is kept is bounded; what is missing costs the task that needs it one way to the agent.
"""

from __future__ import annotations

import msgspec

from pilot import clock
from pilot.model.tasks import NOT_HERE, Completion, TaskFailure
from pilot.model.values import Value
from pilot.wire.messages.pilot import AttemptSpec, InputValue

#: More than a process is sent ahead.
_TASKS = 128
_BYTES = 8 << 20


class RecentResults:
    """The results of tasks that have ended well."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Value, ...]] = {}
        self._bytes = 0

    def note(self, completion: Completion) -> None:
        """Note the end of a task; its values are inline, or in sealed segments."""
        self.forget(completion.task)
        children = completion.children
        if completion.outcome != "ok" or (children is not None and children.delegated):
            return
        size = 0
        for value in completion.values:
            if value.path:
                return
            size += value.size
        self._values[completion.task] = completion.values
        self._bytes += size
        while len(self._values) > _TASKS or self._bytes > _BYTES:
            self.forget(next(iter(self._values)))

    def forget(self, task: int) -> None:
        """Forget the results of a task: it runs again."""
        for value in self._values.pop(task, ()):
            self._bytes -= value.size

    def fill(self, work: AttemptSpec) -> AttemptSpec | None:
        """Return a task with all its inputs; None: one that is made here has not come."""
        if all(item.value is not None for item in work.inputs):
            return work
        inputs: list[InputValue] = []
        for item in work.inputs:
            if item.value is None:
                values = self._values.get(item.task)
                if values is None:
                    return None
                item = InputValue(item.task, item.index, values[item.index])
            inputs.append(item)
        return msgspec.structs.replace(work, inputs=tuple(inputs))


def not_here(work: AttemptSpec, node: str) -> Completion:
    """Return the end of an attempt that was not begun, for want of an input."""
    now = clock.now()
    return Completion(
        task=work.task,
        attempt=work.attempt,
        outcome="interrupted",
        failure=TaskFailure(NOT_HERE, "", node=node, attempt=work.attempt),
        node=node,
        ended=now,
        reported=now,
    )
