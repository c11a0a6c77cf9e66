"""The ends that the head is not told yet: what they rest on is in the memory of a node alone. Pure.

A large result is in its node's store first, and tasks of the pilot may use it there at once. Nobody
outside hears of it, or of what was made from it, before it is in the site directory.

Invariants
----------
- An end is released once all its own results are written, and the ends of all tasks whose results
  it has used are released: after them.
- A result that is lost before it was written is lost with all that was made from it, and all of
  that runs again. Nothing of it was told to anybody.
- The cost of an event grows with what it concerns, not with what is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pilot.model.tasks import Completion


class _Held:
    """An end that is not released yet."""

    __slots__ = ("completion", "makers", "node", "unwritten")

    def __init__(
        self, completion: Completion, node: str, unwritten: set[str], makers: set[int]
    ) -> None:
        self.completion = completion
        self.node = node
        #: The segments with its results that are in the node's store alone.
        self.unwritten = unwritten
        #: The held tasks whose results it has used.
        self.makers = makers


class Kept:
    """The held ends of a pilot, and who has used their results."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        #: Unwritten segment → the tasks with results in it.
        self._of_path: dict[str, list[int]] = {}
        #: Held task → the tasks that have its results, whether they have ended or not.
        self._users: dict[int, set[int]] = {}
        #: Task that has not ended → the held tasks whose results it has.
        self._used: dict[int, set[int]] = {}

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
        return {held.node for held in self._held.values() if held.unwritten}

    def on_node(self, node: str) -> list[int]:
        """List the tasks with results that are in the store of this node alone."""
        return [t for t, held in self._held.items() if held.node == node and held.unwritten]

    def in_segment(self, path: str) -> list[int]:
        """List the tasks with results in an unwritten segment."""
        return list(self._of_path.get(path, ()))

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
        self._held[task] = _Held(completion, node, set(paths), makers or set())
        for path in paths:
            self._of_path.setdefault(path, []).append(task)
        return True

    def written(self, path: str) -> list[Completion]:
        """Note that a segment is in the site directory; return the ends that are released, each
        after those that it rests on."""
        ready = []
        for task in self._of_path.pop(path, ()):
            held = self._held[task]
            held.unwritten.discard(path)
            if not held.unwritten and not held.makers:
                ready.append(task)
        return self._release(ready)

    def _release(self, ready: list[int]) -> list[Completion]:
        released = []
        for task in ready:  # it grows
            released.append(self._held.pop(task).completion)
            for user in self._users.pop(task, ()):
                if (held := self._held.get(user)) is not None:
                    held.makers.discard(task)
                    if not held.makers and not held.unwritten:
                        ready.append(user)
                else:
                    used = self._used[user]
                    used.discard(task)
                    if not used:
                        del self._used[user]
        return released

    def lose(self, tasks: Iterable[int]) -> tuple[list[Completion], set[int]]:
        """Drop the held ends of tasks, and of all that have used their results.

        Returns
        -------
        list of Completion
            The ends that are lost.
        set of int
            The tasks that have used lost results and have not ended.
        """
        lost: list[Completion] = []
        unended: set[int] = set()
        left = [task for task in tasks if task in self._held]
        for task in left:  # it grows
            held = self._held.pop(task, None)
            if held is None:
                continue
            lost.append(held.completion)
            for path in held.unwritten:
                others = self._of_path[path]
                others.remove(task)
                if not others:
                    del self._of_path[path]
            for maker in held.makers:
                self._drop_user(maker, task)
            for user in self._users.pop(task, ()):
                if user in self._held:
                    self._held[user].makers.discard(task)
                    left.append(user)
                else:
                    self._used[user].discard(task)
                    self.unuse(user)
                    unended.add(user)
        return lost, unended

    def _drop_user(self, maker: int, task: int) -> None:
        users = self._users.get(maker)
        if users is not None:
            users.discard(task)
            if not users:
                del self._users[maker]
