"""The files that a command's output goes to, shown as its log is.

A command that writes to files of its own has nothing, or less, in the log of its executor. Whoever
asks for its output means both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilot.client.calls import COMMANDS, Call, read_calls
from pilot.client.logs import Span
from pilot.model.states import FINAL

#: States in which a file that is there may be of an earlier run.
_BEFORE = ("PENDING", "READY", "ASSIGNED")


class OutputFiles:
    """The output files of one task.

    Parameters
    ----------
    ask
        A function that asks the head.
    site
        The site directory.
    task
        The task's id.
    """

    def __init__(self, ask: Callable[..., Any], site: Path, task: str) -> None:
        self._ask = ask
        self._site = site
        self._task = task
        self._names: list[str] | None = None

    def spans(self, state: str, logs: list[Span]) -> list[Span]:
        """Return the files as parts of the output, of the last attempt that `logs` tells of."""
        if state in _BEFORE:
            # That it runs is known to the head's view of the task alone.
            state = self._ask("task", task=self._task)["state"]
            if state in _BEFORE:
                return []
        if self._names is None:
            kind = self._ask("task", task=self._task)["kind"]
            call = Call()
            if kind in COMMANDS:
                call = read_calls(self._ask, self._site, [self._task]).get(self._task, call)
            home = Path(call.places.get("directory", ""))
            named = (call.places[each] for each in ("stdout", "stderr") if each in call.places)
            self._names = list(dict.fromkeys(str(home / name) for name in named))
        attempt = max((span["attempt"] for span in logs), default=1)
        spans: list[Span] = []
        for name in self._names:
            path = _newest(name)
            if path is None:
                continue
            end = path.stat().st_size if state in FINAL else -1
            spans.append({"path": str(path), "start": 0, "end": end, "attempt": attempt})
        return spans


def _newest(name: str) -> Path | None:
    """Return the file of this name, in which ``%N`` stands for any node; None: it is not there."""
    path = Path(name)
    if "%N" in path.name:
        found = path.parent.glob(path.name.replace("%N", "*"))
        return max(found, key=lambda each: each.stat().st_mtime, default=None)
    return path if path.is_file() else None
