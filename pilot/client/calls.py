"""The calls of tasks in words: command lines, directories, arguments.

They are read from the submitted data, here and not in the head, which unpickles nothing of a
user's. Data that cannot be read in this process (a class whose module is missing) are shown as
unreadable.
"""

from __future__ import annotations

import functools
import io
import pickle
import reprlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pilot.formatting import amount
from pilot.model.values import Value
from pilot.texts import printable

if TYPE_CHECKING:
    from pilot.client.command import ShellCommand
    from pilot.client.job_script import JobScript

#: The kinds of tasks that are commands.
COMMANDS = ("command", "mpi-command")
#: The kinds of tasks whose function says what they do, besides its arguments.
_TOLD_BY_FUNCTION = (*COMMANDS, "http")
#: Arguments in a file are read up to so many bytes.
_READ_BYTES = 1 << 20
#: Characters of an argument that are shown.
_ARGUMENT, _ARGUMENTS = 120, 20


class Call(NamedTuple):
    """A task's command or arguments; fields that are unknown or absent are empty."""

    #: The line of a command, as a shell has it.
    command: str = ""
    #: True if the task has its name from the command alone.
    is_named_so: bool = False
    #: Working directory, and files for ``stdin``, ``stdout`` and ``stderr``, if set.
    places: Mapping[str, str] = {}
    #: Variables that it gets.
    env: Mapping[str, str] = {}
    arguments: str = ""
    #: The task's number in an array.
    number: str = ""


class _Awaited:
    """A stand-in for the result of another task, and for any part of it."""

    #: To go through it would not end: there is an item of every number.
    __iter__ = None

    def __init__(self, task: str, index: int) -> None:
        self._words = f"<result of {task}>" if not index else f"<result {index} of {task}>"

    def __repr__(self) -> str:
        return self._words

    def __getitem__(self, key: object) -> _Awaited:
        return self

    def __contains__(self, key: object) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def read_calls(ask: Callable[..., Any], site: Path, tasks: Sequence[str]) -> dict[str, Call]:
    """Return the commands and arguments with which these tasks were called.

    Parameters
    ----------
    ask
        A function that asks the head.
    site
        The site directory.
    tasks
        The ids of the tasks.
    """
    if not tasks:
        return {}
    data = ask("calls", tasks=list(tasks))
    read = functools.cache(lambda number: _read_function(data["functions"][number], site))
    return {
        row["id"]: _call(
            row,
            read(row["function"])
            if row["kind"] in _TOLD_BY_FUNCTION and row["function"] is not None
            else 0,
            site,
        )
        for row in data["calls"]
    }


def _read_function(payload: bytes, site: Path) -> Any:
    from pilot.client.arguments import decode_function
    from pilot.client.task import Task

    try:
        loaded, _ = decode_function(payload, site)
    except Exception:
        return None
    return loaded.function if isinstance(loaded, Task) else loaded


def _call(row: Mapping[str, Any], function: Any, site: Path) -> Call:
    from pilot.client.arguments import decode_arguments
    from pilot.client.command import ShellCommand

    if row["kind"] == "value":
        return Call()
    if row["payload"] is None:
        return Call(arguments=row["why"])
    if (size := _spilled_size(row["payload"])) > _READ_BYTES:
        return Call(arguments=f"({amount(size)})")
    inputs = [_Awaited(task, index) for task, index in row["inputs"]]
    try:
        args, kwargs = decode_arguments(row["payload"], inputs, site)
    except Exception as error:
        return Call(arguments=f"(they cannot be read here: {error})")
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_pilot_")}
    if row["kind"] == "http":
        # Nothing of the headers, the query or the body: there may be credentials in them.
        line = getattr(function, "line", None)
        return Call(line(kwargs) if line else "", row["name"] == getattr(function, "method", ""))
    shown = _in_words(args, kwargs)
    if not isinstance(function, ShellCommand):
        return Call(arguments=shown)
    return _command(function, row["id"], row["name"], args, kwargs, shown)


class _Places(pickle.Unpickler):
    """An unpickler that returns the places of large arguments instead of reading them."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class that a pickle names; for large arguments that of their places."""
        if (module, name) == ("pilot.pickled", "read_spilled"):
            return Value
        return super().find_class(module, name)


def _spilled_size(payload: bytes) -> int:
    """Return the size of arguments that are in a file; 0 if they are in the message."""
    if b"read_spilled" not in payload:
        return 0
    try:
        place = _Places(io.BytesIO(payload)).load()
    except Exception:
        return 0
    return place.size if isinstance(place, Value) else 0


def _command(
    command: ShellCommand,
    task: str,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shown: str,
) -> Call:
    try:
        line = command.line(args, kwargs)
    except Exception:
        text = command.command
        line = text if isinstance(text, str) else shlex.join(text)
    places = {"directory": command.cwd}
    if command.script is not None:
        return Call(
            line,
            name == command.__name__,
            {
                **({"directory": command.cwd} if command.cwd else {}),
                **_script_files(command.script, task, name, kwargs),
            },
            command.variables(kwargs),
            shown,
            str(kwargs["index"]) if command.filled else "",
        )
    for stream in ("stdin", "stdout", "stderr"):
        try:
            places[stream] = command.path(getattr(command, stream), args, kwargs)
        except Exception:
            places[stream] = getattr(command, stream)
    return Call(
        line,
        name == command.__name__,
        {what: place for what, place in places.items() if place},
        command.variables(kwargs),
        shown,
        str(kwargs["index"]) if command.filled else "",
    )


def _script_files(
    script: JobScript, task: str, name: str, kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return the files of a job script, with ``%N`` for the node that it runs on."""
    from pilot.model.ids import NUMBERS, parse_task_label, session_of
    from pilot.scheduler.batch.job_scripts import ScriptPlace, find_dialect

    number = parse_task_label(task)
    place = ScriptPlace(
        task=number,
        session=session_of(number),
        number=number & NUMBERS,
        attempt=1,
        name=name,
        index=str(kwargs.get("index", "")),
        nodes=("%N",),
        cores=1,
        user=script.variables.get("USER", "%u"),
    )
    fill = find_dialect(script.dialect).file_name
    patterns = {
        "stdin": script.stdin,
        "stdout": script.stdout,
        "stderr": script.stderr or script.stdout,
    }
    return {stream: fill(pattern, place) for stream, pattern in patterns.items() if pattern}


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _ARGUMENT
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 8


def _in_words(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return arguments as they would be written in a call, shortened."""
    named = [("", value) for value in args] + [
        (f"{name}=", value) for name, value in kwargs.items()
    ]
    words = [f"{name}{_one(value)}" for name, value in named[:_ARGUMENTS]]
    return ", ".join(words) + (", …" if len(named) > _ARGUMENTS else "")


def _one(value: Any) -> str:
    try:
        text = _Short().repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {error}>"
    return printable(" ".join(text.split())) if "\n" in text else printable(text)
