"""The commands of a workflow, as `str.format` texts for `pilot.task.ShellCommand`.

Each ``${…}`` in a command's text becomes one more parameter of it. So what stands there, even the
result of another task, reaches the shell as any parameter does: quoted, and never read as shell.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pilot.workflow.expression import Escaped, Reference
from pilot.workflow.problems import Wrong, suggestion
from pilot.workflow.references import Compiled, Text, compiled
from pilot.workflow.schema import TaskEntry
from site_configs.yamlfile import YamlPath

STREAMS = ("stdin", "stdout", "stderr")
#: Those with ``_`` in front are for what stood as ``${…}`` in a text.
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class CommandPlan:
    """A command: `str.format` texts for `pilot.task.ShellCommand`."""

    run: str
    #: ``stdin``, ``stdout`` and ``stderr``, those that are given.
    streams: Mapping[str, str]
    inputs: Compiled
    outputs: Compiled
    #: What stood as ``${…}`` in the texts above, by the parameter that took its place.
    hidden: Mapping[str, Text]
    cwd: Compiled
    env: Compiled
    success: tuple[int, ...]


def command_plan(entry: TaskEntry, path: YamlPath) -> CommandPlan:
    """What an entry with ``run`` says of its command.

    Raises
    ------
    Wrong
        The command is empty, or a ``${`` in it begins no reference.
    """
    hidden: dict[str, Text] = {}
    run = _format_text(entry.run or "", (*path, "run"), hidden)
    if not run.strip():
        raise Wrong((*path, "run"), "the command is empty")
    streams = {
        key: _format_text(getattr(entry, key), (*path, key), hidden)
        for key in STREAMS
        if getattr(entry, key) is not None
    }
    return CommandPlan(
        run=run,
        streams=streams,
        inputs=compiled(entry.inputs, (*path, "inputs")),
        outputs=compiled(entry.outputs, (*path, "outputs")),
        hidden=hidden,
        cwd=compiled(entry.cwd, (*path, "cwd")),
        env=compiled(entry.env, (*path, "env")),
        success=(0,) if entry.success is None else tuple(entry.success),
    )


def _format_text(text: str, path: YamlPath, hidden: dict[str, Text]) -> str:
    """A text for `str.format`, in which each ``${…}`` has become a hidden parameter."""
    known = compiled(text, path)
    if not isinstance(known, Text):
        return text
    parts = []
    for piece in known.pieces:
        if isinstance(piece, Reference):
            name = f"_{len(hidden) + 1}"
            hidden[name] = Text((piece,), path)
            parts.append(f"{{{name}}}")
        elif isinstance(piece, Escaped):
            parts.append("$" + piece.text[1:].replace("{", "{{").replace("}", "}}"))
        else:
            parts.append(piece)
    return "".join(parts)


def command_kwargs(command: CommandPlan, given: Compiled, path: YamlPath) -> Compiled:
    """All parameters of a command: of ``with``, ``inputs``, ``outputs``, and the hidden ones.

    Raises
    ------
    Wrong
        One is given twice, or the command has a ``{name}`` that is none of them.
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


def check_format(text: str, names: Collection[str], path: YamlPath) -> None:
    """See that each ``{name}`` of a command is among the names.

    Raises
    ------
    Wrong
        One is not, or the braces are no `str.format`.
    """
    braces = "a brace of the command itself is written {{ or }}"
    try:
        fields = list(_fields(text))
    except ValueError as error:
        raise Wrong(path, f"{error}; {braces}") from None
    for name in fields:
        if name not in names:
            shown = [known for known in names if not known.startswith("_")]
            raise Wrong(
                path,
                f"the command has no parameter {name!r} in 'with', 'inputs' or 'outputs'; "
                f"{suggestion(name, shown)}; {braces}",
            )


def _fields(text: str, depth: int = 0) -> Iterator[str]:
    if depth > 1:
        raise ValueError("braces inside of braces inside of braces")
    for _, name, spec, _ in string.Formatter().parse(text):
        if name is not None:
            yield re.split(r"[.\[]", name, maxsplit=1)[0]
            yield from _fields(spec or "", depth + 1)
