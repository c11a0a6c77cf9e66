"""Futures without a head: their parts, when values are read, callbacks, where they belong."""

from __future__ import annotations

import concurrent.futures as cf
import logging
import pickle
import sys
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import wait_until

import pilot
from pilot.client.arguments import Origin, decode_arguments, encode_arguments
from pilot.client.callbacks import Callbacks, CalledBack
from pilot.client.child_tasks import ChildFuture
from pilot.client.failures import exception_of
from pilot.client.future import Future
from pilot.client.results import Results
from pilot.data.pickles import encode
from pilot.errors import PilotError, SubmissionError
from pilot.model.states import FinalState
from pilot.model.tasks import TaskFailure, TaskOutcome
from pilot.model.values import Value

HERE = Path("/nowhere")


def session_at(directory: str, database: str = "") -> Any:
    """What a future needs of its session."""
    origin = Origin(Path(directory).name, directory, database)
    return SimpleNamespace(
        site=SimpleNamespace(directory=HERE),
        origin=origin,
        is_open=False,
        _check_process=lambda: None,
    )


def future_of(
    names: tuple[str, ...] = (), count: int = 1, site: str = "/sites/a", database: str = ""
) -> Future[Any]:
    return Future(cast("Any", session_at(site, database)), 1 << 32 | 7, names, count, "work")


def child_of(site: str, count: int) -> ChildFuture:
    parent = SimpleNamespace(
        origin=Origin(Path(site).name, site),
        has_ended=False,
        task_id="1.1",
        _check_released=lambda _: None,
    )
    return ChildFuture(cast("Any", parent), 1 << 32 | 7, (), count)


def settle(future: Future[Any], *values: Any) -> None:
    future._settle(
        TaskOutcome(future.task, "COMPLETED", tuple(Value(0, encode(one)) for one in values))
    )


def failed(error: BaseException, state: FinalState = "FAILED") -> TaskOutcome:
    failure = TaskFailure(
        type(error).__name__, str(error), "its traceback", encode(error), ("Exception",), "n", 1
    )
    return TaskOutcome(1 << 32 | 7, state, failure=failure)


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, (7, 8), {"a": 1}, [1], "text", tuple(range(1000))])
def test_one_result_has_no_parts_whatever_it_is(value: object) -> None:
    future = future_of()
    for key in (0, -1, 1, "a", slice(0, 1), None, 0.0):
        with pytest.raises(TypeError, match=r"task 1\.7 has one result"):
            future[key]  # type: ignore[index]  # of any type
    with pytest.raises(TypeError, match="forget brackets"):
        list(future)
    with pytest.raises(TypeError, match="forget brackets"):
        dict(zip([1], future, strict=False))
    settle(future, value)
    assert future.result() == value
    with pytest.raises(TypeError, match=r"task 1\.7 has one result"):
        future[0]


@pytest.mark.parametrize("late", [False, True])
def test_several_results_have_parts(late: bool) -> None:
    future = future_of(("a", "b", "c"), 3)
    if late:
        settle(future, 1, (2, 2), 3)
    parts = [future[0], future["b"], future[-1], future[np.int64(2)], *future]
    if not late:
        assert not any(part.done() for part in parts)
        settle(future, 1, (2, 2), 3)
    assert [part.result(1) for part in parts] == [1, (2, 2), 3, 3, 1, (2, 2), 3]
    assert future.result() == (1, (2, 2), 3)
    assert future[1].result(1) == (2, 2)  # also of what was read


def test_very_many_parts_are_settled_together() -> None:
    future = future_of((), 20_000)
    parts = list(future)
    settle(future, *range(20_000))
    assert [part.result(1) for part in parts] == list(range(20_000))


def test_only_result_with_a_name_is_its_part() -> None:
    future = future_of(("a",), 1)
    part = future["a"]
    settle(future, [7, 8])
    assert future.result() == part.result(1) == future[0].result(1) == [7, 8]
    assert future["a"].result(1) == [7, 8]


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        (2, IndexError, "has 2 results, and no number 2"),
        (-3, IndexError, "no number -3"),
        ("x", KeyError, "no result 'x'; it has 2, without names"),
        (slice(0, 1), TypeError, "not given by a slice"),
        (1.0, TypeError, "not given by a float"),
        (None, TypeError, "not given by a NoneType"),
    ],
)
def test_wrong_key_is_refused_in_words(key: Any, kind: type[Exception], words: str) -> None:
    for future in (future_of((), 2), child_of("/sites/a", 2)):
        with pytest.raises(kind, match=words):
            future[key]


@given(st.integers(1, 5), st.integers(-7, 7))
def test_numbers_are_those_of_a_tuple(count: int, key: int) -> None:
    values = tuple(range(count))
    shape = Results(count, tuple(map(str, values)))
    try:
        expected = values[key]
    except IndexError:
        with pytest.raises(IndexError):
            shape.index(key, "1.1")
    else:
        assert shape.index(key, "1.1") == expected


def test_part_of_what_failed_or_was_cancelled() -> None:
    future = future_of((), 2)
    part = future[0]
    future._settle(failed(ValueError("no"), "TIMED_OUT"))
    assert isinstance(part.exception(1), ValueError) and part.state == "TIMED_OUT"
    future = future_of((), 2)
    part = future[1]
    future._settle(TaskOutcome(future.task, "CANCELLED"))
    assert part.cancelled() and future[0].cancelled() and future.cancelled()


def test_part_is_settled_whatever_is_wrong_with_the_whole() -> None:
    future = future_of((), 3)
    part = future[2]
    settle(future, 1)  # a head that tells fewer
    assert part.exception(1) is not None


# --- when it is read ------------------------------------------------------------------------------


class Noisy:
    """Tells which thread has unpickled it."""

    read_by: threading.Thread | None = None

    def __reduce__(self) -> Any:
        return (_make_noisy, ())


class NoisyError(Exception):
    def __reduce__(self) -> Any:
        return (_make_noisy_error, ())


def _make_noisy() -> Noisy:
    made = Noisy()
    made.read_by = threading.current_thread()
    return made


def _make_noisy_error() -> NoisyError:
    made = NoisyError()
    made.args = (threading.current_thread(),)
    return made


def test_what_came_is_unpickled_by_who_asks_and_once() -> None:
    future, failing = future_of(), future_of()
    outcome = failed(NoisyError())
    other = threading.Thread(target=lambda: (settle(future, Noisy()), failing._settle(outcome)))
    other.start()
    other.join()
    assert future.result().read_by is threading.current_thread()
    assert future.result() is future.result()
    error = failing.exception()
    assert error is not None and error.args == (threading.current_thread(),)
    assert failing.exception() is error
    with pytest.raises(NoisyError) as caught:
        failing.result()
    assert caught.value is error


class Ends:
    """Ends the program of whoever unpickles it."""

    def __reduce__(self) -> Any:
        return (sys.exit, (3,))


def test_result_that_ends_programs_when_it_is_read_is_an_error() -> None:
    future = future_of()
    settle(future, Ends())
    with pytest.raises(pilot.EncodingError, match=r"result of task 1\.7: .*SystemExit: 3.*reduce"):
        future.result()


def test_cancelled_or_settled_first_stays_so() -> None:
    future = future_of()
    assert future._end_cancelled() and not future._end_cancelled()
    settle(future, 1)
    future._fail(ValueError(), "LOST")
    future._start()
    assert future.cancelled() and future.state == "CANCELLED"
    future = future_of()
    settle(future, 1)
    future._fail(ValueError(), "LOST")
    assert future.result() == 1 and future.state == "COMPLETED" and not future._end_cancelled()


def test_state_and_name_are_in_words() -> None:
    future = future_of()
    assert repr(future) == "<pilot future of task 1.7 'work': PENDING>"
    future._start()
    assert future.state == "RUNNING" and future.running()
    future._settle(failed(ValueError("no"), "FAILED"))
    assert repr(future) == "<pilot future of task 1.7 'work': FAILED>"
    refused = future_of()
    refused._fail(SubmissionError("no"), "REFUSED")
    assert refused.state == "REFUSED"


def test_who_has_ended_for_another_one_names_it() -> None:
    why = TaskFailure("TaskAborted", "its input, task 1.3 (f), is FAILED", cause=(1 << 32) + 3)
    for state, kind in (("ABORTED", pilot.TaskAborted), ("CANCELLED", cf.CancelledError)):
        future = future_of(count=2)
        part = future[1]
        assert future.first_cause is None
        future._settle(TaskOutcome(future.task, state, (), why))  # type: ignore[arg-type]  # of these two
        for each in (future, part):
            assert (each.state, each.first_cause) == (state, "1.3")
            with pytest.raises(kind, match=r"task 1\.7.*: its input, task 1\.3 \(f\), is FAILED"):
                each.result()
    by_hand = future_of()
    assert by_hand._end_cancelled()
    by_hand._settle(TaskOutcome(by_hand.task, "CANCELLED", (), why))
    assert by_hand.first_cause is None
    with pytest.raises(cf.CancelledError, match=r"^$"):
        by_hand.result()


def test_a_task_that_the_head_does_not_know_is_lost() -> None:
    future = future_of()
    future._settle(TaskOutcome(future.task, "LOST"))
    assert future.state == "LOST"
    with pytest.raises(PilotError, match=r"there is no task 1\.7"):
        future.result()


# --- exceptions of tasks --------------------------------------------------------------------------


class OwnExit(SystemExit):
    pass


class OwnStop(StopIteration):
    pass


class Plain(BaseException):
    pass


CONTROL = [
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    cf.CancelledError,
    OwnExit,
    OwnStop,
    Plain,
]


@pytest.mark.parametrize("kind", CONTROL)
def test_what_means_something_to_the_caller_is_the_cause_of_a_task_error(
    kind: type[BaseException],
) -> None:
    error = exception_of(failed(kind("enough")))
    assert type(error) is pilot.TaskError
    assert type(error.__cause__) is kind
    assert f"task 1.7 on n ended by {kind.__name__}" in str(error)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "(exit status 0)"),
        (0, "(exit status 0)"),
        (3, "(exit status 3)"),
        ("no", "(exit status 1): no"),
    ],
)
def test_exit_status_is_told(code: Any, words: str) -> None:
    assert str(exception_of(failed(SystemExit(code)))).endswith(f"SystemExit {words}")


def test_other_exceptions_are_as_they_were() -> None:
    for error in (ValueError("x"), TimeoutError("x"), KeyError("x"), OSError(2, "x")):
        made = exception_of(failed(error))
        assert type(made) is type(error) and made.args == error.args
        assert isinstance(made.__cause__, pilot.RemoteTraceback)


# --- callbacks ------------------------------------------------------------------------------------


def test_callbacks_of_a_connections_thread_run_elsewhere_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks, futures = Callbacks(), [CalledBack[int]() for _ in range(3)]
    called: list[tuple[int, str]] = []

    def leave(_: object) -> None:
        raise SystemExit(3)

    for number, future in enumerate(futures):
        future.add_done_callback(leave)
        future.add_done_callback(
            lambda _, n=number: called.append((n, threading.current_thread().name))  # type: ignore[misc]  # it has a default
        )
    waits = threading.Event()
    futures[0].add_done_callback(lambda _: waits.wait(20))

    def bring() -> None:
        callbacks.serve_this_thread()
        for future in futures:
            future.set_result(1)

    thread = threading.Thread(target=bring)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        thread.start()
        thread.join()  # though the first callback still waits
        assert all(future.done() for future in futures)
        waits.set()
        callbacks.close()
    assert called == [(n, "pilot-callbacks") for n in range(3)]
    assert caplog.text.count("SystemExit") >= 3


def test_callback_may_close_its_thread() -> None:
    callbacks = Callbacks()
    closed = threading.Event()
    callbacks.later(lambda: (callbacks.close(), closed.set()))
    wait_until(closed.is_set, 20)


# --- where they belong ----------------------------------------------------------------------------

A, B = Origin("a", "/sites/a"), Origin("b", "/sites/b")


def test_future_of_another_site_is_no_argument() -> None:
    for future in (future_of(), future_of((), 2), future_of((), 2)[1]):
        _, inputs = encode_arguments(([future],), {}, A)
        assert inputs[0][0] == future.task
        with pytest.raises(SubmissionError, match=r"task 1.7 is of site a, .* at site b; give its"):
            encode_arguments(([future],), {}, B)
        with pytest.raises(SubmissionError, match="site a"):
            encode_arguments((), {"x": {"deep": (lambda: 1, future)}}, B)
    child = child_of("/sites/a", 1)
    with pytest.raises(SubmissionError, match="site a"):
        encode_arguments((child,), {}, B)
    encode_arguments((child,), {}, A)


def test_database_tells_more_than_the_directory() -> None:
    old = future_of(database="one")
    renewed = Origin("a", "/sites/a", "two")
    with pytest.raises(SubmissionError, match="is of an earlier database of site a"):
        encode_arguments((old,), {}, renewed)
    # The same one by another way, such as a symbolic link.
    encode_arguments((old,), {}, Origin("link", "/link", "one"))
    # A head that does not say.
    encode_arguments((old,), {}, Origin("a", "/sites/a"))


def test_arguments_are_encoded_as_before() -> None:
    payload, _ = encode_arguments((future_of(),), {}, A)
    assert decode_arguments(payload, ["value"], HERE) == (("value",), {})
    with pytest.raises(TypeError, match="only be pickled as an argument"):
        pickle.dumps(future_of())


# --- gather ---------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["first", "second"])


def done(value: Any) -> cf.Future[Any]:
    future: cf.Future[Any] = cf.Future()
    future.set_result(value)
    return future


_nested = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=4)
        | st.tuples(inner, inner).map(lambda two: Pair(*two))
    ),
    max_leaves=12,
)


def _with_futures(item: Any) -> Any:
    if isinstance(item, Pair):
        return Pair(*map(_with_futures, item))
    if isinstance(item, (list, tuple)):
        return type(item)(map(_with_futures, item))
    if isinstance(item, dict):
        return {key: _with_futures(value) for key, value in item.items()}
    return done(item)


@given(_nested)
def test_gather_gives_what_it_was_given_with_values_in_the_places_of_futures(value: Any) -> None:
    assert pilot.gather(_with_futures(value)) == value


def test_gather_says_so_where_lists_are_nested_too_deep() -> None:
    deep: list[Any] = [done(1)]
    for _ in range(200):
        deep = [deep]
    assert pilot.gather(deep) != deep
    deep.append(deep)
    with pytest.raises(ValueError, match=r"nested more than \d+ deep; does one hold itself"):
        pilot.gather(deep)


def test_gather_takes_one_future_and_any_iterable() -> None:
    future = future_of()
    settle(future, (7, 8))
    assert pilot.gather(future) == (7, 8)
    assert pilot.gather(done(n) for n in range(3)) == [0, 1, 2]
    assert pilot.gather({done(1), done(2)}) == {1, 2}
    assert pilot.gather({"a": done(1)}.values()) == [1]
    assert pilot.gather([done(1), "beside it", None]) == [1, "beside it", None]
    assert pilot.gather([]) == []


def test_gather_refuses_what_holds_no_futures() -> None:
    for wrong in (3, None, "text", b"bytes"):
        with pytest.raises(TypeError, match="gather takes a future, or lists"):
            pilot.gather(wrong)

    async def work() -> None:
        pass

    coroutine = work()
    with pytest.raises(TypeError, match="cannot wait for <coroutine"):
        pilot.gather([done(1), coroutine])
    coroutine.close()
    with pytest.raises(PilotError, match="cannot wait for a child that comes to be"):
        pilot.gather([child_of("/sites/a", 1)])


def test_gather_raises_the_first_or_puts_it_in_its_place() -> None:
    bad: cf.Future[Any] = cf.Future()
    bad.set_exception(KeyError("first"))
    cancelled: cf.Future[Any] = cf.Future()
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    with pytest.raises(KeyError, match="first"):
        pilot.gather({"x": [done(1), bad], "y": cancelled})
    got = pilot.gather({"x": [done(1), bad], "y": cancelled}, return_exceptions=True)
    assert got["x"][0] == 1 and isinstance(got["x"][1], KeyError)
    assert isinstance(got["y"], cf.CancelledError)
    with pytest.raises(cf.TimeoutError, match="1 of 2 have not ended"):
        pilot.gather([done(1), [cf.Future()]], timeout=0.01)


def test_gather_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pilot.client import progress

    monkeypatch.setattr(progress, "_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_REFRESH_S", 0.01)
    own, other = future_of(), future_of()
    last: cf.Future[Any] = cf.Future()
    shown = threading.Event()

    def later() -> None:
        settle(own, 1)
        other._settle(failed(ValueError("no")))
        shown.wait(20)
        last.set_result(3)

    thread = threading.Thread(target=later)
    thread.start()

    def note(text: str) -> None:
        if "2 of 3" in text:
            assert "1 failed" in text
            shown.set()

    monkeypatch.setattr(progress, "note", note)
    got = pilot.gather([own, other, last], progress=True, return_exceptions=True)
    thread.join()
    assert shown.is_set() and got[0] == 1 and got[2] == 3 and isinstance(got[1], ValueError)
