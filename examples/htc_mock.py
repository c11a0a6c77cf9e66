"""HTC Mock, the benchmark of ArmoniK, on Pilot: a random tree of tasks that grows while it runs.

An inner task of the tree submits its children, and one task more that takes their results and hands
on its own as that of the inner task. So nothing waits inside a task, and only the root is submitted
from here::

    python examples/htc_mock.py --tasks 10000 --levels 100
    python examples/htc_mock.py --tasks 10000 --levels 100 --faults
    python examples/htc_mock.py --tasks 1000 --levels 5 --seconds 20 --data 100000 --site mycluster

The value of each task is a digest of its number and of all bytes that it got, in their order; that
of the root is computed once more here, without Pilot. With ``--faults`` a hash of a task's number
and of the attempt decides which attempts raise, exit, are killed, or never end. So it is known
beforehand, too, how many attempts there are of each outcome, if retries are exactly what the
policies of the tasks say.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import pilot

#: Inner tasks, and those that combine, have to come to a good end: they are tried until they do.
STUBBORN = {"retries": 20, "max_crashes": 20}
#: A leaf may be given up; then `LOST` stands for its result.
TOLERANT = {"retries": 1, "max_crashes": 1}
LOST = b"lost"


class Faults(NamedTuple):
    """The shares of the attempts that go wrong."""

    #: They raise, call ``os._exit``, or are ended by SIGKILL.
    error: float = 0.0
    exit: float = 0.0
    kill: float = 0.0
    #: They never end, until their time limit of `limit_s` seconds ends them; leaves only.
    hang: float = 0.0
    limit_s: float = 5.0


NO_FAULTS = Faults()
SOME_FAULTS = Faults(error=0.05, exit=0.003, kill=0.003, hang=0.0005)


class Mock(NamedTuple):
    """The parameters of a run. The same values make the same tree, results and faults."""

    #: The number of all tasks, those that combine included.
    tasks: int = 10_000
    #: Levels of tasks below the root.
    levels: int = 100
    #: Seconds that all tasks take together, each its random share.
    total_s: float = 0.0
    #: Bytes that each result carries along.
    data: int = 0
    seed: int = 1
    faults: Faults = NO_FAULTS

    @property
    def root(self) -> Branch:
        """The whole tree.

        Raises
        ------
        ValueError
            There is no tree with these numbers of tasks and levels.
        """
        if self.tasks < 1 or self.tasks == 2 or not 0 <= self.levels <= (self.tasks - 1) // 2:
            raise ValueError(
                f"no tree has {self.tasks} tasks and {self.levels} levels: an inner task has a "
                "child and one that combines, so it takes at least 2 levels + 1 tasks"
            )
        if self.tasks > 1 and not self.levels:
            raise ValueError(f"a tree of {self.tasks} tasks has at least one level")
        return Branch(0, self.tasks, self.levels)

    def draw(self, *place: object) -> int:
        """Return a random number of 64 bits that belongs to this place."""
        digest = blake2b(repr((self.seed, *place)).encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big")

    def chance(self, *place: object) -> float:
        """Return a random number from 0 to 1 that belongs to this place."""
        return self.draw(*place) / 2**64


class Branch(NamedTuple):
    """A task with all tasks below it: numbers ``first`` to ``last``, which combines."""

    first: int
    tasks: int
    levels: int

    @property
    def is_leaf(self) -> bool:
        """True if the task has no children."""
        return self.tasks == 1

    @property
    def last(self) -> int:
        """The number of the task that combines the results of the children."""
        return self.first + self.tasks - 1

    def children(self, mock: Mock) -> list[Branch]:
        """Return the branches below an inner task: the longest first, then shorter ones."""
        left = self.tasks - 2
        if self.levels == 1:
            return [Branch(self.first + 1 + n, 1, 0) for n in range(left)]
        # So many may be beside the longest, which is as deep as it must be.
        spare = min(left - (2 * self.levels - 1), 2 * left // self.levels)
        beside = mock.draw("beside", self.first) % (spare + 1)
        found = [Branch(self.first + 1, left - beside, self.levels - 1)]
        while beside:
            first = found[-1].last + 1
            size = 1 + mock.draw("size", first) % beside
            if size < 3:
                found.append(Branch(first, 1, 0))
            else:
                deepest = min(self.levels - 1, (size - 1) // 2)
                found.append(Branch(first, size, 1 + mock.draw("levels", first) % deepest))
            beside -= found[-1].tasks
        return found


# --- the tasks -----------------------------------------------------------------------------------


def time_limit(mock: Mock, _: object) -> float | None:
    """Return the time limit of a leaf; other tasks have none."""
    return mock.faults.limit_s if mock.faults.hang else None


@pilot.task(**TOLERANT, on_failure="ignore", default=LOST, time_limit=time_limit)
def leaf(mock: Mock, branch: Branch) -> bytes:
    """Run a task that submits nothing."""
    suffer(mock, branch.first, is_leaf=True)
    return work(mock, branch.first)


@pilot.task(**STUBBORN)
def grow(mock: Mock, branch: Branch) -> Any:
    """Run an inner task: submit the tasks below, and delegate its result."""
    below = [task_of(child).submit(mock, child) for child in branch.children(mock)]
    combined = combine.submit(mock, branch.last, below)
    # It fails here, where it hurts most: its children may not come to be, nor twice.
    suffer(mock, branch.first)
    work(mock, branch.first)
    return combined


@pilot.task(**STUBBORN)
def combine(mock: Mock, number: int, values: list[bytes]) -> bytes:
    """Return the result of an inner task, from the results of its children."""
    suffer(mock, number)
    return work(mock, number, values)


def task_of(branch: Branch) -> pilot.Task[..., bytes]:
    """Return the task that stands for a branch."""
    return leaf if branch.is_leaf else grow


def work(mock: Mock, number: int, values: Sequence[bytes] = ()) -> bytes:
    """Do the work of a task, and return its result."""
    if mock.total_s:
        # Between nothing and twice the mean.
        time.sleep(2 * mock.total_s / mock.tasks * mock.chance("work", number))
    return result(mock, number, values)


def result(mock: Mock, number: int, values: Sequence[bytes] = ()) -> bytes:
    """Return a task's result, made from the results that it got: a digest, and data."""
    digest = blake2b(repr((mock.seed, number)).encode(), digest_size=16)
    for value in values:
        digest.update(b"%d:" % len(value) + value)
    made = digest.digest()
    return made + (made * (mock.data // len(made) + 1))[: mock.data]


def suffer(mock: Mock, number: int, is_leaf: bool = False) -> None:
    """Make the present attempt fail, if a fault is due."""
    what = fault(mock, number, pilot.context().attempt, is_leaf)
    if what == "error":
        raise RuntimeError("this attempt is to fail")
    if what == "exit":
        os._exit(1)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(1e6)


# --- what must come out --------------------------------------------------------------------------

#: Kind of a fault → outcome of the attempt.
OUTCOMES = {"": "ok", "error": "error", "exit": "crash", "kill": "crash", "hang": "timeout"}
#: Outcome of the last attempt → state of the task.
STATES = {"ok": "COMPLETED", "error": "FAILED", "crash": "FAILED", "timeout": "TIMED_OUT"}


class Outcome(NamedTuple):
    """The outcome of a run."""

    value: bytes
    #: The number of attempts by outcome.
    attempts: Counter[str]
    #: The number of tasks by final state.
    states: Counter[str]


def fault(mock: Mock, number: int, attempt: int, is_leaf: bool) -> str:
    """Return the fault of an attempt: a field of `Faults`, or an empty text."""
    if mock.faults == NO_FAULTS:
        return ""
    chance = mock.chance("fault", number, attempt)
    for what in ("error", "exit", "kill", "hang") if is_leaf else ("error", "exit", "kill"):
        share: float = getattr(mock.faults, what)
        if chance < share:
            return what
        chance -= share
    return ""


def attempts(mock: Mock, number: int, is_leaf: bool) -> list[str]:
    """Return the outcomes of a task's attempts, the last of which is final."""
    policy: Mapping[str, int] = TOLERANT if is_leaf else STUBBORN
    allowed = {"error": policy["retries"], "crash": policy["max_crashes"], "ok": 0, "timeout": 0}
    found: list[str] = []
    for attempt in itertools.count(1):
        found.append(OUTCOMES[fault(mock, number, attempt, is_leaf)])
        if found.count(found[-1]) > allowed[found[-1]]:
            break
    return found


def walk(mock: Mock) -> Iterator[Branch]:
    """Yield every branch of the tree, each before those below it."""
    branches = [mock.root]
    while branches:
        branch = branches.pop()
        yield branch
        if not branch.is_leaf:
            branches.extend(branch.children(mock))


def expected(mock: Mock) -> Outcome:
    """Return the expected outcome, computed in this process.

    Raises
    ------
    ValueError
        There are too many faults: an inner task would fail for good.
    """
    counted: Counter[str] = Counter()
    states: Counter[str] = Counter()

    def ends_well(number: int, is_leaf: bool = False) -> bool:
        outcomes = attempts(mock, number, is_leaf)
        counted.update(outcomes)
        states[STATES[outcomes[-1]]] += 1
        if outcomes[-1] != "ok" and not is_leaf:
            raise ValueError(f"with these faults, task {number} of the tree fails for good")
        return outcomes[-1] == "ok"

    values: dict[int, bytes] = {}
    for branch in reversed(list(walk(mock))):
        if branch.is_leaf:
            well = ends_well(branch.first, is_leaf=True)
            values[branch.first] = result(mock, branch.first) if well else LOST
            continue
        ends_well(branch.first)
        ends_well(branch.last)
        below = [values.pop(child.first) for child in branch.children(mock)]
        values[branch.first] = result(mock, branch.last, below)
    return Outcome(values[0], counted, states)


# --- a run ---------------------------------------------------------------------------------------


def run(
    session: pilot.Session, mock: Mock, timeout_s: float | None = None
) -> tuple[Outcome, float]:
    """Run a tree in a session in which nothing else runs.

    Returns
    -------
    tuple
        The outcome according to the head, and the seconds from the submission to the result.
    """
    before = _counts(session)
    begin = time.perf_counter()
    value = session.submit(task_of(mock.root), mock, mock.root).result(timeout_s)
    elapsed_s = time.perf_counter() - begin
    counted, states = _counts(session)
    return Outcome(value, counted - before[0], states - before[1]), elapsed_s


def _counts(session: pilot.Session) -> tuple[Counter[str], Counter[str]]:
    counted = session.query("attempt_counts", session=session.id)
    return Counter(counted), Counter(session.task_counts())


def main() -> int:
    """Run the tree of the command line; return 0 if the outcome is as expected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000, help="all of the tree; %(default)s")
    parser.add_argument("--levels", type=int, default=100, help="below the root; %(default)s")
    parser.add_argument("--seconds", type=float, default=0.0, help="that all tasks take together")
    parser.add_argument("--data", type=int, default=0, help="bytes that each result carries along")
    parser.add_argument("--faults", action="store_true", help="let attempts fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--site", help="name or directory of a site")
    options = parser.parse_args()
    mock = Mock(
        options.tasks,
        options.levels,
        options.seconds,
        options.data,
        options.seed,
        SOME_FAULTS if options.faults else NO_FAULTS,
    )
    wanted = expected(mock)
    with pilot.Session(options.site, name="htc-mock") as session:
        # Pilots and executors are there when the clock starts.
        run(session, Mock(tasks=300, levels=4))
        found, elapsed_s = run(session, mock)
    combining = sum(not branch.is_leaf for branch in walk(mock))
    print(f"{mock.tasks} tasks on {mock.levels} levels, {combining} of which combine:", end=" ")
    print(f"{elapsed_s:.2f} s, {mock.tasks / elapsed_s:.0f} tasks/s")
    for title, one, other in (
        ("answer", found.value[:16].hex(), wanted.value[:16].hex()),
        ("attempts", *map(_in_words, (found.attempts, wanted.attempts))),
        ("tasks", *map(_in_words, (found.states, wanted.states))),
    ):
        print(f"{title + ':':<10} {one}\n  expected {other}")
    print("right" if found == wanted else "WRONG")
    return 0 if found == wanted else 1


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    # As a module, so that workers import it: what is in a script goes to them by value.
    import htc_mock

    sys.exit(htc_mock.main())
