"""Rendering of a workflow's graph for people (`graph_text`) and for programs (`graph_data`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pilot.client.command import ShellCommand
from pilot.client.http_request import HttpRequest
from pilot.client.task import DYNAMIC, OPTIONS, Options
from pilot.errors import CommandError
from pilot.texts import printable
from pilot.workflow.graph import Graph, Node, Result, TaskGroup, replace_results

#: A group with more items than this is shown by its first and last.
_SHOWN = 6


def graph_text(graph: Graph) -> str:
    """Return the graph as text for a terminal: one paragraph for each entry of the file."""
    lines = [f"{printable(graph.name)}: {_counted(len(graph), 'task')}"]
    for group in graph.groups:
        lines += ["", *_group_lines(group)]
    if graph.results:
        width = max(map(len, graph.results))
        lines += ["", "results"]
        lines += [
            f"    {printable(key):{width}}  {_shown(value)}" for key, value in graph.results.items()
        ]
    return "\n".join(lines)


def graph_data(graph: Graph) -> dict[str, Any]:
    """Return the graph as plain data for JSON; the result of a task is ``${tasks.…}``."""
    return {
        "name": graph.name,
        "count": len(graph),
        "tasks": [
            {
                "name": group.name,
                "line": group.line,
                "runs": group.text,
                "variables": None if group.variables is None else list(group.variables),
                "after": list(group.after),
                "count": len(group.nodes),
                "items": _group_data(group),
            }
            for group in graph.groups
        ],
        "results": _plain(graph.results),
    }


def _group_data(group: TaskGroup) -> list[dict[str, Any]]:
    """Return the items of a group; parts that they share are made once."""
    known: dict[int, tuple[dict[str, Any], str | None]] = {}
    for options in {id(node.options): node.options for node in group.nodes}.values():
        told = {n: v for n, v in _options(options) if (n, v) != ("name", group.name)}
        known[id(options)] = told, _resources(options)
    return [_node_data(node, *known[id(node.options)]) for node in group.nodes]


def _node_data(node: Node, options: dict[str, Any], resources: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "label": node.label,
        "index": node.index,
        "kind": node.kind,
        "values": _plain(node.values),
        "options": options,
        "resources": resources,
        "args": _plain(list(node.args)),
        "with": {key: _plain(value) for key, value in node.kwargs.items() if key[0] != "_"},
        "dependencies": list(node.dependencies),
    }
    if (command := _command(node)) is not None:
        data["command"] = command
    return data


def _group_lines(group: TaskGroup) -> Iterator[str]:
    items = "" if group.variables is None else f" ({_counted(len(group.nodes), 'task')})"
    kind = group.nodes[0].kind if group.nodes else ""
    yield f"{group.name}{items}   {'' if _is_command(group) else f'{kind} {group.text}'}".rstrip()
    about = []
    if group.nodes:
        first = group.nodes[0].options
        same = all(node.options is first or node.options == first for node in group.nodes)
        about = [_resources(first) or "resources by the arguments"]
        about += [f"{name} {value}" for name, value in _options(first) if name not in _RESOURCES]
        if not same:
            about.append("and others")
    if about:
        yield f"    {'; '.join(about)}"
    if group.after:
        yield f"    after {', '.join(group.after)}"
    nodes: tuple[Node | None, ...] = group.nodes
    if len(nodes) > _SHOWN:
        nodes = (*nodes[: _SHOWN - 2], None, nodes[-1])
    for node in nodes:
        if node is None:
            yield "    …"
        elif line := _node_line(node):
            yield f"    {line}"


def _node_line(node: Node) -> str:
    parts = [] if node.index is None else [f"[{node.index}]"]
    if node.values:
        parts.append(", ".join(f"{name} = {_shown(value)}" for name, value in node.values.items()))
    if (command := _command(node)) is not None:
        parts.append(f"$ {_one_line(command)}")
    elif isinstance(node.function, HttpRequest):
        parts.append(node.function.line(replace_results(dict(node.kwargs), _reference)))
    return "  ".join(parts)


def _is_command(group: TaskGroup) -> bool:
    return bool(group.nodes) and isinstance(group.nodes[0].function, ShellCommand)


def _command(node: Node) -> str | None:
    """Return the command line of a node, with ``${tasks.…}`` for values not known yet."""
    if not isinstance(node.function, ShellCommand):
        return None
    kwargs = replace_results(dict(node.kwargs), _reference)
    try:
        line = node.function.line((), kwargs)
    except CommandError:
        return str(node.function.command)  # it formats a number that is not known yet
    # Values that are not known yet have no quotes yet.
    line = re.sub(r"'(\$\{tasks\.[^']*\})'", r"\1", line)
    return re.sub(r"\\(\$\{tasks\.[^}]*\})", r"\1", line)


_RESOURCES = ("name", *(name for name in DYNAMIC if name != "time_limit"))


def _options(options: Options) -> Iterator[tuple[str, Any]]:
    """Yield the options that differ from the defaults."""
    usual = Options()
    for name in OPTIONS:
        value = getattr(options, name)
        if value != getattr(usual, name):
            if callable(value) and not isinstance(value, type):
                value = "by the arguments"
            elif name == "retry_on":
                value = list(options.retry_names())
            elif name == "no_retry_on":
                value = list(options.no_retry_names())
            yield name, list(value) if isinstance(value, tuple) else value


def _resources(options: Options) -> str | None:
    return None if options.is_dynamic() else str(options.resolve((), {}).resources)


def _plain(value: Any) -> Any:
    """Return a value as plain data for JSON."""
    return replace_results(value, _reference)


def _reference(result: Result) -> str:
    return f"${{{result}}}"


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"[{_shown(value[0])}, … {_shown(value[-1])}]"
    value = _plain(value)
    return _one_line(value if isinstance(value, str) else str(value))


def _one_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    shown = printable(lines[0] if len(lines) == 1 else f"{lines[0]} …")
    return shown if len(shown) <= 100 else shown[:97] + "..."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
