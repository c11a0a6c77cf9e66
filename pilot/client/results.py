"""The results of a task as its future gives them: several by number or name, or the only one."""

from __future__ import annotations

import operator
from typing import Any

from msgspec import Struct


class Results(Struct, frozen=True):
    """The number of a task's results, and their names.

    A task with one result has no parts, unless that has a name.
    """

    count: int = 1
    #: Empty where they have none.
    names: tuple[str, ...] = ()

    def check_parts(self, label: str) -> None:
        """Raise if the task has only one result, which has no parts.

        Parameters
        ----------
        label
            The task in messages: ``task 3.17``.

        Raises
        ------
        TypeError
            The task has one result, without a name.
        """
        if self.count == 1 and not self.names:
            raise TypeError(
                f"{label} has one result, so its future has no parts; its value is result(), "
                "and with returns=2 (or names) a task has several results. Did you forget brackets "
                "around the future?"
            )

    def index(self, key: Any, label: str) -> int:
        """Return the place of a result.

        Parameters
        ----------
        key
            The number of a result (from 0, or from the end where it is negative), or its name.
        label
            The task in messages: ``task 3.17``.

        Raises
        ------
        TypeError
            The task has one result, without a name; or the key is neither number nor name.
        KeyError, IndexError
            There is no such result.
        """
        self.check_parts(label)
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(
                    f"{label} has no result {key!r}; it has "
                    + (", ".join(self.names) or f"{self.count}, without names")
                )
            return self.names.index(key)
        try:
            number = operator.index(key)
        except TypeError:
            raise TypeError(
                f"a result of {label} has a number or a name, and is not given by "
                f"a {type(key).__name__}"
            ) from None
        if not -self.count <= number < self.count:
            raise IndexError(f"{label} has {self.count} results, and no number {number}")
        return number % self.count
