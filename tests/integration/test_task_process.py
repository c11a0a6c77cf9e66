"""What tasks do to their process, and what the tasks after them find there."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import io
import locale
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session
from pilot.agent.rules.executors import MOST_FAILED

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def cores() -> int:
    """So that all tasks of a session are in one process."""
    return 1


def attempts_of(site: SiteUnderTest, future: Any) -> list[tuple[str, str | None]]:
    """The outcome and the class of error of each attempt of a task."""
    made = site.query("task", task=future.task_id)["attempts_made"]
    return [(each["outcome"], each["error"]) for each in made]


# --- copies ---------------------------------------------------------------------------------------


def _forked(how: str) -> int:
    if how == "pty":
        return os.forkpty()[0]
    return ctypes.CDLL(None).fork() if how == "C" else os.fork()


def forks(how: str, end: str, waits: bool) -> str:
    child = _forked(how)
    if child == 0:
        if end == "nested":
            os.fork()
        if end == "exits":
            sys.exit(3)
        if end == "says":
            raise SystemExit("in words")
        if end == "raises":
            raise ValueError("in the copy")
        if end == "is interrupted":
            raise KeyboardInterrupt
        return "copy"
    if not waits:
        return "parent"
    _, status = os.waitpid(child, 0)
    return f"parent {os.waitstatus_to_exitcode(status)}"


@pytest.mark.parametrize("how", ["Python", "pty", "C"])
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("returns", 0),
        ("exits", 3),
        ("says", 1),
        ("raises", 1),
        ("is interrupted", 1),
        ("nested", 0),
    ],
)
def test_a_copy_ends_where_it_leaves_the_task(
    shared_site: SiteUnderTest, session: Session, how: str, end: str, status: int
) -> None:
    waited = session.submit(forks, how, end, True)
    left = session.submit(forks, how, end, False)
    after = [session.submit(tasks.square, n) for n in range(100)]
    assert waited.result(DEADLINE_S) == f"parent {status}"
    assert left.result(DEADLINE_S) == "parent"
    assert pilot.gather(after, timeout=DEADLINE_S) == [n * n for n in range(100)]
    assert [attempts_of(shared_site, each) for each in (waited, left)] == [[("ok", None)]] * 2


def uses_multiprocessing() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def test_multiprocessing_forks_as_ever(session: Session) -> None:
    assert session.submit(uses_multiprocessing).result(DEADLINE_S) == [1, 2, 3]


# --- exceptions -----------------------------------------------------------------------------------


class Stop(BaseException):
    """Is no Exception."""


class Unprintable(Exception):
    """Ends whoever wants to tell of it."""

    def __str__(self) -> str:
        raise SystemExit(7)

    __repr__ = __str__


def raises(kind: type[BaseException]) -> None:
    raise kind


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Stop, StopIteration, Unprintable]
)
def test_whatever_a_task_raises_is_its_failure_and_the_executor_lives_on(
    shared_site: SiteUnderTest, session: Session, kind: type[BaseException]
) -> None:
    before = session.submit(tasks.process_id).result(DEADLINE_S)
    future = session.submit(raises, kind)
    assert future.exception(DEADLINE_S) is not None
    ((outcome, _),) = attempts_of(shared_site, future)
    assert outcome == "error"
    assert session.submit(tasks.process_id).result(DEADLINE_S) == before


# --- what is put back -----------------------------------------------------------------------------


def close_stdout() -> None:
    os.close(1)


def close_all() -> None:
    for descriptor in (0, 1, 2):
        os.close(descriptor)


def close_streams() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def detach_stream() -> None:
    stream: Any
    for stream in (sys.stdout, sys.stdin):
        stream.detach()


def open_stream() -> None:
    sys.stdout = os.fdopen(1, "w", buffering=1)
    print("by another stream")


def replace_streams() -> None:
    sys.stdin = sys.stdout = sys.stderr = io.StringIO()


def remove_streams() -> None:
    sys.stdin = sys.stdout = sys.stderr = None


def leave_redirected() -> None:
    contextlib.redirect_stdout(io.StringIO()).__enter__()


def stdout_to_a_pipe() -> None:
    _, writer = os.pipe()
    os.dup2(writer, 1)
    print("into the pipe")


def stdout_to_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print("to nowhere")


def a_file_in_place_of_stdin() -> None:
    os.close(0)
    os.open(__file__, os.O_RDONLY)


def change_directory() -> None:
    os.chdir("/")


def stay_in_a_removed_directory() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)


def handle_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, lambda *_: None)


def _raise(*_: object) -> None:
    raise TimeoutError("the alarm of another task")


def leave_an_alarm() -> None:
    signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.01)


def leave_an_alarm_without_a_handler() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def leave_a_profiler() -> None:
    signal.signal(signal.SIGPROF, lambda *_: None)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def log_by_context() -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        pilot.context().logger.info("into a buffer")


def look(seconds: float) -> dict[str, Any]:
    """What a task finds."""
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        sum(range(1000))
    print("said")
    os.write(1, b"written\n")
    subprocess.run(["echo", "by a child"], check=True)
    pilot.context().logger.info("logged")
    try:
        read = input()
    except EOFError:
        read = "nothing"
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM, signal.SIGPROF)
    return {
        "process": os.getpid(),
        "cwd": Path.cwd(),
        "read": read,
        "handlers": [signal.getsignal(number) for number in numbers],
        "streams": sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__,
    }


@pytest.mark.parametrize(
    "change",
    [
        close_stdout,
        close_all,
        close_streams,
        detach_stream,
        open_stream,
        replace_streams,
        remove_streams,
        leave_redirected,
        stdout_to_a_pipe,
        stdout_to_nowhere,
        a_file_in_place_of_stdin,
        change_directory,
        stay_in_a_removed_directory,
        handle_signals,
        leave_an_alarm,
        leave_an_alarm_without_a_handler,
        leave_a_profiler,
        log_by_context,
    ],
)
def test_what_a_task_changes_in_its_process_is_put_back(
    shared_site: SiteUnderTest, session: Session, change: Callable[[], None]
) -> None:
    process = session.submit(tasks.process_id).result(DEADLINE_S)
    changed = [session.submit(change) for _ in range(3)]
    # It takes longer than the alarms that were left.
    found = session.submit(look, 0.1)
    assert pilot.gather(changed, timeout=DEADLINE_S) == [None] * 3
    assert found.result(DEADLINE_S) == {
        "process": process,
        "cwd": Path.cwd(),
        "read": "nothing",
        "handlers": [signal.SIG_DFL] * 5,
        "streams": True,
    }
    for future in (*changed, found):
        assert attempts_of(shared_site, future) == [("ok", None)]
    (attempt,) = shared_site.query("task", task=found.task_id)["attempts_made"]
    output = ""
    for log in attempt["logs"]:
        text = (shared_site.directory / log["path"]).read_bytes()
        output += text[log["start"] : log["end"]].decode()
    assert sorted(line.split()[-1] for line in output.splitlines()) == [
        "child",
        "logged",
        "said",
        "written",
    ]


def set_limits() -> None:
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (1 << 12 if limit == resource.RLIMIT_NOFILE else 1 << 40, hard))


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))


def leave_a_timer_without_a_handler() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)


def have_a_traceback_dumped() -> None:
    faulthandler.dump_traceback_later(0.05, exit=True)


def leave_the_collector_off() -> None:
    gc.disable()
    gc.set_threshold(7)


CHANGES: dict[str, Callable[[], object]] = {
    "umask": lambda: os.umask(0o077),
    "limits": set_limits,
    "blocked": block_signals,
    "cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(os.getppid())),
    "nice": lambda: os.nice(1),
    "recursion": lambda: sys.setrecursionlimit(150),
    "switch": lambda: sys.setswitchinterval(0.5),
    "collector": leave_the_collector_off,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "time-out": lambda: socket.setdefaulttimeout(0.25),
    "timer": leave_a_timer_without_a_handler,
    "dump": have_a_traceback_dumped,
}


def settings() -> dict[str, object]:
    """Return the surroundings that a task finds, after some time in which it computes."""
    begin = time.monotonic()
    while time.monotonic() < begin + 0.1:
        sum(range(1000))
    umask = os.umask(0)
    os.umask(umask)
    return {
        "process": os.getpid(),
        "umask": umask,
        "limits": [
            resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        ],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "cores": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "locale": locale.setlocale(locale.LC_ALL),
        "time-out": socket.getdefaulttimeout(),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the priority cannot be put back")
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_task_sets_is_put_back(
    shared_site: SiteUnderTest, session: Session, name: str
) -> None:
    before = session.submit(settings)
    changed = [session.submit(change_settings, name) for _ in range(2)]
    after = session.submit(settings)
    assert after.result(DEADLINE_S) == before.result(DEADLINE_S)
    # It has taken effect, as far as it can be seen, and was found as it was by the second one.
    found = pilot.gather(changed, timeout=DEADLINE_S)
    assert found[0] == found[1]
    can_be_seen = name not in ("timer", "dump") and (name != "cores" or os.cpu_count() != 1)
    assert (found[0].get(name) != before.result().get(name)) == can_be_seen
    for future in (before, *changed, after):
        assert attempts_of(shared_site, future) == [("ok", None)]


def change_settings(name: str) -> dict[str, object]:
    CHANGES[name]()
    if name in ("timer", "dump"):
        return {}
    found = settings()
    return found if name != "nice" else {"nice": found["nice"]}


SETS_AT_IMPORT = """
import os, sys
os.umask(0o027)
sys.setrecursionlimit(5000)
"""


def import_and_look() -> tuple[int, int]:
    import sets_at_import  # type: ignore[import-not-found]  # noqa: F401  # made above

    umask = os.umask(0)
    return umask, sys.getrecursionlimit()


def test_what_a_module_sets_while_it_is_imported_stays(shared_site: SiteUnderTest) -> None:
    (shared_site.scratch / "sets_at_import.py").write_text(SETS_AT_IMPORT)
    with pilot.Session(shared_site.site, sys_path=[shared_site.scratch, TESTS]) as session:
        for _ in range(2):
            assert session.submit(import_and_look).result(DEADLINE_S) == (0o027, 5000)


def wrapped_by_name() -> bool:
    functions: list[Any] = [os.umask, os.nice, resource.setrlimit, signal.setitimer, gc.disable]
    functions += [sys.setrecursionlimit, socket.setdefaulttimeout, signal.pthread_sigmask]
    pilot.context().session.submit(os.umask, 0o022)
    return all(pickle.loads(pickle.dumps(function)) is function for function in functions)


def test_what_sets_is_known_by_its_name_as_ever(session: Session) -> None:
    assert session.submit(wrapped_by_name).result(DEADLINE_S)


def give_up_capability(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 of them
    assert libc.capget(header, sets) == 0
    for word in (0, 1):
        sets[word] &= ~(1 << number)
    assert libc.capset(header, sets) == 0


def lower_a_hard_limit(large: bool) -> tuple[int, bytes]:
    give_up_capability(24)  # to raise hard limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    return os.getpid(), bytes(100_000 if large else 1)


@pytest.mark.parametrize("large", [False, True])
def test_a_process_that_was_changed_for_good_runs_no_other_task(
    shared_site: SiteUnderTest, large: bool
) -> None:
    with shared_site.session() as session:
        changing = [session.submit(lower_a_hard_limit, large) for _ in range(4)]
        changed = {process for process, _ in pilot.gather(changing, timeout=DEADLINE_S)}
        after = session.submit(tasks.process_id)
        assert after.result(DEADLINE_S) not in changed and len(changed) == 4
        for future in (*changing, after):
            assert attempts_of(shared_site, future) == [("ok", None)]


KEPT: list[int] = []


def leave_open(but: int) -> int:
    """Leave files open until no more can be, but for so many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = min(3000, hard)
    # By no name that is looked after, so that the limit stays.
    libc = ctypes.CDLL(None)
    assert libc.setrlimit(resource.RLIMIT_NOFILE, (ctypes.c_ulong * 2)(limit, hard)) == 0
    with contextlib.suppress(OSError):
        while True:
            KEPT.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(but):
        os.close(KEPT.pop())
    return os.getpid()


def open_some(large: bytes) -> int:
    with contextlib.ExitStack() as files:
        for _ in range(40):
            files.enter_context(open(os.devnull))
    return os.getpid()


def leave_open_and_fail() -> None:
    while True:
        KEPT.append(os.open("/dev/null", os.O_RDONLY))


def test_a_process_whose_descriptors_are_used_up_runs_no_other_task(
    shared_site: SiteUnderTest,
) -> None:
    with shared_site.session() as session:
        full = session.submit(leave_open, 0)
        others = [session.submit(open_some, bytes(100_000)) for _ in range(10)]
        assert full.result(DEADLINE_S) not in pilot.gather(others, timeout=DEADLINE_S)
        for future in (full, *others):
            assert attempts_of(shared_site, future)[-1] == ("ok", None)
        # One that is nearly full is seen by who fails there, who has another attempt.
        nearly = session.submit(leave_open, 35)
        others = [session.submit(open_some, bytes(100_000)) for _ in range(3)]
        assert nearly.result(DEADLINE_S) not in pilot.gather(others, timeout=DEADLINE_S)
        made = [outcome for future in others for outcome, _ in attempts_of(shared_site, future)]
        assert made.count("ok") == 3 and set(made) <= {"ok", "interrupted"}
        # Who has used them up is told so, in the end.
        with pytest.raises(OSError, match="Too many open files"):
            session.submit(leave_open_and_fail).result(DEADLINE_S)


# --- what tasks start -----------------------------------------------------------------------------


def interrupted() -> list[int]:
    """How children end that are told to by SIGINT."""
    program = "import signal; print(flush=True); signal.pause()"
    ends = []
    for command in (["sleep", "600"], [sys.executable, "-c", program]):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            if command[0] != "sleep":
                assert process.stdout is not None
                process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            ends.append(process.wait())
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGINT)
        return []
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    signal.raise_signal(signal.SIGINT)  # the executor itself does not hear it
    return ends


def test_what_a_task_starts_hears_an_interrupt(session: Session) -> None:
    assert session.submit(interrupted).result(DEADLINE_S) == [-signal.SIGINT, -signal.SIGINT, 1]


def test_a_command_ignores_no_signal(session: Session) -> None:
    status = session.submit(pilot.shell("grep SigIgn /proc/self/status")).result(DEADLINE_S)
    ignored = int(status.stdout.split()[1], 16)
    assert not ignored & 0x7FFFFFFF, "those behind are the C library's own"


#: Each leaves a process in a session of its own, whose parent has gone or stays.
_DAEMONS = {
    "setsid": "setsid sleep {s}",
    "setsid -f": "setsid -f sleep {s}; sleep 600",
    "nohup": "nohup sleep {s} > /dev/null 2>&1 & sleep 600",
    "twice": "(setsid sh -c 'sleep {s} & sleep 600' &) ; sleep 600",
}


def _is_there(argument: str) -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
                if command == b"sleep\0" + argument.encode() + b"\0":
                    return True
    return False


def starts(command: str) -> None:
    subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True).wait()


def closes_its_sockets() -> str:
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "socket" in os.readlink(f"/proc/self/fd/{descriptor}"):
                os.close(int(descriptor))
    return "never told"


def test_a_task_that_closes_the_executors_connection_crashes(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        closing = session.submit(pilot.task(max_crashes=1)(closes_its_sockets))
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
        with pytest.raises(pilot.TaskCrashed):
            closing.result(DEADLINE_S)


@pytest.mark.parametrize("end", ["limit", "cancel", "returned"])
@pytest.mark.parametrize("kind", ["command", "function"])
@pytest.mark.parametrize("how", list(_DAEMONS))
def test_nothing_that_a_task_started_outlives_it(
    shared_site: SiteUnderTest, how: str, kind: str, end: str
) -> None:
    mark = f"{600 + os.getpid() % 1000}.{time.monotonic_ns()}"
    text = _DAEMONS[how].format(s=mark)
    if end == "returned":
        text = f"({text}) > /dev/null 2>&1 &"
    # Time enough to start a command on a busy machine.
    options: dict[str, Any] = {"time_limit": 2.0} if end == "limit" else {}
    with shared_site.session() as session:
        future: pilot.Future[Any]
        if kind == "command":
            future = session.submit(pilot.shell(text, **options))
        else:
            session.submit(starts, "true").result(DEADLINE_S)  # its executor imports this module
            future = session.submit(pilot.task(**options)(starts), text)
        wait_until(lambda: _is_there(mark), DEADLINE_S, "its process")
        if end == "cancel":
            future.cancel()
        elif end == "limit":
            assert isinstance(future.exception(DEADLINE_S), pilot.TaskTimedOut)
        else:
            future.result(DEADLINE_S)
    wait_until(lambda: not _is_there(mark), DEADLINE_S, "the end of its process")


def test_a_command_that_is_told_to_end_has_time_for_it(
    session: Session, shared_site: SiteUnderTest
) -> None:
    mark = shared_site.scratch / "cleaned"
    text = f"trap 'sleep 0.3; echo cleaned > {mark}; exit 1' TERM; echo; sleep 600 & wait"
    future = session.submit(pilot.shell(text, time_limit=1))
    assert isinstance(future.exception(DEADLINE_S), pilot.TaskTimedOut)
    assert mark.read_text() == "cleaned\n"


# --- executors that do not come up ----------------------------------------------------------------


def test_executors_that_do_not_come_up_cost_a_task_nothing(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    site = make_site(cores=1)
    with site.session() as session:
        session.submit(tasks.square, 1).result(DEADLINE_S)
        (first,) = (site.site.logs).glob("*/*-1.out")
        # Where their output is to go, there are directories: they cannot start.
        broken = [
            first.with_name(first.name.replace("-1.", f"-{number}."))
            for number in range(2, 2 + MOST_FAILED)
        ]
        broken[0].mkdir()
        with site.session() as other:
            future = other.submit(tasks.square, 2)
            assert future.result(DEADLINE_S) == 4
            assert attempts_of(site, future) == [("ok", None)]
        # The third one came up. Now none does: the pilot is given up, and the next one runs it.
        for path in broken[2:]:
            path.mkdir()
        for number in range(2 + MOST_FAILED, 4 + MOST_FAILED):
            first.with_name(first.name.replace("-1.", f"-{number}.")).mkdir()
        with site.session() as other:
            future = other.submit(tasks.square, 3)
            assert future.result(DEADLINE_S) == 9
            assert attempts_of(site, future) == [("ok", None)]
        ended = [each for each in site.query("fleet") if each["state"] == "ENDED"]
        assert len(ended) == 1
        assert "executors in a row did not start" in ended[0]["reason"]
        assert "IsADirectoryError" in ended[0]["reason"]


def test_tasks_run_on_when_the_temporary_directory_has_gone(
    make_site: Callable[..., SiteUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Path(tempfile.mkdtemp(prefix="pilot-gone-"))
    monkeypatch.setenv("TMPDIR", str(gone))
    site = make_site(cores=1)
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        shutil.rmtree(gone)
        with site.session() as other:
            future = other.submit(tasks.square, 3)
            assert future.result(DEADLINE_S) == 9
            assert attempts_of(site, future) == [("ok", None)]
            result = other.submit(pilot.shell("echo there")).result(DEADLINE_S)
            assert result.stdout == "there\n"
