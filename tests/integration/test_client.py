"""What a user's program may do with sessions and futures, and what it must not come to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest, _state
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def run(program: str, site: SiteUnderTest, *arguments: str, **more: Any) -> Any:
    """Run a program to its end; `directory`: where its modules are."""
    directory = more.pop("directory", "")
    path = os.pathsep.join([str(TESTS), *filter(None, [str(directory)])])
    return subprocess.run(
        [sys.executable, "-c", program, str(site.directory), *arguments],
        capture_output=True,
        text=True,
        timeout=100.0,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        **more,
    )


# --- futures of several sites ---------------------------------------------------------------------


def test_futures_of_another_site_are_refused_and_nothing_is_done(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    first, second = make_site(), make_site()
    with first.session() as a, second.session() as b:
        mine, twin = a.submit(tasks.square, 3), b.submit(bytes, 300_000)
        waits = b.submit(tasks.echo, b.submit(tasks.pause, 0.5))
        assert mine.task == twin.task  # each site counts by itself
        with pytest.raises(pilot.SubmissionError, match=f"is of site {first.mark}"):
            b.submit(tasks.echo, [mine])
        with pytest.raises(pilot.SubmissionError, match=f"is of site {first.mark}"):
            b.submit_many(tasks.echo, [(1,), (mine,)])
        twin.result(DEADLINE_S)
        for refused in (
            lambda: b.cancel([mine]),
            lambda: b.purge([mine]),
            lambda: b.why(mine),
            lambda: b.cancel([waits, mine]),
        ):
            with pytest.raises(pilot.PilotError, match="nothing was done"):
                refused()
        assert (
            waits.result(DEADLINE_S) and len(b.future(twin.task_id).result(DEADLINE_S)) == 300_000
        )
        assert b.submit(tasks.square, mine.result(DEADLINE_S)).result(DEADLINE_S) == 81
        assert mine.why()


def test_futures_of_a_site_that_was_made_anew_are_refused(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        old = session.submit(tasks.square, 3)
        assert old.result(DEADLINE_S) == 9
    local_site.stop()
    wait_until(lambda: not local_site.processes(), DEADLINE_S, "the head to end")
    for path in local_site.directory.iterdir():
        if path.name.startswith(("tasks.db", "head", "lease")):
            path.unlink()
    with local_site.session() as session:
        again = session.submit(tasks.square, 4)
        assert again.task == old.task
        with pytest.raises(pilot.SubmissionError, match="an earlier database of site"):
            session.submit(tasks.square, old)
        with pytest.raises(pilot.PilotError, match="nothing was done"):
            session.cancel([old])
        assert again.result(DEADLINE_S) == 16


# --- the future of an id --------------------------------------------------------------------------


def test_future_of_an_id_is_as_the_first_one(session: Session) -> None:
    @pilot.task(returns=["low", "high"], name="both")
    def both() -> tuple[int, int]:
        return 10, 20

    first = session.submit(both)
    again = session.future(first.task_id)
    assert session.submit(repr, again).result(DEADLINE_S) == "(10, 20)"
    assert session.submit(repr, again["high"]).result(DEADLINE_S) == "20"
    assert (again[0].result(DEADLINE_S), again.result(DEADLINE_S)) == (10, (10, 20))
    assert [part.result(DEADLINE_S) for part in again] == [10, 20]
    assert again.name == "both" and again.state == "COMPLETED"
    with pytest.raises(KeyError, match="no result 'x'; it has low, high"):
        again["x"]
    one = session.future(session.submit(tasks.square, 3).task_id)
    with pytest.raises(TypeError, match="has one result"):
        one[0]
    with pytest.raises(pilot.PilotError, match="there is no task"):
        session.future("999999.1")[0]
    with pytest.raises(pilot.PilotError, match="task ids look like"):
        session.future("x")


def test_size_of_a_result_does_not_matter_for_its_parts(session: Session) -> None:
    @pilot.task(returns=2)
    def pair(count: int) -> tuple[bytes, bytes]:
        return bytes(count), b"x"

    for count in (2, 300_000):
        one = session.submit(lambda n: (bytes(n), b"x"), count)
        with pytest.raises(TypeError, match="has one result"):
            one[0]
        assert one.result(DEADLINE_S) == (bytes(count), b"x")
        two = session.submit(pair, count)
        assert two[0].result(DEADLINE_S) == bytes(count)
        assert session.submit(len, two[0]).result(DEADLINE_S) == count


def test_what_a_task_prints_is_had_from_its_future(session: Session, tmp_path: Path) -> None:
    def talk(started: str, go: str) -> None:
        print("before \udcfc".encode("utf-8", "replace").decode(), flush=True)
        tasks.wait_for_file(started, go)
        print("after")

    started, go = tmp_path / "started", tmp_path / "go"
    future = session.submit(talk, str(started), str(go))
    wait_until(lambda: future.logs() == "before ?\n", DEADLINE_S, "the first line")
    go.touch()
    future.result(DEADLINE_S)
    assert future.logs() == session.future(future.task_id).logs() == "before ?\nafter\n"
    assert repr(future.logs()) == "before ?\nafter\n"  # as a notebook shows it
    assert repr(session.why()).count("\\n") == 0
    assert session.submit(tasks.square, 3).logs() == ""


def test_what_is_asked_in_the_wrong_words_is_told(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        future = session.submit(len, "abc")
        assert future.result(DEADLINE_S) == 3
        assert future.task_id in session.why(future.task_id)
        with pytest.raises(pilot.PilotError, match="is not a task id"):
            session.why("x")
        with pytest.raises(pilot.PilotError, match="since='x': give a whole number"):
            list(session.events(since="x"))  # type: ignore[arg-type]  # not a number


# --- what cannot be sent --------------------------------------------------------------------------

_ODD = "m\udcfcller\0\n.dat"


def test_mistakes_in_one_call_harm_nothing_else(session: Session) -> None:
    innocent = session.submit(tasks.pause, 0.3)
    names: list[Any] = [3, Path("x"), _ODD, "n" * 100_000, np.str_("text")]
    for name in names:
        (value,) = session.put_many([-1], name=name)
        assert session.submit(abs, value).result(DEADLINE_S) == 1
        named = pilot.task(name=name)(tasks.square)
        assert session.submit(named, 3).result(DEADLINE_S) == 9
        assert session.group(name).submit(abs, -2).result(DEADLINE_S) == 2
        assert len(session.tasks(name=name)) >= 2
    assert len(session.tasks(limit=np.int64(1))) == 1
    assert session.tasks(ended_since=np.float64(4e9)) == []
    for wrong in (
        lambda: session.tasks(limit=10**30),
        lambda: session.tasks(created_since="yesterday"),
        lambda: session.query("tasks", pool=lambda: 1),
        lambda: session.query("tasks", pool=_ODD),
    ):
        with pytest.raises(pilot.PilotError):
            wrong()
    assert innocent.result(DEADLINE_S) == 0.3
    assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_session_is_no_argument_and_says_so(session: Session) -> None:
    for mistake in (
        lambda: session.submit(tasks.echo, session),
        lambda: session.submit(lambda: session.submit(tasks.square, 3)),
        lambda: session.put([session.group("g")]),
    ):
        with pytest.raises(pilot.PilotError, match=r"submits with pilot.context\(\)\.session"):
            mistake()


def test_questions_without_a_head_take_the_same_kinds(local_site: SiteUnderTest) -> None:
    with local_site.session(name="x") as session:
        session.submit(tasks.square, 3).result(DEADLINE_S)
    local_site.stop()
    wait_until(lambda: not local_site.head_pid, DEADLINE_S, "the head to end")
    asked: dict[str, Any] = {"limit": np.int64(5), "name": Path("x")}
    found = pilot.sessions(local_site.site, **asked)
    assert [row["name"] for row in found] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variables": {"OMP_NUM_THREADS": 4}}, "OMP_NUM_THREADS is 4, a int; give a text"),
        ({"variables": {"A": "a\0b"}}, "A is 'a.x00b', which cannot be sent"),
        ({"variables": {"A": "\udcfc"}}, "cannot be sent"),
        ({"variables": {"A=B": "x"}}, "'A=B' cannot be the name"),
        ({"variables": {"": "x"}}, "'' cannot be the name"),
        ({"variables": {3: "x"}}, "3 cannot be the name"),
        ({"sys_path": ["/m\udcfcller"]}, "sys_path: .* no UTF-8"),
        ({"sys_path": "/x"}, "give a list of directories"),
        ({"variables": {"A": "x" * 2_000_000}}, "variables: they have 2 MB"),
        ({"sys_path": ["x" * 2_000_000]}, "sys_path: they have 2 MB"),
        ({"options": {"on_failure": "ignore", "default": bytes(2_000_000)}}, "options: .* larger"),
        ({"weight": float("nan")}, "weight=nan: give a number above 0"),
        ({"weight": "x"}, "weight='x': give a number"),
        ({"priority": 1.5}, "priority=1.5: give a whole number"),
        ({"priority": 10**30}, "the number is too large"),
        ({"session_id": "x"}, "session_id='x': give a whole number"),
    ],
)
def test_session_says_what_is_wrong_before_it_is_made(
    shared_site: SiteUnderTest, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(pilot.PilotError, match=words):
        Session(shared_site.site, **arguments)


def test_session_takes_numbers_and_names_of_any_kind(shared_site: SiteUnderTest) -> None:
    with shared_site.session(
        name=_ODD, weight=np.float32(2), priority=np.int64(1), variables={"P": Path("/x")}
    ) as session:
        assert session.submit(os.getenv, "P").result(DEADLINE_S) == "/x"


def test_directory_whose_name_is_no_utf8_is_refused_in_words(
    shared_site: SiteUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(tmp_path) + b"/m\xfcller"
    os.mkdir(odd)
    monkeypatch.chdir(os.fsdecode(odd))
    with pytest.raises(pilot.SiteError, match="has a name that is no UTF-8"):
        shared_site.session()


def test_directory_that_was_removed_is_refused_in_words(
    shared_site: SiteUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(pilot.SiteError, match="has been removed"):
        shared_site.session()


def test_commands_run_on_where_the_directory_of_a_session_is_removed(
    shared_site: SiteUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with shared_site.session() as session:
        assert session.submit(pilot.shell("true")).result(60).returncode == 0
        gone.rmdir()
        assert session.submit(pilot.shell("true")).result(60).returncode == 0


# --- modules that open sessions -------------------------------------------------------------------


def test_worker_opens_no_session_unless_it_says_so(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "opens.py").write_text(
        "import sys, pilot\n"
        "def square(x): return x * x\n"
        "session = pilot.Session(sys.argv[1] if len(sys.argv) > 1 else 'local')\n"
        "if len(sys.argv) > 1:\n"
        "    error = session.submit(square, 3).exception(60)\n"
        "    print(type(error).__name__, error)\n"
        "    session.shutdown()\n"
    )
    done = run("import opens", local_site, directory=tmp_path)
    assert done.stdout.startswith("PilotError pilot.Session(...) was called in a worker"), done
    assert "__name__ == '__main__'" in done.stdout
    assert len(pilot.sessions(local_site.site)) == 1

    def nested(directory: str) -> Any:
        with pilot.Session(directory, in_task=True) as inner:
            return inner.submit(abs, -3).result(60)

    with local_site.session() as session:
        assert session.submit(nested, str(local_site.directory)).result(60) == 3


def test_result_whose_module_is_being_imported_is_read(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "study.py").write_text(
        "import dataclasses, os, sys, pilot\n"
        "@dataclasses.dataclass\n"
        "class R: x: int\n"
        "class E(Exception): pass\n"
        "def f(x): return R(x)\n"
        "def g(): raise E('own')\n"
        "if 'PILOT_JOB_ID' not in os.environ:\n"
        "    with pilot.Session(sys.argv[1]) as session:\n"
        "        print(session.submit(f, 1).result(60), repr(session.submit(g).exception(60)))\n"
    )
    done = run("import study", local_site, directory=tmp_path)
    assert done.stdout == "R(x=1) E('own')\n", done.stderr


# --- forks ----------------------------------------------------------------------------------------


def in_a_fork(call: Callable[[], object]) -> str:
    """What a call raises, or gives, in a forked copy of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            try:
                text = repr(call())
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            os.write(write, text.encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def test_every_call_in_a_forked_copy_raises_at_once(
    shared_site: SiteUnderTest, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with shared_site.session() as session:
        done = session.submit(tasks.square, 3)
        assert done.result(DEADLINE_S) == 9
        held = session.submit(tasks.wait_for_file, str(tmp_path / "started"), str(go))
        called: list[object] = []
        held.add_done_callback(called.append)
        group = session.group("g")
        for call in (
            lambda: session.submit(tasks.square, 3),
            lambda: session.map(tasks.square, [3]),
            lambda: session.put(1),
            lambda: session.future(done.task_id),
            lambda: session.query("head"),
            lambda: session.tasks(),
            lambda: session.why(),
            lambda: list(session.events()),
            lambda: session.flush(),
            lambda: session.cancel(),
            lambda: session.pause(),
            lambda: session.shutdown(),
            lambda: session.detach(),
            lambda: group.submit(tasks.square, 3),
            lambda: group.cancel(),
            lambda: held.result(),
            lambda: held.cancel(),
            lambda: held.why(),
            lambda: pilot.gather([held]),
            lambda: tasks_of_this_thread(),
        ):
            text = in_a_fork(call)
            assert f"belongs to process {os.getpid()}" in text, text
        assert in_a_fork(done.result) == "9"
        assert in_a_fork(lambda: session.__exit__(None, None, None)) == "None"
        assert in_a_fork(lambda: one_of_its_own(shared_site)) == "16"
        assert not called and not held.done()
        go.touch()
        assert held.result(DEADLINE_S)
        assert session.submit(tasks.square, 5).result(DEADLINE_S) == 25


def tasks_of_this_thread() -> Any:
    return pilot.task(tasks.square).submit(3)


def one_of_its_own(site: SiteUnderTest) -> Any:
    with site.session() as session:
        return session.submit(tasks.square, 4).result(DEADLINE_S)


def test_forked_copies_end_by_themselves(local_site: SiteUnderTest) -> None:
    program = (
        "import multiprocessing, os, sys, pilot\n"
        "from support import tasks\n"
        "with pilot.Session(sys.argv[1], sys_path=sys.path[:1]) as session:\n"
        "    held = session.submit(tasks.pause, 0.5)\n"
        "    child = os.fork()\n"
        "    if child == 0: sys.exit(7)\n"  # leaves the block, and goes through atexit
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "    other = multiprocessing.get_context('fork').Process(target=held.result)\n"
        "    other.start(); other.join(); print(other.exitcode)\n"
        "    print(held.result())\n"
    )
    done = run(program, local_site)
    assert done.stdout.split() == ["7", "1", "0.5"], done.stderr
    assert "belongs to process" in done.stderr


# --- a head that is stuck -------------------------------------------------------------------------

_QUICK = (
    "from pilot.client import connection, head_finder\n"
    "connection.PING_S, connection.SILENT_S, head_finder.GREETING_S = 0.5, 1.5, 2.0\n"
)


_SUBMIT = (
    _QUICK
    + "import os, signal, sys, pilot\n"
    + "session = pilot.Session(sys.argv[1])\n"
    + "head = session.query('head')['pid']\n"
    + "print(head, flush=True)\n"
    + "os.kill(head, signal.SIGSTOP)\n"
    + "session.submit(pow, 2, 5)\n"
    + "import atexit; atexit.register(print, 'end', flush=True)\n"
)


def go_on(site: SiteUnderTest, head: int) -> None:
    """Let a head go on, and see that all is well: a pilot has come, and will end with the site."""
    os.kill(head, signal.SIGCONT)
    with site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_program_with_a_stuck_head_ends_in_words(local_site: SiteUnderTest) -> None:
    done = run(_SUBMIT, local_site)
    head, end = done.stdout.split()
    try:
        assert end == "end" and done.returncode == 5
        assert f"(pid {head} on " in done.stderr and "does not answer; is it stopped" in done.stderr
        block = run(
            _QUICK + "import sys, pilot\nwith pilot.Session(sys.argv[1]): pass\n", local_site
        )
        assert block.returncode == 1 and "is it stopped?" in block.stderr
    finally:
        go_on(local_site, int(head))


def test_interrupt_at_the_end_of_a_program_is_its_status(local_site: SiteUnderTest) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _SUBMIT.replace("1.5", "500.0"), str(local_site.directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    head = int(child.stdout.readline())
    try:
        assert child.stdout.readline() == "end\n"
        # Now it goes on without a pause, until it waits for the head.
        wait_until(lambda: _state(child.pid) == "S", DEADLINE_S, "the program to wait")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=DEADLINE_S)
        assert child.returncode == 130
        assert "interrupted before the head had accepted" in errors
    finally:
        child.kill()
        child.wait()
        go_on(local_site, head)


# --- sessions that are left -----------------------------------------------------------------------


def state_of(site: SiteUnderTest, number: int) -> str:
    return str(site.query("session", session=number)["state"])


def test_session_that_everybody_has_left_ends_and_is_open_for_who_comes_back(
    make_site: Callable[..., SiteUnderTest], tmp_path: Path
) -> None:
    site = make_site(head={"session_idle": "1s"})
    go = tmp_path / "go"
    session = site.session(options={"retries": 1})
    held = session.submit(tasks.wait_for_file, str(tmp_path / "started"), str(go))
    number = session.detach()
    with site.session() as beside:  # somebody who stays
        beside.submit(tasks.pause, 2.5).result(DEADLINE_S)
        assert state_of(site, number) == "OPEN"  # it has something to do
        go.touch()
        wait_until(lambda: state_of(site, number) == "CLOSED", DEADLINE_S, "the session to end")
        assert state_of(site, beside.id) == "OPEN"
    again = Session(site.site, session_id=number)
    assert state_of(site, number) == "OPEN"
    assert again.future(held.task_id).result(DEADLINE_S)
    assert again.submit(abs, -3).result(DEADLINE_S) == 3
    again.shutdown()
    wait_until(lambda: state_of(site, number) == "CLOSED", DEADLINE_S, "the session to end")
    # It was closed in so many words.
    with pytest.raises(pilot.PilotError, match="it takes no more tasks"):
        Session(site.site, session_id=number)


def test_client_that_was_stopped_comes_back_to_its_session(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    site = make_site(head={"session_idle": "1s"})
    program = (
        "import sys, pilot\n"
        "from pilot.client import connection\n"
        "connection.ALIVE_S = 0.5\n"
        "from support import tasks\n"
        "session = pilot.Session(sys.argv[1], sys_path=sys.path[:1])\n"
        "first = session.submit(tasks.square, 3)\n"
        "print(session.id, first.result(60), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(session.submit(tasks.square, first).result(60), flush=True)\n"
        "session.shutdown()\n"
    )
    # The head takes a client for gone after 300 s; here it is told of it.
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(site.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        number, value = child.stdout.readline().split()
        assert value == "9"
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(child.pid) == "T", DEADLINE_S)
        os.kill(site.head_pid, signal.SIGKILL)  # the next head has not heard of it
        with site.session() as other:
            other.submit(tasks.square, 2).result(DEADLINE_S)
            wait_until(
                lambda: state_of(site, int(number)) == "CLOSED", DEADLINE_S, "the session to end"
            )
            child.send_signal(signal.SIGCONT)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "81\n"
        assert child.wait(DEADLINE_S) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
