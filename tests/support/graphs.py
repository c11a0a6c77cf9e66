"""Tasks that submit tasks, in a module that workers can import."""

from __future__ import annotations

import concurrent.futures
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


# --- tasks that wait for others ------------------------------------------------------------------


@pilot.task
def tree(levels: int, width: int) -> int:
    """Each waits for the tasks below it, and has as its result how many leaves there are."""
    if not levels:
        return 1
    session = pilot.context().session
    rows = [(levels - 1, width)] * width
    return sum(pilot.gather(session.submit_many(tree, rows, detached=True)))


@pilot.task
def wait_for_mark(path: str, value: int, deadline_s: float) -> int:
    """Ends when there is a file."""
    end = time.monotonic() + deadline_s
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.01)
    return value


@pilot.task
def wait_for_child(mark: str, begun: str, deadline_s: float, cores: int = 1) -> Any:
    """Wait for a child that ends when there is a file; a line in another one for each begin."""
    leave_mark(begun, os.getpid())
    child = wait_for_mark.options(cores=cores) if cores > 1 else wait_for_mark
    return pilot.context().session.submit(child, mark, 7, deadline_s, detached=True).result()


@pilot.task
def wait_in_other_ways(deadline_s: float) -> list[Any]:
    """The answers of `wait` and `as_completed`, and the view of threads and a forked copy."""
    session = pilot.context().session
    seen: list[Any] = []
    futures = session.submit_many(add, [(1, 2), (3, 4)], detached=True)
    done, _ = concurrent.futures.wait(futures, deadline_s)
    seen.append(sorted(future.result() for future in done))
    futures = session.submit_many(add, [(5, 6), (7, 8)], detached=True)
    each = concurrent.futures.as_completed(futures, deadline_s)
    seen.append(sorted(future.result() for future in each))
    future = session.submit(bounds, 3, 1, 2, detached=True)
    seen.append((future["low"].result(deadline_s), [part.result() for part in future]))
    with concurrent.futures.ThreadPoolExecutor() as threads:
        late = session.submit(add, 9, detached=True)
        seen.append(threads.submit(late.result, deadline_s).result())
    return seen


@pilot.task
def wait_in_a_copy(deadline_s: float) -> int:
    """The exit status of a copy that waits for a child: 0 if that is refused."""
    future = pilot.context().session.submit(add, 1, 2, detached=True)
    if (copy := os.fork()) == 0:
        try:
            future.result(deadline_s)
        except pilot.PilotError as error:
            os._exit(0 if "forked" in str(error) or "belongs to process" in str(error) else 2)
        os._exit(3)
    status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    return status or future.result(deadline_s) - 3


@pilot.task
def fail(text: str) -> None:
    raise ValueError(text)


@pilot.task
def wait_for_failed() -> str:
    session = pilot.context().session
    try:
        session.submit(fail, "as told", detached=True).result()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


@pilot.task
def read(*ids: Any) -> list[Any]:
    """The results of tasks that are known by their ids; of those that have none the error."""
    session, found = pilot.context().session, []
    for each in ids:
        try:
            found.append(session.future(each).result(30.0))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


@pilot.task
def read_part(task: str, part: Any) -> Any:
    return pilot.context().session.future(task)[part].result(30.0)


@pilot.task
def cores_after_a_wait() -> tuple[int, int]:
    """How many cores the process runs on before and after a wait."""
    before = len(os.sched_getaffinity(0))
    pilot.context().session.submit(add, 1, detached=True).result()
    return before, len(os.sched_getaffinity(0))
