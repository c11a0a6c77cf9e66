"""``pilot run``: a workflow file with its progress and a summary, or a Python program.

Inside a job of the site's batch system the head runs in that job, whose nodes are the first pilot.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilot.cli.as_job import (
    follow_hosted,
    head_of_job,
    lives_of,
    note_exit,
    note_session,
    run_as_job,
)
from pilot.cli.commands.watch import watch_session
from pilot.cli.common import INTERRUPTED, current_site, json_option, site_option
from pilot.cli.completing import complete_parameter
from pilot.cli.job_options import Wish, hosted_options, pool_option, walltime_option
from pilot.cli.output import counted, note, print_json, say
from pilot.cli.parameters import DURATION, RegularFile
from pilot.cli.summaries import show_end
from pilot.compat import SYSTEMS, search_directory
from pilot.errors import PilotError

if TYPE_CHECKING:
    from pilot.cli.lives import Lives
    from pilot.client.session import Session
    from pilot.site import Site
    from pilot.workflow import SubmittedWorkflow, Workflow
    from pilot.workflow.record import Record

#: The longest wait for the head to accept a workflow before its progress is shown, in seconds.
_FLUSH_S = 10.0


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


def _grace_s(
    _context: click.Context, _option: click.Parameter, given: float | None
) -> float | None:
    from pilot.client.session_settings import grace_s

    try:
        return None if given is None else grace_s(given)
    except PilotError as error:
        raise click.BadParameter(str(error).partition(": ")[2]) from None


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
@click.option(
    "--budget",
    metavar="HOURS",
    help="Node-hours that its tasks may use, in place of the file's; then no more of them start.",
)
@click.option(
    "--ends-with-client",
    type=DURATION,
    callback=_grace_s,
    metavar="TIME",
    help="Cancel the tasks when this command has been gone for so long: killed, or its machine "
    "lost. Default: they go on.",
)
@click.option("--detach", is_flag=True, help="Only submit, and print the session's id.")
@click.option(
    "--as-job",
    is_flag=True,
    help="Run it, with its head, in a batch job; with --detach, print the job's id.",
)
@click.option(
    "--compat",
    type=click.Choice(SYSTEMS),
    help="Run a program that was written for this system.",
)
@click.option(
    "--compat-flag",
    "compat_flags",
    multiple=True,
    metavar="FLAG",
    help="A flag of that system's own launcher, such as --compat-flag=--pythonpath=src.",
)
@walltime_option
@pool_option
@hosted_options
@json_option
@site_option
@click.pass_context
def run(
    context: click.Context,
    file: Path,
    arguments: tuple[str, ...],
    parameters: dict[str, str],
    dry_run: bool,
    budget: str | None,
    ends_with_client: float | None,
    detach: bool,
    as_job: bool,
    compat: str | None,
    compat_flags: tuple[str, ...],
    walltime: float,
    pool: str,
    hosted: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Run a workflow FILE (.yaml), or a Python program (.py) with its ARGUMENTS.

    A workflow shows its progress on stderr and ends with a summary: exit code 0 if all tasks
    completed, 8 if some failed, 130 if it was cancelled with Ctrl-C. A program finds the site in
    $PILOT_SITE, and its exit code is passed on.
    """
    wish = Wish(walltime, pool)
    if wish.is_any and not (as_job or hosted):
        raise click.UsageError("--time and --pool are for --as-job")
    if compat_flags and compat != "pycompss":
        raise click.UsageError("--compat-flag is for --compat pycompss")
    if directory is not None:
        os.chdir(directory)
    if file.suffix == ".py":
        for_workflows = parameters or dry_run or budget or as_json or ends_with_client is not None
        if for_workflows or (detach and not as_job):
            raise click.UsageError(
                "-p, --dry-run, --budget, --ends-with-client, --detach and --json are for "
                "workflows; options of a program stand behind its name"
            )
        site = current_site()
        if as_job:
            words = [] if compat is None else ["--compat", compat]
            words += [word for flag in compat_flags for word in ("--compat-flag", flag)]
            words += [str(file.absolute()), *arguments]
            context.exit(run_as_job(site, words, wish, detach, is_program=True))
        with head_of_job(site, hosted, wish):
            status = _run_program(site, file, arguments, compat, compat_flags)
            note_exit(site, hosted, status)
            context.exit(status)
    if compat is not None:
        raise click.UsageError("--compat is for Python programs")
    if file.suffix not in (".yaml", ".yml"):
        raise click.UsageError(f"{file}: give a workflow (.yaml) or a Python program (.py)")
    if ends_with_client is not None and (detach or as_job):
        raise click.UsageError(
            "--ends-with-client is for a command that waits here, and not for --detach or --as-job"
        )
    if arguments:
        raise click.UsageError(
            f"unexpected argument {arguments[0]!r}; parameters are given as -p NAME=VALUE"
        )
    from pilot.workflow import load_workflow

    workflow = load_workflow(file, parameters)
    if budget is not None:
        workflow = replace(workflow, budget=budget)
    if dry_run:
        _print_graph(workflow, as_json)
        return
    site = current_site()
    grace_s = workflow.ends_with_client if ends_with_client is None else ends_with_client
    if workflow.ends_with_client and (detach or as_job):
        note("its tasks go on without this command, whatever its ends_with_client says")
    if as_job:
        words = [word for name, text in parameters.items() for word in ("-p", f"{name}={text}")]
        words += [] if budget is None else ["--budget", budget]
        words = [*words, str(file.absolute())]
        context.exit(run_as_job(site, words, wish, detach, as_json=as_json))
    if detach:
        click.echo(_submit(site, workflow))
        return
    told = [str(file.absolute()), budget or "", *(f"{n}={text}" for n, text in parameters.items())]
    lives = lives_of(site, hosted, told)
    with head_of_job(site, hosted, wish):
        session = lives.begun() if lives is not None else None
        if session is not None:
            note(f"this job goes on with session {session}, which it had before it was requeued")
        if hosted:
            session = session or _submit(site, workflow, lives)
            note_session(site, hosted, session)
            context.exit(follow_hosted(site, session, hosted))
        if session is not None:
            context.exit(watch_session(site, session, as_json=as_json))
        context.exit(_run_workflow(site, workflow, as_json, grace_s, lives))


def _run_program(
    site: Site,
    file: Path,
    arguments: tuple[str, ...],
    compat: str | None,
    compat_flags: tuple[str, ...] = (),
) -> int:
    """Run a program with this Python; return its exit status."""
    environment = {**os.environ, "PILOT_SITE": str(site.directory)}
    if compat is not None:
        paths = [search_directory(), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    launcher = ["-m", "pilot.compat.compss.commands"] if compat == "pycompss" else []
    command = [sys.executable, *launcher, *compat_flags, str(file), *arguments]
    program = subprocess.Popen(command, env=environment)
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


def _open_session(site: Site, workflow: Workflow, ends_with_client: float = 0.0) -> Session:
    from pilot.client.session import Session

    return Session(
        site,
        name=workflow.name,
        sys_path=workflow.sys_path,
        budget=workflow.budget,
        preload=workflow.preload,
        ends_with_client=ends_with_client or False,
    )


def _submit_all(
    session: Session, workflow: Workflow, lives: Lives | None = None
) -> SubmittedWorkflow:
    """Submit the whole workflow, or nothing of it."""
    if lives is not None:
        lives.note(session.id, is_whole=False)
    try:
        return workflow.submit(session)
    except PilotError:
        from pilot.cli.commands.submit import delete_empty

        session.cancel()
        session.shutdown()
        delete_empty(session)
        raise


def _submit(site: Site, workflow: Workflow, lives: Lives | None = None) -> int:
    """Submit a workflow, which goes on without this process; return its session's id."""
    session = _open_session(site, workflow)
    submitted = _submit_all(session, workflow, lives)
    _keep_record(submitted)
    session.shutdown(wait=False)  # it ends with the last of these tasks, without us
    if lives is not None:
        lives.note(session.id, is_whole=True)
    note(
        f"{counted(len(submitted.all_futures), 'task')} submitted; "
        f"`pilot session watch {session.id}` shows how far they are, and the results"
    )
    return session.id


def _run_workflow(
    site: Site,
    workflow: Workflow,
    as_json: bool,
    ends_with_client: float = 0.0,
    lives: Lives | None = None,
) -> int:
    """Run a workflow to its end and print the summary; return the exit code."""
    from pilot.client.progress import follow
    from pilot.workflow.summary import summarise

    begin = time.monotonic()
    session = _open_session(site, workflow, ends_with_client)
    try:
        with session:
            submitted = _submit_all(session, workflow, lives)
            record = _keep_record(submitted)
            # Whoever reads the note may close the terminal: by then the tasks are durable.
            durable = session.flush(_FLUSH_S)
            if lives is not None and durable:
                lives.note(session.id, is_whole=True)
            count = counted(record.count, "task")
            note(
                f"{workflow.name}: {count} in session {session.id} on {site.name}"
                + ("" if durable else "; the head has not accepted all of them yet")
            )
            follow(session, submitted.futures)
            if lives is not None and not durable:
                lives.note(session.id, is_whole=True)  # it is over
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
