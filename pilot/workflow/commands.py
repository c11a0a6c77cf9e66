"""The commands of a workflow, as texts for `pilot.client.command.ShellCommand`.

Each ``${…}`` in a command's text becomes one more parameter of it. So its value, even the
result of another task, reaches the shell as any parameter does: as data, never as shell text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from msgspec import UNSET

from pilot.client.command import signal_number
from pilot.client.command_text import BRACES, command_text, remedies
from pilot.client.mpmd import joined_text
from pilot.client.task import OptionError
from pilot.errors import CommandError
from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.expression import Escaped, Reference, unparse
from pilot.workflow.problems import Wrong, suggestion
from pilot.workflow.references import Compiled, Text, compiled
from pilot.workflow.schema import TaskEntry

STREAMS = ("stdin", "stdout", "stderr")
#: Names that begin with ``_`` are for ``${…}`` in a text.
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class CommandPlan:
    """A command: texts for `pilot.client.command.ShellCommand`."""

    run: str
    #: ``stdin``, ``stdout`` and ``stderr``, those that are given.
    streams: Mapping[str, str]
    inputs: Compiled
    outputs: Compiled
    #: The ``${…}`` of the texts above, by the parameter that took its place.
    hidden: Mapping[str, Text]
    cwd: Compiled
    env: Compiled
    success: tuple[int, ...]
    stop_signal: int = 0
    scratch: str = ""
    prolog: str = ""
    epilog: str = ""
    output_per_rank: bool = False


def run_text(entry: TaskEntry) -> str:
    """Return the shell text of an entry with ``run``."""
    if isinstance(entry.run, list):
        return joined_text([(each.run, each.ranks) for each in entry.run])
    return entry.run or ""


def program_ranks(entry: TaskEntry) -> int:
    """Return the number of ranks of several programs; 0 where there is one."""
    return sum(each.ranks for each in entry.run) if isinstance(entry.run, list) else 0


def check_programs(entry: TaskEntry, path: YamlPath) -> None:
    """Check the list of several programs, if there is one.

    Raises
    ------
    Wrong
        A program is empty, or has no ranks, or their sum is said as well.
    """
    if not isinstance(entry.run, list):
        return
    if not entry.run:
        raise Wrong((*path, "run"), "the list has no program; give each as 'run' with its 'ranks'")
    for number, each in enumerate(entry.run):
        if not each.run.strip():
            raise Wrong((*path, "run", number, "run"), "the command is empty")
        if each.ranks < 1:
            raise Wrong((*path, "run", number, "ranks"), "a program has at least 1 rank")
    if entry.ranks is not UNSET:
        raise Wrong((*path, "ranks"), "that is the sum of the ranks of the programs; remove this")


def command_plan(entry: TaskEntry, path: YamlPath) -> CommandPlan:
    """Return the plan of the command of an entry with ``run``.

    Raises
    ------
    Wrong
        The command is empty, a ``${`` in it begins no reference, or a value is in a place where
        none is allowed.
    """
    hidden: dict[str, Text] = {}
    run = _format_text(run_text(entry), (*path, "run"), hidden)
    if not run.strip():
        raise Wrong((*path, "run"), "the command is empty")
    streams = {
        key: _format_text(getattr(entry, key), (*path, key), hidden)
        for key in STREAMS
        if getattr(entry, key) is not None
    }
    try:
        stop_signal = signal_number(entry.stop_signal)
    except OptionError as error:
        raise Wrong((*path, "stop_signal"), str(error).partition(": ")[2]) from None
    return CommandPlan(
        run=run,
        streams=streams,
        inputs=compiled(entry.inputs, (*path, "inputs")),
        outputs=compiled(entry.outputs, (*path, "outputs")),
        hidden=hidden,
        cwd=compiled(entry.cwd, (*path, "cwd")),
        env=compiled(entry.env, (*path, "env")),
        success=(0,) if entry.success is None else tuple(entry.success),
        stop_signal=stop_signal,
        scratch=entry.scratch or "",
        prolog=entry.prolog,
        epilog=entry.epilog,
        output_per_rank=_output_per_rank(entry, path),
    )


def _output_per_rank(entry: TaskEntry, path: YamlPath) -> bool:
    if entry.output_per_rank and entry.stdout is None and entry.stderr is None:
        raise Wrong(
            (*path, "output_per_rank"),
            "needs 'stdout' or 'stderr', the names that each rank's number is appended to",
        )
    return entry.output_per_rank


def _format_text(text: str, path: YamlPath, hidden: dict[str, Text]) -> str:
    """Return a text for `str.format`, in which each ``${…}`` has become a hidden parameter."""
    known = compiled(text, path)
    if not isinstance(known, Text):
        return text
    parts = []
    for piece in known.pieces:
        if isinstance(piece, Reference):
            name = _hidden_name(piece, hidden)
            hidden[name] = Text((piece,), path)
            parts.append(f"{{{name}}}")
        elif isinstance(piece, Escaped):
            parts.append("$" + piece.text[1:].replace("{", "{{").replace("}", "}}"))
        else:
            parts.append(piece)
    return "".join(parts)


def _hidden_name(reference: Reference, hidden: Mapping[str, Text]) -> str:
    """Return the parameter that replaces a reference; it is shown where the command fails."""
    name = plain = "_" + re.sub(r"\W+", "_", str(reference), flags=re.ASCII).strip("_")
    number = 1
    while name in hidden and hidden[name].alone != reference:
        number += 1
        name = f"{plain}_{number}"
    return name


def command_kwargs(command: CommandPlan, given: Compiled, path: YamlPath) -> Compiled:
    """Return all parameters of a command: ``with``, ``inputs``, ``outputs``, and hidden ones.

    Raises
    ------
    Wrong
        A parameter is given twice, or the command has a ``{name}`` that is not among them.
    """
    kwargs: dict[str, Compiled] = {}
    for key, names in (
        ("with", given),
        ("inputs", command.inputs),
        ("outputs", command.outputs),
    ):
        for name, value in names.items():
            where = (*path, key, name)
            if not _PARAMETER.fullmatch(name):
                raise Wrong(where, f"{name!r} is no name; use letters, digits, '_' and '-'")
            if name in kwargs:
                raise Wrong(where, f"{name!r} is given twice, in 'with', 'inputs' or 'outputs'")
            kwargs[name] = value
    kwargs.update(command.hidden)
    for key, text in (("run", command.run), *command.streams.items()):
        check_format(text, kwargs, (*path, key))
    return kwargs


def wrong_places(command: CommandPlan, path: YamlPath) -> Iterator[Wrong]:
    """Yield the values in places where none is allowed, in single quotes, say."""
    for field, refusal in command_text(command.run).refusals():
        hidden = command.hidden.get(field.parameter)
        told = remedies(field, refusal)
        if hidden is not None:
            told = told and (
                ". With a name in 'with:', such as x, a number can stand there as {x:d} or {x:g}, "
                "shell text of your own as {x:raw}"
            )
        shown = field if hidden is None else unparse(hidden.pieces)
        yield Wrong((*path, "run"), f"{shown} {refusal.reason}{told}")


def check_format(text: str, names: Collection[str], path: YamlPath) -> None:
    """Check that each ``{name}`` of a command is among the names.

    Raises
    ------
    Wrong
        A name is not, or the braces are not valid for `str.format`.
    """
    try:
        known = command_text(text)
    except CommandError as error:
        raise Wrong(path, error.told) from None
    for name in known.parameters():
        if name not in names:
            shown = [known for known in names if not known.startswith("_")]
            raise Wrong(
                path,
                f"the command has no parameter {name!r} in 'with', 'inputs' or 'outputs'; "
                f"{suggestion(name, shown)}; {BRACES}",
            )
