"""``pilot run``: a workflow file with its progress and a summary, or a Python program.

Inside a job of the site's batch system the head runs in that job, whose nodes are the first pilot.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.common import INTERRUPTED, current_site, json_option, site_option
from pilot.cli.completing import complete_parameter
from pilot.cli.output import counted, duration, first_line, note, print_fields, print_json, say
from pilot.cli.parameters import RegularFile
from pilot.errors import PilotError, TaskError
from pilot.model.states import FAILURES

if TYPE_CHECKING:
    from pilot.client.session import Session
    from pilot.site import Site
    from pilot.workflow import SubmittedWorkflow, Workflow
    from pilot.workflow.record import Record

#: The most failed tasks that the summary names.
_NAMED = 10


class _RunCommand(click.Command):
    """A command whose options may follow a workflow's file, but not a Python program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the file first, which decides whether options may follow it."""
        ctx.allow_interspersed_args = False
        found, _, _ = self.make_parser(ctx).parse_args(list(args))
        ctx.allow_interspersed_args = Path(str(found.get("file") or "")).suffix != ".py"
        return super().parse_args(ctx, args)


def _parameters(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not (name and equals):
            raise click.BadParameter(f"{text!r}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command(cls=_RunCommand)
@click.argument("file", type=RegularFile())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    callback=_parameters,
    shell_complete=complete_parameter,
    metavar="NAME=VALUE",
    help="Set a parameter of the workflow.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only print the tasks that would run. Modules that they name are imported to check them.",
)
@click.option("--detach", is_flag=True, help="Only submit, and print the session's id.")
@json_option
@site_option
@click.pass_context
def run(
    context: click.Context,
    file: Path,
    arguments: tuple[str, ...],
    parameters: dict[str, str],
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Run a workflow FILE (.yaml), or a Python program (.py) with its ARGUMENTS.

    A workflow shows its progress on stderr and ends with a summary: exit code 0 if all tasks
    completed, 8 if some failed, 130 if it was cancelled with Ctrl-C. A program finds the site in
    $PILOT_SITE, and its exit code is passed on.
    """
    if file.suffix == ".py":
        if parameters or dry_run or detach or as_json:
            raise click.UsageError(
                "-p, --dry-run, --detach and --json are for workflows; options of a program stand "
                "behind its name"
            )
        site = current_site()
        with _head_of_job(site):
            context.exit(_run_program(site, file, arguments))
    if file.suffix not in (".yaml", ".yml"):
        raise click.UsageError(f"{file}: give a workflow (.yaml) or a Python program (.py)")
    if arguments:
        raise click.UsageError(
            f"unexpected argument {arguments[0]!r}; parameters are given as -p NAME=VALUE"
        )
    from pilot.workflow import load_workflow

    workflow = load_workflow(file, parameters)
    if dry_run:
        _print_graph(workflow, as_json)
        return
    site = current_site()
    if detach:
        _submit(site, workflow)
        return
    with _head_of_job(site):
        context.exit(_run_workflow(site, workflow, as_json))


def _run_program(site: Site, file: Path, arguments: tuple[str, ...]) -> int:
    """Run a program with this Python; return its exit status."""
    program = subprocess.Popen(
        [sys.executable, str(file), *arguments],
        env={**os.environ, "PILOT_SITE": str(site.directory)},
    )
    # A Ctrl-C reaches the program as well, which knows what to do.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    try:
        status = program.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)
    return status if status >= 0 else 128 - status


def _print_graph(workflow: Workflow, as_json: bool) -> None:
    from pilot.workflow import graph_data, graph_text

    if as_json:
        print_json(graph_data(workflow.graph()))
    else:
        say(graph_text(workflow.graph()))


def _open_session(site: Site, workflow: Workflow) -> Session:
    from pilot.client.session import Session

    return Session(site, name=workflow.name, sys_path=workflow.sys_path)


def _submit_all(session: Session, workflow: Workflow) -> SubmittedWorkflow:
    """Submit the whole workflow, or nothing of it."""
    try:
        return workflow.submit(session)
    except PilotError:
        session.cancel()
        session.shutdown()
        raise


def _submit(site: Site, workflow: Workflow) -> None:
    session = _open_session(site, workflow)
    submitted = _submit_all(session, workflow)
    _keep_record(submitted)
    session.shutdown(wait=False)  # it ends with the last of these tasks, without us
    note(
        f"{counted(len(submitted.all_futures), 'task')} submitted; "
        f"`pilot session watch {session.id}` shows how far they are, and the results"
    )
    click.echo(session.id)


def _run_workflow(site: Site, workflow: Workflow, as_json: bool) -> int:
    """Run a workflow to its end and print the summary; return the exit code."""
    from pilot.client.progress import follow
    from pilot.workflow.summary import summarise

    begin = time.monotonic()
    session = _open_session(site, workflow)
    try:
        with session:
            submitted = _submit_all(session, workflow)
            record = _keep_record(submitted)
            count = counted(record.count, "task")
            note(f"{workflow.name}: {count} in session {session.id} on {site.name}")
            follow(session, submitted.futures)
            summary = summarise(record, session.id, site.results, session.query)
    except KeyboardInterrupt:
        return INTERRUPTED  # the session has told what became of its tasks
    seconds = round(time.monotonic() - begin, 3)
    return show_end(workflow.name, site, session.id, seconds, summary, as_json)


def _keep_record(submitted: SubmittedWorkflow) -> Record:
    """Write the record by which other programs can show the end of the workflow.

    A run does not fail if the record cannot be written: it prints a note.
    """
    from pilot.workflow.record import record_of, write_record

    record, session = record_of(submitted), submitted.session
    try:
        write_record(session.site.results, session.id, record)
    except OSError as error:
        note(f"`pilot session watch {session.id}` will not show the results: {error}")
    return record


def show_end(
    name: str, site: Site, session: int, seconds: float, summary: dict[str, Any], as_json: bool
) -> int:
    """Print the end of a workflow; return the exit code."""
    from pilot.cli.result import plain

    told = {"name": name, "site": site.name, "session": session, "seconds": seconds, **summary}
    told["results"] = {
        key: {what: plain(value) for what, value in result.items()}
        for key, result in summary["results"].items()
    }
    if as_json:
        print_json(told)
    else:
        print_summary(told)
    return 0 if set(summary["states"]) <= {"COMPLETED"} else TaskError.exit_code


# --- the summary ---------------------------------------------------------------------------------


def print_summary(summary: dict[str, Any]) -> None:
    """Print a summary of `summarise`, for people."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary["states"].items()))
    say(
        f"{summary['name']}: {counted(summary['tasks'], 'task')} in "
        f"{duration(summary['seconds'])}: {states or 'there was nothing to run'}"
        + (f" ({summary['found']} found, of an earlier run)" if summary["found"] else "")
    )
    failed = summary["failed"]
    count = sum(summary["states"].get(state, 0) for state in FAILURES)
    if failed:
        say(f"\n{counted(count, 'task')} failed:")
        for row in failed[:_NAMED]:
            say(f"  {row['label']}: {first_line(row['error'])}")
            say(f"    pilot task show {row['task']}; pilot task logs {row['task']}")
        if count > _NAMED:
            say(
                f"  and {count - _NAMED} more: pilot task list --session "
                f"{summary['session']} --failed"
            )
    if summary["results"]:
        say("\nresults")
        print_fields({f"  {key}": _shown(result) for key, result in summary["results"].items()})
    if summary["data"]:
        say(f"\ndata: {summary['data']}")


def _shown(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"({result['error']})"
    if "stored" in result:
        places = [f"{place['file']}: {place['dataset']}" for place in result["stored"]]
        return "\n".join(places[:_NAMED] + (["…"] if len(places) > _NAMED else []))
    value = result["value"]
    return first_line(value if isinstance(value, str) else repr(value))


# --- in a batch job ------------------------------------------------------------------------------


@contextmanager
def _head_of_job(site: Site) -> Iterator[None]:
    """Run a head in the present job of the batch system, on its nodes, if none runs yet."""
    from pilot.cli.head import stop_head
    from pilot.client.starter import ensure_head
    from pilot.head.running import find_head

    allocation = site.config.kind.own_allocation(os.environ)
    if allocation is None or find_head(site) is not None:
        yield
        return
    job = allocation.job_id
    ensure_head(site, adopt_job=job)
    note(f"the head of {site.name} runs in job {job}, whose nodes are its first pilot")
    try:
        yield
    finally:
        try:
            stop_head(site)
        except PilotError as error:
            note(str(error))  # not in place of what the run ended with
