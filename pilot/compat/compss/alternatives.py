"""The implementations of functions beside their own, by names: they may come before these."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Alternatives:
    """The implementations of all functions of this process."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Any]] = {}
        #: The number of changes.
        self.changes = 0

    def add(self, name: str, made: Any) -> None:
        """Note that a function is another implementation of the one of this name."""
        self._by_name.setdefault(name, []).append(made)
        self.changes += 1

    def of(self, made: Any) -> tuple[Any, ...]:
        """Return the other implementations of a function."""
        found: list[Any] = []
        for name in _names(made):
            found += [other for other in self._by_name.get(name, ()) if other is not made]
        return tuple(found)


def _names(made: Any) -> Iterator[str]:
    yield f"{made.__module__}.{made.__qualname__}"
    if made.__module__ == "__main__":
        # Programs name their own file.
        file = getattr(sys.modules["__main__"], "__file__", None)
        if file:
            yield f"{Path(file).stem}.{made.__qualname__}"


#: All that there are.
ALTERNATIVES = Alternatives()
