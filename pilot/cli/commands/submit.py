"""``pilot submit``: one command as a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from pilot.cli.common import INTERRUPTED, asking, current_site, site_option
from pilot.cli.completing import complete_session, complete_task
from pilot.cli.output import counted, note
from pilot.cli.output_files import OutputFiles
from pilot.cli.parameters import AMOUNT, MOST, SESSION, TASK, Number
from pilot.client.array import (
    LONGEST,
    Rows,
    array_command,
    array_path,
    array_rows,
    array_text,
    check_name,
    line_rows,
)
from pilot.client.logs import Output, last_attempt
from pilot.client.script_tasks import Script, find_script, script_task
from pilot.errors import CommandFailed, PilotError, SubmissionError, TaskError
from pilot.regular_files import NotRegularError, check_regular
from pilot.site import working_directory

if TYPE_CHECKING:
    from pilot.client.future import Future
    from pilot.client.session import Session
    from pilot.client.task import Task

#: The name of sessions that this command makes.
_SESSION_NAME = "cli"


def _pairs(
    _context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r}: write {parameter.metavar}")
    return {name: value for name, _, value in pairs}


def _array(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Rows | None:
    try:
        return None if text is None else array_rows(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _each_line(
    _context: click.Context, _parameter: click.Parameter, path: str | None
) -> Rows | None:
    if path is None:
        return None
    try:
        with _open_lines(path) as file:
            return line_rows(iter(partial(file.readline, LONGEST + 1), ""))
    except ValueError as error:
        told = str(error)
    except NotRegularError as error:
        told = f"{error.strerror}; what another program writes is given as - or <(…)"
    except OSError as error:
        told = error.strerror or str(error)
    raise click.BadParameter(f"{path}: {told}")


def _open_lines(path: str) -> IO[str]:
    """Open a file of lines: a regular file, or a descriptor that the shell has opened."""
    is_given = path in ("-", "/dev/stdin") or path.startswith(("/dev/fd/", "/proc/self/fd/"))
    if not is_given:
        check_regular(path)
    return click.open_file(path, encoding="utf-8", errors="surrogateescape")


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--name", help="Name of the task in lists. Default: the command.")
@click.option(
    "--cores",
    type=Number(0),
    default=1,
    help="Cores (of each rank); 0: it only waits, or moves data.",
    show_default=True,
)
@click.option("--memory", default="0", help="Memory (of each rank), such as 4G.")
@click.option("--gpus", type=AMOUNT, default=0, help="GPUs (of each rank); 0.5: half of one.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    callback=_pairs,
    metavar="NAME=AMOUNT",
    help="Another resource, by a name that the site declares, such as matlab=1.",
)
@click.option(
    "--ranks", type=Number(1), default=1, help="MPI ranks, started by the site's launcher."
)
@click.option("--ranks-per-node", type=Number(1), help="Ranks on each node. Default: as it fits.")
@click.option(
    "--nodes",
    type=Number(1),
    default=1,
    help="Nodes, with so many cores on each: the command starts on the first of them.",
)
@click.option(
    "--exclusive",
    is_flag=True,
    help="Have its nodes for itself: nothing else runs there meanwhile.",
)
@click.option(
    "--constraint",
    metavar="FEATURES",
    help="Features that its nodes must have, such as a100&nvme. Default: any nodes will do.",
)
@click.option("--time-limit", help="Longest run, such as 10m or 1:30:00.")
@click.option("--retries", type=Number(0), default=0, help="Number of retries after an error.")
@click.option(
    "--retry-on",
    type=Number(0, 255),
    multiple=True,
    metavar="STATUS",
    help="Retry only after this exit status. Default: after any that means failure.",
)
@click.option(
    "--no-retry-on",
    type=Number(0, 255),
    multiple=True,
    metavar="STATUS",
    help="Never retry after this exit status.",
)
@click.option(
    "--retry-timeouts", is_flag=True, help="Retry as well what was ended by the time limit."
)
@click.option(
    "--stop-signal",
    metavar="SIGNAL",
    help="Signal, such as SIGTERM, that the command gets when its pilot ends soon. Default: none.",
)
@click.option("--priority", type=Number(-MOST), default=0, help="Higher goes first.")
@click.option(
    "--after",
    multiple=True,
    type=TASK,
    metavar="ID",
    help="Start when this task has ended, well or not. Repeatable.",
    shell_complete=complete_task,
)
@click.option("--pool", help="The pool to run in. Default: any that fits.")
@click.option("--cwd", help="Directory in which the command runs. Default: here.")
@click.option("--stdin", help="File for its standard input.")
@click.option("--stdout", help="File for its standard output. Default: the task's log.")
@click.option("--stderr", help="File for its standard error. Default: the task's log.")
@click.option(
    "--output-per-rank",
    is_flag=True,
    help="Each rank has its own --stdout and --stderr, its number behind a dot at the end.",
)
@click.option(
    "--env",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="Set an environment variable: not for secrets, since `ps` shows it to others.",
)
@click.option("--prolog", default="", help="Shell text to run before it, in the same shell.")
@click.option("--epilog", default="", help="Shell text to run after it, however it has ended.")
@click.option(
    "--scratch",
    type=click.Choice(["copy", "link"]),
    help="Run it in an empty directory on its node, to which its inputs are brought so.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    help="A file that it reads: it must be there before. Repeatable.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="A file that it makes: it must be there afterwards. Repeatable.",
)
@click.option(
    "--venv", metavar="DIRECTORY", help="Run it in this virtual environment. Default: none."
)
@click.option("--conda", metavar="NAME", help="Run it in this conda environment. Default: none.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="NAME",
    help="Load this module of the site before. Repeatable.",
)
@click.option(
    "--container", metavar="IMAGE", help="Run it in a container of this image. Default: none."
)
@click.option(
    "--engine", metavar="NAME", help="The container engine, such as apptainer. Default: any."
)
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="PATH[:INSIDE]",
    help="Show this directory in the container. Repeatable.",
)
@click.option(
    "--session",
    "session_id",
    type=SESSION,
    metavar="ID",
    help="Submit to this open session.",
    shell_complete=complete_session,
)
@click.option(
    "--array",
    "rows",
    callback=_array,
    metavar="RANGE",
    help="A task for each number, as 0-99, 0-99:2 or 1,5,7.",
)
@click.option(
    "--each-line",
    "lines",
    callback=_each_line,
    metavar="FILE",
    help="A task for each line of a file (-: standard input) that is not empty.",
)
@click.option(
    "--directive",
    "directives",
    multiple=True,
    metavar="OPTION",
    help="Of a job script: an option in its own words, above those in it. Repeatable.",
)
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
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    session_id: int | None,
    rows: Rows | None,
    lines: Rows | None,
    directives: tuple[str, ...],
    wait: bool,
    venv: str | None,
    conda: str | None,
    modules: tuple[str, ...],
    container: str | None,
    engine: str | None,
    binds: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a COMMAND as a task, and print the task's id.

    The command is started as it stands, without a shell: for pipes and variables write
    sh -c 'a | b'. Paths are relative to the directory of the command.

    A job script, with directives such as #SBATCH, is taken as a batch system takes it: as it is
    now, with what its directives ask for. What is not honoured is named.

    With --array or --each-line it becomes many tasks, and the session's number is printed.
    {index} and {line} in the command and in file names are filled in, and each task has the
    variables PILOT_ARRAY_TASK_ID and PILOT_LINE.
    """
    options["environment"] = {"venv": venv, "conda": conda, "modules": modules}
    if container is not None:
        options["container"] = {"image": container, "engine": engine, "binds": binds}
    elif engine or binds:
        raise click.UsageError("--engine and --bind go with --container")
    if rows is not None and lines is not None:
        raise click.UsageError("give --array or --each-line, not both")
    if (script := find_script(command[0])) is not None:
        given = {**options, "cwd": cwd, "stdin": stdin, "stdout": stdout, "stderr": stderr}
        given |= {"env": env, "rows": rows, "lines": lines, "inputs": inputs, "outputs": outputs}
        click.get_current_context().exit(
            _submit_script(script, command[1:], directives, _as_given(given), session_id, wait)
        )
    files = {f"input_{number}": path for number, path in enumerate(inputs, start=1)}
    options["inputs"] = tuple(files)
    files |= {f"output_{number}": path for number, path in enumerate(outputs, start=1)}
    options["outputs"] = tuple(files)[len(inputs) :]
    if directives:
        raise click.UsageError(f"--directive goes with a job script, which {command[0]} is not")
    if (array := rows or lines) is not None:
        try:
            check_name(options["name"], array.names)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--name'") from None
        task = _task(
            command,
            names=array.names,
            cwd=working_directory() / (cwd or ""),
            stdin=array_path(stdin, array.names),
            stdout=array_path(stdout, array.names),
            stderr=array_path(stderr, array.names),
            env=env,
            **options,
        )
        click.get_current_context().exit(
            _submit_array(
                task, lambda s: s.submit_many(task, _with_files(array, files)), session_id, wait
            )
        )
    task = _task(
        command,
        cwd=working_directory() / (cwd or ""),
        stdin=_literal(stdin),
        stdout=_literal(stdout),
        stderr=_literal(stderr),
        env=env,
        **options,
    )
    click.get_current_context().exit(
        _submit_one(task, lambda session: session.submit(task, **files), session_id, wait)
    )


def _with_files(array: Rows, files: dict[str, str]) -> list[dict[str, str]]:
    """Return the rows of an array with the files of each, in whose names its index and line are
    filled in."""
    if not files:
        return list(array)
    return [
        {**row, **{name: array_text(path, row) for name, path in files.items()}} for row in array
    ]


def _as_given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that stand on the command line, without those that have their defaults."""
    source = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in options.items() if source(name) != default}


def _submit_script(
    script: Script,
    arguments: tuple[str, ...],
    directives: tuple[str, ...],
    given: dict[str, Any],
    session_id: int | None,
    wait: bool,
) -> int:
    """Submit a job script, and return the exit code."""
    if "lines" in given:
        raise click.UsageError(f"--each-line is for commands, and {script.path} is a job script")
    from pilot.client.task import OptionError

    try:
        made = script_task(script, arguments, directives, current_site(), given)
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    for each in made.ignored:
        note(f"{each} is ignored")
    if made.rows is None:
        return _submit_one(made.task, lambda s: made.send(s)[0], session_id, wait)
    return _submit_array(made.task, made.send, session_id, wait)


def _submit_one(
    task: Task[..., Any],
    send: Callable[[Session], Future[Any]],
    session_id: int | None,
    wait: bool,
) -> int:
    """Submit one task, print its id, and return the exit code."""
    session = _session(task, session_id)
    try:
        with _handing_over(session, is_own=session_id is None):
            future = send(session)
        status = _await(session, future) if wait else _accepted(future)
    except PilotError:
        if session_id is None:
            delete_empty(session)
        raise
    finally:
        if session_id is not None:
            session.detach()
    return status


def _session(task: Task[..., Any], session_id: int | None) -> Session:
    from pilot.client.session import Session

    name = task.task_options.name or _SESSION_NAME
    return Session(current_site(), name=name, session_id=session_id)


def _task(command: tuple[str, ...], names: tuple[str, ...] = (), **options: Any) -> Task[..., Any]:
    """Make the task; an invalid option is an error of the command line."""
    from pilot.client.command import ShellCommand, shell
    from pilot.client.task import OptionError, Task

    try:
        task = shell(command, **options)
        if names:
            assert isinstance(task.function, ShellCommand)
            task = Task(array_command(task.function, names), task.kind, task.given)
        task.task_options.resolve((), {})
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    return task


def _submit_array(
    task: Task[..., Any],
    send: Callable[[Session], list[Future[Any]]],
    session_id: int | None,
    wait: bool,
) -> int:
    """Submit the tasks of an array at once, and print their session; return the exit code."""
    from pilot.client.progress import follow

    session = _session(task, session_id)
    try:
        with _handing_over(session, is_own=session_id is None):
            futures = send(session)
        for future in futures:
            _refused(future)
        ids = futures[0].task_id
        if len(futures) > 1:
            ids += f" to {futures[-1].task_id}"
        note(
            f"{counted(len(futures), 'task')} in session {session.id}, {ids}; "
            f"`pilot session watch {session.id}` shows how far they are"
        )
        click.echo(session.id)
        if not wait:
            return 0
        try:
            follow(session, {task.__name__: futures})
        except KeyboardInterrupt:
            session.cancel(futures)
            note(f"the tasks of session {session.id} were cancelled")
            return INTERRUPTED
        failed = [future for future in futures if future.cancelled() or future.exception()]
        if failed:
            note(
                f"{len(failed)} of {counted(len(futures), 'task')} failed; `pilot task list "
                f"--session {session.id} --failed` shows them"
            )
        return TaskError.exit_code if failed else 0
    except PilotError:
        if session_id is None:
            delete_empty(session)
        raise
    finally:
        if session_id is not None:
            session.detach()


@contextmanager
def _handing_over(session: Session, is_own: bool) -> Iterator[None]:
    """Wait until the head has what is submitted here, or refuses it; end a session made for it."""
    try:
        yield
    finally:
        if is_own:
            session.shutdown(wait=False)
        else:
            session.flush()


def delete_empty(session: Session) -> None:
    """Delete a session that has ended if it has no tasks; what prevents that is not told."""
    with suppress(PilotError):
        if not session.query("session", session=session.id)["tasks"]:
            session.delete()


def _accepted(future: Future[Any]) -> int:
    """Print the task's id, or raise the error with which it was refused."""
    _refused(future)
    click.echo(future.task_id)
    return 0


def _refused(future: Future[Any]) -> None:
    """Raise the error with which a task was refused, if it was."""
    if future.done() and not future.cancelled():
        error = future.exception()
        if isinstance(error, SubmissionError):
            raise error


def _await(session: Session, future: Future[Any]) -> int:
    """Wait for the task, print its output, and return the exit code."""
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
        spans = last_attempt(ask("logs", task=future.task_id))
        files = OutputFiles(ask, session.site.directory, future.task_id)
        state = ask("result", task=future.task_id)["state"]
        Output(session.site.directory).show([*spans, *files.spans(state, spans)])
    if error is None:
        return 0
    status = exit_status(error)
    if status is None:
        if isinstance(error, TaskError):
            raise error
        told = "" if isinstance(error, PilotError) else f"{type(error).__name__}: "
        raise TaskError(f"task {future.task_id}: {told}{error}") from error
    note(f"task {future.task_id}: {str(error).splitlines()[0]}")
    return status


def exit_status(error: BaseException) -> int | None:
    """Return the exit status of a shell; None where the task did not run its command."""
    if not isinstance(error, CommandFailed):
        return None
    return error.returncode if error.returncode >= 0 else 128 - error.returncode


def _literal(path: str | None) -> str | None:
    """Return a file name for the API, with braces escaped: there they name parameters."""
    return None if path is None else path.replace("{", "{{").replace("}", "}}")
