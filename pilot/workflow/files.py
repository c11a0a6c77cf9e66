"""Checks of the files of commands: each is made by one task only, and used after that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from pilot.client.command import ShellCommand
from pilot.workflow.graph import Graph, Node
from pilot.workflow.problems import Problems
from pilot.workflow.references import TASKS


def check_files(graph: Graph, problems: Problems) -> None:
    """Report files that two tasks make, and files used by tasks that do not wait for the maker."""
    makers: dict[str, tuple[Node, str]] = {}
    for node in graph:
        for name, path in _paths(node, "outputs"):
            other, _ = makers.setdefault(path, (node, name))
            if other is not node:
                problems.add(
                    (TASKS, node.task, "outputs", name),
                    f"{path!r} is made by {other.label} too; give each its own name"
                    + (", with ${index} in it" if other.task == node.task else ""),
                )
                break
    before = _before(graph)
    for node in graph:
        for name, path in _paths(node, "inputs"):
            if path not in makers:
                continue
            maker, made = makers[path]
            if maker.task not in before[node.task]:
                problems.add(
                    (TASKS, node.task, "inputs", name),
                    f"{path!r} is made by {maker.label}, which this task does not wait for; "
                    f"write ${{tasks.{maker.label}.{made}}} here",
                )


def _paths(node: Node, kind: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each file of a command that is known before it runs."""
    command = node.function
    if isinstance(command, ShellCommand):
        for name in command.inputs if kind == "inputs" else command.outputs:
            value = node.kwargs[name]
            if isinstance(value, (str, int, float)):
                yield name, os.path.normpath(os.path.join(command.cwd or ".", str(value)))  # noqa: PTH118 - quick


def _before(graph: Graph) -> Mapping[str, set[str]]:
    """Return for each task the tasks that have ended when it starts."""
    before: dict[str, set[str]] = {}
    for group in graph.groups:
        before[group.name] = set(group.after).union(*(before[name] for name in group.after))
    return before
