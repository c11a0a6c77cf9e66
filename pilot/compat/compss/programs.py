"""Programs in the place of functions: ``@binary``, and all that is started like it.

The words are those of ``args``, where that is given, with parameters in double braces, or else all
parameters in their order. Nothing goes through a shell: of ``args``, quotes and wildcards mean what
they mean there, and nothing else does.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pilot.client.command import CommandResult, ShellCommand, failure_text
from pilot.client.context import running_context
from pilot.client.task import COMMAND
from pilot.compat.compss.constraints import warn_once
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.files import path_of
from pilot.compat.compss.layers import CallShape, Layer, as_word
from pilot.errors import CommandFailed
from pilot.model.states import TaskKind

_PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_VARIABLE = re.compile(r"\\\$|\$(?:\{(\w+)\}|(\w+))")
#: The exit statuses of programs: a task decides by itself which of them is a failure.
_ANY_STATUS = tuple(range(-64, 256))
#: That of a shell for a program that is not there.
_NOT_STARTED = 127


class Program(NamedTuple):
    """A program that a task runs."""

    #: Its first words.
    words: tuple[str, ...]
    #: The words that follow, with parameters in double braces; None: all parameters.
    args: str | None = None
    #: With parameters in double braces; empty: that of the session.
    working_dir: str = ""
    #: True if an exit status but 0 is a failure.
    fails: bool = True

    def line(self, call: CallShape, pairs: Iterable[tuple[str, Any]]) -> list[str]:
        """Return its words for a call.

        Parameters
        ----------
        call
            The parameters.
        pairs
            Their names, and the values.
        """
        pairs = list(pairs)
        if self.args is None:
            return [*self.words, *(word for pair in pairs for word in call.words(*pair))]
        where = directory_of(self.working_dir, pairs) or "."
        return [*self.words, *words_of(self.args, call, pairs, where)]

    def run(
        self, call: CallShape, args: Iterable[Any], kwargs: Mapping[str, Any], *, is_task: bool
    ) -> int:
        """Run it for a call; return its exit status.

        Raises
        ------
        CommandFailed
            In a task: it has failed, and that counts.
        """
        pairs = list(call.named(args, kwargs))
        where = directory_of(self.working_dir, pairs)
        status, told = run_words(self.line(call, pairs), where, streams_of(call, pairs), is_task)
        if status and self.fails and is_task:
            raise CommandFailed(told, status)
        return status


class Binary(Layer, frozen=True):
    """A program in the place of a function; the result is its exit status."""

    program: Program
    kind: ClassVar[TaskKind] = COMMAND

    replaces: ClassVar[bool] = True

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what runs the program."""
        del function
        return partial(run_program, self.program, call, is_task)


def run_program(program: Program, call: CallShape, is_task: bool, /, *args: Any, **kw: Any) -> int:
    """Run a program for a call."""
    return program.run(call, args, kw, is_task=is_task)


def run_words(
    words: list[str], where: str, streams: Mapping[str, tuple[str, bool]], is_task: bool
) -> tuple[int, str]:
    """Run a program; return its exit status, and what to say if that is a failure.

    Parameters
    ----------
    words
        The program and its arguments.
    where
        The working directory, which is made if need be; empty: the present one.
    streams
        Files for ``stdin``, ``stdout`` and ``stderr``, and whether it writes behind what they have.
    is_task
        True in a task of its own: it runs in the task's container, on its ranks.
    """
    if where:
        Path(where).mkdir(parents=True, exist_ok=True)
    drafts = {
        name: f"{path}.pilot-{os.getpid()}-{name}"
        for name, (path, appends) in streams.items()
        if appends
    }
    files = {
        name: re.sub(r"[{}]", r"\g<0>\g<0>", drafts.get(name, path))
        for name, (path, _) in streams.items()
    }
    command = ShellCommand(
        tuple(words),
        cwd=where or None,
        stdin=files.get("stdin"),
        stdout=files.get("stdout"),
        stderr=files.get("stderr"),
        env=_variables(),
        success=_ANY_STATUS,
    )
    sys.stdout.flush()
    context = running_context() if is_task else None
    try:
        if context is not None:
            result = context.run_command(command)
        else:
            result = command()
            sys.stdout.write(result.stdout)
    except CommandFailed as error:
        # It cannot be started: a shell would tell it by the status.
        sys.stderr.write(f"{error}\n")
        result = CommandResult(shlex.join(words), error.returncode or _NOT_STARTED, str(error))
    finally:
        for name, draft in drafts.items():
            _append(Path(draft), streams[name][0])
    return result.returncode, failure_text(result.command, result.returncode, result.stdout)


def _append(draft: Path, path: str) -> None:
    if draft.exists():
        with draft.open("rb") as made, open(path, "ab") as file:
            file.writelines(made)
        draft.unlink()


def _variables() -> dict[str, str]:
    """Return what PyCOMPSs tells programs of their resources."""
    context = running_context()
    nodes = (socket.gethostname(),) if context is None else context.nodes
    cores, ranks = (1, 1)
    if context is not None:
        cores, ranks = max(1, context.resources.cores), context.resources.ranks
    return {
        "COMPSS_NUM_NODES": str(len(nodes)),
        "COMPSS_HOSTNAMES": ",".join(nodes),
        "COMPSS_NUM_THREADS": str(cores),
        "COMPSS_NUM_PROCS": str(ranks),
    }


def streams_of(call: CallShape, pairs: Iterable[tuple[str, Any]]) -> dict[str, tuple[str, bool]]:
    """Return the files of the standard streams, and whether they are written at their ends."""
    return {
        call.streams[name]: (
            path_of(value),
            call.streams[name] != "stdin" and call.files.get(name) != "out",
        )
        for name, value in pairs
        if name in call.streams and value is not None
    }


# --- texts


def words_of(
    text: str, call: CallShape, pairs: Iterable[tuple[str, Any]], where: str = "."
) -> list[str]:
    """Return the words of a text, with the parameters that it has in double braces.

    A value is never more than one word, unless it is a list and stands alone.

    Parameters
    ----------
    text
        The text.
    call
        The parameters.
    pairs
        Their names, and the values.
    where
        The directory in which wildcards look.
    """
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).extend(call.words(name, value))
    words: list[str] = []
    for word in _split(text):
        alone = _PLACE.fullmatch(word)
        if alone:
            words += values[_known(alone[1], values)]
        elif _PLACE.search(word):
            words.append(_PLACE.sub(lambda place: " ".join(values[_known(place[1], values)]), word))
        elif any(sign in word for sign in "*?["):
            found = sorted(glob(word, root_dir=where))  # noqa: PTH207 - it keeps what is written
            words += found or [word]
        else:
            words.append(word)
    return words


def _split(text: str) -> list[str]:
    # Braces may have spaces inside, and are no quotes.
    text = _PLACE.sub(lambda place: "{{" + place[1] + "}}", text)
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _known(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        raise PyCOMPSsException(
            f"{{{{{name}}}}}: there is no such parameter; there are {', '.join(values) or 'none'}"
        )
    return name


def directory_of(text: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """Return a working directory with the parameters that it has in double braces."""
    values = {name: as_word(value) for name, value in pairs}
    return _PLACE.sub(lambda place: values[_known(place[1], values)], text)


def expanded(text: str, what: str, *, is_needed: bool = True) -> str:
    """Return a text of a decorator with the variables of the environment in it; a backslash before
    the dollar sign has it stay.

    Raises
    ------
    PyCOMPSsException
        There is no such variable. Where it is not needed, that is a warning.
    """

    def value(place: re.Match[str]) -> str:
        if place[0].startswith("\\"):
            return place[0][1:]
        name = place[1] or place[2]
        if name in os.environ:
            return os.environ[name]
        told = f"{what}={text!r:.200}: there is no environment variable {name}"
        if is_needed:
            raise PyCOMPSsException(told)
        warn_once(told, f"{told}; it is left out")
        return ""

    return _VARIABLE.sub(value, text)


def is_true(given: Any, what: str) -> bool:
    """Return a truth value that a decorator says, maybe as a text or variable.

    Raises
    ------
    PyCOMPSsException
        It is none.
    """
    if isinstance(given, (bool, int)):
        return bool(given)
    text = expanded(given, what).strip().lower() if isinstance(given, str) else ""
    if text not in ("true", "false", "1", "0"):
        raise PyCOMPSsException(f"{what}={given!r}: give True or False")
    return text in ("true", "1")
