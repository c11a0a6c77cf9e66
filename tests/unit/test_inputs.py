"""Inputs that are made in the pilot that has the task which needs them."""

from __future__ import annotations

import pytest
from support.builders import done

from pilot.agent.rules.inputs import Inputs
from pilot.model.tasks import Children, Completion
from pilot.model.values import Value
from pilot.wire.messages.pilot import AttemptSpec, InputValue

HELD = {1: 1, 2: 1}


def needs(task: int, *sources: int, there: dict[int, Value] | None = None) -> AttemptSpec:
    values = there or {}
    inputs = tuple(InputValue(source, 0, values.get(source)) for source in sources)
    return AttemptSpec(task, 1, 1, b"", inputs)


def value(text: bytes) -> Value:
    return Value(len(text), text)


def filled(work: AttemptSpec) -> list[bytes]:
    return [item.value.payload for item in work.inputs if item.value is not None]


def test_task_that_has_all_leaves_at_once() -> None:
    work = needs(3, 9, there={9: value(b"x")})
    assert Inputs().add(work, {}) is work


def test_task_leaves_with_its_last_input() -> None:
    inputs = Inputs()
    assert inputs.add(needs(3, 1, 9, 2, there={9: value(b"nine")}), HELD) is None
    assert inputs.ended(done(1, values=(value(b"one"),)))[:2] == ([], [])
    inputs.forget([1])  # the head has it, but who waits for more has it, too
    (ready,), hopeless, *_ = inputs.ended(done(2, values=(value(b"two"),)))
    assert filled(ready) == [b"one", b"nine", b"two"] and not hopeless


def test_result_is_there_until_the_head_has_it() -> None:
    inputs = Inputs()
    inputs.ended(done(1, values=(value(b"one"),)))
    ready = inputs.add(needs(3, 1), {})
    assert ready is not None and filled(ready) == [b"one"]
    inputs.forget([1])
    with pytest.raises(LookupError):
        inputs.add(needs(4, 1), {})


@pytest.mark.parametrize(
    "end", [done(1, "error"), done(1, children=Children((), (), (), {0: (5, 0)}))]
)
def test_what_does_not_come_is_given_up(end: Completion) -> None:
    inputs = Inputs()
    work = needs(3, 1, 2)
    inputs.add(work, HELD)
    assert inputs.ended(end)[:2] == ([], [work])
    # It comes again, while the old one is still named where its second input is looked for.
    assert inputs.add(needs(3, 1, 2), HELD) is None
    assert inputs.ended(done(2, values=(value(b"two"),)))[:2] == ([], [])
    (ready,), *_ = inputs.ended(done(1, values=(value(b"one"),)))
    assert filled(ready) == [b"one", b"two"]


def test_taken_out() -> None:
    inputs = Inputs()
    first, second = needs(3, 1), needs(4, 2)
    inputs.add(first, HELD)
    inputs.add(second, HELD)
    assert inputs.take({3, 7}) == [first]
    assert inputs.ended(done(1))[:2] == ([], [])
    assert inputs.take() == [second]
