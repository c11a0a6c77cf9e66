"""Submitting a workflow's graph through a session, and collecting its results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pilot.client.command import CommandResult
from pilot.client.future import Future
from pilot.client.http_request import HttpResponse
from pilot.client.task import DYNAMIC, Options, Task
from pilot.pickled import pickled_name
from pilot.workflow.graph import Graph, Node, Result, TaskGroup, replace_results
from pilot.workflow.targets import NEEDS

if TYPE_CHECKING:
    from pilot.client.session import Session


@dataclass(frozen=True)
class SubmittedWorkflow:
    """A workflow that was submitted to a session."""

    graph: Graph
    session: Session
    #: The futures by name of the task: one for each item, one where there is no foreach.
    futures: Mapping[str, list[Future[Any]]]

    @property
    def all_futures(self) -> list[Future[Any]]:
        """The futures of all tasks, in the order in which they were submitted."""
        return [future for futures in self.futures.values() for future in futures]

    def results(self) -> dict[str, Any]:
        """Return the values of the section ``results``; wait for the tasks behind them.

        Raises
        ------
        Exception
            The exception of the first of these tasks that did not end well.
        """
        return {
            key: replace_results(value, self._value) for key, value in self.graph.results.items()
        }

    def _value(self, result: Result) -> Any:
        value = self.futures[result.task][result.index or 0].result()
        if isinstance(result.part, str):
            return command_part(value, result.part)
        return value if result.part is None else value[result.part]


def submit_graph(graph: Graph, session: Session) -> SubmittedWorkflow:
    """Submit all tasks, dependencies first; items that run the same go together.

    Raises
    ------
    SubmissionError
        No pool can ever run a task, or it cannot be sent. Tasks that were submitted before stay.
    """
    futures: dict[str, list[Future[Any]]] = {}
    for group in graph.groups:
        futures[group.name] = _submit_group(group, futures, session)
    return SubmittedWorkflow(graph, session, futures)


def _submit_group(
    group: TaskGroup, futures: Mapping[str, list[Future[Any]]], session: Session
) -> list[Future[Any]]:
    made: list[Future[Any]] = []
    for nodes in _alike(group.nodes):
        task = _task(nodes[0])
        after = [futures[result.task][result.index or 0] for result in nodes[0].follows]
        calls = [_call(node, futures) for node in nodes]
        if not any(args for args, _ in calls):
            made += session.submit_many(task, [kwargs for _, kwargs in calls], after=after)
        elif not any(kwargs for _, kwargs in calls):
            made += session.submit_many(task, [args for args, _ in calls], after=after)
        else:
            task = task.options(after=after) if after else task
            made += [session.submit(task, *args, **kwargs) for args, kwargs in calls]
    return made


def _alike(nodes: Iterable[Node]) -> Iterable[list[Node]]:
    """Yield neighbouring nodes that run the same function in the same way."""
    for _, alike in itertools.groupby(
        nodes,
        key=lambda node: (id(node.function), id(node.options), bool(node.needs), node.follows),
    ):
        yield list(alike)


def _task(node: Node) -> Task[..., Any]:
    options = _without_needs(node.options) if node.needs else node.options
    return Task(node.function, node.kind, options.changes())


def _call(
    node: Node, futures: Mapping[str, list[Future[Any]]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a node, with futures in the places of results."""

    def argument(result: Result) -> Any:
        future = futures[result.task][result.index or 0]
        if isinstance(result.part, str):
            return CommandPart(future, result.part)
        return future if result.part is None else future[result.part]

    args = replace_results(node.args, argument)
    kwargs = replace_results(dict(node.kwargs), argument)
    if node.needs:
        kwargs[NEEDS] = [After(argument(result)) for result in node.needs]
    return args, kwargs


class CommandPart:
    """A file of a command's result (or its ``stdout``), as an argument of another task."""

    def __init__(self, future: Future[Any], name: str) -> None:
        self.future = future
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (command_part, (self.future, self.name))


class After:
    """An argument that makes a task wait for a future, and brings nothing of its value."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def __reduce__(self) -> tuple[Any, ...]:
        self.future.__reduce__()  # notes the future as an input of the task
        return (bool, (True,))


@pickled_name
def command_part(result: CommandResult | HttpResponse, name: str) -> Any:
    """Return a file of a command's result, or one of its fields; or a part of an HTTP answer."""
    if isinstance(result, HttpResponse):
        return result.json() if name == "json" else getattr(result, name)
    if name in result.outputs:
        return result.outputs[name]
    # Without the end of its last line, as a shell's $(command).
    return result.stdout.rstrip("\n") if name == "stdout" else getattr(result, name)


def _without_needs(options: Options) -> Options:
    """Return options whose functions of the arguments do not see the `needs` arguments."""
    changes: dict[str, Any] = {
        name: _ignoring_needs(getattr(options, name))
        for name in DYNAMIC
        if callable(getattr(options, name))
    }
    return replace(options, **changes)


def _ignoring_needs(function: Callable[..., Any]) -> Callable[..., Any]:
    def value(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop(NEEDS, None)
        return function(*args, **kwargs)

    return value
