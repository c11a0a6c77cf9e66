"""``pilot task``: the state, history and output of single tasks."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.arguments import task_argument, tasks_argument
from pilot.cli.common import (
    asking,
    commanding,
    current_site,
    json_option,
    site_option,
    when_option,
)
from pilot.cli.completing import complete_session
from pilot.cli.output import (
    ago,
    amount,
    coloured,
    counted,
    duration,
    first_line,
    last_words,
    moment,
    note,
    print_fields,
    print_json,
    print_table,
    say,
)
from pilot.cli.output_files import OutputFiles
from pilot.cli.parameters import SESSION, Number
from pilot.client.calls import COMMANDS, Call, read_calls
from pilot.client.logs import Output, Span, follow, last_attempt
from pilot.model.states import FAILURES, FINAL, TASK_STATES
from pilot.texts import printable

if TYPE_CHECKING:
    from pilot.site import Site
    from pilot.workflow.record import Record

SORTS = ("id", "created", "ended", "name", "state", "ran")
_COLUMNS = ("task", "name", "state", "try", "pool", "node", "created", "time", "memory", "error")
#: The most inputs that are named.
_INPUTS = 20
#: The columns that narrow terminals leave out, in this order.
_DISPENSABLE = ("pool", "node", "memory", "try", "created")
#: The stages of an attempt, in order.
STAGES = (
    "created",
    "ready",
    "assigned",
    "received",
    "fetched",
    "started",
    "ended",
    "reported",
    "committed",
)


@click.group()
def task() -> None:
    """List, show and cancel tasks, named by ids such as 3.17."""


@task.command("list")
@click.option(
    "--session",
    "session_id",
    type=SESSION,
    metavar="ID",
    help="Only tasks of this session.",
    shell_complete=complete_session,
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(TASK_STATES, case_sensitive=False),
    help="Only tasks in this state. Repeatable, as --name, --pool and --error.",
)
@click.option("--failed", is_flag=True, help="Only FAILED or TIMED_OUT tasks, not retried since.")
@click.option("--name", "names", multiple=True, help="Only tasks of this name.")
@click.option("--pool", "pools", multiple=True, help="Only tasks last run in this pool.")
@click.option("--error", "errors", multiple=True, help="Only tasks ended by this class of error.")
@when_option("--created-since", "Created at TIME or later: an age such as 2h, or a date.")
@when_option("--created-until", "Created before TIME.")
@when_option("--ended-since", "Ended at TIME or later.")
@when_option("--ended-until", "Ended before TIME.")
@click.option(
    "--sort", type=click.Choice(SORTS), help="Smallest value first. Default: newest task first."
)
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option("--limit", type=Number(1), default=100, show_default=True)
@click.option("--offset", type=Number(0), default=0, help="Number of tasks to skip.")
@click.option("--count", "counting", is_flag=True, help="Print only the number of tasks by state.")
@json_option
@site_option
def list_(
    session_id: int | None,
    states: tuple[str, ...],
    failed: bool,
    names: tuple[str, ...],
    pools: tuple[str, ...],
    errors: tuple[str, ...],
    sort: str | None,
    reverse: bool,
    limit: int,
    offset: int,
    counting: bool,
    as_json: bool,
    **times: float | None,
) -> None:
    """List or count tasks, the newest first; a task must fit all filters."""
    site = current_site()
    filters = {
        "session": session_id,
        "state": (*states, *(FAILURES if failed else ())) or None,
        "name": names or None,
        "pool": pools or None,
        "error": errors or None,
        "current": failed or None,
        **times,
    }
    with asking(site) as ask:
        if counting:
            counts = ask("task_counts", **filters)
        else:
            # An older session may have the newest.
            order = (
                {"sort": sort, "reverse": reverse}
                if sort is not None
                else {"sort": "created" if reverse else "newest"}
            )
            rows = ask("tasks", **filters, **order, limit=limit + 1, offset=offset)
            commands = [row["id"] for row in rows[:limit] if row["kind"] in COMMANDS]
            known = {} if as_json else read_calls(ask, site.directory, commands)
            entry = Entries(site)
    if counting:
        _print_counts(counts, as_json)
        return
    more = len(rows) > limit
    rows = rows[:limit]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(
            _COLUMNS,
            [
                (
                    row["id"],
                    entry.of(row) or _title(row, known.get(row["id"])),
                    row["state"],
                    row["attempts"],
                    row["pool"],
                    row["node"],
                    ago(row["created"]),
                    _time(row),
                    _memory(row),
                    _error(row),
                )
                for row in rows
            ],
            cut={"name": 12, "error": 30},
            drop=_DISPENSABLE,
        )
    else:
        note("no tasks")
    if more:
        note(f"there are more: --offset {offset + limit}, or a larger --limit")


def _print_counts(counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json(counts)
    elif counts:
        print_table(("state", "tasks"), [*counts.items(), ("all", sum(counts.values()))])
    else:
        note("no tasks")


def _title(row: dict[str, Any], call: Call | None) -> str:
    """Return the name of a task, or the line of a command that was given no name."""
    if call and call.is_named_so:
        return call.command
    return f"{row['name']}[{call.number}]" if call and call.number else str(row["name"])


def _error(row: dict[str, Any]) -> str:
    """Return the error of a task in one line."""
    if not row["error"]:
        return ""
    return f"{row['error']}: {first_line(row['message'])}" if row["message"] else row["error"]


def _time(row: dict[str, Any]) -> str:
    """Return how long a task ran, or has run so far."""
    if row["state"] == "RUNNING" and row["started"]:
        return duration(time.time() - row["started"])
    return duration(row["ran_s"])


def _memory(row: dict[str, Any]) -> str:
    """Return the most memory that a task had in an attempt."""
    return amount(row["peak_mib"] << 20) if row["peak_mib"] else ""


@task.command()
@task_argument
@json_option
@site_option
def show(task_id: str, as_json: bool) -> None:
    """Show a task with its attempts, results and error."""
    site = current_site()
    with asking(site) as ask:
        data = ask("task", task=task_id)
        # Classes of the user's own come from where the session's program found them.
        paths = ask("session", session=data["session"])["sys_path"]
        sys.path += [path for path in paths if path not in sys.path]
        call = read_calls(ask, site.directory, [data["id"]])[data["id"]]
    entry = Entries(site).of(data) or None
    if as_json:
        told = {"command": call.command or None, "arguments": call.arguments, "entry": entry}
        print_json({**data, **told, "places": dict(call.places), "env": dict(call.env)})
        return
    options = data["options"]
    print_fields(
        {
            "task": data["id"],
            "name": data["name"],
            "of the file": entry,
            "kind": data["kind"],
            "command": call.command,
            **call.places,
            "env": " ".join(f"{name}={shlex.quote(value)}" for name, value in call.env.items()),
            "arguments": call.arguments,
            "state": data["state"],
            "session": data["session"],
            "parent": data["parent"],
            "resources": data["resources"],
            "environment": data["environment"],
            "time limit": duration(options["time_limit_s"] or None),
            "retries": _retries(options),
            "priority": options["priority"] or None,
            "pool": options["pool"],
            "compression": options.get("compression"),
            "inputs": _some(data["inputs"]),
            "after": _some(data["after"]),
            "created": f"{moment(data['created'])} ({ago(data['created'])})",
            "ended": moment(data["ended"]),
            "because of": data["first_cause"],
            "time": _time(data),
            "processor time": duration(data["cpu_s"]),
            "memory": _memory(data) and f"{_memory(data)} at most",
            "pilot": data["pilot"],
            "node": data["node"],
            "version": data["version"],
            "results": "\n".join(
                "released"
                if value["released"]
                else f"{amount(value['size'])}"
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
        # Few tasks have versions.
        has_versions = any(attempt["version"] for attempt in data["attempts_made"])
        print_table(
            (
                *("attempt", "outcome", *(["version"] if has_versions else ()), "pilot", "node"),
                *("cores", "started", "time", "cpu", "memory", "error"),
            ),
            [
                (
                    attempt["number"],
                    attempt["outcome"],
                    *([attempt["version"]] if has_versions else ()),
                    attempt["pilot"],
                    attempt["node"],
                    attempt["placement"],
                    moment(attempt["started"] or None),
                    duration(attempt["ended"] - attempt["started"]) if attempt["started"] else "",
                    duration(attempt["cpu_s"]),
                    _memory(attempt),
                    first_line(attempt["error"] or ""),
                )
                for attempt in data["attempts_made"]
            ],
            cut={"error": 30, "pilot": 20, "cores": 20},
            drop=("node", "cores", "cpu", "memory", "time"),
        )
    if data["error"]:
        click.echo()
        say(last_words(data["error"]))


def _retries(options: dict[str, Any]) -> str | None:
    """Return how often a task is tried again, and after what."""
    if not options["retries"]:
        return None
    words = [str(options["retries"])]
    if options["retry_on"]:
        words.append(f"only after {', '.join(options['retry_on'])}")
    if options["no_retry_on"]:
        words.append(f"never after {', '.join(options['no_retry_on'])}")
    if options["retry_timeouts"]:
        words.append("also after time-outs")
    return "; ".join(words)


def _some(labels: Sequence[str]) -> str:
    """Return the first of many ids, as text."""
    more = f", and {len(labels) - _INPUTS} more" if len(labels) > _INPUTS else ""
    return ", ".join(labels[:_INPUTS]) + more


class Entries:
    """The names of tasks in their workflows' files: each record is read once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._records: dict[int, Record | None] = {}

    def of(self, row: dict[str, Any]) -> str:
        """Return the name of a task in its workflow's file, such as ``scan[3]``; empty: none."""
        session = row["session"]
        if session not in self._records:
            self._records[session] = self._read(session)
        record = self._records[session]
        if record is None:
            return ""
        from pilot.model.ids import parse_task_label

        return record.label(parse_task_label(row["id"]))

    def _read(self, session: int) -> Record | None:
        if not (self._site.results / str(session)).is_dir():
            return None  # without what it takes to read one
        from pilot.workflow.record import read_record

        return read_record(self._site.results, session)


@task.command()
@task_argument
@json_option
@site_option
def attempts(task_id: str, as_json: bool) -> None:
    """Show the stages of each attempt of a task, with times and durations."""
    site = current_site()
    with asking(site) as ask:
        made = ask("task", task=task_id)["attempts_made"]
    if as_json:
        print_json(made)
    elif not made:
        note(f"no attempt of task {task_id} has ended")
    for attempt in () if as_json else made:
        error = printable(first_line(attempt["error"] or ""))
        where = attempt["placement"] or attempt["node"] or "no node"
        click.echo(
            f"attempt {attempt['number']}: {coloured(attempt['outcome'])} on {where}, "
            f"pilot {attempt['pilot'] or 'none'}" + (f": {error}" if error else "")
        )
        print_table(("stage", "time", "after"), stages(attempt))
        click.echo()


def stages(attempt: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the stages of an attempt: name, time, and duration since the previous one."""
    found = []
    before: float | None = None
    for stage in STAGES:
        when = attempt[stage]
        if not when:  # it did not get so far, or the head was not told
            continue
        after = "" if before is None else duration(when - before)
        found.append((stage, moment(when, exact=True), after))
        before = when
    return found


@task.command()
@tasks_argument
@site_option
def cancel(task_ids: tuple[str, ...]) -> None:
    """End tasks, running ones included; tasks that need their results are aborted."""
    from pilot.model.ids import parse_task_label
    from pilot.wire.messages import client as m

    with commanding(current_site()) as command:
        states = {
            each: command(lambda n, each=each: m.Query(n, "result", {"task": each}))["state"]
            for each in task_ids
        }
        for each, state in states.items():
            if state in FINAL:
                click.echo(f"task {each} is {state} already")
        open_ = [parse_task_label(each) for each in states if states[each] not in FINAL]
        if open_:
            ended = command(lambda n: m.Cancel(n, 0, open_))
            cancelled = min(ended, len(open_))
            click.echo(
                f"{counted(cancelled, 'task')} cancelled"
                + (f", {ended - cancelled} more ended with that" if ended > cancelled else "")
            )


@task.command()
@task_argument
@click.option("--follow", "-f", "following", is_flag=True, help="Continue until the task ends.")
@click.option("--attempt", type=Number(1), help="Output of this attempt. Default: the last.")
@site_option
def logs(task_id: str, following: bool, attempt: int | None) -> None:
    """Print what a task wrote to stdout and stderr, also while it runs."""
    if following and attempt:
        raise click.UsageError("--follow shows the last attempt; leave --attempt out")
    site = current_site()
    output = Output(site.directory)
    with asking(site) as ask:
        files = OutputFiles(ask, site.directory, task_id)

        def look() -> tuple[bool, list[Span]]:
            # The state first: when it is final, the spans are.
            state = ask("result", task=task_id)["state"]
            spans: list[Span] = ask("logs", task=task_id)
            return state in FINAL, [*spans, *files.spans(state, spans)]

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
