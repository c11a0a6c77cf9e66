"""The ends that the head is not told yet: what they rest on is in the memory of a node alone. Pure.

A large result is in its node's store first, and tasks of the pilot may use it there at once. Nobody
outside hears of it, or of what was made from it, before it is in the site directory.

A result that was released, and that tasks of this pilot alone still need, is *waived*: it need not
be written at all. Its end is told together with the ends of these tasks, once all that they rest on
is written or waived as well. So of a chain of such results the last one is written alone.

Invariants
----------
- An end is released once all its own results are written, or waived and used up, and the ends of
  all tasks whose results it has used are released: after them, or with them.
- A waived result is written after all when a task that needs it does not end well here.
- A result that is lost before it was written is lost with all that was made from it, and all of
  that runs again. Nothing of it was told to anybody.
- The cost of an event grows with what it concerns, not with what is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

import msgspec

from pilot.model.ids import Ref
from pilot.model.tasks import Completion
from pilot.model.values import RELEASED


class _Held:
    """An end that is not released yet."""

    __slots__ = ("completion", "makers", "node", "number", "unwritten", "waived")

    def __init__(
        self, number: int, completion: Completion, node: str, unwritten: set[str], makers: set[int]
    ) -> None:
        #: Its place in the order in which ends are told.
        self.number = number
        self.completion = completion
        self.node = node
        #: The segments with its results that are to be written.
        self.unwritten = unwritten
        #: The segments with its results that need not be.
        self.waived: set[str] = set()
        #: The held tasks whose results it has used.
        self.makers = makers

    def waived_path(self, index: int) -> str:
        """Return the waived segment that has a result; empty if that is not in one."""
        values = self.completion.values
        path = values[index].path if index < len(values) else ""
        return path if path in self.waived else ""

    def told(self) -> Completion:
        """Return the end as the head gets it."""
        if not self.waived:
            return self.completion
        values = tuple(
            RELEASED if value.path in self.waived else value for value in self.completion.values
        )
        return msgspec.structs.replace(self.completion, values=values)


class _Needed:
    """A released result: the tasks that need it, and those of them that have not ended well."""

    __slots__ = ("by", "pending")

    def __init__(self, by: Collection[int], pending: set[int]) -> None:
        self.by = by
        self.pending = pending


class Kept:
    """The held ends of a pilot, and who has used their results."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._held: dict[int, _Held] = {}
        #: Segment that is in a store alone → the tasks with results in it.
        self._of_path: dict[str, list[int]] = {}
        #: Held task → the tasks that have its results, whether they have ended or not.
        self._users: dict[int, set[int]] = {}
        #: Task that has not ended → the held tasks whose results it has.
        self._used: dict[int, set[int]] = {}
        #: Task that is here → its released results, by index.
        self._needed: dict[int, dict[int, _Needed]] = {}
        #: Task that has not ended well → the released results that it needs.
        self._needs: dict[int, set[Ref]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, task: int) -> bool:
        return task in self._held

    def ends(self) -> list[Completion]:
        """List all ends that are held."""
        return [held.completion for held in self._held.values()]

    def node_of(self, path: str) -> str:
        """Return the node in whose store a segment is that is nowhere else; empty: it is
        written."""
        tasks = self._of_path.get(path)
        return self._held[tasks[0]].node if tasks else ""

    def nodes(self) -> set[str]:
        """Return the nodes whose stores hold what is nowhere else."""
        return {held.node for held in self._held.values() if held.unwritten or held.waived}

    def on_node(self, node: str) -> list[int]:
        """List the tasks with results that are in the store of this node alone."""
        return [
            task
            for task, held in self._held.items()
            if held.node == node and (held.unwritten or held.waived)
        ]

    def in_segment(self, path: str) -> list[int]:
        """List the tasks with results in a segment that is in a store alone."""
        return list(self._of_path.get(path, ()))

    # --- who has used what

    def use(self, task: int, makers: Iterable[int]) -> None:
        """Note that a task gets results of others, some of which may be held."""
        if not self._held:
            return
        held = {maker for maker in makers if maker in self._held}
        if held:
            self._used[task] = held
            for maker in held:
                self._users.setdefault(maker, set()).add(task)

    def unuse(self, task: int) -> None:
        """Forget what a task has got: it has not run, or its end depends on nothing."""
        for maker in self._used.pop(task, ()):
            self._drop_user(maker, task)

    # --- what was released

    def release(self, task: int, index: int, needed_by: Collection[int]) -> None:
        """Note that a result of a task that is here was released; only these tasks, all of them
        here, need it."""
        if index in self._needed.get(task, ()):
            self._claim(task, index)
        pending = {user for user in needed_by if not self._has_ended_well(user)}
        self._needed.setdefault(task, {})[index] = _Needed(needed_by, pending)
        for user in pending:
            self._needs.setdefault(user, set()).add((task, index))

    def _has_ended_well(self, task: int) -> bool:
        held = self._held.get(task)
        return held is not None and held.completion.outcome == "ok"

    def _need_no_more(self, user: int, result: Ref) -> None:
        needs = self._needs.get(user)
        if needs is not None:
            needs.discard(result)
            if not needs:
                del self._needs[user]

    def ended(self, task: int, well: bool) -> list[str]:
        """Note that a task has ended, or has left; return the waived segments that are to be
        written for it, since it did not end well."""
        if well:
            for maker, index in self._needs.pop(task, ()):
                self._needed[maker][index].pending.discard(task)
            return []
        results = self._needs.get(task, set()).copy()
        for maker, index in results:
            self._claim(maker, index)
        return self._unwaive(
            [
                path
                for maker, index in results
                if (held := self._held.get(maker)) is not None and (path := held.waived_path(index))
            ]
        )

    def _claim(self, task: int, index: int) -> None:
        """Take a result for one that is not released, since somebody needs it elsewhere."""
        for user in self._needed[task].pop(index).pending:
            self._need_no_more(user, (task, index))
        if not self._needed[task]:
            del self._needed[task]

    def gone(self, task: int) -> None:
        """Forget what was released of a task that is not here any more."""
        for index in list(self._needed.get(task, ())):
            self._claim(task, index)

    def waive(self, path: str) -> bool:
        """Waive an unwritten segment if all results in it were released; return False if not."""
        tasks = self._of_path.get(path, ())
        for task in tasks:
            released = self._needed.get(task, ())
            values = self._held[task].completion.values
            if any(v.path == path and n not in released for n, v in enumerate(values)):
                return False
        for task in tasks:
            self._held[task].unwritten.discard(path)
            self._held[task].waived.add(path)
        return bool(tasks)

    def _unwaive(self, paths: Iterable[str]) -> list[str]:
        """Have waived segments be written after all; return these segments."""
        taken = []
        for path in dict.fromkeys(paths):
            tasks = self._of_path.get(path, ())
            for task in tasks:
                self._held[task].waived.discard(path)
                self._held[task].unwritten.add(path)
            if tasks:
                taken.append(path)
        return taken

    def claim(self, path: str) -> list[str]:
        """Return a segment that is needed elsewhere, if it was waived: it is to be written."""
        tasks = self._of_path.get(path, ())
        return self._unwaive([path]) if any(path in self._held[t].waived for t in tasks) else []

    def unwaive(self, ended_by: float) -> list[str]:
        """Return the segments to be written, of those that are waived, so that what ended by that
        time is told: those that tasks need which have not ended."""
        if not self._needed:
            return []
        first = next(iter(self._held.values()), None)
        if first is None or first.completion.ended > ended_by:
            return []
        return self._unwaive(
            [
                path
                for task, needed in self._needed.items()
                if (held := self._held.get(task)) is not None and held.waived
                for index, result in needed.items()
                if result.pending and (path := held.waived_path(index))
            ]
        )

    # --- what is held, and told

    def hold(self, completion: Completion, node: str, paths: Collection[str]) -> bool:
        """Hold an end back, if it rests on anything that is not written; return False if not.

        Parameters
        ----------
        completion
            The end.
        node
            The node on which the task has run.
        paths
            The segments with its results that are in the store of this node alone.
        """
        task = completion.task
        makers = self._used.pop(task, None)
        if not makers and not paths:
            return False
        number = next(self._numbers)
        self._held[task] = _Held(number, completion, node, set(paths), makers or set())
        for path in paths:
            self._of_path.setdefault(path, []).append(task)
        return True

    def written(self, path: str) -> list[Completion]:
        """Note that a segment is in the site directory; return the ends that are released."""
        tasks = self._of_path.pop(path, [])
        for task in tasks:
            self._held[task].unwritten.discard(path)
            self._held[task].waived.discard(path)
        return self.released(tasks)

    def released(self, tasks: Iterable[int]) -> list[Completion]:
        """Return the ends of tasks that are released, with all that are released with them: each
        after those that it rests on. They are held no more."""
        released = []
        left = list(tasks)
        for task in left:  # it grows
            group = self._group(task)
            for number in sorted(group, key=lambda each: self._held[each].number):
                held = self._held.pop(number)
                released.append(held.told())
                self._forget_segments(number, held)
                self.gone(number)
                left.extend(self._let_users_go(number, group))
        return released

    def _group(self, first: int) -> set[int]:
        """Return the held tasks whose ends are released when that of the first is: it, what it
        rests on, and what else has used up waived results of these; empty if it cannot be."""
        group = {first}
        left = [first]
        for task in left:  # it grows
            held = self._held.get(task)
            if held is None or held.unwritten:
                return set()
            others = set(held.makers)
            for index, result in self._needed.get(task, {}).items() if held.waived else ():
                if held.waived_path(index):
                    if result.pending:
                        return set()  # somebody has not ended yet
                    others.update(user for user in result.by if user in self._held)
            left.extend(others - group)
            group |= others
        return group

    def _let_users_go(self, task: int, group: Collection[int]) -> list[int]:
        """Note that the end of a task is released; return the held tasks that were waiting for
        that."""
        waiting = []
        for user in self._users.pop(task, ()):
            if (held := self._held.get(user)) is not None:
                held.makers.discard(task)
                if user not in group and not held.unwritten and self._are_waived(held.makers):
                    waiting.append(user)
            elif (used := self._used.get(user)) is not None:
                used.discard(task)
                if not used:
                    del self._used[user]
        return waiting

    def _are_waived(self, makers: Iterable[int]) -> bool:
        """Tell whether these tasks have no results that are to be written: then their ends may be
        released with those of their users."""
        held = self._held
        return all(held[maker].waived and not held[maker].unwritten for maker in makers)

    def _forget_segments(self, task: int, held: _Held) -> None:
        for path in held.unwritten | held.waived:
            others = self._of_path[path]
            others.remove(task)
            if not others:
                del self._of_path[path]

    def lose(self, tasks: Iterable[int]) -> tuple[list[Completion], set[int], list[str]]:
        """Drop the held ends of tasks, and of all that have used their results.

        Returns
        -------
        list of Completion
            The ends that are lost.
        set of int
            The tasks that have used lost results and have not ended.
        list of str
            The waived segments that are to be written, since what is lost will need them again.
        """
        again: list[str] = []
        lost: list[Completion] = []
        unended: set[int] = set()
        left = [task for task in tasks if task in self._held]
        for task in left:  # it grows
            held = self._held.pop(task, None)
            if held is None:
                continue
            lost.append(held.completion)
            self._forget_segments(task, held)
            self.gone(task)
            for maker in held.makers:
                self._drop_user(maker, task)
                if (its := self._held.get(maker)) is not None:
                    again.extend(its.waived)
            for user in self._users.pop(task, ()):
                if user in self._held:
                    self._held[user].makers.discard(task)
                    left.append(user)
                else:
                    self._used[user].discard(task)
                    self.unuse(user)
                    unended.add(user)
        return lost, unended, self._unwaive(path for path in again if path in self._of_path)

    def _drop_user(self, maker: int, task: int) -> None:
        users = self._users.get(maker)
        if users is not None:
            users.discard(task)
            if not users:
                del self._users[maker]
