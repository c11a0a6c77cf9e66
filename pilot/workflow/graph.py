"""The graph of a workflow's tasks: plain values, made by `expand`, read by all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilot.client.task import Options
from pilot.model.states import TaskKind


@dataclass(frozen=True)
class Result:
    """The place that the result of a task will take."""

    task: str
    #: Number of the item; None where the task has no foreach.
    index: int | None = None
    #: The number of one of several results, or the name of a part of a command's result.
    part: int | str | None = None

    def __str__(self) -> str:
        item = "" if self.index is None else f"[{self.index}]"
        part = "" if self.part is None else f".{self.part}"
        if isinstance(self.part, int):
            part = f"[{self.part}]"
        return f"tasks.{self.task}{item}{part}"


@dataclass(frozen=True)
class Node:
    """A task that would run."""

    task: str
    index: int | None
    #: The values of the foreach variables; results may be among them.
    values: Mapping[str, Any]
    #: The function or `pilot.client.command.ShellCommand` that runs. Nodes share it.
    function: Callable[..., Any]
    kind: TaskKind
    #: Nodes share it.
    options: Options
    #: May hold `Result`, at any depth.
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: Tasks that come before though no argument holds their results.
    needs: tuple[Result, ...] = ()
    #: Tasks that end before it starts, well or not.
    follows: tuple[Result, ...] = ()

    @property
    def label(self) -> str:
        """The node's name for people, such as ``simulate[3]``."""
        return self.task if self.index is None else f"{self.task}[{self.index}]"

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The labels of the tasks that the node waits for, each once."""
        found = [*results_in(self.args), *results_in(self.kwargs), *self.needs, *self.follows]
        return tuple(
            dict.fromkeys(r.task if r.index is None else f"{r.task}[{r.index}]" for r in found)
        )


@dataclass(frozen=True)
class TaskGroup:
    """The tasks of one entry of the file: one, or one for each item."""

    name: str
    #: The task's line in the file.
    line: int
    #: The target in the file: ``module:function``, or the command.
    text: str
    #: Names of the foreach variables; None where the task has no foreach.
    variables: tuple[str, ...] | None
    #: Names of the tasks that it waits for.
    after: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Graph:
    """The tasks of a workflow; each group comes after those that it waits for."""

    name: str
    groups: tuple[TaskGroup, ...]
    #: The section ``results``, with `Result` in the place of references.
    results: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return (node for group in self.groups for node in group.nodes)

    def __len__(self) -> int:
        return sum(len(group.nodes) for group in self.groups)


#: Most of what is in arguments; seen at once, before what it could be besides is looked at.
_SCALARS = (str, int, float)


def results_in(value: Any) -> Iterator[Result]:
    """Yield every `Result` in lists, tuples and mappings, at any depth."""
    if isinstance(value, _SCALARS):
        return
    if isinstance(value, Result):
        yield value
    elif isinstance(value, (dict, Mapping)):
        for item in value.values():
            yield from results_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from results_in(item)


def replace_results(value: Any, replace: Callable[[Result], Any]) -> Any:
    """Return the value with a replacement for every `Result`, at any depth."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, Result):
        return replace(value)
    if isinstance(value, (dict, Mapping)):
        return {key: replace_results(item, replace) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_results(item, replace) for item in value]
    if isinstance(value, tuple):
        return tuple(replace_results(item, replace) for item in value)
    return value
