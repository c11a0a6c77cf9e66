"""What is told of exceptions: whatever they are, it is bounded, and can be sent."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from support.builders import work

from pilot.agent.rules.completions import ended, lost, merge_failures, stopped
from pilot.client.failures import exception_of
from pilot.data.pickles import decode
from pilot.errors import CommandFailed, StorageError, TaskError
from pilot.limits import ERROR_TEXT_BYTES, NAME_BYTES
from pilot.model.tasks import TaskFailure, TaskOutcome
from pilot.scheduler.resources import Resources
from pilot.worker.failures import bases_of, failure_of

LIMIT = 64 << 10


class Holding(Exception):
    """Holds data, as `subprocess.CalledProcessError` does."""

    def __init__(self, held: Any) -> None:
        super().__init__("it holds data")
        self.held = held


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class TextOfItsOwn(str):
    """A text that is no plain one."""


def told(error: BaseException) -> TaskFailure:
    try:
        raise error
    except BaseException as raised:
        failure = failure_of(raised, "node", 1, LIMIT)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=TaskFailure)
    assert again == failure
    for text in (failure.message, failure.detail):
        assert len(text.encode()) <= ERROR_TEXT_BYTES + 200
    assert len(failure.exception) <= LIMIT
    return failure


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=50)
sizes = st.sampled_from([1, 1, 1, 1000, 200_000])


@given(texts, sizes, st.sampled_from([ValueError, OSError, KeyError, SystemExit, Holding]))
def test_any_text_can_be_told(text: str, times: int, kind: type[BaseException]) -> None:
    failure = told(kind(text * times))
    assert failure.type == kind.__name__ and kind.__name__ in failure.bases
    if times == 1:
        again = decode(failure.exception)
        assert type(again) is kind and again.args == kind(text).args


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    failure = told(ValueError("begin" + "x" * 5_000_000 + "end"))
    assert failure.message.startswith("begin") and failure.message.endswith("end")
    assert "characters left out" in failure.message and failure.exception == b""
    assert failure.detail.startswith("Traceback") and "was not sent" in failure.detail


def test_an_exception_with_large_data_is_left_behind_and_its_text_is_told() -> None:
    failure = told(Holding(bytes(1_000_000)))
    assert failure.exception == b"" and failure.message == "it holds data"
    assert "larger than 65.5 kB" in failure.detail
    assert decode(told(Holding(bytes(1000))).exception).held == bytes(1000)


def test_what_cannot_be_printed_or_pickled_is_told_all_the_same() -> None:
    assert "cannot be had" in told(Unprintable()).message
    assert told(ValueError(x for x in "abc")).exception == b""
    holding = decode(told(Holding(x for x in "abc")).exception)
    assert type(holding) is Holding and not hasattr(holding, "held")
    assert told(ValueError(TextOfItsOwn("own"))).message == "own"


def test_names_of_classes_are_bounded() -> None:
    kind: type[Exception] = Exception
    for n in range(300):
        kind = type(f"{n}" * 1000, (kind,), {})
    failure = told(kind("x"))
    assert len(failure.type) <= NAME_BYTES + 100 and len(failure.bases) <= 100
    assert bases_of(ValueError()) == ("ValueError", "Exception", "BaseException")


class OddFailure(CommandFailed):
    """A failure whose exit status cannot be had."""

    @property
    def returncode(self) -> int:
        raise SystemExit("not that one")

    @returncode.setter
    def returncode(self, _: int) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (CommandFailed("no", 3), ["exit 3"]),
        (CommandFailed("killed", -9), ["exit -9", "exit 137"]),  # as Python has it, and a shell
        (CommandFailed("odd", "3"), []),  # type: ignore[arg-type]  # as a user may write it
        (CommandFailed("odd", 10**5000), []),
        (OddFailure("odd", 3), []),
        (ValueError(3), []),
    ],
)
def test_the_exit_status_of_a_command_is_named(error: Exception, names: list[str]) -> None:
    assert [name for name in bases_of(error) if name.startswith("exit")] == names


def test_what_others_tell_of_a_task_is_bounded_too() -> None:
    end = ended(work(1), "crash", "m" * 1_000_000, 1.0, "node", "t\udc80" * 1_000_000)
    assert end.failure is not None
    assert len(msgspec.msgpack.encode(end)) < 3 * ERROR_TEXT_BYTES
    ranks = {
        rank: msgspec.structs.replace(end, failure=told(ValueError(f"{rank}" * ERROR_TEXT_BYTES)))
        for rank in range(20)
    }
    merged = merge_failures(work(1), ranks, 20, Resources(ranks=20))
    assert merged.failure is not None
    assert len(merged.failure.detail) <= ERROR_TEXT_BYTES + 200
    assert "20 of 20 ranks failed" in merged.failure.detail


@pytest.mark.parametrize("size", [0, 100])
def test_the_limit_is_that_of_the_pickle(size: int) -> None:
    error = Holding(bytes(size))
    whole = failure_of(error, "node", 1, LIMIT).exception
    assert failure_of(error, "node", 1, len(whole)).exception == whole
    assert failure_of(error, "node", 1, len(whole) - 1).exception == b""


@pytest.mark.parametrize("was_told", [False, True])
def test_an_attempt_whose_result_is_lost_in_memory_is_interrupted(was_told: bool) -> None:
    end = lost(ended(work(1), "crash", "", 1.0), "interrupted", "interrupted", "no space left")
    assert stopped(end, was_told) == end


def test_a_result_that_the_disk_has_no_room_for_is_a_storage_error() -> None:
    why = "its result could not be stored: cannot write /site/x.h5: No space left on device"
    end = lost(ended(work(1), "crash", "", 1.0, "n1"), "error", "StorageError", why)
    assert end.failure is not None and not end.failure.is_crash
    error = exception_of(TaskOutcome(1, "FAILED", failure=end.failure))
    assert type(error) is StorageError
    assert str(error) == f"task 0.1 on n1: {why}"
    own = msgspec.structs.replace(end.failure, bases=("StorageError", "Exception"))
    assert type(exception_of(TaskOutcome(1, "FAILED", failure=own))) is TaskError  # a user's class
