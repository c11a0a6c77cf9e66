"""Sessions end to end on a local site: tasks, dependencies, options, values, context, logs."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Future, Session

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


# --- tasks and what they depend on ----------------------------------------------------------------


def test_decorated_function_is_still_a_function(session: Session) -> None:
    @pilot.task
    def square(x: int) -> int:
        return x * x

    assert square(3) == 9
    with session_as_current(session):
        assert square.submit(3).result(DEADLINE_S) == 9
        assert pilot.gather(square.map(range(50)), timeout=DEADLINE_S) == [n * n for n in range(50)]


class session_as_current:  # noqa: N801 - used as a function
    """The session of a ``with`` block, without its end."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._session.__enter__()

    def __exit__(self, *_: object) -> None:
        from pilot.client import current

        current.leave(self._session)


@dataclasses.dataclass
class Holder:
    value: Any


def test_futures_at_any_depth_become_values(session: Session) -> None:
    nine, four = session.submit(tasks.square, 3), session.submit(tasks.square, 2)
    future = session.submit(
        tasks.echo, [nine, (four, {"deep": nine})], held=Holder({"in": [four]}), plain=1
    )
    args, kwargs = future.result(DEADLINE_S)
    assert args == ([9, (4, {"deep": 9})],)
    assert kwargs["plain"] == 1 and kwargs["held"].value == {"in": [4]}


def test_long_chain(session: Session) -> None:
    future = session.submit(tasks.add, 0, 1)
    for _ in range(200):
        future = session.submit(tasks.add, future, 1)
    assert future.result(DEADLINE_S) == 201


def test_tree_of_sums(session: Session) -> None:
    level = [session.submit(tasks.square, number) for number in range(64)]
    while len(level) > 1:
        level = [
            session.submit(tasks.add, a, b) for a, b in zip(level[::2], level[1::2], strict=True)
        ]
    assert level[0].result(DEADLINE_S) == sum(n * n for n in range(64))


def test_failure_reaches_all_that_depend_on_it(session: Session, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"

    def fail_later(_: object) -> None:
        raise ValueError("the first cause")

    held = session.submit(tasks.wait_for_file, str(started), str(go))
    failed = session.submit(fail_later, held)
    child = session.submit(tasks.echo, failed)
    grandchild = session.submit(tasks.echo, child)
    go.touch()
    with pytest.raises(ValueError, match="the first cause"):
        failed.result(DEADLINE_S)
    for future in (child, grandchild):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, pilot.TaskAborted)
        assert failed.task_id in str(error) and "the first cause" in str(error)


def test_ignored_failure_gives_the_default(session: Session, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"

    def fail_later(_: object) -> float:
        raise ValueError("never mind")

    held = session.submit(tasks.wait_for_file, str(started), str(go))
    ignored = session.submit(pilot.task(on_failure="ignore", default=-1.0)(fail_later), held)
    after = session.submit(tasks.echo, ignored)
    go.touch()
    assert after.result(DEADLINE_S) == ((-1.0,), {})
    assert isinstance(ignored.exception(DEADLINE_S), ValueError)


def test_several_results(session: Session) -> None:
    @pilot.task(returns=2)
    def both(a: int, b: int) -> tuple[int, int]:
        return a + b, a * b

    future = session.submit(both, 3, 4)
    assert future.result(DEADLINE_S) == (7, 12)
    assert (future[0].result(DEADLINE_S), future[1].result(DEADLINE_S)) == (7, 12)
    assert session.submit(tasks.square, future[1]).result(DEADLINE_S) == 144
    assert session.submit(tasks.echo, future).result(DEADLINE_S) == (((7, 12),), {})


def test_named_results(session: Session) -> None:
    @pilot.task(returns=["total", "product"])
    def both(a: int, b: int) -> dict[str, int]:
        return {"total": a + b, "product": a * b}

    future = session.submit(both, 3, 4)
    assert future["product"].result(DEADLINE_S) == 12
    with pytest.raises(KeyError, match="no result 'difference'; it has total, product"):
        future["difference"]


# --- options --------------------------------------------------------------------------------------


def test_retries_until_it_works(session: Session, tmp_path: Path) -> None:
    @pilot.task(retries=3)
    def third_time(directory: str) -> int:
        runs = tasks_of(directory)
        if runs < 3:
            raise OSError("not yet")
        return pilot.context().attempt

    def tasks_of(directory: str) -> int:
        path = Path(directory) / "runs"
        with path.open("a") as file:
            file.write("x")
        return path.stat().st_size

    assert session.submit(third_time, str(tmp_path)).result(DEADLINE_S) == 3


def test_retries_only_what_is_named(session: Session, tmp_path: Path) -> None:
    def fail(path: str, kind: type[Exception]) -> None:
        with Path(path).open("a") as file:
            file.write("x")
        raise kind("no")

    named = pilot.task(retries=2, retry_on=LookupError)(fail)
    assert isinstance(
        session.submit(named, str(tmp_path / "key"), KeyError).exception(DEADLINE_S), KeyError
    )
    assert isinstance(
        session.submit(named, str(tmp_path / "value"), ValueError).exception(DEADLINE_S), ValueError
    )
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"key": 3, "value": 1}


def test_what_is_named_so_is_never_retried(session: Session, tmp_path: Path) -> None:
    class Hopeless(LookupError):
        pass

    class Worse(Hopeless):
        pass

    def fail(path: str, kind: type[Exception]) -> None:
        with Path(path).open("a") as file:
            file.write("x")
        raise kind("no")

    named = pilot.task(retries=2, retry_on=LookupError, no_retry_on=(Hopeless,))(fail)
    for kind in (KeyError, Hopeless, Worse):
        error = session.submit(named, str(tmp_path / kind.__name__), kind).exception(DEADLINE_S)
        assert type(error).__name__ == kind.__name__
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"KeyError": 3, "Hopeless": 1, "Worse": 1}


def test_a_session_says_what_its_tasks_are_not_retried_after(shared_site: SiteUnderTest) -> None:
    def fail() -> None:
        raise KeyError(pilot.context().attempt)

    defaults = {"retries": 2, "no_retry_on": KeyError}
    with shared_site.session(options=defaults) as session:
        tries = [
            session.submit(each).exception(DEADLINE_S).args[0]  # type: ignore[union-attr]  # it fails
            for each in (fail, pilot.task(no_retry_on=None)(fail))
        ]
    assert tries == [1, 3]


def test_commands_are_retried_by_their_exit_status(session: Session, tmp_path: Path) -> None:
    def runs(name: str, status: int, **options: Any) -> int:
        mark = tmp_path / name
        command = pilot.shell(f"echo x >> {mark}; exit {status}", retries=2, **options)
        error = session.submit(command).exception(DEADLINE_S)
        assert isinstance(error, pilot.CommandFailed) and error.returncode == status
        return mark.read_text().count("x")

    assert runs("always", 3) == 3
    assert runs("never", 3, no_retry_on=3) == 1
    assert runs("another", 4, no_retry_on=3) == 3
    assert runs("only", 75, retry_on=75) == 3
    assert runs("not_only", 3, retry_on=(75, OSError)) == 1


def test_time_outs_are_retried_where_that_is_wanted(session: Session) -> None:
    def too_long_at_first(quick: int) -> int:
        attempt = pilot.context().attempt
        if attempt < quick:
            tasks.pause(600.0)
        return attempt

    limited = pilot.task(time_limit=1.5, retries=1, retry_timeouts=True)(too_long_at_first)
    second, never = session.submit(limited, 2), session.submit(limited, 9)
    once = session.submit(limited.options(retry_timeouts=False), 2)
    assert second.result(DEADLINE_S) == 2
    assert isinstance(never.exception(DEADLINE_S), pilot.TaskTimedOut)
    assert isinstance(once.exception(DEADLINE_S), pilot.TaskTimedOut)
    attempts = [session.query("task", task=f.task_id)["attempts"] for f in (second, never, once)]
    assert attempts == [2, 2, 1]


def test_resources_depend_on_the_arguments(session: Session) -> None:
    @pilot.task(cores=lambda n: n)
    def cores(n: int) -> int:
        return pilot.context().resources.cores

    assert [session.submit(cores, n).result(DEADLINE_S) for n in (1, 2)] == [1, 2]
    assert session.submit(cores.options(cores=2), 1).result(DEADLINE_S) == 2


def test_tasks_of_all_cores_run_one_after_the_other(session: Session, tmp_path: Path) -> None:
    @pilot.task(cores=2)
    def alone(directory: str) -> bool:
        mark = Path(directory) / "inside"
        mark.touch(exist_ok=False)
        tasks.pause(0.05)
        mark.unlink()
        return True

    futures = [session.submit(alone, str(tmp_path)) for _ in range(5)]
    assert pilot.gather(futures, timeout=DEADLINE_S) == [True] * 5


def test_thread_counts_follow_the_cores(session: Session) -> None:
    @pilot.task(cores=2)
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert session.submit(threads).result(DEADLINE_S) == "2"
    assert session.submit(threads.options(cores=1)).result(DEADLINE_S) == "1"
    with Session(site=session.site.directory, variables={"OMP_NUM_THREADS": "7"}) as other:
        assert other.submit(threads).result(DEADLINE_S) == "7"


def test_priority_goes_first(session: Session, tmp_path: Path) -> None:
    def note(_: object, path: str, word: str) -> None:
        with Path(path).open("a") as file:
            file.write(f"{word}\n")

    whole = pilot.task(cores=2)
    started, go, order = tmp_path / "started", tmp_path / "go", tmp_path / "order"
    held = session.submit(whole(tasks.wait_for_file), str(started), str(go))
    low = [session.submit(whole(note), held, str(order), "low") for _ in range(3)]
    high = [
        session.submit(whole(note).options(priority=10), held, str(order), "high") for _ in range(3)
    ]
    session.flush()  # the head must know of them all before the first may start
    go.touch()
    pilot.gather([*low, *high], timeout=DEADLINE_S)
    assert order.read_text().split() == ["high"] * 3 + ["low"] * 3


# --- values ---------------------------------------------------------------------------------------


def test_large_arrays_go_through_files(session: Session, shared_site: SiteUnderTest) -> None:
    def make(seed: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).random((300, 300))

    futures = [session.submit(make, seed) for seed in range(4)]
    total = session.submit(lambda arrays: sum(a.sum() for a in arrays), futures)
    expected = [make(seed) for seed in range(4)]
    for future, array in zip(futures, expected, strict=True):
        assert np.array_equal(future.result(DEADLINE_S), array)
    assert total.result(DEADLINE_S) == pytest.approx(sum(a.sum() for a in expected))
    shown = shared_site.query("task", task=futures[0].task_id)
    assert shown["results"][0]["file"].startswith("results/")
    assert (shared_site.directory / shown["results"][0]["file"]).is_file()


def test_mixed_values_come_back_as_they_were(session: Session) -> None:
    value: dict[str, Any] = {
        "array": np.arange(20000.0),
        "text": "x" * 100_000,
        "list": [1, {2, 3}, None],
    }
    ((back,), _) = session.submit(tasks.echo, value).result(DEADLINE_S)
    assert np.array_equal(back["array"], value["array"])
    assert (back["text"], back["list"]) == (value["text"], value["list"])


# --- what a task knows ----------------------------------------------------------------------------


def test_context(session: Session) -> None:
    @pilot.task(name="curious", time_limit="1m")
    def ask() -> tuple[Any, ...]:
        here = pilot.context()
        return here.task_id, here.name, here.session_id, here.attempt, here.rank, here.ranks

    future = session.submit(ask)
    expected = (future.task_id, "curious", session.id, 1, 0, 1)
    assert future.result(DEADLINE_S) == expected


def test_next_attempt_finds_the_checkpoint(session: Session) -> None:
    @pilot.task(max_crashes=1)
    def work() -> tuple[int, list[float]]:
        checkpoint = pilot.context().checkpoint
        found = checkpoint.load()
        if found is None:
            checkpoint.save(7, {"field": np.arange(3.0)})
            os._exit(1)
        step, state = found
        return step, state["field"].tolist()

    assert session.submit(work).result(DEADLINE_S) == (7, [0.0, 1.0, 2.0])


def test_logs_are_found_while_it_runs_and_after(
    session: Session, shared_site: SiteUnderTest, tmp_path: Path
) -> None:
    def talk(started: str, go: str) -> None:
        print("before the wait", flush=True)
        tasks.wait_for_file(started, go)
        print("after the wait")

    started, go = tmp_path / "started", tmp_path / "go"
    future = session.submit(talk, str(started), str(go))

    def output() -> str:
        texts = []
        for span in shared_site.query("logs", task=future.task_id):
            data = (shared_site.directory / span["path"]).read_bytes()
            texts.append(data[span["start"] : None if span["end"] < 0 else span["end"]].decode())
        return "".join(texts)

    wait_until(lambda: "before the wait" in output(), DEADLINE_S, "the first line")
    assert "after" not in output()
    go.touch()
    future.result(DEADLINE_S)
    assert output() == "before the wait\nafter the wait\n"


def test_environment_and_directory_are_the_sessions(
    shared_site: SiteUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shared_site.session(variables={"MY_VARIABLE": "mine"}) as session:
        assert session.submit(os.getcwd).result(DEADLINE_S) == str(tmp_path)
        assert session.submit(os.getenv, "MY_VARIABLE").result(DEADLINE_S) == "mine"


def test_attempt_has_its_timestamps(session: Session, shared_site: SiteUnderTest) -> None:
    future = session.submit(tasks.pause, 0.05)
    future.result(DEADLINE_S)
    (attempt,) = shared_site.query("task", task=future.task_id)["attempts_made"]
    names = ("created", "ready", "assigned", "received", "fetched", "started", "ended", "reported")
    times = [attempt[name] for name in names]
    assert times == sorted(times) and times[0] > 0
    assert attempt["committed"] >= attempt["reported"]
    assert attempt["ended"] - attempt["started"] >= 0.05
    assert attempt["outcome"] == "ok" and attempt["node"] and attempt["pilot"]


# --- programs -------------------------------------------------------------------------------------


def test_interrupted_program_leaves_in_order(local_site: SiteUnderTest) -> None:
    program = (
        "import sys, os, signal, threading, pathlib, pilot\n"
        "from support import tasks\n"
        "scratch = pathlib.Path(sys.argv[2])\n"
        "with pilot.Session(sys.argv[1], sys_path=sys.path[:1]) as session:\n"
        "    files = str(scratch / 'started'), str(scratch / 'never'), 1000.0\n"
        "    futures = [session.submit(tasks.wait_for_file, *files) for _ in range(5)]\n"
        "    print(session.id, flush=True)\n"
        "    pilot.gather(futures)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(local_site.directory), str(local_site.scratch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert child.stdout is not None
    number = int(child.stdout.readline())
    wait_until((local_site.scratch / "started").exists, DEADLINE_S, "a task to run")
    child.send_signal(2)
    _, errors = child.communicate(timeout=DEADLINE_S)
    assert child.returncode != 0 and "KeyboardInterrupt" in errors
    assert f"interrupted; 5 unfinished tasks of session {number} were cancelled" in errors
    assert local_site.query("session", session=number)["states"] == {"CANCELLED": 5}
    wait_until(
        lambda: local_site.query("session", session=number)["state"] == "CLOSED",
        DEADLINE_S,
        "the session to end",
    )


def test_program_without_with_leaves_its_work_running(local_site: SiteUnderTest) -> None:
    program = (
        "import sys, pilot\n"
        "from support import tasks\n"
        "session = pilot.Session(sys.argv[1], sys_path=sys.path[:1])\n"
        "print(session.submit(tasks.note_run, sys.argv[2], 1).task_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(local_site.directory), str(local_site.scratch)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
    )
    task = done.stdout.strip()
    wait_until(
        lambda: local_site.query("result", task=task)["state"] == "COMPLETED",
        DEADLINE_S,
        "the task that was left",
    )


def test_head_ends_when_it_has_been_idle(make_site: Any) -> None:
    site = make_site(
        head={"idle_timeout": "1s"},
        pools={"main": {"cores_per_node": 1, "walltime": "1h", "idle_time": "1s"}},
    )
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    wait_until(lambda: not site.processes(), DEADLINE_S, "head and pilot to end by themselves")
    with site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


# --- interruptions --------------------------------------------------------------------------------


class Interruption:
    """An interruption at the n-th line that this thread runs of the client, as by Ctrl-C.

    Not where Python itself lets no signal come between: at the lines of ``with`` and ``try`` (the
    first also runs when the block is left, just before its lock is released), and where a line goes
    on (at the end of a comprehension, an exception of CPython 3.13 would leave locks taken).
    """

    FOLDER = str(Path(pilot.__file__).parent / "client")

    def __init__(self, line: int) -> None:
        self._left = line
        self._last: dict[FrameType, int] = {}
        self.where = ""

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.FOLDER):
            return None
        if event == "line" and self._is_between(frame):
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._trace

    def _is_between(self, frame: FrameType) -> bool:
        goes_on = self._last.get(frame) == frame.f_lineno
        self._last[frame] = frame.f_lineno
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return not goes_on and not line.lstrip().startswith(("with ", "try:"))


def _new_function(number: int) -> Callable[[int], tuple[int, int]]:
    """Return a function that no session knows yet."""
    return lambda x: (x, number)


@pytest.mark.parametrize("kind", ["many", "large", "put", "retry"])
def test_a_submission_that_is_interrupted_anywhere_harms_no_later_one(
    shared_site: SiteUnderTest, kind: str
) -> None:
    with shared_site.session() as session:
        last: dict[str, Future[tuple[int, int]]] = {}
        where, number = "…", 0
        while where:
            number += 1
            function = _new_function(number)
            failed = [session.submit(int, "no number")] if kind == "retry" else []
            concurrent.futures.wait(failed, DEADLINE_S)
            with Interruption(number) as interruption, suppress(KeyboardInterrupt):
                if kind == "many":
                    session.map(function, range(3))
                elif kind == "large":
                    session.submit(function, bytes(200_000))
                elif kind == "put":
                    session.put({number: b"value"})
                else:
                    session.retry(failed)
            where = interruption.where
            last[where] = session.submit(function, number)
        assert len(last) > 10
        for n, (line, future) in enumerate(last.items(), start=1):
            assert future.result(DEADLINE_S)[1] >= n, line
