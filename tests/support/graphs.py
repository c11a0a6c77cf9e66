"""Tasks that submit tasks, in a module that workers can import."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pilot


@pilot.task
def add(*numbers: int) -> int:
    return sum(numbers)


@pilot.task
def leave_mark(path: str, value: int) -> int:
    """One line for each time that this is run."""
    with Path(path).open("a") as file:
        file.write(f"{value}\n")
    return value


@pilot.task
def fibonacci(n: int) -> Any:
    if n < 2:
        return n
    return add.submit(fibonacci.submit(n - 1), fibonacci.submit(n - 2))


@pilot.task
def countdown(n: int) -> Any:
    """Each hands its result on to the next, which is not submitted before it has run."""
    return countdown.submit(n - 1) if n else "landed"


@dataclasses.dataclass
class Box:
    """Something that futures may be in."""

    content: Any
    others: dict[str, list[Any]]


@pilot.task
def unpack(box: Box) -> int:
    return int(box.content + sum(box.others["more"]))


@pilot.task
def with_futures_in_a_box() -> Any:
    one = add.submit(1)
    return unpack.submit(Box(one, {"more": [one, add.submit(2), one]}))


@pilot.task(returns=("low", "high"))
def bounds(*numbers: int) -> dict[str, int]:
    return {"low": min(numbers), "high": max(numbers)}


@pilot.task(returns=3)
def own_and_delegated() -> Any:
    """The first result is its own, the others are one result each of a child that has two."""
    found = bounds.submit(3, 1, 2)
    return "own", found["high"], found["low"]


@pilot.task
def fan_out(width: int) -> Any:
    return add.submit(*add.map(range(width)))


@pilot.task(retries=1)
def fail_after_children(path: str) -> Any:
    """Its first attempt submits a child and fails; the second one submits it again."""
    child = leave_mark.submit(path, pilot.context().attempt)
    if pilot.context().attempt == 1:
        raise ValueError("once")
    return child


@pilot.task
def ask_child() -> Any:
    return add.submit(1).result()


@pilot.task(retries=1, max_crashes=1)
def detach(path: str, count: int, harm: str = "") -> Any:
    """Detached children, which the first attempt is harmed after, as told; returns their ids."""
    session = pilot.context().session
    children = [session.submit(leave_mark, path, number, detached=True) for number in range(count)]
    if harm and pilot.context().attempt == 1:
        if harm == "raise":
            raise ValueError("once")
        os._exit(1)
    return [child.task_id for child in children]


@pilot.task
def start_beside(path: str, deadline_s: float) -> Any:
    """Ends once its own detached child has run, and hands on its result."""
    child = pilot.context().session.submit(leave_mark, path, 7, detached=True)
    end = time.monotonic() + deadline_s
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError("the detached child has not started")
        time.sleep(0.01)
    return child


@pilot.task
def detach_what_needs_a_child() -> Any:
    return pilot.context().session.submit(add, add.submit(1), detached=True)
