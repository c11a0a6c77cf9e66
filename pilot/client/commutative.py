"""Values that tasks take by turns, as users give them: ``options(commutative=future)``.

Of each such value the session knows the tasks that take it, since what reads it after them
(`latest`) comes after exactly those that were submitted before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pilot.client.arguments import Origin
from pilot.client.task import OptionError
from pilot.errors import PilotError
from pilot.model.ids import Ref, session_of, task_label


def ref_of(future: Any, here: Origin, session: int) -> Ref:
    """Return the result that a future stands for.

    Raises
    ------
    PilotError
        It is none of a task of this session, or of several results.
    """
    number, origin = future.place
    if session_of(number) != session or not (origin is here or origin.is_that_of(here)):
        raise PilotError(
            f"the future of task {task_label(number)} is not of this session: tasks take by turns "
            "what a task of their own session has made, or session.put"
        )
    _, *places = future.key
    if len(places) != 1:
        raise PilotError(
            f"task {task_label(number)} has {len(places)} results: name one of them, as future[0]"
        )
    return number, places[0]


class Turns:
    """The values of a session that tasks take by turns, with these tasks."""

    def __init__(self) -> None:
        #: None: what comes after them was asked for, and no more may take the value by turns.
        self._members: dict[Ref, list[int] | None] = {}

    def add(self, anchors: Iterable[Ref], tasks: Sequence[int]) -> None:
        """Note tasks that take these values by turns.

        Raises
        ------
        OptionError
            What comes after all of them was asked for already.
        """
        anchors = tuple(anchors)
        for anchor in anchors:
            if self._members.get(anchor, ()) is None:
                raise OptionError(
                    f"commutative: session.latest was asked for what comes after the tasks that "
                    f"take the result of task {task_label(anchor[0])} by turns; give the future "
                    "that it returned"
                )
        for anchor in anchors:
            members = self._members.setdefault(anchor, [])
            assert members is not None
            members.extend(tasks)

    def close(self, anchor: Ref) -> tuple[int, ...]:
        """Return the tasks that take a value by turns; no more may.

        Raises
        ------
        PilotError
            There are none, or this was asked before.
        """
        if anchor not in self._members:
            raise PilotError(
                f"no task of this program takes the result of task {task_label(anchor[0])} by "
                "turns: submit some with options(commutative=future)"
            )
        members, self._members[anchor] = self._members[anchor], None
        if members is None:
            raise PilotError(
                f"session.latest was asked for the result of task {task_label(anchor[0])} already; "
                "go on with the future that it returned"
            )
        return tuple(members)


def parts_of(
    anchors: Sequence[Ref], inputs: Sequence[Ref], returns: int
) -> tuple[tuple[int, int], ...]:
    """Return the parts of a call in turns: its inputs, and its results that are the next versions.

    Raises
    ------
    OptionError
        A value is not among the arguments, or there are fewer results than values.
    """
    if len(anchors) > returns:
        raise OptionError(
            f"commutative: {len(anchors)} values, and the task has {returns} results; the first "
            "results are the next versions: set returns="
        )
    parts = []
    for result, anchor in enumerate(anchors):
        if anchor not in inputs:
            raise OptionError(
                f"commutative: the future of task {task_label(anchor[0])} is not among the "
                "arguments, in whose place the task gets the latest version"
            )
        parts.append((inputs.index(anchor), result))
    return tuple(parts)
