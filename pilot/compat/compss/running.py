"""The application that runs in this process, if there is one: a launcher has started it."""

from __future__ import annotations

from typing import Any, Final, Protocol

#: The variable by which tasks know that their calls of tasks are tasks, too.
NESTED: Final = "PILOT_COMPSS_NESTED"


class Running(Protocol):
    """An application, as far as tasks need it."""

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


#: None: the program is plain Python.
current: Running | None = None
