"""Completion of arguments in the shell: sites, sessions, tasks, parameters, templates.

Invariant: completing starts nothing, changes nothing, and prints no errors.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from pilot.cli.common import Settings
from pilot.texts import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The most sessions or tasks that are offered: the newest.
_MOST = 50

#: The type of functions that click calls for completions.
Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _quiet(find: Callable[[click.Context, str], list[tuple[str, str]]]) -> Completer:
    """Return a completer from a function that finds words with their meaning; errors give none."""

    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            found = find(context, incomplete)
        except Exception:
            return []  # a message would stand in the middle of the line that is typed
        return [
            CompletionItem(word, help=printable(meaning) or None)
            for word, meaning in found
            if word.startswith(incomplete)
        ]

    return complete


def _sessions(context: click.Context, _incomplete: str) -> list[tuple[str, str]]:
    rows = _ask(context, "sessions", limit=_MOST)
    return [(str(row["id"]), f"{row['name']}, {row['state']}") for row in rows]


def _objects(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    rows = _ask(context, "objects", limit=_MOST * 10)
    if "@" in incomplete:
        return [(row["object"], row["type"]) for row in rows]
    return [(name, "") for name in dict.fromkeys(row["name"] for row in rows)]


def _tasks(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    session, dot, _ = incomplete.partition(".")
    filters = {"session": int(session)} if dot and session.isdecimal() else {}
    rows = _ask(context, "tasks", **filters, sort="newest", limit=_MOST)
    return [(row["id"], f"{row['name']}, {row['state']}") for row in rows]


def _tasks_or_sessions(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    if "." in incomplete:
        return _tasks(context, incomplete)
    return _sessions(context, incomplete) + _tasks(context, incomplete)


def _tasks_or_objects(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    if incomplete[:1].isdecimal():
        return _tasks(context, incomplete)
    return _objects(context, incomplete) + _tasks(context, incomplete)


def _parameters(context: click.Context, _incomplete: str) -> list[tuple[str, str]]:
    import yaml

    from pilot.regular_files import read_regular_text

    # Of a line that ends with an option click has the words, and no parameters yet.
    words = [context.params.get("file") or "", *context.args]
    words += shlex.split(os.environ.get("COMP_WORDS", ""))
    file = next(word for word in map(Path, words) if word.suffix in (".yaml", ".yml"))
    content = yaml.safe_load(read_regular_text(file))
    parameters: dict[str, Any] = content["parameters"]
    return [(f"{name}=", f"default: {value}") for name, value in parameters.items()]


def _templates(_context: click.Context, _incomplete: str) -> list[tuple[str, str]]:
    from pilot.site_configs import templates

    return [*templates().items()]


def _ask(context: click.Context, query: str, **arguments: Any) -> Any:
    from pilot.client.query_client import QueryClient
    from pilot.site import find_site

    site = find_site(context.ensure_object(Settings).site)
    with QueryClient(site) as ask:
        return ask(query, **arguments)


complete_session = _quiet(_sessions)
complete_task = _quiet(_tasks)
complete_object = _quiet(_objects)
complete_task_or_session = _quiet(_tasks_or_sessions)
complete_task_or_object = _quiet(_tasks_or_objects)
complete_parameter = _quiet(_parameters)
complete_template = _quiet(_templates)
