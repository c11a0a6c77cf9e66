"""What is said on the wire: every message survives it, and ids are what people read."""

from __future__ import annotations

import math
import typing
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import template
from support.directions import DIRECTIONS

from pilot.model.ids import parse_task_label, task_label
from pilot.model.tasks import Completion, Environment, TaskFailure, TaskSpec
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages import client as m
from pilot.wire.messages import worker
from pilot.wire.messages.common import Welcome
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import Completions, PilotStatus

#: A value of each type that messages are made of.
_SAMPLES: dict[Any, Any] = {
    int: 7,
    float: 1.5,
    #: A path of a segment is a text, too.
    str: "results/1/x.h5",
    bytes: b"\x00bytes",
    bool: True,
    Any: {"any": [1, "thing"]},
    type(None): None,
}


def sample(kind: Any) -> Any:
    """A value of a type, with something in every place."""
    if kind in _SAMPLES:
        return _SAMPLES[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [sample(arguments[0])]
    if origin is dict:
        return {sample(arguments[0]): sample(arguments[1])}
    if origin is tuple:
        kinds = arguments[:1] if len(arguments) == 2 and arguments[1] is ... else arguments
        return tuple(map(sample, kinds))
    if origin is Literal:
        return arguments[-1]
    if origin is not None and arguments:  # a union: the first that is not None
        return sample(next(each for each in arguments if each is not type(None)))
    hints = typing.get_type_hints(kind)
    return kind(**{name: sample(hints[name]) for name in kind.__struct_fields__})


def members(direction: str) -> list[type[msgspec.Struct]]:
    return list(typing.get_args(DIRECTIONS[direction])) or [DIRECTIONS[direction]]


CASES = [(direction, kind) for direction in DIRECTIONS for kind in members(direction)]


@pytest.mark.parametrize(
    ("direction", "kind"), CASES, ids=[f"{direction}-{kind.__name__}" for direction, kind in CASES]
)
def test_every_message_is_read_as_it_was_sent(direction: str, kind: type[msgspec.Struct]) -> None:
    message = sample(kind)
    packed = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(packed, type=DIRECTIONS[direction]) == message


def test_no_two_messages_of_a_direction_are_alike() -> None:
    for direction in DIRECTIONS:
        tags = [kind.__struct_config__.tag for kind in members(direction)]
        assert len(tags) == len(set(tags))


def test_old_messages_are_read_with_defaults() -> None:
    """Fields are only ever added at the end."""
    packed = msgspec.msgpack.encode(["Welcome", 3, "0.1"])
    assert msgspec.msgpack.decode(packed, type=m.ToClient) == Welcome(3, "0.1")


@pytest.mark.parametrize("packed", [b"", b"nonsense", b"\x91\xa7Unknown", b"\x92\xa6Submit\xa1x"])
def test_nonsense_is_refused(packed: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(packed, type=ToHead)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_labels_are_read_back(stream: int, number: int) -> None:
    task = stream << 32 | number
    assert task_label(task) == f"{stream}.{number}"
    assert parse_task_label(task_label(task)) == task


@pytest.mark.parametrize("text", ["", "7", ".", "1.", ".1", "a.b", "1.2.3", "-1.2", "1.-2", " 1.2"])
def test_what_is_no_label(text: str) -> None:
    with pytest.raises(ValueError, match=r"task ids look like 3\.17"):
        parse_task_label(text)


def test_crash_is_told_from_an_exception() -> None:
    assert TaskFailure("SIGKILL", "killed").is_crash
    assert not TaskFailure("ValueError", "no", bases=("ValueError",)).is_crash


def test_frame_of_many_tasks_is_small() -> None:
    """What an empty call adds to its arguments, on the wire."""
    tasks = [TaskSpec(1 << 32 | n, 1 << 32, b"") for n in range(1000)]
    assert len(msgspec.msgpack.encode(m.Submit(1, 1, [], [], tasks))) < 30_000


def test_plain_structs_are_hashable_where_they_are_keys() -> None:
    assert len({Resources(), Resources(), Resources(2)}) == 2
    assert len({NodeShape(1), NodeShape(1)}) == 1
    assert Value(1, b"x") == Value(1, b"x")


LARGE = 1 << 63


@pytest.mark.parametrize(
    "message",
    [
        m.Watch([LARGE]),
        m.Watch([-1]),
        m.Submit(1, 1, [], [], [TaskSpec(LARGE, 1, b"")]),
        m.Submit(1, 1, [], [], [TaskSpec(1, 1, b"", ordinal=LARGE)]),
        m.Submit(1, 1, [], [], [TaskSpec(1, 1, b"", ((1, LARGE),))]),
        m.Submit(1, 1, [], [], [TaskSpec(1, 1, b"", values=(Value(-1),))]),
        m.Submit(1, 1, [], [template(1, returns=1 << 40)], []),
        m.Submit(1, 1, [], [template(1, priority=LARGE)], []),
        m.Submit(1, 1, [], [template(1, time_limit_s=math.nan)], []),
        m.Submit(1, 1, [], [template(1, resources=Resources(cores=1 << 40))], []),
        m.Submit(1, 1, [], [template(1, resources=Resources(ranks=-1))], []),
        m.OpenSession(1, "s", Environment("/"), weight=math.inf),
        m.OpenSession(1, "s", Environment("/"), weight=math.nan),
        m.OpenSession(1, "s", Environment("/"), weight=0.0),
        Completions("p", 1, [Completion(1, 1, "ok", started=math.nan)]),
        Completions("p", 1, [Completion(1, 1, "ok", ended=math.inf)]),
        Completions("p", LARGE, []),
        PilotStatus("p", [], [], math.nan),
    ],
)
def test_numbers_that_cannot_be_stored_or_computed_with_are_refused(message: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Expected `(int|float)`"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToHead)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x.h5",
        "results/../x.h5",
        "results/1/../../x.h5",
        "results/1/2/x.h5",
        "results/1/.x.h5",
        "results/1/x.h5\n",
        "results/1/x.txt",
        "",
    ],
)
@pytest.mark.parametrize("kind", [worker.Persist, worker.DropKept])
def test_a_node_copies_and_removes_nothing_but_segments(path: str, kind: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="regex"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(kind([path])), type=worker.ToNode)
