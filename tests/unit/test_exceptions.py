"""Exceptions arrive as what they were, whatever their classes are called with."""

from __future__ import annotations

import builtins
import dataclasses
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.data.exceptions import pickled
from pilot.data.pickles import decode
from pilot.errors import CommandFailed

LIMIT = 64 << 10


class TwoArguments(Exception):
    def __init__(self, a: Any, b: Any) -> None:
        super().__init__(f"{a}-{b}")
        self.a, self.b = a, b


class GrowsEachTime(ValueError):
    """Can be made again of its args, but as another one."""

    def __init__(self, a: str, b: int = 0) -> None:
        super().__init__(f"{a}:{b}")
        self.b = b


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__("it has slots")
        self.code = code


class OwnOSError(OSError):
    def __init__(self, path: str, *, attempts: int) -> None:
        super().__init__(2, "gone", path)
        self.attempts = attempts


class OwnDecodeError(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "no")


class OwnImportError(ImportError):
    def __init__(self, module: str, extra: int) -> None:
        super().__init__(f"no {module}", name=module, path="/x")
        self.extra = extra


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
    why: str = "because"


class NoTexts(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class WrongReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)

    def __reduce__(self) -> Any:
        return (WrongReduce, (1,))


def arrived(error: BaseException) -> Any:
    payload = pickled(error, LIMIT)
    assert payload, "it was left behind"
    made = decode(payload)
    assert type(made) is type(error)
    assert made.args == error.args
    return made


@given(st.text() | st.integers() | st.none(), st.text() | st.binary())
def test_class_with_arguments_of_its_own(a: Any, b: Any) -> None:
    made = arrived(TwoArguments(a, b))
    assert (made.a, made.b, str(made)) == (a, b, f"{a}-{b}")


def test_what_would_be_made_wrong_of_its_args_is_made_right() -> None:
    made = arrived(GrowsEachTime("x", 3))
    assert (str(made), made.b) == ("x:3", 3)


def test_slots_and_frozen_ones() -> None:
    made = arrived(Slotted(7))
    assert made.code == 7 and not hasattr(made, "unset")
    made = arrived(Frozen(code=7))
    assert (made.code, made.why) == (7, "because")


def test_what_pythons_own_classes_keep_beside_args() -> None:
    made = arrived(OwnOSError("/x", attempts=3))
    assert (made.errno, made.strerror, made.filename, made.attempts) == (2, "gone", "/x", 3)
    made = arrived(OwnDecodeError(b"\xff"))
    assert (made.object, made.reason, made.end) == (b"\xff", "no", 1)
    made = arrived(OwnImportError("m", 5))
    assert (made.name, made.path, made.extra) == ("m", "/x", 5)


def test_those_that_travel_by_themselves() -> None:
    for error in (
        ValueError("x", 1),
        KeyError("k"),
        FileNotFoundError(2, "gone", "/x"),
        CommandFailed("no", 3),
        subprocess.CalledProcessError(3, ["x"], b"out"),
        SystemExit(3),
        StopIteration(5),
    ):
        made = arrived(error)
        assert str(made) == str(error)
    assert arrived(CommandFailed("no", 3)).returncode == 3


def test_what_cannot_travel_is_left_out_of_its_attributes() -> None:
    error = TwoArguments(1, 2)
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # as users do
    made = arrived(error)
    assert made.b == 2 and not hasattr(made, "lock")
    assert pickled(ValueError(threading.Lock()), LIMIT) == b""


def test_exception_without_a_text() -> None:
    assert arrived(NoTexts(code=4)).code == 4


def test_class_that_refuses_is_left_alone_and_one_that_errs_is_helped() -> None:
    assert pickled(Refuses("x"), LIMIT) == b""
    assert arrived(WrongReduce(1, 2)).args == (1, 2)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions are new in 3.11")
def test_group_of_such_exceptions() -> None:
    # By its name in `builtins`: types are checked for the oldest Python, which has none.
    group = vars(builtins)["ExceptionGroup"]("both", [TwoArguments(1, 2), Slotted(3)])
    made = decode(pickled(group, LIMIT))
    first, second = made.exceptions
    assert (type(made), first.a, second.code) == (type(group), 1, 3)


def test_class_of_a_function() -> None:
    class Local(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(a + b)
            self.a = a

    made = decode(pickled(Local(1, 2), LIMIT))
    assert type(made) is Local and made.args == (3,) and made.a == 1


def test_exceptions_that_refer_to_themselves_and_each_other_arrive() -> None:
    error = ValueError("one")
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # as users do
    error.itself = [error]  # type: ignore[attr-defined]  # as users do
    made = decode(pickled(error, LIMIT))
    assert str(made) == "one"
    assert made.itself == [made]
    assert not hasattr(made, "lock")


def test_what_exceptions_refer_to_each_other_by_is_tried_once() -> None:
    error: Exception = TwoArguments("the", "first")
    for number in range(30):  # two to the power of that, if each looked into all below it
        outer = TwoArguments("number", number)
        outer.inner = error  # type: ignore[attr-defined]  # as users do
        outer.lock = threading.Lock()  # type: ignore[attr-defined]  # as users do
        error = outer
    made = decode(pickled(error, LIMIT))
    depth = 0
    while hasattr(made, "inner"):
        made, depth = made.inner, depth + 1
    assert (str(made), depth) == ("the-first", 30)


def test_an_exception_among_its_own_arguments_is_left_behind() -> None:
    error = ValueError("one")
    error.args = (error,)
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # as users do
    assert pickled(error, LIMIT) == b""
