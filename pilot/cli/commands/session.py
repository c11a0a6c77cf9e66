"""``pilot session``: listing and control of sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pilot.cli.arguments import newest_session_argument, session_argument, sessions_argument
from pilot.cli.commands.watch import wait, watch
from pilot.cli.common import (
    Command,
    asking,
    commanding,
    current_site,
    json_option,
    site_option,
    when_option,
)
from pilot.cli.lists import print_sessions, state_of
from pilot.cli.output import (
    ago,
    counted,
    duration,
    moment,
    note,
    print_fields,
    print_json,
)
from pilot.cli.parameters import Number
from pilot.model.states import CLOSED_STATES, SESSION_STATES
from pilot.texts import printable

#: The states by which sessions are listed.
STATES = (*SESSION_STATES, "PAUSED")


@click.group()
def session() -> None:
    """List and control sessions: each has the tasks that one program submitted."""


# --- looking -------------------------------------------------------------------------------------


@session.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES, case_sensitive=False),
    help="Only sessions in this state. Repeatable.",
)
@click.option("--name", help="Only sessions of this name.")
@when_option("--since", "Created at TIME or later: an age such as 2h, or a date.")
@click.option("--open", "open_only", is_flag=True, help="Only sessions that are not closed.")
@click.option("--limit", type=Number(1), default=50, show_default=True)
@json_option
@site_option
def list_(
    states: tuple[str, ...],
    name: str | None,
    since: float | None,
    open_only: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List the sessions, the newest first."""
    site = current_site()
    with asking(site) as ask:
        rows = ask(
            "sessions",
            state=states or None,
            name=name,
            since=since,
            open_only=open_only,
            limit=limit,
        )
    if as_json:
        print_json(rows)
    elif rows:
        print_sessions(rows)
    else:
        note("no sessions")


@session.command()
@newest_session_argument
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
            "state": state_of(data),
            "because": data["reason"],
            "ends": f"when its client has been gone for {duration(data['grace_s'])}"
            if data["grace_s"]
            else None,
            "tasks": f"{sum(states.values())}"
            + (": " if states else "")
            + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            "groups": ", ".join(data["groups"]),
            "created": f"{moment(data['created'])} ({ago(data['created'])})",
            "ended": moment(data["ended"]),
            "time": duration(until - data["created"]),
            "directory": data["working_dir"],
        }
    )


@session.command()
@newest_session_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The file to write, in SVG, which browsers show.",
)
@site_option
def gantt(session_id: int | None, output: Path) -> None:
    """Draw which cores and GPUs the tasks of a session (default: the newest) had, and when."""
    from pilot.cli.gantt import MOST_BARS, Bar, picture
    from pilot.errors import PilotError

    bars: list[Bar] = []
    with asking(current_site()) as ask:
        number = ask("session", session=session_id)["id"]
        after: list[int] | None = [0, 0]
        while after is not None and len(bars) <= MOST_BARS:
            answer = ask("placements", session=number, after=after[0], number=after[1])
            bars += [
                Bar(row["id"], row["name"], row["started"], row["ended"], row["placement"])
                for row in answer["placements"]
            ]
            after = answer["last"]
    if not bars:
        note(f"no attempt of session {number} has ended")
        return
    try:
        output.write_text(picture(bars[:MOST_BARS]), encoding="utf-8")
    except OSError as error:
        raise PilotError(f"{output} cannot be written: {error.strerror}") from None
    if len(bars) > MOST_BARS:
        note(f"the first {MOST_BARS} attempts are drawn: browsers are slow with more")
    click.echo(output)


session.add_command(wait)
session.add_command(watch)


# --- doing ---------------------------------------------------------------------------------------


def _each(
    session_ids: tuple[int, ...],
    act: Callable[[Command, dict[str, Any]], str],
    asked: Callable[[list[dict[str, Any]]], object] | None = None,
) -> None:
    """Do something with sessions, all of which must exist, and print what has happened to each.

    If one refuses, the others are done all the same, and the exit code is that of the error.
    """
    from pilot.errors import HeadError, PilotError
    from pilot.wire.messages import client as m

    with commanding(current_site()) as command:
        rows = [
            command(lambda n, each=each: m.Query(n, "session", {"session": each}))
            for each in dict.fromkeys(session_ids)
        ]
        if asked is not None:
            asked(rows)
        code = 0
        for row in rows:
            try:
                click.echo(act(command, row))
            except HeadError:
                raise
            except PilotError as error:
                note(str(error))
                code = error.exit_code
    click.get_current_context().exit(code)


def _control(command: Command, row: dict[str, Any], verb: str) -> dict[str, Any]:
    """Control a session by a verb; return its row afterwards."""
    from pilot.wire.messages import client as m

    number = row["id"]
    command(lambda n: m.ControlSession(n, number, verb))
    if verb == "delete":
        return row
    after: dict[str, Any] = command(lambda n: m.Query(n, "session", {"session": number}))
    return after


@session.command()
@sessions_argument
@site_option
def pause(session_ids: tuple[int, ...]) -> None:
    """Start no more tasks of sessions; running tasks go on."""

    def act(command: Command, row: dict[str, Any]) -> str:
        after = _control(command, row, "pause")
        return f"session {row['id']} is paused, with {counted(after['unfinished'], 'task')} to do"

    _each(session_ids, act)


@session.command()
@sessions_argument
@site_option
def resume(session_ids: tuple[int, ...]) -> None:
    """Go on with sessions that are paused."""

    def act(command: Command, row: dict[str, Any]) -> str:
        after = _control(command, row, "resume")
        if not row["paused"]:
            return f"session {row['id']} was not paused"
        return f"session {row['id']} goes on, with {counted(after['unfinished'], 'task')} to do"

    _each(session_ids, act)


@session.command()
@session_argument
@click.argument("hours", metavar="HOURS|none")
@site_option
def budget(session_id: int, hours: str) -> None:
    """Let the tasks of a session use HOURS node-hours in all, with what they have used.

    When they are used up no more of its tasks start; those that run go on.
    """
    from pilot.client.session_settings import session_budget
    from pilot.wire.messages import client as m

    node_s = 0.0 if hours == "none" else session_budget(hours)
    with commanding(current_site()) as command:
        command(lambda n: m.ControlSession(n, session_id, "budget", node_s))
    has = "has no budget" if hours == "none" else f"may use {node_s / 3600:,g} node-hours in all"
    click.echo(f"session {session_id} {has}")


@session.command()
@sessions_argument
@site_option
def stop(session_ids: tuple[int, ...]) -> None:
    """Take no more tasks from anybody; present tasks go on, and may still submit."""

    def act(command: Command, row: dict[str, Any]) -> str:
        after = _control(command, row, "stop")
        to_do = counted(after["unfinished"], "task")
        return f"session {row['id']} takes no more tasks, and has {to_do} to do"

    _each(session_ids, act)


@session.command()
@sessions_argument
@site_option
def close(session_ids: tuple[int, ...]) -> None:
    """Take no more tasks, and end sessions with their last present task."""

    def act(command: Command, row: dict[str, Any]) -> str:
        if row["state"] in CLOSED_STATES:
            return f"session {row['id']} has ended already"
        after = _control(command, row, "close")
        if after["unfinished"]:
            to_do = counted(after["unfinished"], "task")
            return f"session {row['id']} ends when {to_do} have ended"
        return f"session {row['id']} is closed"

    _each(session_ids, act)


@session.command()
@sessions_argument
@click.option("--group", metavar="NAME", help="Only this group of tasks; the session goes on.")
@site_option
def cancel(session_ids: tuple[int, ...], group: str | None) -> None:
    """End all tasks of sessions, running ones included, and close them."""
    from pilot.errors import PilotError
    from pilot.wire.messages import client as m

    def act(command: Command, row: dict[str, Any]) -> str:
        number = row["id"]
        if row["state"] in CLOSED_STATES:
            return f"session {number} has ended already"
        if group is not None and group not in row["groups"]:
            there = ", ".join(row["groups"])
            raise PilotError(
                f"session {number} has no group {group!r}"
                + (f"; it has {there}" if there else ", nor any other")
            )
        ended = command(lambda n: m.Cancel(n, number, [], group or ""))
        if group is not None:
            return f"session {number}, group {group}: {counted(ended, 'task')} cancelled"
        command(lambda n: m.ControlSession(n, number, "close"))
        return f"session {number}: {counted(ended, 'task')} cancelled"

    _each(session_ids, act)


def _confirm(question: str, *, sure: bool) -> Callable[[list[dict[str, Any]]], object]:
    """Return a function that asks the user before anything is deleted."""

    def ask(rows: list[dict[str, Any]]) -> None:
        named = ", ".join(
            f"session {row['id']} ({printable(row['name'])}, {counted(row['tasks'], 'task')})"
            for row in rows
        )
        if not sure:
            click.confirm(f"{question} of {named}?", abort=True, err=True)

    return ask


yes_option = click.option("--yes", "-y", "sure", is_flag=True, help="Do not ask first.")


@session.command()
@sessions_argument
@click.option(
    "--results",
    "results_only",
    is_flag=True,
    help="Only results, also of an open session: each goes once no unfinished task needs it.",
)
@yes_option
@site_option
def purge(session_ids: tuple[int, ...], results_only: bool, sure: bool) -> None:
    """Delete the data of sessions that have ended: results and checkpoints; the records stay."""

    def release(command: Command, row: dict[str, Any]) -> str:
        _control(command, row, "release")
        return (
            f"session {row['id']}: the results of its ended tasks are released: each is deleted "
            "once no unfinished task needs it"
        )

    def act(command: Command, row: dict[str, Any]) -> str:
        _control(command, row, "purge")
        return f"session {row['id']}: its results and checkpoints are deleted, its records stay"

    if results_only:
        _each(session_ids, release, _confirm("Delete the results", sure=sure))
    else:
        _each(session_ids, act, _confirm("Delete results and checkpoints", sure=sure))


@session.command()
@sessions_argument
@yes_option
@site_option
def delete(session_ids: tuple[int, ...], sure: bool) -> None:
    """Delete all records and data of sessions that have ended."""

    def act(command: Command, row: dict[str, Any]) -> str:
        _control(command, row, "delete")
        return f"session {row['id']} is deleted"

    _each(session_ids, act, _confirm("Delete results, checkpoints and all records", sure=sure))
