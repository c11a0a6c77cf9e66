"""``pilot run``: a workflow file with its progress and a summary, or a Python program.

Inside a batch job of the site's Slurm the head runs in that job, and its nodes are the first pilot.
"""

from __future__ import annotations

import dataclasses
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
from pilot.cli.output import counted, duration, note, print_fields, print_json
from pilot.errors import PilotError, TaskAborted, TaskError, TaskTimedOut

if TYPE_CHECKING:
    import concurrent.futures

    from pilot.future import Future
    from pilot.session import Session
    from pilot.site import Site
    from pilot.workflow import Node, Result, SubmittedWorkflow, Workflow

#: So many failed tasks are named in the summary.
_NAMED = 10


class _RunCommand(click.Command):
    """What stands behind a Python program belongs to it; a workflow's options may follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the file first."""
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
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    callback=_parameters,
    metavar="NAME=VALUE",
    help="Set a parameter of the workflow.",
)
@click.option("--dry-run", is_flag=True, help="Only print the tasks that would run.")
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
    """Run a program with this Python; returns its exit status."""
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
        click.echo(graph_text(workflow.graph()))


def _open_session(site: Site, workflow: Workflow) -> Session:
    from pilot.session import Session

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
    session.shutdown(wait=False)  # it ends with the last of these tasks, without us
    note(
        f"{counted(len(submitted.all_futures), 'task')} submitted; "
        f"`pilot session show {session.id}` shows how far they are"
    )
    click.echo(session.id)


def _run_workflow(site: Site, workflow: Workflow, as_json: bool) -> int:
    """Run to the end and print the summary; returns the exit code."""
    from pilot.cli.progress import follow

    begin = time.monotonic()
    session = _open_session(site, workflow)
    try:
        with session:
            submitted = _submit_all(session, workflow)
            count = counted(len(submitted.all_futures), "task")
            note(f"{workflow.name}: {count} in session {session.id} on {site.name}")
            follow(session, submitted.futures)
            summary = summarise(submitted)
    except KeyboardInterrupt:
        note(f"session {session.id} was cancelled: none of its tasks runs any more")
        return INTERRUPTED
    summary = {
        "name": workflow.name,
        "site": site.name,
        "session": session.id,
        "seconds": round(time.monotonic() - begin, 3),
        **summary,
    }
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    return 0 if set(summary["states"]) <= {"COMPLETED"} else TaskError.exit_code


# --- the summary ---------------------------------------------------------------------------------


def state_of(future: concurrent.futures.Future[Any]) -> str:
    """The final state of a task, from its future."""
    if future.cancelled():
        return "CANCELLED"
    error = future.exception()
    if error is None:
        return "COMPLETED"
    kinds = ((TaskTimedOut, "TIMED_OUT"), (TaskAborted, "ABORTED"))
    return next((state for kind, state in kinds if isinstance(error, kind)), "FAILED")


def summarise(submitted: SubmittedWorkflow) -> dict[str, Any]:
    """What became of a workflow whose tasks have all ended, as plain data."""
    states: dict[str, int] = {}
    failed = []
    for name, futures in submitted.futures.items():
        indexed = any(node.index is not None for node in _nodes(submitted, name))
        for index, future in enumerate(futures):
            state = state_of(future)
            states[state] = states.get(state, 0) + 1
            if state in ("FAILED", "TIMED_OUT"):
                error = future.exception()
                failed.append(
                    {
                        "task": future.task_id,
                        "label": f"{name}[{index}]" if indexed else name,
                        "state": state,
                        "error": f"{type(error).__name__}: {error}",
                    }
                )
    results = {key: _result(submitted, key) for key in submitted.graph.results}
    # Where segments are, see `pilot.data.segments`; importing that would load HDF5.
    data = submitted.session.site.directory / "results" / str(submitted.session.id)
    cached = any(node.options.cache for group in submitted.graph.groups for node in group.nodes)
    return {
        "tasks": len(submitted.all_futures),
        "states": states,
        "found": submitted.session.query("found", session=submitted.session.id) if cached else 0,
        "failed": failed,
        "results": results,
        "data": str(data) if data.is_dir() else None,
    }


def _nodes(submitted: SubmittedWorkflow, name: str) -> tuple[Node, ...]:
    return next(group.nodes for group in submitted.graph.groups if group.name == name)


def _result(submitted: SubmittedWorkflow, key: str) -> dict[str, Any]:
    """One of the workflow's results: its value, or the datasets where it is too large for that."""
    from pilot.cli.result import plain
    from pilot.workflow.graph import results_in

    wanted = submitted.graph.results[key]
    failed = [ref for ref in results_in(wanted) if _future(submitted, ref).exception() is not None]
    if failed:
        return {"error": f"{failed[0]} has no result"}
    stored = [place for ref in results_in(wanted) for place in _stored(submitted, ref)]
    if stored:
        return {"stored": stored}
    graph = dataclasses.replace(submitted.graph, results={key: wanted})
    try:
        return {"value": plain(dataclasses.replace(submitted, graph=graph).results()[key])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _future(submitted: SubmittedWorkflow, ref: Result) -> Future[Any]:
    return submitted.futures[ref.task][ref.index or 0]


def _stored(submitted: SubmittedWorkflow, ref: Result) -> list[dict[str, str]]:
    """File and dataset of those values of a task that are in files."""
    session = submitted.session
    task = _future(submitted, ref).task_id
    values = session.query("task", task=task)["results"]
    if isinstance(ref.part, int):
        values = values[ref.part : ref.part + 1]
    return [
        {"file": str(session.site.directory / value["file"]), "dataset": value["name"]}
        for value in values
        if value["file"]
    ]


def print_summary(summary: dict[str, Any]) -> None:
    """Print what `summarise` gave, for people."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary["states"].items()))
    click.echo(
        f"{summary['name']}: {counted(summary['tasks'], 'task')} in "
        f"{duration(summary['seconds'])}: {states}"
        + (f" ({summary['found']} found, of an earlier run)" if summary["found"] else "")
    )
    failed = summary["failed"]
    if failed:
        click.echo(f"\n{counted(len(failed), 'task')} failed:")
        for row in failed[:_NAMED]:
            click.echo(f"  {row['label']}: {first_line(row['error'])}")
            click.echo(f"    pilot task show {row['task']}; pilot task logs {row['task']}")
        if len(failed) > _NAMED:
            click.echo(
                f"  and {len(failed) - _NAMED} more: pilot task list --session "
                f"{summary['session']} --state FAILED"
            )
    if summary["results"]:
        click.echo("\nresults")
        print_fields({f"  {key}": _shown(result) for key, result in summary["results"].items()})
    if summary["data"]:
        click.echo(f"\ndata: {summary['data']}")


def first_line(text: str) -> str:
    """The first line that says anything, not too long."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else f"{line[:197]}..."


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
    """In a job of the site's Slurm where no head runs: one here, which uses the job's nodes."""
    from pilot.cli.head import stop_head
    from pilot.head.daemon import ensure_head, find_head

    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or site.config.batch != "slurm" or find_head(site) is not None:
        yield
        return
    ensure_head(site, adopt_job=job)
    note(f"the head of {site.name} runs in job {job}, whose nodes are its first pilot")
    try:
        yield
    finally:
        try:
            stop_head(site)
        except PilotError as error:
            note(str(error))  # not in place of what the run ended with
