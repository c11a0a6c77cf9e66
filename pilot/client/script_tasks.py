"""Tasks made of job scripts: a script becomes one, or those of an array.

Options that are given, on the command line or in a program, are above what the script says. What of
the script is not honoured is named, line by line.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pilot.client.array import INDEX_VARIABLE, Rows, array_rows
from pilot.errors import PilotError
from pilot.launchers.identity import identity_in
from pilot.model.states import FINAL, TASK_STATES
from pilot.scheduler.batch.job_scripts import (
    Earlier,
    ScriptError,
    ScriptWork,
    Surface,
    dialect_of,
    find_dialect,
)
from pilot.site import Site, working_directory

if TYPE_CHECKING:
    from pilot.client.future import Future
    from pilot.client.task import Task

#: A larger file is no script.
_MOST_BYTES = 4 << 20
#: The parameter by which tasks depend on others whose results they do not use.
_NEEDED = "_pilot_needed"
#: So many tasks are asked for at once.
_PAGE = 1000


class _Session(Protocol):
    """The part of a session that is needed here."""

    site: Site

    def future(self, task: str, /) -> Future[Any]: ...

    def query(self, name: str, /, **arguments: Any) -> Any: ...

    def submit(self, fn: Task[..., Any], /, *, after: Any, **kwargs: Any) -> Future[Any]: ...

    def submit_many(
        self, fn: Task[..., Any], rows: list[dict[str, Any]], /, *, after: Any
    ) -> list[Future[Any]]: ...


class Script(NamedTuple):
    """A job script, as it is submitted."""

    path: str
    text: str
    dialect: str


class ScriptTask(NamedTuple):
    """A task made of a script, what it waits for, and what was not honoured."""

    task: Task[..., Any]
    #: The tasks of an array; None: it is none.
    rows: Rows | None
    at_once: int
    earlier: tuple[Earlier, ...]
    is_single: bool
    #: In words, with their lines.
    ignored: tuple[str, ...]

    def send(self, session: _Session) -> list[Future[Any]]:
        """Submit it."""
        return _send(self, session)


def find_script(word: str) -> Script | None:
    """Return the job script that a word of the command line names; None: it names none."""
    path = Path(word)
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        with path.open("rb") as file:
            if file.read(2) != b"#!":
                return None
            text = (b"#!" + file.read()).decode(errors="surrogateescape")
    except OSError:
        return None
    dialect = dialect_of(text)
    return Script(word, text, dialect) if dialect else None


def made_of(
    path: str,
    arguments: Sequence[str],
    directives: Iterable[str],
    site: Site,
    options: Mapping[str, Any],
) -> ScriptTask:
    """Return the task of a script by its path, with options that a program gives.

    Raises
    ------
    OptionError
        It is no job script, or the script or an option means nothing.
    """
    from pilot.client.task import OptionError

    script = find_script(path)
    if script is None:
        raise OptionError(
            f"{path} is no job script: that is a file that begins with #! and has a directive of a "
            "batch system, by which it asks for nodes or cores, before its first command"
        )
    given = {name: value for name, value in options.items() if value is not None}
    if (array := given.pop("array", None)) is not None:
        try:
            given["rows"] = array_rows(str(array))
        except ValueError as error:
            raise OptionError(f"array: {error}") from None
    return script_task(script, arguments, directives, site, given)


def script_task(
    script: Script,
    arguments: Sequence[str],
    directives: Iterable[str],
    site: Site,
    given: Mapping[str, Any],
) -> ScriptTask:
    """Make a task of a script.

    Parameters
    ----------
    directives
        Options in the words of the script that stand above those in it.
    given
        Options that were given beside the script, by their names on the command line.

    Raises
    ------
    OptionError
        The script or an option means nothing.
    """
    from pilot.client.command import ShellCommand, signal_number
    from pilot.client.job_script import JobScript
    from pilot.client.task import COMMAND, OptionError, Task

    dialect = find_dialect(script.dialect)
    try:
        more = [word for text in directives for word in shlex.split(text)]
        work = dialect.read(script.text, more, _surface(site))
    except (ScriptError, ValueError) as error:
        raise OptionError(f"{script.path}: {error}") from None
    if given.keys() & {"ranks", "ranks_per_node"}:
        raise OptionError(f"{script.path} is a job script, which starts its ranks by itself")
    if given.keys() & {"scratch", "inputs", "outputs"}:
        raise OptionError(f"{script.path} is a job script: have it copy its files itself")
    if given.keys() & {"prolog", "epilog"}:
        raise OptionError(f"{script.path} is a job script: write it there")
    here = working_directory()
    rows = given.get("rows")
    if rows is None and work.array:
        rows = Rows(("index",), [(str(index),) for index in work.array])
    asked = {**work.asked, "submit_dir": str(here), "submit_host": socket.gethostname()}
    if rows is not None and not work.array:
        asked |= _array_facts(rows)
    stop_signal = work.signal
    if given.get("stop_signal"):
        stop_signal = signal_number(given["stop_signal"])
    function = ShellCommand(
        (script.path, *arguments),
        cwd=str(here / (given.get("cwd") or work.cwd)),
        env=dict(given.get("env") or {}),
        filled=(("index", INDEX_VARIABLE),) if rows is not None else (),
        stop_signal=stop_signal,
        script=JobScript(
            script.text,
            script.dialect,
            asked,
            _environment(work, dialect.is_of_job),
            stdin=given.get("stdin") or work.stdin,
            stdout=given.get("stdout") or work.stdout,
            stderr=given.get("stderr") or work.stderr,
            appends=work.appends,
            signal=work.signal,
            signal_s=work.signal_s,
            signal_shell=work.signal_shell,
            inherits=work.inherits,
        ),
    )
    function.check()
    task = Task(function, COMMAND, _options(work, given))
    ignored = tuple(f"{script.path}: {each}" for each in work.ignored)
    return ScriptTask(task, rows, work.at_once, work.earlier, work.is_single, ignored)


def _array_facts(rows: Rows) -> dict[str, str]:
    """Return the facts about an array that was given on the command line."""
    indices = [int(row[0]) for row in rows.values]
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return {
        "array_count": str(len(indices)),
        "array_min": str(min(indices)),
        "array_max": str(max(indices)),
        "array_step": str(step),
    }


def _surface(site: Site) -> Surface:
    pools = site.config.pools
    aliases = {
        partition: name
        for name, pool in reversed(pools.items())
        if (partition := getattr(pool, "partition", ""))
    }
    named = {name for pool in pools.values() for name in pool.resources}
    return Surface(
        {name: (pool.cores_per_node, pool.memory_per_node_mib) for name, pool in pools.items()},
        aliases,
        tuple(sorted({*named, *site.config.resources})),
    )


def _environment(work: ScriptWork, is_of_job: Callable[[str], bool]) -> dict[str, str]:
    """Return the environment that a script gets of this program."""
    here = {
        name: value
        for name, value in os.environ.items()
        if not is_of_job(name) and not name.startswith("PILOT_") and name != "_"
    }
    for name in identity_in(here):
        del here[name]
    inherited = here if work.inherits else {}
    passed = {name: os.environ[name] for name in work.passed if name in os.environ}
    return {**inherited, **passed, **work.variables}


def _options(work: ScriptWork, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the task: those of the command line, and else of the script."""
    of_script: dict[str, Any] = {
        "nodes": work.nodes,
        "cores": work.cores,
        "memory": work.memory_mib,
        "gpus": work.gpus,
        "resources": work.resources,
    }
    if work.name:
        of_script["name"] = work.name
    if work.time_limit_s:
        of_script["time_limit"] = work.time_limit_s
    if work.pool:
        of_script["pool"] = work.pool
    others = {"rows", "cwd", "stdin", "stdout", "stderr", "env", "stop_signal"}
    return {**of_script, **{name: v for name, v in given.items() if name not in others}}


# --- what it waits for


def _send(script: ScriptTask, session: _Session) -> list[Future[Any]]:
    after = list(script.task.task_options.after)
    needed: list[Future[Any]] = []
    of_each: dict[str, list[Future[Any]]] = {}
    for earlier in script.earlier:
        for name in earlier.ids:
            if earlier.how == "each" and script.rows is not None:
                for index, task in _tasks_by_index(session, name).items():
                    of_each.setdefault(index, []).append(session.future(task))
                continue
            tasks = _tasks_of(session, name)
            if earlier.how == "end":
                after += tasks
            else:
                needed += map(session.future, tasks)
    if script.is_single:
        after += _unfinished(session, script.task.__name__)
    rest = {_NEEDED: needed} if needed else {}
    if script.rows is None:
        return [session.submit(script.task, after=after, **rest)]
    rows = [{**row, **rest} for row in script.rows]
    if not script.at_once and not of_each:
        return session.submit_many(script.task, rows, after=after)
    futures: list[Future[Any]] = []
    for number, row in enumerate(rows):
        before = list(after)
        if 0 < script.at_once <= number:
            before.append(futures[number - script.at_once])
        if row["index"] in of_each:
            row = {**row, _NEEDED: [*needed, *of_each[str(row["index"])]]}
        futures.append(session.submit(script.task, after=before, **row))
    return futures


def _tasks_of(session: _Session, name: str) -> list[str]:
    """Return the tasks that an id means: of a task, a session, or one of an array.

    Raises
    ------
    PilotError
        There is none.
    """
    if "." in name:
        return [name]
    number, _, index = name.partition("_")
    if index:
        found = _tasks_by_index(session, number)
        if index not in found:
            raise PilotError(f"dependency: session {number} has no task with the index {index}")
        return [found[index]]
    return _all_tasks(session, session=int(number))


def _all_tasks(session: _Session, /, **filters: Any) -> list[str]:
    tasks: list[str] = []
    while True:
        rows = session.query("tasks", **filters, sort="id", limit=_PAGE, offset=len(tasks))
        tasks += [row["id"] for row in rows]
        if len(rows) < _PAGE:
            return tasks


def _tasks_by_index(session: _Session, number: str) -> dict[str, str]:
    from pilot.client.calls import read_calls

    tasks = _all_tasks(session, session=int(number.partition("_")[0]))
    calls = read_calls(session.query, session.site.directory, tasks)
    return {call.number: task for task, call in calls.items() if call.number}


def _unfinished(session: _Session, name: str) -> list[str]:
    states = [state for state in TASK_STATES if state not in FINAL]
    return _all_tasks(session, name=[name], state=states)
