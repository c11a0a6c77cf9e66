"""``pilot submit``: one command as a task."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.common import INTERRUPTED, asking, current_site, site_option
from pilot.cli.logs import Output, last_attempt
from pilot.cli.output import note
from pilot.errors import CommandFailed, PilotError, SubmissionError, TaskError

if TYPE_CHECKING:
    from pilot.future import Future
    from pilot.session import Session

#: What shells end with where a command is not there.
_NOT_FOUND = 127
#: What lists call sessions that this command makes.
_SESSION_NAME = "cli"


def _variables(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--name", help="What lists call the task. Default: the command.")
@click.option("--cores", type=int, default=1, help="Cores (of each rank).", show_default=True)
@click.option("--memory", default="0", help="Memory (of each rank), such as 4G.")
@click.option("--gpus", type=int, default=0, help="GPUs (of each rank).")
@click.option("--ranks", type=int, default=1, help="MPI ranks: starts it by the site's launcher.")
@click.option("--ranks-per-node", type=int, help="Ranks on each node. Default: as it fits.")
@click.option("--time-limit", help="Longest run, such as 10m or 1:30:00.")
@click.option("--retries", type=int, default=0, help="How often to try again after an error.")
@click.option("--priority", type=int, default=0, help="Higher goes first.")
@click.option("--pool", help="The pool to run in. Default: any that fits.")
@click.option("--cwd", help="Where the command runs. Default: here.")
@click.option("--stdin", help="File for its standard input.")
@click.option("--stdout", help="File for its standard output. Default: the task's log.")
@click.option("--stderr", help="File for its standard error. Default: the task's log.")
@click.option(
    "--env", multiple=True, callback=_variables, metavar="NAME=VALUE", help="Set a variable for it."
)
@click.option("--session", "session_id", type=int, help="Submit to this open session.")
@click.option("--wait", is_flag=True, help="Wait, print its output, end with its exit status.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@site_option
def submit(
    command: tuple[str, ...],
    cwd: str | None,
    stdin: str | None,
    stdout: str | None,
    stderr: str | None,
    env: dict[str, str],
    session_id: int | None,
    wait: bool,
    **options: Any,
) -> None:
    """Run a COMMAND as a task, and print the task's id.

    The command is started as it stands, without a shell: for pipes and variables write
    sh -c 'a | b'. Paths are relative to the directory of the command.
    """
    from pilot.command import shell
    from pilot.session import Session

    task = shell(
        command,
        cwd=Path(cwd or ".").absolute(),
        stdin=_literal(stdin),
        stdout=_literal(stdout),
        stderr=_literal(stderr),
        env=env,
        **options,
    )
    session = Session(current_site(), name=_SESSION_NAME, session_id=session_id)
    try:
        try:
            future = session.submit(task)
        finally:
            _hand_over(session, is_own=session_id is None)
        status = _await(session, future) if wait else _accepted(future)
    finally:
        if session_id is not None:
            session.detach()
    click.get_current_context().exit(status)


def _hand_over(session: Session, is_own: bool) -> None:
    """Wait until the head has taken or refused the task; a session of our own ends with it."""
    if is_own:
        session.shutdown(wait=False)
    else:
        session.flush()


def _accepted(future: Future[Any]) -> int:
    """Print the task's id, or raise why it was refused."""
    if future.done() and isinstance(error := future.exception(), SubmissionError):
        raise error
    click.echo(future.task_id)
    return 0


def _await(session: Session, future: Future[Any]) -> int:
    """Wait for the task, print what it wrote, and say what to end with."""
    try:
        error = future.exception()
    except KeyboardInterrupt:
        session.cancel([future])
        note(f"task {future.task_id} was cancelled")
        return INTERRUPTED
    except CancelledError:
        error = TaskError("it was cancelled")
    if isinstance(error, SubmissionError):
        raise error
    with asking(session.site) as ask:
        Output(session.site.directory).show(last_attempt(ask("logs", task=future.task_id)))
    if error is None:
        return 0
    status = exit_status(error)
    if status is None:
        raise (
            error
            if isinstance(error, PilotError)
            else TaskError(f"task {future.task_id}: {type(error).__name__}: {error}")
        ) from error
    note(f"task {future.task_id}: {str(error).splitlines()[0]}")
    return status


def exit_status(error: BaseException) -> int | None:
    """What a shell would end with; None where the task did not get so far."""
    if isinstance(error, CommandFailed):
        return error.returncode if error.returncode >= 0 else 128 - error.returncode
    return _NOT_FOUND if str(error).startswith("command not found: ") else None


def _literal(path: str | None) -> str | None:
    """A file name as the API has it, where braces name parameters."""
    return None if path is None else path.replace("{", "{{").replace("}", "}}")
