"""The command line with a real head and local pilots."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.sites import SiteUnderTest
from support.tasks import wait_for_file
from support.waiting import wait_until

from pilot import Session, sessions, shell
from pilot.cli import cli
from pilot.cli.commands.task import STAGES
from pilot.errors import PilotError

DEADLINE_S = 60.0

MODULE = '''
import sys
import time
from pathlib import Path


class Thing:
    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return f"Thing({self.number})"


def double(x):
    print("doubles", x)
    if x == 3:
        raise ValueError("three is\\nnot allowed")
    return 2 * x


def total(numbers):
    return sum(numbers)


def table(n):
    import numpy

    return numpy.arange(float(n))


def thing(number):
    return Thing(number)


def wait_for(path, deadline_s=60.0):
    """Say something, wait for a file, and say something else."""
    print("waits", flush=True)
    end = time.monotonic() + deadline_s
    while not Path(path).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    print("goes on", flush=True)
'''

WORKFLOW = """
parameters: {n: 2}
tasks:
  double: {python: "cli_module:double", foreach: {x: {from: 1, to: "${n}"}}, args: ["${x}"]}
  total: {python: "cli_module:total", args: ["${tasks.double}"]}
  table: {python: "cli_module:table", args: [20000]}
  thing: {python: "cli_module:thing", args: [5]}
results:
  total: ${tasks.total}
  table: ${tasks.table}
"""

WAITING = """
parameters: {mark: ""}
tasks:
  wait: {python: "cli_module:wait_for", foreach: {x: [1, 2, 3]}, args: ["${mark}"]}
"""


class Pilot:
    """The command line, used on a site under test from the site's scratch directory."""

    def __init__(self, site: SiteUnderTest) -> None:
        self.site = site
        self.directory = site.scratch
        (self.directory / "cli_module.py").write_text(MODULE)
        (self.directory / "workflow.yaml").write_text(WORKFLOW)
        (self.directory / "waiting.yaml").write_text(WAITING)

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        """Run a command here, and see that it ends with this exit code."""
        result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="pilot")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: object) -> Any:
        """The JSON that a command prints."""
        return json.loads(self(*arguments, "--json").stdout)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pilot", *map(str, arguments)],
            cwd=self.directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *command: str) -> str:
        """Submit a command; returns the task's id."""
        return self("submit", "--", *command).stdout.strip()

    def state(self, task: str) -> str:
        """The state of a task."""
        return str(self.json("task", "show", task)["state"])

    def await_state(self, task: str, state: str) -> None:
        """Wait until the task is in this state."""
        wait_until(lambda: self.state(task) == state, DEADLINE_S, f"task {task} to be {state}")


@pytest.fixture
def program(shared_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> Pilot:
    return _program(shared_site, monkeypatch)


@pytest.fixture
def own_program(local_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> Pilot:
    return _program(local_site, monkeypatch)


def _program(site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> Pilot:
    for name in ("PILOT_SITE", "PILOT_DEBUG", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    pilot = Pilot(site)
    monkeypatch.chdir(pilot.directory)
    return pilot


@pytest.fixture
def finished() -> Iterator[Callable[[subprocess.Popen[str]], tuple[int, str, str]]]:
    """Waits for the end of processes; those that a test leaves behind are killed."""
    processes = []

    def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
        processes.append(process)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    yield finish
    for process in processes:
        process.kill()
        process.wait()


def read_until(stream: Any, word: str) -> str:
    """Read lines until one has the word; the reader's end fails the test."""
    read = []
    for line in stream:
        if word in line:
            return str(line)
        read.append(line)
    raise AssertionError(f"{word!r} did not come, only {read}")


# --- commands as tasks ---------------------------------------------------------------------------


def test_a_command_is_submitted_and_found_again(program: Pilot) -> None:
    task = program("submit", "--name", "greet", "--", "echo", "hello", "{x}").stdout.strip()
    program.await_state(task, "COMPLETED")
    assert program("task", "logs", task).stdout == "hello {x}\n"
    shown = program("task", "show", task).stdout
    assert "greet" in shown and "COMPLETED" in shown
    (row,) = program.json("task", "list", "--name", "greet")
    assert (row["id"], row["attempts"], row["kind"]) == (task, 1, "command")
    assert row["ran_s"] > 0
    session = program.json("session", "show", row["session"])
    assert (session["name"], session["state"]) == ("greet", "CLOSED")


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        ("echo out; echo err >&2", 0, "out\nerr\n"),
        ("echo out; exit 3", 3, "out\n"),
        ("kill -9 $$", 137, ""),
        ("echo $PWD $A", 0, None),
    ],
)
def test_waiting_passes_output_and_status_on(
    program: Pilot, command: str, code: int, output: str | None
) -> None:
    result = program("submit", "--wait", "--env", "A=7", "--", "sh", "-c", command, code=code)
    assert result.stdout == (f"{program.directory} 7\n" if output is None else output)


def test_a_command_that_is_not_there(program: Pilot) -> None:
    result = program("submit", "--wait", "--", "nosuchcommand", code=127)
    assert "command not found: nosuchcommand" in result.stderr


def test_a_command_that_takes_too_long(program: Pilot) -> None:
    result = program("submit", "--wait", "--time-limit", "0.2", "--", "sleep", "60", code=8)
    assert "longer than its time limit" in result.stderr


def test_a_directory_that_is_not_there(program: Pilot) -> None:
    result = program("submit", "--wait", "--cwd", "nosuch", "--", "true", code=8)
    assert "cannot be entered" in result.stderr


def test_output_to_a_file_with_braces_in_its_name(program: Pilot) -> None:
    program("submit", "--wait", "--stdout", "out{1}.txt", "--", "echo", "hello")
    assert (program.directory / "out{1}.txt").read_text() == "hello\n"


def test_a_command_that_fits_nowhere_is_refused_and_leaves_no_session_open(
    program: Pilot,
) -> None:
    result = program("submit", "--cores", "1000", "--", "true", code=7)
    assert "1000 cores" in result.stderr
    (session, *_) = program.json("session", "list")
    wait_until(
        lambda: program.json("session", "show", session["id"])["state"] == "CLOSED",
        DEADLINE_S,
        "the session to be closed",
    )


def test_commands_of_one_session(program: Pilot) -> None:
    session = program.site.session(name="mine")
    try:
        for _ in range(2):
            program("submit", "--session", session.id, "--", "true")
        assert program("submit", "--session", session.id, "--wait", "--", "true").output == ""
        data = program.json("session", "show", session.id)
        assert (data["name"], data["state"], data["tasks"]) == ("mine", "OPEN", 3)
    finally:
        session.shutdown()
    program("submit", "--session", session.id, "--", "true", code=1)


# --- workflows and programs ----------------------------------------------------------------------


def test_a_workflow_ends_with_a_summary(program: Pilot) -> None:
    result = program("run", "workflow.yaml")
    assert "5 tasks in session" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("workflow: 5 tasks in ")
    assert lines[0].endswith(": 5 COMPLETED")
    results = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")
    }
    assert results["total"] == "6"
    file, _, dataset = results["table"].partition(": ")
    import h5py

    with h5py.File(file) as opened:
        assert opened[dataset].shape == (20000,)
    assert Path(lines[-1].removeprefix("data: ")).is_dir()


def test_a_summary_for_programs(program: Pilot) -> None:
    summary = program.json("run", "workflow.yaml", "-p", "n=1")
    assert summary["states"] == {"COMPLETED": 4}
    assert summary["results"]["total"] == {"value": 2}
    (stored,) = summary["results"]["table"]["stored"]
    assert Path(stored["file"]).parent == Path(summary["data"])
    assert program.json("session", "show", summary["session"])["states"] == {"COMPLETED": 4}


def test_failed_tasks_are_named_with_their_error(program: Pilot) -> None:
    result = program("run", "workflow.yaml", "-p", "n=4", code=8)
    assert "1 ABORTED, 5 COMPLETED, 1 FAILED" in result.stdout
    assert "  double[2]: ValueError: three is\n" in result.stdout
    assert "(tasks.total has no result)" in result.stdout
    (task,) = [
        line.rpartition(" ")[2] for line in result.stdout.splitlines() if "pilot task logs" in line
    ]
    assert program("task", "logs", task).stdout == "doubles 3\n"
    shown = program("task", "show", task).stdout
    assert "ValueError: three is\nnot allowed" in shown
    assert "Traceback" in shown
    assert "not allowed" in program("result", "get", task, code=8).stderr


def test_a_workflow_that_goes_on_alone(program: Pilot) -> None:
    session = int(program("run", "--detach", "workflow.yaml").stdout)
    wait_until(
        lambda: program.json("session", "show", session)["state"] == "CLOSED",
        DEADLINE_S,
        "the session to end by itself",
    )
    assert program.json("session", "show", session)["states"] == {"COMPLETED": 5}


def test_a_workflow_is_watched_after_its_terminal_was_lost(
    program: Pilot,
    finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    (program.directory / "lost.yaml").write_text(
        "parameters: {mark: ''}\n"
        "tasks:\n"
        "  wait: {python: 'cli_module:wait_for', args: ['${mark}']}\n"
        "  double: {python: 'cli_module:double', foreach: {x: [3, 4]}, args: ['${x}']}\n"
        "  say: {run: 'echo done', needs: [wait]}\n"
        "results: {said: '${tasks.say.stdout}', twice: ['${tasks.double[1]}'], "
        "other: '${tasks.double[0]}'}\n"
    )
    process = program.start("run", "lost.yaml", "-p", f"mark={mark}")
    session = int(read_until(process.stderr, "in session").split("session ")[1].split()[0])
    process.send_signal(signal.SIGHUP)
    finished(process)
    watching = program.start("session", "watch", session)
    read_until(watching.stderr, "ended")
    mark.touch()
    status, out, err = finished(watching)
    assert status == 8, err
    assert "lost: 4 tasks" in out and "3 COMPLETED, 1 FAILED" in out
    assert "double[0]: ValueError: three is" in out
    assert "said   done" in out and "twice  [8]" in out
    assert "other  (tasks.double[0] has no result)" in out
    # Later, and by a head that never saw the run.
    assert program("session", "watch", session, code=8).stdout == out
    told = program("session", "wait", session, code=8).stderr
    assert f"session {session}: 1 task of 4 did not complete" in told


def test_waiting_for_sessions_ends_with_their_last_task(
    program: Pilot,
    finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    first = program.json("task", "show", program.submit("true"))["session"]
    second = int(program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout)
    told = program("session", "wait", first, second, "--timeout", "0.1s", code=124).stderr
    assert f"session {second} has not ended" in told
    waiting = program.start("session", "wait", first, second)
    mark.touch()
    assert finished(waiting)[0] == 0
    assert "no session 999" in program("session", "wait", 999, code=1).stderr


def test_failed_tasks_run_again_and_the_workflow_has_its_results(
    program: Pilot, tmp_path: Path
) -> None:
    (program.directory / "again.yaml").write_text(
        "parameters: {there: ''}\n"
        "tasks:\n"
        "  try: {run: 'test -e ${there}-${n} && echo ok ${n}', foreach: {n: [1, 2, 3]}}\n"
        "  sum: {run: 'echo ${tasks.try[0].stdout}, ${tasks.try[2].stdout}'}\n"
        "results: {sum: '${tasks.sum.stdout}'}\n"
    )
    for number in (1, 2):
        (tmp_path / f"mark-{number}").touch()
    out = program("run", "again.yaml", "-p", f"there={tmp_path / 'mark'}", code=8).stdout
    assert "1 ABORTED, 2 COMPLETED, 1 FAILED" in out
    session = program.json("session", "list")[0]["id"]
    assert "1 ABORTED, 2 COMPLETED, 1 FAILED" in program("retry", session, "--wait", code=8).stdout
    (tmp_path / "mark-3").touch()
    again = program.json("task", "list", "--session", session, "--failed")[0]["id"]
    assert f"2 tasks of session {session} again" in program("retry", again).stderr
    out = program("session", "watch", session).stdout
    assert "4 COMPLETED" in out and "sum  ok 1, ok 3" in out
    # What ran again counts no more.
    shown = program.json("session", "show", session)
    assert (shown["state"], shown["states"]) == ("CLOSED", {"COMPLETED": 4})
    assert (shown["tasks"], shown["failed"], shown["outcome"]) == (4, 0, "completed")
    program("session", "wait", session)
    assert program.json("task", "list", "--session", session, "--failed") == []
    assert len(program.json("task", "list", "--session", session)) == 8
    # All of them by their place in the file, also those that others took the places of.
    assert program("task", "list", "--session", session).stdout.count("try[2]") == 3
    assert "FAILED" not in program("why", session).stdout
    assert f"session {session} has no failed tasks" in program("retry", session).stderr
    assert "ran again already" in program("retry", again, code=1).stderr
    assert program.json("session", "show", session)["state"] == "CLOSED"


def test_what_was_cancelled_runs_again_where_it_is_named(program: Pilot, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    held = f"while ! test -e {mark}; do sleep 0.1; done"
    session = program("submit", "--array", "1-2", "--", "sh", "-c", held).stdout.strip()
    program("task", "cancel", f"{session}.1", f"{session}.2")
    waited = program("session", "wait", session, code=8).stderr
    assert f"--session {session} --state CANCELLED` shows them" in waited
    assert "where they are named" in program("retry", session).stderr
    mark.touch()
    assert "1 task of" in program("retry", f"{session}.1").stderr
    program("session", "wait", session, code=8)
    program("retry", f"{session}.2", "--wait")
    program("session", "wait", session)
    assert f"there is no task {session}.999" in program("retry", f"{session}.999", code=1).stderr
    with Session(program.site.directory) as here:
        lost = here.future("999999.1").exception(DEADLINE_S)
        assert type(lost) is PilotError and "there is no task 999999.1" in str(lost)
        with pytest.raises(PilotError, match="has not failed"):
            here.retry([here.submit(int, "7")])


def test_failed_tasks_run_again_from_python(program: Pilot) -> None:
    with Session(program.site.directory, name="again") as session:
        failed = session.submit(int, "x")
        after = session.submit(abs, failed)
        good = session.submit(int, "7")
        assert isinstance(failed.exception(DEADLINE_S), ValueError)
        after.exception(DEADLINE_S)
        futures = session.retry()
        assert list(futures) == [failed.task_id, after.task_id]
        assert isinstance(futures[failed.task_id].exception(DEADLINE_S), ValueError)
        assert good.result(DEADLINE_S) == 7
        with pytest.raises(PilotError, match="has not failed"):
            session.retry([good.task_id])


def test_leaving_the_view_leaves_the_session_alone(
    program: Pilot,
    finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    session = int(program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout)
    watching = program.start("session", "watch", session)
    read_until(watching.stderr, "ended")
    watching.send_signal(signal.SIGINT)
    status, _, err = finished(watching)
    assert (status, f"session {session} goes on" in err) == (130, True)
    mark.touch()
    assert "3 COMPLETED" in program("session", "watch", session).stdout


def test_places_of_a_command_that_are_not_there_are_told(program: Pilot) -> None:
    told = program("submit", "--wait", "--cwd", "/nonexistent", "--", "true", code=8).stderr
    assert "its working directory /nonexistent cannot be entered" in told and "task " in told
    told = program("submit", "--wait", "--stdin", "gone", "--", "cat", code=8).stderr
    assert "gone, which is to be its standard input, is not there" in told and "task " in told


def test_a_task_array(program: Pilot) -> None:
    result = program("submit", "--array", "0-9:3", "--wait", "--", "sh", "-c", _ARRAY, code=8)
    session = int(result.stdout)
    assert "1 of 4 tasks failed" in result.stderr
    rows = program.json("task", "list", "--session", session)
    assert sorted(row["state"] for row in rows) == ["COMPLETED"] * 3 + ["FAILED"]
    assert {row["name"] for row in rows} == {"sh"}
    (failed,) = (row for row in rows if row["state"] == "FAILED")
    told = program("result", "get", failed["id"], code=8).stderr
    assert told.count("exit status 1") == 1
    told = program("task", "show", failed["id"]).stdout
    assert f"sh -c '{_ARRAY}': exit status 1" in told
    assert "PILOT_ARRAY_TASK_ID=6" in told
    assert "exec" not in told


def test_tasks_of_an_array_are_told_apart(program: Pilot) -> None:
    session = program("submit", "--array", "4-5", "--", "echo", "<{index}>").stdout.strip()
    program("session", "wait", session)
    listed = program("task", "list", "--session", session, "--sort", "id").stdout
    assert listed.index("echo '<4>'") < listed.index("echo '<5>'")
    session = program("submit", "--array", "4-5", "--name", "n", "--", "true").stdout.strip()
    program("session", "wait", session)
    listed = program("task", "list", "--session", session, "--sort", "id").stdout
    assert listed.index("n[4]") < listed.index("n[5]")
    assert program.json("session", "show", session)["name"] == "n"
    wrong = program("submit", "--array", "1", "--name", "n-{index}", "--", "true", code=2)
    assert "share one name" in wrong.stderr


_ARRAY = 'test "$PILOT_ARRAY_TASK_ID" != 6'


def test_a_command_has_a_directory_of_its_own(program: Pilot) -> None:
    here = program.directory
    (here / "data").mkdir()
    (here / "data" / "a.txt").write_text("word")
    command = ("--", "sh", "-c", "pwd; ls; cat a.txt > made")
    files = ("--input", "data/a.txt", "--output", "data/made")
    told = program("submit", "--wait", "--scratch", "copy", *files, *command)
    place, *names = told.output.split()
    assert names == ["a.txt"] and not place.startswith(str(here)) and not Path(place).exists()
    assert (here / "data" / "made").read_text() == "word"
    # In place, files are looked for only.
    program("submit", "--wait", "--input", "data/a.txt", "--", "true")
    told = program("submit", "--wait", "--output", "data/none", "--", "true", code=8)
    assert "data/none" in told.output
    # Each task of an array has its own.
    many = ("--array", "1-2", "--scratch", "link", "--output", "data/of-{index}")
    program("submit", "--wait", *many, "--", "sh", "-c", "echo $1 > of-$1", "sh", "{index}")
    assert [(here / "data" / f"of-{n}").read_text() for n in (1, 2)] == ["1\n", "2\n"]


def test_a_task_for_each_line(program: Pilot) -> None:
    lines = program.directory / "lines"
    lines.write_text("a b\n\n$(touch pwned)\nit's {index}\n")
    session = int(
        program(
            "submit",
            "--each-line",
            lines,
            "--stdout",
            "line-{index}.{x}",
            "--",
            "printf",
            "%s|",
            "<{line}>",
            "{x}$HOME",
        ).stdout
    )
    program("session", "wait", session)
    written = [(program.directory / f"line-{index}.{{x}}").read_text() for index in range(3)]
    assert written == [
        f"<{text}>|{{x}}$HOME|" for text in ("a b", "$(touch pwned)", "it's {index}")
    ]
    assert not (program.directory / "pwned").exists()
    assert (
        "not both"
        in program("submit", "--each-line", lines, "--array", "1", "--", "true", code=2).stderr
    )


def test_a_task_that_fits_nowhere_cancels_what_was_submitted_before_it(program: Pilot) -> None:
    (program.directory / "large.yaml").write_text(
        'tasks:\n  a: {run: "sleep 60"}\n  b: {run: "true", needs: a, cores: 1000}\n'
    )
    begin = time.monotonic()
    assert "1000 cores" in program("run", "large.yaml", code=7).stderr
    assert time.monotonic() - begin < 30
    (session, *_) = program.json("session", "list")
    assert program.json("session", "show", session["id"])["states"] == {"CANCELLED": 1}


def test_a_program_uses_the_site(
    program: Pilot, finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]]
) -> None:
    (program.directory / "study.py").write_text(
        "import sys\n"
        "import pilot\n"
        "with pilot.Session() as session:\n"
        "    print(session.submit(pow, 2, int(sys.argv[2])).result())\n"
    )
    site = program.site.directory
    status, out, err = finished(program.start("run", "-s", site, "study.py", "--to", "5"))
    assert (status, out) == (0, "32\n"), err


def test_ctrl_c_cancels_a_run(
    program: Pilot, finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]]
) -> None:
    process = program.start("run", "waiting.yaml", "-p", f"mark={program.directory / 'never'}")
    session = int(read_until(process.stderr, "in session").split("session ")[1].split()[0])
    wait_until(
        lambda: program.json("task", "list", "--session", session, "--state", "RUNNING"),
        DEADLINE_S,
        "a task to run",
    )
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    assert status == 130
    assert f"unfinished tasks of session {session} were cancelled" in err
    assert err.count("cancelled") == 1
    data = program.json("session", "show", session)
    assert (data["state"], data["states"]) == ("CLOSED", {"CANCELLED": 3})


def test_ctrl_c_cancels_a_command_that_is_waited_for(
    program: Pilot, finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]]
) -> None:
    process = program.start("submit", "--name", "endless", "--wait", "--", "sleep", "300")
    wait_until(
        lambda: program.json("task", "list", "--name", "endless", "--state", "RUNNING"),
        DEADLINE_S,
        "the command to run",
    )
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    assert (status, "was cancelled" in err) == (130, True)
    (row,) = program.json("task", "list", "--name", "endless")
    assert row["state"] == "CANCELLED"


def test_a_session_is_cancelled(program: Pilot) -> None:
    mark = program.directory / "never"
    session = program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout.strip()
    assert "3 tasks cancelled" in program("session", "cancel", session).stdout
    assert program.json("session", "show", session)["states"] == {"CANCELLED": 3}
    assert "has ended already" in program("session", "cancel", session).stdout
    program("session", "cancel", "9999", code=1)


def test_sessions_are_told_what_to_do(program: Pilot) -> None:
    mark = program.directory / "told"
    waiting = ("run", "--detach", "waiting.yaml", "-p", f"mark={mark}")
    first, second = (program(*waiting).stdout.strip() for _ in range(2))
    both = (first, second)

    def shown(session: str) -> Any:
        return program.json("session", "show", session)

    try:
        lines = program("session", "pause", *both).stdout.splitlines()
        assert lines == [f"session {each} is paused, with 3 tasks to do" for each in both]
        assert [shown(each)["paused"] for each in both] == [True, True]
        paused = program.json("session", "list", "--state", "paused")
        assert {str(row["id"]) for row in paused} >= set(both)
        assert "CLOSING, PAUSED" in program("session", "list", "--limit", 2).stdout
        assert "takes no more tasks" in program("session", "stop", second).stdout
        assert "ends when 3 tasks have ended" in program("session", "close", second).stdout
        assert "goes on" in program("session", "resume", *both).stdout
        assert "was not paused" in program("session", "resume", first).stdout
        assert "end" in program("session", "purge", "-y", first, code=1).stderr
        # One that does not exist: nothing is done to any.
        assert "no session 9999" in program("session", "cancel", first, "9999", code=1).stderr
        assert shown(first)["unfinished"] == 3
        assert (
            "has no group 'g', nor any"
            in program("session", "cancel", first, "--group", "g", code=1).stderr
        )
        assert "3 tasks cancelled" in program("session", "cancel", first).stdout
        result = program("session", "pause", first, second, code=1)
        assert f"session {first} is CLOSED: it cannot pause" in result.stderr
        assert f"session {second} is paused" in result.stdout
        program("session", "resume", second)
    finally:
        mark.touch()
    wait_until(lambda: shown(second)["state"] == "CLOSED", DEADLINE_S, "the session to end")
    assert "has ended already" in program("session", "close", second).stdout
    assert program("session", "purge", second, code=1).stdout == ""  # nobody answers: no
    assert shown(second)["state"] == "CLOSED"
    assert "its records stay" in program("session", "purge", "--yes", second).stdout
    assert shown(second)["state"] == "PURGED"
    assert "is deleted" in program("session", "delete", "-y", second).stdout
    program("session", "show", second, code=1)


def test_a_group_is_cancelled_by_its_name(program: Pilot) -> None:
    mark = program.directory / "grouped"
    with program.site.session() as session:
        with session.group("slow") as group:
            inside = session.submit(shell(["sleep", "300"]))
        outside = session.submit(wait_for_file, str(mark), str(mark))
        session.flush()
        assert program.json("session", "show", session.id)["groups"] == ["slow"]
        said = program("session", "cancel", session.id, "--group", "slow").stdout
        assert said == f"session {session.id}, group slow: 1 task cancelled\n"
        assert group.wait(DEADLINE_S) and inside.cancelled()
        assert outside.result(DEADLINE_S)
        assert (
            "it has slow"
            in program("session", "cancel", session.id, "--group", "other", code=1).stderr
        )


def test_tasks_are_cancelled(program: Pilot) -> None:
    ready, other = program.submit("sleep", "300"), program.submit("sleep", "300")
    ended = program.submit("true")
    assert "no task 9999.1" in program("task", "cancel", ready, "9999.1", code=1).stderr
    assert program("task", "cancel", ready, other).stdout == "2 tasks cancelled\n"
    program.await_state(ended, "COMPLETED")
    again = program("task", "cancel", ready, ended).stdout.splitlines()
    assert again == [f"task {ready} is CANCELLED already", f"task {ended} is COMPLETED already"]
    program("task", "cancel", "nothing", code=2)


# --- looking -------------------------------------------------------------------------------------


def test_logs_follow_a_task_until_it_ends(
    program: Pilot, finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]]
) -> None:
    mark = program.directory / "followed"
    session = program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout.strip()
    task = program.json("task", "list", "--session", session)[-1]["id"]
    process = program.start("task", "logs", "-f", task)
    try:
        assert read_until(process.stdout, "waits") == "waits\n"
        assert program("task", "logs", task).stdout == "waits\n"
    finally:
        mark.touch()
    assert finished(process) == (0, "goes on\n", "")
    assert program("task", "logs", task).stdout == "waits\ngoes on\n"


def test_results(program: Pilot, tmp_path: Path) -> None:
    session = program.json("run", "workflow.yaml")["session"]
    tasks = {row["name"]: row["id"] for row in program.json("task", "list", "--session", session)}
    assert program("result", "get", tasks["total"]).output == "6\n"
    assert program("result", "get", tasks["thing"]).output == "Thing(5)\n"
    table = program("result", "get", tasks["table"])
    assert table.stdout.startswith("array([")
    assert f".h5: /{session}/table/{tasks['table']}/0" in table.stderr
    (value,) = program.json("result", "get", tasks["total"])["values"]
    assert (value["value"], value["file"]) == (6, None)
    for name in ("table.npy", "total.json", "thing.pkl"):
        program("result", "get", tasks[name.partition(".")[0]], "-o", tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "table.npy"), np.arange(20000.0))
    assert json.loads((tmp_path / "total.json").read_text()) == 6
    assert repr(pickle.loads((tmp_path / "thing.pkl").read_bytes())) == "Thing(5)"
    told = program("result", "path", tasks["table"]).stdout
    assert f"dataset  /{session}/table/{tasks['table']}/0\narrays   float64  (20000,)\n" in told
    (place,) = program.json("result", "path", tasks["table"])["values"]
    with h5py.File(place["file"]) as file:
        assert file[place["dataset"]].shape == tuple(place["arrays"][0]["shape"])
    assert "in no file" in program("result", "path", tasks["total"], code=1).stderr
    program("result", "get", tasks["total"], "--index", "1", code=1)
    program("result", "get", "9999.1", code=1)


def test_tasks_are_listed_by_session_state_and_name_in_pieces(program: Pilot) -> None:
    session = program.json("run", "workflow.yaml")["session"]
    every = program.json("task", "list", "--session", session)
    assert [row["name"] for row in every].count("double") == 2
    assert program.json("task", "list", "--session", session, "--state", "failed") == []
    (one,) = program.json("task", "list", "--session", session, "--name", "total")
    assert one["state"] == "COMPLETED"
    first = program("task", "list", "--session", session, "--limit", 2)
    assert len(first.stdout.splitlines()) == 3
    assert "--offset 2" in first.stderr
    rest = program.json("task", "list", "--session", session, "--limit", 3, "--offset", 2)
    assert rest == every[2:]


def test_tasks_are_found_by_what_became_of_them(program: Pilot) -> None:
    begin = time.time()
    run = program("run", "workflow.yaml", "-p", "n=4", "--json", code=8)
    session = json.loads(run.stdout)["session"]
    here = ("task", "list", "--session", session)
    (failed,) = program.json(*here, "--failed")
    assert (failed["error"], failed["pool"], failed["state"]) == ("ValueError", "main", "FAILED")
    assert program.json(*here, "--error", "ValueError") == [failed]
    assert program.json(*here, "--error", "KeyError") == []
    assert "ValueError" in program(*here, "--failed").stdout
    bad = program.json(*here, "--state", "failed", "--state", "aborted", "--sort", "name")
    assert [row["name"] for row in bad] == ["double", "total"]
    counts = {"COMPLETED": 5, "FAILED": 1, "ABORTED": 1}
    assert program.json(*here, "--count") == counts
    table = program(*here, "--count").stdout.splitlines()
    assert [line.split() for line in table[1:]] == [
        *([state, str(count)] for state, count in counts.items()),
        ["all", "7"],
    ]
    assert program.json(*here, "--count", "--ended-since", "1h", "--pool", "main") == {
        "COMPLETED": 5,
        "FAILED": 1,
    }
    assert program.json(*here, "--count", "--created-until", "1h") == {}
    ran = [row["ran_s"] for row in program.json(*here, "--sort", "ran", "--reverse")]
    assert ran[:-1] == sorted(ran[:-1], reverse=True) and ran[-1] is None
    with program.site.session(name="asks") as asks:
        assert asks.submit(pow, 2, 5).result(DEADLINE_S) == 32
        (row,) = asks.tasks(state="COMPLETED", created_since=datetime.fromtimestamp(begin))
        assert (row["name"], row["session"]) == ("pow", asks.id)
        assert asks.task_counts() == {"COMPLETED": 1}
        with pytest.raises(PilotError, match="no state 'DONE'"):
            asks.tasks(state="DONE")
        listed = sessions(program.site.site, name="asks", since=datetime.fromtimestamp(begin))
        assert [row["id"] for row in listed] == [asks.id]


def test_the_attempts_of_a_task_have_all_their_times(program: Pilot) -> None:
    task = program("submit", "--retries", 1, "--", "false").stdout.strip()
    program.await_state(task, "FAILED")
    made = program.json("task", "attempts", task)
    assert [(attempt["number"], attempt["outcome"]) for attempt in made] == [
        (1, "error"),
        (2, "error"),
    ]
    for attempt in made:
        times = [attempt[stage] for stage in STAGES]
        assert None not in times and times == sorted(times)
    lines = program("task", "attempts", task).stdout.splitlines()
    assert lines[0].startswith("attempt 1: error on ")
    assert [line.split()[0] for line in lines[2:11]] == list(STAGES)
    program("task", "attempts", "9999.1", code=1)


def test_commands_are_retried_after_what_the_options_say(program: Pilot) -> None:
    def outcomes(*words: object) -> list[str]:
        task = program("submit", "--retries", 1, *words).stdout.strip()
        program.await_state(task, "TIMED_OUT" if "sleep" in words else "FAILED")
        made: list[dict[str, str]] = program.json("task", "attempts", task)
        return [attempt["outcome"] for attempt in made]

    fails = ("--", "sh", "-c", "exit 3")
    assert outcomes("--no-retry-on", 3, "--no-retry-on", 4, *fails) == ["error"]
    assert outcomes("--no-retry-on", 4, *fails) == ["error"] * 2
    assert outcomes("--retry-on", 4, *fails) == ["error"]
    assert outcomes("--retry-on", 3, *fails) == ["error"] * 2
    endless = ("--time-limit", "1s", "--", "sleep", 600)
    assert outcomes(*endless) == ["timeout"]
    assert outcomes("--retry-timeouts", *endless) == ["timeout"] * 2
    told = program("submit", "--no-retry-on", 256, *fails, code=2).stderr
    assert "'256' is no whole number from 0 to 255" in told
    last = program("submit", "--retries", 2, "--no-retry-on", 3, "--retry-timeouts", *fails)
    shown = program("task", "show", last.stdout.strip()).stdout
    assert "2; never after exit 3; also after time-outs" in shown


def test_unfinished_tasks_are_listed_by_their_live_state(program: Pilot) -> None:
    mark = program.directory / "listed"
    session = program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout.strip()

    def listed(state: str) -> list[Any]:
        return list(program.json("task", "list", "--session", session, "--state", state))

    try:
        wait_until(lambda: len(listed("RUNNING")) == 2, DEADLINE_S, "two tasks on two cores")
        assert program.json("session", "show", session)["states"]["RUNNING"] == 2
        running = listed("RUNNING")
        assert all(row["node"] and row["started"] and row["ran_s"] is None for row in running)
        waiting = listed("READY") + listed("ASSIGNED")
        assert {row["id"] for row in waiting}.isdisjoint(row["id"] for row in running)
        assert len(waiting) == 1
        assert "has no result yet" in program("result", "get", running[0]["id"], code=1).stderr
    finally:
        mark.touch()


def test_status_and_fleet(program: Pilot) -> None:
    program("submit", "--wait", "--", "true")
    (pilot,) = program.json("fleet", "list")
    assert (pilot["state"], pilot["cores"], pilot["pool"]) == ("RUNNING", 2, "main")
    status = program.json("status")
    assert status["running"] is True
    assert [row["name"] for row in status["fleet"]] == [pilot["name"]]
    text = program("status").stdout
    assert f"the head runs (pid {status['pid']} on {status['host']})" in text
    assert pilot["name"] in text
    assert pilot["name"] in program("fleet", "list", "--all").stdout
    explained = program.json("fleet", "explain")
    told = [entry["kind"] for entry in explained["history"] if entry["pilot"] == pilot["name"]]
    assert told == ["grow", "started"]
    (pool,) = explained["pools"]
    assert (pool["pool"], pool["there"]) == ("main", 1)
    text = program("fleet", "explain", "--since", "1h", "--pool", "main").stdout
    assert f"pilot {pilot['name']} of pool main is asked for, with 1 node: work for" in text
    assert f"pool main now: {pool['text']}" in text


def test_pilots_are_steered_by_hand(own_program: Pilot) -> None:
    said = own_program("fleet", "hold", "main", "--reason", "maintenance").stdout
    assert said.startswith("pool main gets no new pilots")
    task = own_program("submit", "--", "true").stdout.strip()
    assert "pool main is held by hand: maintenance" in own_program("status").stdout
    assert "it is held by hand: maintenance" in own_program("why", task).stdout
    assert own_program.json("fleet", "list") == []
    own_program("fleet", "resume", "main")
    own_program("session", "wait", "1")
    (pilot,) = own_program.json("fleet", "list")
    own_program("fleet", "hold", "main")
    own_program("fleet", "drain", pilot["job"], "--reason", "a noisy fan")
    wait_until(lambda: own_program.json("fleet", "list") == [], DEADLINE_S, "the pilot to end")
    ended = own_program("fleet", "list", "--all").stdout
    assert "drained by hand: a noisy fan" in ended
    assert "there is no pool 'other'" in own_program("fleet", "scale", "other", "1", code=1).stderr
    assert "--all" in own_program("fleet", "drain", code=2).stderr


def test_session_starts_nothing_more_when_its_budget_is_used_up(
    own_program: Pilot, tmp_path: Path
) -> None:
    workflow = tmp_path / "many.yaml"
    workflow.write_text("tasks: {nap: {foreach: {n: [0, 1, 2, 3, 4, 5]}, run: sleep 1}}\n")
    session = own_program(
        "run", "--detach", "--budget", "0.0001 node-hours", str(workflow)
    ).stdout.strip()
    wait_until(
        lambda: own_program.json("why", session)["kind"] == "budget", DEADLINE_S, "it to be used up"
    )
    assert f"`pilot session budget {session} HOURS` gives it more" in own_program("why").stdout
    (row,) = own_program.json("status")["budgets"]
    assert (row["session"], row["left"]) == (int(session), 0.0)
    assert f"session {session}" in own_program("status").stdout
    own_program("session", "budget", session, "none")
    own_program("session", "wait", session)


# --- the head ------------------------------------------------------------------------------------


def test_the_head_is_started_and_stopped_also_twice(own_program: Pilot) -> None:
    own_program("head", "status", code=3)
    assert f"runs: pid {own_program.site.head_pid}" not in own_program("head", "start").stdout
    pid = own_program.site.head_pid
    assert f"runs already: pid {pid}" in own_program("head", "start").stdout
    assert f"pid {pid}" in own_program("head", "status").stdout
    assert own_program.json("head", "status")["pid"] == pid
    assert "has ended" in own_program("head", "stop").stdout
    assert own_program.site.head_pid == 0
    assert "no head" in own_program("head", "stop").stdout
    own_program("head", "status", code=3)


def test_a_head_in_the_foreground(
    own_program: Pilot, finished: Callable[[subprocess.Popen[str]], tuple[int, str, str]]
) -> None:
    process = own_program.start("head", "start", "--foreground")
    wait_until(lambda: own_program.site.head_pid == process.pid, DEADLINE_S, "the head")
    own_program("head", "stop")
    status, _, err = finished(process)
    assert (status, "ends: told to" in err) == (0, True)


def test_after_a_head_that_ended_its_database_is_read(own_program: Pilot) -> None:
    task = own_program.submit("echo", "hello")
    own_program.await_state(task, "COMPLETED")
    before = own_program.json("task", "show", task)
    own_program("head", "stop")
    files = {path.name: path.stat().st_mtime_ns for path in own_program.site.directory.iterdir()}
    result = own_program("task", "show", task, "--json")
    assert json.loads(result.stdout) == before
    assert "no head of" in result.stderr
    assert own_program("task", "logs", task).stdout == "hello\n"
    assert "returncode=0" in own_program("result", "get", task).stdout
    assert own_program.json("fleet", "list") == []
    assert len(own_program.json("fleet", "list", "--all")) == 1
    assert own_program.json("status")["running"] is False
    now = {path.name: path.stat().st_mtime_ns for path in own_program.site.directory.iterdir()}
    assert now == files


def test_after_a_head_that_was_killed_everything_committed_is_seen(own_program: Pilot) -> None:
    mark = own_program.directory / "killed"
    done = own_program.submit("echo", "hello")
    own_program.await_state(done, "COMPLETED")
    session = own_program("run", "--detach", "waiting.yaml", "-p", f"mark={mark}").stdout.strip()
    pid = own_program.site.head_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: own_program.site.head_pid == 0, DEADLINE_S, "the head to be gone")
    try:
        assert f"the last one (pid {pid}" in own_program("head", "status", code=3).stdout
        assert own_program("task", "logs", done).stdout == "hello\n"
        assert own_program.json("session", "show", session)["states"] == {"READY": 3}
        assert own_program.json("session", "list", "--open")[0]["unfinished"] == 3
        unfinished = own_program.json("task", "list", "--state", "READY")
        assert [row["session"] for row in unfinished] == [int(session)] * 3
        own_program("result", "get", unfinished[0]["id"], code=1)
        assert own_program.json("status")["unfinished"] == 3
        # Work that comes brings up a new head, which has all of it.
        own_program.submit("true")
        assert own_program.site.head_pid not in (0, pid)
        assert own_program.state(done) == "COMPLETED"
    finally:
        mark.touch()
    for row in unfinished:
        own_program.await_state(row["id"], "COMPLETED")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_are_no_reason_to_fail(program: Pilot, closed: str) -> None:
    for words, status in (("status", 0), ("submit --wait -- sh -c 'exit 3'", 3)):
        command = f'"$PYTHON" -m pilot {words} {closed}'
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=program.directory,
            env={**os.environ, "PYTHON": sys.executable},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_an_answer_that_cannot_be_written_is_told(program: Pilot) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pilot", "status"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pilot: No space left on device\n")
