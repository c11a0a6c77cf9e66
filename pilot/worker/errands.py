"""Errands that threads of a node worker run beside its loop, which hears of their ends.

Invariants
----------
- An errand is run once, however often it is asked for before it has ended.
- One that is withdrawn before it has begun is not run, and has no end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

#: What an errand needs, and what comes of it.
Need = TypeVar("Need")
End = TypeVar("End")


class Errands(Generic[Need, End]):
    """Threads that run errands about files, each known by its path; started with the first of them.

    Parameters
    ----------
    name
        The name of the threads.
    most
        How many run at a time.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        #: A descriptor that is readable while `take` has something.
        self.sentinel = reader
        self._lock = threading.Condition()
        self._wanted: dict[str, Need] = {}
        #: Those that were asked for, and have not ended.
        self._asked: set[str] = set()
        self._ended: list[tuple[str, End]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def run(self, path: str, need: Need) -> End:
        """Run an errand; called in a thread, and raises nothing."""
        raise NotImplementedError

    @property
    def is_closed(self) -> bool:
        """True once nobody waits for the errands any more."""
        return self._closed

    def ask(self, errands: Mapping[str, Need]) -> None:
        """Have errands run, in this order, after those that were asked for before."""
        with self._lock:
            new = {path: need for path, need in errands.items() if path not in self._asked}
            self._wanted.update(new)
            self._asked.update(new)
            if len(self._threads) < min(self._most, len(self._wanted)):
                thread = threading.Thread(target=self._run_all, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._lock.notify_all()

    def withdraw(self, paths: Iterable[str]) -> None:
        """Have errands not run that have not begun."""
        with self._lock:
            for path in paths:
                if path in self._wanted:
                    del self._wanted[path]
                    self._asked.discard(path)

    def take(self) -> list[tuple[str, End]]:
        """Return the errands that have ended since the last call, and what came of each."""
        with self._lock:
            ended, self._ended = self._ended, []
            if ended:
                os.read(self.sentinel, len(ended))
            return ended

    def close(self) -> None:
        """Begin no other errand, and wait for those that are under way."""
        with self._lock:
            self._closed = True
            self._wanted.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(5.0)
            if thread.is_alive():
                return  # a disk stands still; the descriptors go with the process
        os.close(self.sentinel)
        os.close(self._writer)

    def _run_all(self) -> None:
        while True:
            with self._lock:
                while not self._wanted and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                path = next(iter(self._wanted))
                need = self._wanted.pop(path)
            end = self.run(path, need)
            with self._lock:
                self._asked.discard(path)
                self._ended.append((path, end))
                os.write(self._writer, b"\0")
