"""``pilot task``: what became of single tasks, and what they wrote."""

from __future__ import annotations

import time
from typing import Any

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.logs import Output, Span, follow, last_attempt
from pilot.cli.output import (
    ago,
    amount,
    duration,
    moment,
    note,
    print_fields,
    print_json,
    print_table,
)

FINAL = ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED", "ABORTED")
STATES = ("PENDING", "READY", "ASSIGNED", "RUNNING", *FINAL)


@click.group()
def task() -> None:
    """Tasks, named by ids such as 3.17."""


@task.command("list")
@click.option("--session", "session_id", type=int, help="Of this session.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="In this state.")
@click.option("--name", help="Of this name.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many.")
@json_option
@site_option
def list_(
    session_id: int | None,
    state: str | None,
    name: str | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> None:
    """List tasks in the order of their ids."""
    site = current_site()
    with asking(site) as ask:
        rows = ask(
            "tasks", session=session_id, state=state, name=name, limit=limit + 1, offset=offset
        )
    more = len(rows) > limit
    rows = rows[:limit]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(
            ("task", "name", "state", "session", "attempts", "node", "created", "time"),
            [
                (
                    row["id"],
                    row["name"],
                    row["state"],
                    row["session"],
                    row["attempts"],
                    row["node"],
                    ago(row["created"]),
                    _time(row),
                )
                for row in rows
            ],
        )
    else:
        note("no tasks")
    if more:
        note(f"there are more: --offset {offset + limit}, or a larger --limit")


def _time(row: dict[str, Any]) -> str:
    """How long a task ran, or has run."""
    if row["state"] == "RUNNING" and row["started"]:
        return duration(time.time() - row["started"])
    return duration(row["ran_s"])


@task.command()
@click.argument("task_id", metavar="ID")
@json_option
@site_option
def show(task_id: str, as_json: bool) -> None:
    """Show a task with its attempts, results and error."""
    site = current_site()
    with asking(site) as ask:
        data = ask("task", task=task_id)
    if as_json:
        print_json(data)
        return
    options = data["options"]
    print_fields(
        {
            "task": data["id"],
            "name": data["name"],
            "kind": data["kind"],
            "state": data["state"],
            "session": data["session"],
            "resources": data["resources"],
            "time limit": duration(options["time_limit_s"] or None),
            "retries": options["retries"] or None,
            "priority": options["priority"] or None,
            "pool": options["pool"],
            "inputs": ", ".join(data["inputs"]),
            "created": f"{moment(data['created'])} ({ago(data['created'])})",
            "ended": moment(data["ended"]),
            "time": _time(data),
            "pilot": data["pilot"],
            "node": data["node"],
            "results": "\n".join(
                f"{amount(value['size'])}"
                + (
                    f" in {site.directory / value['file']}: {value['name']}"
                    if value["file"]
                    else ""
                )
                for value in data["results"]
            ),
        }
    )
    if data["attempts_made"]:
        click.echo()
        print_table(
            ("attempt", "outcome", "pilot", "node", "started", "time", "error"),
            [
                (
                    attempt["number"],
                    attempt["outcome"],
                    attempt["pilot"],
                    attempt["node"],
                    moment(attempt["started"] or None),
                    duration(attempt["ended"] - attempt["started"]) if attempt["started"] else "",
                    (attempt["error"] or "").partition("\n")[0],
                )
                for attempt in data["attempts_made"]
            ],
        )
    if data["error"]:
        click.echo(f"\n{data['error']['type']}: {data['error']['message']}")
        if data["error"]["detail"]:
            click.echo(f"\n{data['error']['detail'].rstrip()}")


@task.command()
@click.argument("task_id", metavar="ID")
@click.option("--follow", "-f", "following", is_flag=True, help="Go on until the task ends.")
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt. Default: the last.")
@site_option
def logs(task_id: str, following: bool, attempt: int | None) -> None:
    """Print what a task wrote to stdout and stderr, also while it runs."""
    if following and attempt:
        raise click.UsageError("--follow shows the last attempt; leave --attempt out")
    site = current_site()
    output = Output(site.directory)
    with asking(site) as ask:

        def look() -> tuple[bool, list[Span]]:
            # The state first: when it is final, the spans are.
            state = ask("result", task=task_id)["state"]
            return state in FINAL, ask("logs", task=task_id)

        if following and ask("head")["pid"] is not None:
            follow(output, look)
            return
        ended, spans = look()
    chosen = (
        [span for span in spans if span["attempt"] == attempt] if attempt else last_attempt(spans)
    )
    output.show(chosen)
    if not chosen:
        note(
            f"task {task_id} has written nothing"
            + ("" if ended else " so far")
            + (f" in attempt {attempt}" if attempt else "")
        )
