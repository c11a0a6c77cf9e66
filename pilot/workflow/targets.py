"""Targets: the ``module:function`` of tasks, found and checked when the file is loaded.

Modules are imported here, on the login node, so that a wrong name is reported with its line and not
after an hour in the queue. A task carries only the name (`ByName`): workers import the module
themselves.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.client.command import ShellCommand
from pilot.client.task import (
    COMMAND,
    MPI,
    MPI_COMMAND,
    PYTHON,
    Options,
    Task,
    as_task,
    import_object,
)
from pilot.errors import PilotError
from pilot.model.states import TaskKind
from pilot.pickled import pickled_name
from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.commands import check_format
from pilot.workflow.problems import Wrong, suggestion

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


#: The argument that only makes a task wait; functions do not get it.
NEEDS = "_pilot_needs"


@pickled_name
class ByName:
    """A function of a module, which is sent as its name alone."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.__name__ = name.rpartition(".")[2]
        self.__qualname__ = name
        self._function: Callable[..., Any] | None = None

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself."""
        if self._function is None:
            found = import_object(self.module, self.name)
            self._function = found.function if isinstance(found, Task) else found
        return self._function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(NEEDS, None)
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ByName, (self.module, self.name))

    def __repr__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass(frozen=True)
class Target:
    """The function or command that a task runs."""

    #: The text in the file.
    text: str
    function: Callable[..., Any]
    kind: TaskKind
    #: The options of its decorator.
    options: Options
    #: None where Python does not know it.
    signature: inspect.Signature | None = None

    @property
    def command(self) -> ShellCommand | None:
        """The command, or None for a function."""
        return self.function if isinstance(self.function, ShellCommand) else None

    def check_call(
        self, args: Sequence[Any], names: Sequence[str], args_path: YamlPath, names_path: YamlPath
    ) -> None:
        """Check that the function can be called with these arguments.

        Raises
        ------
        Wrong
            An argument is missing, or one is given that the function does not take.
        """
        if self.command is not None:
            self._check_command(self.command, args, names, args_path, names_path)
        if self.signature is None:
            return
        parameters = self.signature.parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            taken = [
                p.name
                for p in parameters.values()
                if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            ]
            for name in names:
                if name not in taken:
                    raise Wrong(
                        (*names_path, name),
                        f"{self.text} takes no argument {name!r}; {suggestion(name, taken)}",
                    )
        try:
            self.signature.bind(*args, **dict.fromkeys(names))
        except TypeError as error:
            path = args_path if args else names_path
            bare = [p.replace(annotation=p.empty) for p in parameters.values()]
            shown = inspect.Signature(bare)
            raise Wrong(path, f"{self.text}{shown} cannot be called so: {error}") from None

    def _check_command(
        self,
        command: ShellCommand,
        args: Sequence[Any],
        names: Sequence[str],
        args_path: YamlPath,
        names_path: YamlPath,
    ) -> None:
        if args:
            raise Wrong(args_path, "a command takes its arguments by name: use 'with'")
        texts = (command.command, command.stdin, command.stdout, command.stderr)
        for text in texts:
            if isinstance(text, str):
                check_format(text, names, names_path)
        for name in (*command.inputs, *command.outputs):
            if name not in names:
                raise Wrong(names_path, f"{self.text} needs the name of its file {name!r}; add it")


def add_to_search_path(directories: Sequence[Path]) -> None:
    """Put directories at the front of this process's module search path."""
    for directory in reversed(directories):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
            importlib.invalidate_caches()


def find_target(text: str, mpi: bool, path: YamlPath, directories: Sequence[Path]) -> Target:
    """Return the function that ``module:function`` names.

    Parameters
    ----------
    mpi
        True if the function is to run on MPI ranks.
    path
        The place in the file.
    directories
        The directories of the user's modules; named when a module is not found.

    Raises
    ------
    Wrong
        There is no such function, or it is of another kind.
    """
    match = _NAME.fullmatch(text)
    if not match:
        raise Wrong(path, f"{text!r} names no function; write module:function, such as heat:solve")
    module, name = match[1], match[2]
    found = _attribute(_import(module, path, directories), module, name, path)
    try:
        task = as_task(found)
    except PilotError as error:
        raise Wrong(path, f"{text}: {error}") from None
    if mpi and isinstance(found, Task) and task.kind != MPI:
        raise Wrong(path, f"{text} is a {task.kind} task, not one for MPI; write it as 'python:'")
    if not mpi and task.kind == MPI:
        raise Wrong(path, f"{text} is an MPI task; write it as 'mpi:'")
    command = task.kind in (COMMAND, MPI_COMMAND)
    try:
        signature = None if command else inspect.signature(task.function)
    except (TypeError, ValueError):
        signature = None
    return Target(
        text,
        task.function if command else ByName(module, name),
        MPI if mpi else task.kind if command else PYTHON,
        task.task_options,
        signature,
    )


def _import(module: str, path: YamlPath, directories: Sequence[Path]) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise Wrong(path, f"module {module!r} cannot be imported: {error}") from None
        there = [found.stem for place in directories for found in sorted(place.glob("*.py"))]
        close = difflib.get_close_matches(error.name, there, n=1)
        places = ", ".join(map(str, directories))
        more = "more places are added by 'path:'"
        raise Wrong(
            path,
            f"there is no module {error.name!r}, neither installed nor in {places}; "
            + (f"did you mean {close[0]!r}? {more.capitalize()}" if close else more),
        ) from None
    except (Exception, SystemExit) as error:
        raise Wrong(
            path, f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _attribute(found: Any, module: str, name: str, path: YamlPath) -> Any:
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if n[0] != "_" and callable(getattr(found, n, None))]
            raise Wrong(path, f"{module} has no function {name!r}; {suggestion(part, known)}")
        found = getattr(found, part)
    return found
