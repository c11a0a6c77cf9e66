"""Python's own contract of executors and futures, for `Session`.

What `concurrent.futures` documents, and what its users rely on: each test would hold for a
`ProcessPoolExecutor` as well, word for word, except where it says otherwise.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    """One session for all tests that leave it open."""
    with shared_site.session() as session:
        yield session


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Tasks that run until they are told to end."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()


class Gate:
    """A task given `held` starts, and ends when the gate is open."""

    def __init__(self, directory: Path) -> None:
        self._go = directory / "go"
        self._started = directory / "started"

    def hold(self, executor: cf.Executor) -> cf.Future[str]:
        """Submit a task that waits for the gate."""
        return executor.submit(tasks.wait_for_file, str(self._started), str(self._go))

    def wait_for_start(self) -> None:
        wait_until(self._started.exists, DEADLINE_S, "the task to start")

    def open(self) -> None:
        self._go.touch()


def _any(*futures: cf.Future[Any]) -> list[cf.Future[Any]]:
    """Futures of several types, in a list."""
    return [*futures]


# --- submit ---------------------------------------------------------------------------------------


def test_is_an_executor(session: Session) -> None:
    assert isinstance(session, cf.Executor)
    assert isinstance(session.submit(tasks.square, 1), cf.Future)


def test_submit(session: Session) -> None:
    assert session.submit(pow, 2, 8).result(DEADLINE_S) == 256


def test_submit_passes_keywords_of_any_name(session: Session) -> None:
    future = session.submit(tasks.echo, 1, self=2, fn=3, task=4, args=5, kwargs=6)
    expected = {"self": 2, "fn": 3, "task": 4, "args": 5, "kwargs": 6}
    assert future.result(DEADLINE_S) == ((1,), expected)


def test_submit_needs_a_function(session: Session) -> None:
    with pytest.raises(TypeError):
        session.submit()  # type: ignore[call-arg]  # no function
    with pytest.raises(TypeError):
        session.submit(arg=1)  # type: ignore[call-arg]  # no function


def test_runs_in_another_process(session: Session) -> None:
    assert session.submit(os.getpid).result(DEADLINE_S) != os.getpid()


def test_submit_from_many_threads(session: Session) -> None:
    results: list[float] = []

    def work(start: int) -> None:
        futures = [session.submit(tasks.square, start + n) for n in range(20)]
        results.extend(future.result(DEADLINE_S) for future in futures)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted((100 * a + b) ** 2 for a in range(5) for b in range(20))


# --- map ------------------------------------------------------------------------------------------


def test_map_keeps_the_order(session: Session) -> None:
    pauses = [0.2, 0.0, 0.1, 0.0]
    assert list(session.map(tasks.pause, pauses)) == pauses


def test_map_takes_several_iterables_to_the_shortest(session: Session) -> None:
    assert list(session.map(pow, [2, 3, 4], [5, 6])) == [32, 729]


def test_map_is_lazy_in_its_results_only(session: Session, gate: Gate) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    results = session.map(tasks.square, numbers())
    assert taken == [0, 1, 2]
    assert next(results) == 0


def test_map_raises_where_the_exception_comes(session: Session) -> None:
    results = session.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    gate.wait_for_start()
    got = []
    with pytest.raises(cf.TimeoutError):
        for value in session.map(tasks.pause, [0.0, 60.0], timeout=3.0):
            got.append(value)
    assert got == [0.0]
    gate.open()
    held.result(DEADLINE_S)


def test_map_accepts_a_chunk_size(session: Session) -> None:
    assert list(session.map(tasks.square, range(10), chunksize=3)) == [n * n for n in range(10)]


# --- the future -----------------------------------------------------------------------------------


def test_states_of_a_future(session: Session, gate: Gate) -> None:
    future = gate.hold(session)
    assert not future.done() and not future.cancelled()
    gate.wait_for_start()
    wait_until(future.running, DEADLINE_S, "the future to say that it runs")
    gate.open()
    future.result(DEADLINE_S)
    assert future.done() and not future.running() and not future.cancelled()


def test_result_times_out_and_comes_later(session: Session, gate: Gate) -> None:
    future = gate.hold(session)
    with pytest.raises(cf.TimeoutError):
        future.result(timeout=0.05)
    with pytest.raises(cf.TimeoutError):
        future.exception(timeout=0)
    gate.open()
    assert future.result(DEADLINE_S)
    assert future.exception() is None


def test_result_can_be_asked_for_by_many_threads(session: Session, gate: Gate) -> None:
    future = gate.hold(session)
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(future.result(DEADLINE_S))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert len(results) == 5 and len(set(results)) == 1


def test_none_and_false_are_results(session: Session) -> None:
    values: list[Any] = [None, False, 0, "", []]
    for value in values:
        assert session.submit(tasks.echo, value).result(DEADLINE_S) == ((value,), {})
    assert session.submit(gc.enable).result(DEADLINE_S) is None


# --- exceptions -----------------------------------------------------------------------------------


class _Custom(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


def raise_custom() -> None:
    raise _Custom(7, "seven")


def raise_chained() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def test_exception_has_type_and_arguments(session: Session) -> None:
    error = session.submit(tasks.fail, "message").exception(DEADLINE_S)
    assert type(error) is ValueError and error.args == ("message",)
    with pytest.raises(ValueError, match="message"):
        session.submit(tasks.fail, "message").result(DEADLINE_S)


def test_exception_of_the_users_own_class(session: Session) -> None:
    error: Any = session.submit(raise_custom).exception(DEADLINE_S)
    assert type(error).__name__ == "_Custom"
    assert error.args == (7, "seven")
    assert error.code == 7


def test_exception_carries_the_remote_traceback(session: Session) -> None:
    error = session.submit(tasks.fail).exception(DEADLINE_S)
    assert error is not None and isinstance(error.__cause__, pilot.RemoteTraceback)
    text = str(error.__cause__)
    assert "in fail" in text and "raise ValueError(message)" in text
    assert "support/tasks.py" in text


def test_exception_keeps_what_it_was_raised_from(session: Session) -> None:
    error = session.submit(raise_chained).exception(DEADLINE_S)
    assert type(error) is ValueError
    text = str(error.__cause__)
    assert "KeyError: 'inner'" in text and "direct cause" in text


@pytest.mark.parametrize(
    "kind",
    [
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        asyncio.CancelledError,
        cf.CancelledError,
        StopIteration,
        StopAsyncIteration,
    ],
)
def test_exceptions_that_end_programs_or_loops_end_only_the_task(
    session: Session, kind: type[BaseException]
) -> None:
    def leave() -> None:
        raise kind("enough")

    error = session.submit(leave).exception(DEADLINE_S)
    assert type(error) is pilot.TaskError
    assert type(error.__cause__) is kind and kind.__name__ in str(error)
    assert isinstance(error.__cause__.__cause__, pilot.RemoteTraceback)
    assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_exit_status_of_a_task_that_exits_is_told(session: Session) -> None:
    error = session.submit(sys.exit, 3).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskError) and "SystemExit (exit status 3)" in str(error)


def test_no_loop_or_coroutine_ends_early_by_what_a_task_raises(session: Session) -> None:
    def stop(number: int) -> int:
        if number == 2:
            raise StopIteration
        return number

    futures = [session.submit(stop, number) for number in (1, 2, 3)]
    with pytest.raises(pilot.TaskError):
        list(zip([1, 2, 3], (future.result(DEADLINE_S) for future in futures), strict=False))
    with pytest.raises(pilot.TaskError):
        list(map(pilot.Future.result, futures))
    with pytest.raises(pilot.TaskError):
        list(session.map(stop, [1, 2, 3]))

    async def ask() -> int:
        return await asyncio.wait_for(asyncio.wrap_future(futures[1]), DEADLINE_S)

    with pytest.raises(pilot.TaskError):
        asyncio.run(ask())


def test_exception_that_cannot_be_pickled(session: Session) -> None:
    def fail() -> None:
        class Local(Exception):
            def __reduce__(self) -> str:
                raise RuntimeError("not me")

        raise Local("of a strange class")

    error = session.submit(fail).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskError)
    assert "Local: of a strange class" in str(error)


# --- cancelling -----------------------------------------------------------------------------------


def test_cancel_before_the_start(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    waiting = session.submit(tasks.echo, held)  # it can't start before the gate opens
    assert waiting.cancel()
    assert waiting.cancelled() and waiting.done() and not waiting.running()
    assert waiting.cancel(), "cancelling twice is as good as once"
    for ask in (waiting.result, waiting.exception):
        with pytest.raises(cf.CancelledError):
            ask(timeout=0)
    gate.open()
    assert held.result(DEADLINE_S)


def test_cancel_after_the_end(session: Session) -> None:
    future = session.submit(tasks.square, 3)
    future.result(DEADLINE_S)
    assert not future.cancel()
    assert not future.cancelled()
    failed = session.submit(tasks.fail)
    failed.exception(DEADLINE_S)
    assert not failed.cancel()


def test_cancelled_tasks_are_not_run(session: Session, gate: Gate, tmp_path: Path) -> None:
    held = gate.hold(session)
    marks = tmp_path / "marks"
    marks.mkdir()

    def note(_: object, number: int) -> int:
        return tasks.note_run(str(marks), number)

    futures = [session.submit(note, held, number) for number in range(10)]
    for future in futures[::2]:
        assert future.cancel()
    # What comes later in the same stream of messages has come: the pilot has heard of them, too.
    assert session.submit(pow, 2, 8).result(DEADLINE_S) == 256
    gate.open()
    assert [future.result(DEADLINE_S) for future in futures[1::2]] == [1, 3, 5, 7, 9]
    assert sorted(int(path.name) for path in marks.iterdir()) == [1, 3, 5, 7, 9]


# --- callbacks ------------------------------------------------------------------------------------


def test_callback_gets_the_future(session: Session) -> None:
    called: list[cf.Future[float]] = []
    future = session.submit(tasks.square, 3)
    future.add_done_callback(called.append)
    future.result(DEADLINE_S)
    wait_until(lambda: called, DEADLINE_S, "the callback")
    assert called == [future]


def test_callbacks_come_in_the_order_of_their_adding(session: Session, gate: Gate) -> None:
    order: list[int] = []
    future = gate.hold(session)
    for number in range(10):
        future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]  # it has a default
    gate.open()
    future.result(DEADLINE_S)
    wait_until(lambda: len(order) == 10, DEADLINE_S, "the callbacks")
    assert order == list(range(10))


def test_callback_of_a_future_that_is_done_comes_at_once(session: Session) -> None:
    future = session.submit(tasks.square, 3)
    future.result(DEADLINE_S)
    called: list[int] = []
    future.add_done_callback(lambda _: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]


def test_callback_of_a_failed_and_of_a_cancelled_future(session: Session, gate: Gate) -> None:
    called: list[cf.Future[Any]] = []
    failed = session.submit(tasks.fail)
    failed.add_done_callback(called.append)
    failed.exception(DEADLINE_S)
    wait_until(lambda: called, DEADLINE_S, "the callback")
    waiting = session.submit(tasks.echo, gate.hold(session))
    waiting.add_done_callback(called.append)
    waiting.cancel()
    assert called == [failed, waiting]


def test_callback_that_raises_is_logged_and_harms_nobody(
    session: Session, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def bad(_: object) -> None:
        called.append("bad")
        raise RuntimeError("a callback went wrong")

    future = gate.hold(session)
    future.add_done_callback(bad)
    future.add_done_callback(lambda _: called.append("good"))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        future.result(DEADLINE_S)
        wait_until(lambda: len(called) == 2, DEADLINE_S, "the callbacks")
    assert called == ["bad", "good"]
    assert "a callback went wrong" in caplog.text
    assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, StopIteration])
def test_whatever_a_callback_raises_the_others_come(
    session: Session, gate: Gate, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    called: list[object] = []

    def bad(_: object) -> None:
        raise kind

    future = gate.hold(session)
    future.add_done_callback(bad)
    future.add_done_callback(called.append)
    after = session.submit(tasks.echo, future)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        assert after.result(DEADLINE_S)
        wait_until(lambda: called == [future], DEADLINE_S, "the next callback")
    assert kind.__name__ in caplog.text
    assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_callback_may_wait_for_other_results_and_ask(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    told: list[Any] = []
    after = session.submit(tasks.echo, held)

    def ask(_: object) -> None:
        told.append(after.result(DEADLINE_S))
        told.append(list(session.map(pow, [2], [3])))
        told.append(session.task_counts(state="COMPLETED").keys())
        told.append(session.flush(DEADLINE_S))

    held.add_done_callback(ask)
    gate.open()
    wait_until(lambda: len(told) == 4, 2 * DEADLINE_S, "the callback to have asked for all")
    assert told == [((held.result(),), {}), [8], {"COMPLETED": 0}.keys(), True]


def test_leaving_the_block_waits_for_callbacks(shared_site: SiteUnderTest) -> None:
    called: list[object] = []
    with shared_site.session() as session:
        for number in range(5):
            future = session.submit(tasks.square, number)
            future.add_done_callback(lambda done: called.append(done.result()))
    assert len(called) == 5


def test_callback_may_submit(session: Session) -> None:
    more: list[cf.Future[float]] = []
    first = session.submit(tasks.square, 3)
    first.add_done_callback(lambda done: more.append(session.submit(tasks.square, done.result())))
    first.result(DEADLINE_S)
    wait_until(lambda: more, DEADLINE_S, "the callback")
    assert more[0].result(DEADLINE_S) == 81


# --- wait -----------------------------------------------------------------------------------------


def test_wait_for_all(session: Session) -> None:
    futures = _any(session.submit(tasks.square, 1), session.submit(tasks.fail))
    done, waiting = cf.wait(futures, DEADLINE_S)
    assert done == set(futures) and not waiting


def test_wait_for_the_first(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    quick = session.submit(tasks.square, 2)
    done, waiting = cf.wait(_any(held, quick), DEADLINE_S, cf.FIRST_COMPLETED)
    assert done == {quick} and waiting == {held}


def test_wait_for_the_first_exception(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    fails = session.submit(tasks.fail)
    done, waiting = cf.wait(_any(held, fails), DEADLINE_S, cf.FIRST_EXCEPTION)
    assert fails in done and waiting == {held}


def test_wait_for_an_exception_that_does_not_come(session: Session) -> None:
    futures = [session.submit(tasks.square, number) for number in range(3)]
    done, waiting = cf.wait(futures, DEADLINE_S, cf.FIRST_EXCEPTION)
    assert done == set(futures) and not waiting


def test_wait_times_out(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    quick = session.submit(tasks.square, 2)
    quick.result(DEADLINE_S)
    started = time.monotonic()
    done, waiting = cf.wait(_any(held, quick), timeout=0.3)
    assert 0.25 < time.monotonic() - started < DEADLINE_S
    assert done == {quick} and waiting == {held}


def test_wait_for_a_cancelled_one_and_for_the_same_one_twice(session: Session, gate: Gate) -> None:
    cancelled = session.submit(tasks.echo, gate.hold(session))
    cancelled.cancel()
    done, waiting = cf.wait([cancelled, cancelled], DEADLINE_S)
    assert done == {cancelled} and not waiting


def test_wait_mixes_executors(session: Session) -> None:
    with cf.ThreadPoolExecutor(1) as threads:
        futures = [threads.submit(pow, 2, 3), session.submit(pow, 2, 3)]
        done, _ = cf.wait(futures, DEADLINE_S)
    assert [future.result() for future in done] == [8, 8]


# --- as_completed ---------------------------------------------------------------------------------


def test_as_completed(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    others = _any(session.submit(tasks.square, 2), session.submit(tasks.fail))
    seen = []
    for future in cf.as_completed(_any(held, *others), DEADLINE_S):
        seen.append(future)
        if len(seen) == 2:
            gate.open()
    assert set(seen[:2]) == set(others) and seen[2] is held


def test_as_completed_times_out(session: Session, gate: Gate) -> None:
    held = gate.hold(session)
    done = session.submit(tasks.square, 2)
    done.result(DEADLINE_S)
    seen = []
    with pytest.raises(cf.TimeoutError):
        for future in cf.as_completed(_any(done, held), timeout=0.3):
            seen.append(future)
    assert seen == [done]


def test_as_completed_gives_duplicates_once(session: Session) -> None:
    future = session.submit(tasks.square, 2)
    assert list(cf.as_completed([future, future], DEADLINE_S)) == [future]


# --- shutdown -------------------------------------------------------------------------------------


def test_no_task_after_shutdown(shared_site: SiteUnderTest) -> None:
    session = shared_site.session()
    session.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        session.submit(pow, 2, 5)
    with pytest.raises(RuntimeError):
        session.map(tasks.square, [1])
    session.shutdown()  # twice does no harm


def test_shutdown_waits(shared_site: SiteUnderTest) -> None:
    session = shared_site.session()
    futures = [session.submit(tasks.pause, 0.1) for _ in range(6)]
    session.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0.1] * 6


def test_shutdown_without_waiting(shared_site: SiteUnderTest, gate: Gate) -> None:
    session = shared_site.session()
    held = gate.hold(session)
    after = session.submit(tasks.echo, held)
    session.shutdown(wait=False)
    assert not held.done()
    with pytest.raises(RuntimeError):
        session.submit(pow, 2, 5)
    gate.open()
    assert after.result(DEADLINE_S) == ((held.result(),), {})


def test_shutdown_cancels(shared_site: SiteUnderTest, gate: Gate) -> None:
    session = shared_site.session()
    held = gate.hold(session)
    gate.wait_for_start()
    wait_until(held.running, DEADLINE_S, "the task to be known to run")
    waiting = [session.submit(tasks.echo, held) for _ in range(5)]
    session.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    gate.open()
    assert held.result(DEADLINE_S)
    session.shutdown(wait=True)


def test_shutdown_that_cancels_lets_finish_what_runs(shared_site: SiteUnderTest) -> None:
    session = shared_site.session()
    futures = [session.submit(tasks.pause, 0.1) for _ in range(50)]
    after = session.submit(tasks.echo, futures)
    futures[0].result(DEADLINE_S)
    session.shutdown(cancel_futures=True)
    assert all(future.done() for future in _any(*futures, after))
    others = [future for future in futures if not future.cancelled()]
    assert 0 < len(others) < 40 and after.cancelled()
    assert [future.exception() for future in others] == [None] * len(others)


def test_object_of_a_bound_method_is_not_kept(session: Session) -> None:
    held = Big()
    ref = weakref.ref(held)
    session.submit(held.work)
    del held

    def freed() -> bool:
        gc.collect()
        return ref() is None

    wait_until(freed, DEADLINE_S, "the object to be freed")


def test_context_manager(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        futures = [session.submit(tasks.pause, 0.05) for _ in range(4)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        session.submit(pow, 2, 5)


def test_context_manager_waits_also_after_an_exception(shared_site: SiteUnderTest) -> None:
    with pytest.raises(LookupError), shared_site.session() as session:
        future = session.submit(tasks.pause, 0.2)
        raise LookupError
    assert future.done()


# --- memory ---------------------------------------------------------------------------------------


class Big:
    """Something that can be referred to weakly."""

    def work(self) -> None:
        """Do nothing."""


def test_arguments_and_results_are_not_kept(session: Session) -> None:
    argument = Big()
    future: cf.Future[object] | None = session.submit(id, argument)
    argument_ref, future_ref = weakref.ref(argument), weakref.ref(future)
    assert future is not None
    future.result(DEADLINE_S)
    del argument
    future = None

    def freed() -> bool:
        gc.collect()
        return argument_ref() is None and future_ref() is None

    wait_until(freed, DEADLINE_S, "argument and future to be freed")


def test_session_that_was_shut_down_is_freed(shared_site: SiteUnderTest) -> None:
    session: Session | None = shared_site.session()
    assert session is not None
    session.submit(tasks.square, 2).result(DEADLINE_S)
    session.shutdown()
    ref = weakref.ref(session)
    session = None

    def freed() -> bool:
        gc.collect()
        return ref() is None

    wait_until(freed, DEADLINE_S, "the session to be freed")
