"""``pilot session``: lists of tasks that belong together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.output import (
    ago,
    counted,
    duration,
    moment,
    note,
    print_fields,
    print_json,
    print_table,
)


@click.group()
def session() -> None:
    """Sessions: tasks that were submitted by one program."""


@session.command("list")
@click.option("--open", "open_only", is_flag=True, help="Only those that are not closed.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@json_option
@site_option
def list_(open_only: bool, limit: int, as_json: bool) -> None:
    """List the sessions, the newest first."""
    site = current_site()
    with asking(site) as ask:
        rows = ask("sessions", limit=limit, open_only=open_only)
    if as_json:
        print_json(rows)
    elif rows:
        print_sessions(rows)
    else:
        note("no sessions")


def print_sessions(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the query ``sessions``."""
    print_table(
        ("session", "name", "state", "tasks", "unfinished", "created", "ended"),
        [
            (
                row["id"],
                row["name"],
                row["state"],
                row["tasks"],
                row["unfinished"],
                ago(row["created"]),
                ago(row["ended"]),
            )
            for row in rows
        ],
    )


@session.command()
@click.argument("session_id", metavar="[ID]", type=int, required=False)
@json_option
@site_option
def show(session_id: int | None, as_json: bool) -> None:
    """Show a session (default: the newest) and its tasks by state."""
    site = current_site()
    with asking(site) as ask:
        data = ask("session", session=session_id)
    if as_json:
        print_json(data)
        return
    until = time.time() if data["ended"] is None else data["ended"]
    states = data["states"]
    print_fields(
        {
            "session": data["id"],
            "name": data["name"],
            "state": data["state"],
            "tasks": f"{sum(states.values())}"
            + (": " if states else "")
            + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            "created": f"{moment(data['created'])} ({ago(data['created'])})",
            "ended": moment(data["ended"]),
            "time": duration(until - data["created"]),
            "directory": data["working_dir"],
        }
    )


@session.command()
@click.argument("session_id", metavar="ID", type=int)
@site_option
def cancel(session_id: int) -> None:
    """End all tasks of a session, running ones included, and close it."""
    from pilot.wire import messages as m
    from pilot.wire.connection import Connection

    site = current_site()
    connection = Connection(site)
    try:
        data = connection.request(lambda n: m.Query(n, "session", {"session": session_id}))
        if data["state"] in ("CLOSED", "PURGED"):
            click.echo(f"session {session_id} has ended already")
            return
        ended = connection.request(lambda n: m.Cancel(n, session_id))
        connection.request(lambda n: m.ControlSession(n, session_id, "close"))
    finally:
        connection.close()
    click.echo(f"session {session_id}: {counted(ended, 'task')} cancelled")
