"""Task numbers: the head gives them to clients in blocks, and to children one by one.

Invariants
----------
- A number of a session is given once, whatever dies: before any of a block is given, the database
  records the whole block as given; the rest of a block is lost with the head, and leaves a gap.
- A peer that asks again (a client that had no answer, a pilot that reports an end twice) may get
  other numbers, and only one set of them becomes tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

from pilot.head.core.state import Task
from pilot.model.ids import NUMBERS, Ref, session_of, task_id
from pilot.model.states import DELEGATED
from pilot.model.tasks import Children, Completion, TaskSpec

#: The count of numbers that a client gets with its session, before it asks for more.
FIRST_BLOCK = 256
#: The first block that the head reserves for children, doubled each time, and the largest one.
CHILDREN_BLOCK, CHILDREN_MOST = 64, 65_536

#: Reserves durably so many more numbers of a session; returns the first.
Reserve: TypeAlias = Callable[[int, int], int]


class Numbers:
    """The numbers that this head has reserved, by session.

    Parameters
    ----------
    reserve
        Reserves durably so many more numbers of a session; returns the first.
    release
        Undoes that for a block of numbers, if it is the last one.
    children_block
        The size of the first block reserved for children.
    """

    def __init__(
        self,
        reserve: Reserve,
        release: Callable[[int, int, int], object] = lambda *_: None,
        children_block: int = CHILDREN_BLOCK,
    ) -> None:
        self._reserve = reserve
        self._release = release
        self._children_block = children_block
        #: For each session: the next number, the end, and the size of the last reservation.
        self._blocks: dict[int, tuple[int, int, int]] = {}

    def block(self, session: int, count: int) -> tuple[int, int]:
        """Give a client a block of ids; return the first id and their number.

        Raises
        ------
        PilotError
            There is no such session, or it has no more numbers.
        """
        return task_id(session, self._reserve(session, count)), count

    def take(self, session: int, count: int) -> range:
        """Return ids for so many new tasks of a session; raises as `block`."""
        following, end, size = self._blocks.get(session, (0, 0, 0))
        if end - following < count:
            size = max(count, min(2 * size, CHILDREN_MOST) or self._children_block)
            following = self._reserve(session, size)
            end = following + size
        self._blocks[session] = following + count, end, size
        first = task_id(session, following)
        return range(first, first + count)

    def take_back(self, rows: Iterable[tuple[int, int]]) -> None:
        """Release blocks that a client, which has said good-bye, has not used.

        Only the last numbers of the session can be released.
        """
        for first, count in sorted(rows, reverse=True):
            self._release(session_of(first), first & NUMBERS, count)

    def forget(self, session: int) -> None:
        """Forget a session that will have no more tasks."""
        self._blocks.pop(session, None)

    def name_children(
        self, completions: list[Completion], tasks: Mapping[int, Task]
    ) -> list[Completion]:
        """Assign ids to the children that these ended attempts have submitted.

        `tasks` are the unfinished ones: the ends of others are known already.
        """
        if all(done.children is None for done in completions):
            return completions
        return [self._with_names(done, tasks.get(done.task)) for done in completions]

    def _with_names(self, done: Completion, task: Task | None) -> Completion:
        children = done.children
        if children is None or not children.tasks or task is None or task.state == DELEGATED:
            return done
        ids = self.take(session_of(task.id), len(children.tasks))
        return msgspec.structs.replace(done, children=named(children, ids))


def named(children: Children, ids: Iterable[int]) -> Children:
    """Return the children with these ids, also in the references among them and from the parent."""
    given = list(zip(children.tasks, ids, strict=True))
    known = {spec.id: number for spec, number in given}

    def following(ref: Ref) -> Ref:
        return known.get(ref[0], ref[0]), ref[1]

    def renamed(spec: TaskSpec, number: int) -> TaskSpec:
        inputs = tuple(map(following, spec.inputs)) if spec.inputs else ()
        after = tuple(known.get(each, each) for each in spec.after) if spec.after else ()
        return msgspec.structs.replace(spec, id=number, inputs=inputs, after=after)

    return msgspec.structs.replace(
        children,
        tasks=tuple(renamed(spec, number) for spec, number in given),
        delegated={index: following(ref) for index, ref in children.delegated.items()},
        released=tuple(map(following, children.released)),
    )
