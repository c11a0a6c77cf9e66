"""Some tasks of every way to go wrong, in one session with good ones beside them.

Each ends as documented, nothing else is harmed, and nothing is left behind: no executor, no rank,
and none of the programs that tasks had started. The test prints how each kind ended (``pytest -rP``
shows it).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import crashes, tasks
from support.sites import SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot

pytest.importorskip("mpi4py")

DEADLINE_S = 120.0
#: Tasks of each kind, and good ones for each of them.
EACH, GOOD = 4, 15
#: The node is said to have so many, so that tasks that only wait hold up nobody.
CORES = 8
RANKS = pilot.mpi(ranks=2)


@dataclass(frozen=True)
class Kind:
    """A way in which a task ends."""

    name: str
    task: pilot.Task[..., Any]
    state: str
    #: What the future raises, and what that says (and its cause, which is what the task has left).
    error: type[BaseException] | None
    says: str
    cause: str
    outcomes: tuple[str, ...]
    args: tuple[Any, ...] = ()


CRASH_TWICE = {"max_crashes": 1}
TWO_CRASHES = ("crash", "crash")
KINDS = (
    Kind("success", pilot.task(tasks.process_id), "COMPLETED", None, "", "", ("ok",)),
    Kind(
        "error, with a retry",
        pilot.task(retries=1)(crashes.error),
        "FAILED",
        ValueError,
        "^as told$",
        r"(?s)attempt 2 on .*raise ValueError\(",
        ("error", "error"),
    ),
    Kind(
        "exception that can't be pickled as it is",
        pilot.task(crashes.unpicklable_error),
        "FAILED",
        crashes.HeldError,
        "it holds a lock",
        "raise HeldError",
        ("error",),
    ),
    Kind(
        "exception that can't be made again by its class",
        pilot.task(crashes.error_of_two_words),
        "FAILED",
        crashes.TwoWordsError,
        "not made again",
        "raise TwoWordsError",
        ("error",),
    ),
    Kind(
        "result that can't be pickled",
        pilot.task(crashes.unpicklable_result),
        "FAILED",
        pilot.errors.EncodingError,
        "cannot pickle an object",
        "",
        ("error",),
    ),
    Kind(
        "memory refused",
        pilot.task(crashes.too_much_memory),
        "FAILED",
        MemoryError,
        "",
        "MemoryError",
        ("error",),
    ),
    Kind(
        "os._exit",
        pilot.task(**CRASH_TWICE)(crashes.leave),
        "FAILED",
        pilot.TaskCrashed,
        "exit status 7",
        "",
        TWO_CRASHES,
    ),
    Kind(
        "SIGKILL, as for memory",
        pilot.task(**CRASH_TWICE)(crashes.kill_itself),
        "FAILED",
        pilot.TaskCrashed,
        r"killed by SIGKILL \(out of memory\?\)",
        "",
        TWO_CRASHES,
    ),
    Kind(
        "SIGSEGV",
        pilot.task(**CRASH_TWICE)(crashes.follow_null),
        "FAILED",
        pilot.TaskCrashed,
        "killed by SIGSEGV",
        "",
        TWO_CRASHES,
    ),
    Kind(
        "loop with a time limit",
        pilot.task(time_limit=0.5)(crashes.loop),
        "TIMED_OUT",
        pilot.TaskTimedOut,
        r"time limit of 0\.5 s",
        "",
        ("timeout",),
    ),
    Kind(
        "loop that ignores SIGTERM",
        pilot.task(time_limit=0.5)(crashes.loop_deaf),
        "TIMED_OUT",
        pilot.TaskTimedOut,
        r"time limit of 0\.5 s",
        "",
        ("timeout",),
    ),
    Kind(
        "loop that raises on SIGTERM",
        pilot.task(time_limit=0.5)(crashes.loop_polite),
        "TIMED_OUT",
        pilot.TaskTimedOut,
        r"time limit of 0\.5 s",
        "told to end",
        ("timeout",),
    ),
    Kind(
        "a rank dies",
        RANKS(crashes.rank_dies).options(max_crashes=0),
        "FAILED",
        pilot.TaskCrashed,
        "a rank died",
        "",
        ("crash",),
    ),
    Kind(
        "MPI_Abort",
        RANKS(crashes.abort).options(max_crashes=0),
        "FAILED",
        pilot.TaskCrashed,
        "a rank died",
        "",
        ("crash",),
    ),
    Kind(
        "a rank hangs",
        RANKS(crashes.rank_hangs).options(time_limit=1),
        "TIMED_OUT",
        pilot.TaskTimedOut,
        "time limit of 1 s",
        "",
        ("timeout",),
    ),
)


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    with site_under_test(local_template(cores=CORES)) as site:
        yield site


@pytest.fixture
def cgroup() -> Iterator[Path | None]:
    """A control group of 64 MiB, where this user may make one."""
    for parent, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        directory = Path("/sys/fs/cgroup", parent, f"pilot-test-{os.getpid()}")
        try:
            directory.mkdir()
        except OSError:
            continue
        try:
            if (directory / limit).exists():
                (directory / limit).write_text(str(64 << 20))
                yield directory
                return
        finally:
            directory.rmdir()
    yield None


def kinds(cgroup: Path | None) -> list[Kind]:
    """All kinds that there can be on this machine."""
    if cgroup is None:
        return [*KINDS]
    out_of_memory = Kind(
        "out of memory, in fact",
        pilot.task(**CRASH_TWICE)(crashes.eat_memory),
        "FAILED",
        pilot.TaskCrashed,
        r"killed by SIGKILL \(out of memory\?\)",
        "",
        TWO_CRASHES,
        (str(cgroup),),
    )
    return [*KINDS, out_of_memory]


def test_matrix(site: SiteUnderTest, cgroup: Path | None) -> None:
    every = kinds(cgroup)
    with site.session() as session:
        good = pilot.task(tasks.square)
        ranks = RANKS(crashes.sum_of_ranks)
        assert ranks.submit().result(DEADLINE_S) == 2
        processes = {word: site.pid_of(word) for word in ("agent", "node")}
        head = site.head_pid
        files = {word: _open_files(pid) for word, pid in processes.items()}

        bad: dict[str, list[pilot.Future[Any]]] = {kind.name: [] for kind in every}
        fine: list[pilot.Future[Any]] = []
        worlds: list[pilot.Future[Any]] = []
        for _ in range(EACH):
            for kind in every:
                bad[kind.name].append(kind.task.submit(*kind.args))
                fine.extend(good.submit(n) for n in range(GOOD))
            worlds.append(ranks.submit())
        found = {
            name: [future.exception(DEADLINE_S) for future in futures]
            for name, futures in bad.items()
        }
        assert pilot.gather(worlds, timeout=DEADLINE_S) == [2] * EACH
        squares = [n * n for n in range(GOOD)]
        assert pilot.gather(fine, timeout=DEADLINE_S) == squares * (EACH * len(every))

        table = {kind.name: _row(session, kind, bad[kind.name], found[kind.name]) for kind in every}
        _show(table)
        for kind in every:
            row = table[kind.name]
            assert row.states == {kind.state: EACH}, kind
            assert row.attempts == {kind.outcomes: EACH}, (kind, "\n".join(row.strange))
            for error in found[kind.name]:
                assert type(error) is kind.error or (error is None and kind.error is None), kind
                assert error is None or re.search(kind.says, str(error)), (kind, str(error))
                assert re.search(kind.cause, str(error and error.__cause__)), (kind, error)
        # Nothing else is harmed: no good task ran twice, and whoever cares for them lives.
        beside = [*fine, *worlds]
        rows = session.tasks(name=["square", "sum_of_ranks"], limit=len(beside) + 2)
        assert Counter((row["state"], row["attempts"]) for row in rows) == {
            ("COMPLETED", 1): len(beside) + 1
        }
        assert {word: site.pid_of(word) for word in processes} == processes
        assert site.head_pid == head
        # Nothing is left behind, nor is anything kept of those that are gone.
        wait_until(lambda: not site.processes("sleep 1000"), DEADLINE_S, "tasks' programs to end")
        left = {word: _count(site, f"pilot {word}") for word in ("executor", "rank")}
        print(f"{len(fine) + len(worlds)} good tasks beside; processes kept warm: {left}")
        # Two idle executors for each core, one idle rank, and as many as there were busy ones.
        assert left["executor"] <= 3 * CORES and left["rank"] <= 2 * CORES
        assert not _zombies(site)
        for word, pid in processes.items():
            kept = _open_files(pid) - files[word]
            print(f"{word}: {kept} more open files than before")
            assert kept <= 4 * CORES, f"{word} keeps files open"
        assert good.submit(3).result(DEADLINE_S) == 9
        assert ranks.submit().result(DEADLINE_S) == 2


def test_what_ranks_have_started_ends_also_without_their_launcher(site: SiteUnderTest) -> None:
    with site.session() as session:
        future = session.submit(RANKS(crashes.lose_the_launcher).options(max_crashes=0))
        assert isinstance(future.exception(DEADLINE_S), pilot.TaskCrashed)
        wait_until(lambda: not site.processes("sleep 1000"), 20.0, "their programs to end")


@dataclass(frozen=True)
class Row:
    """How the tasks of a kind have ended."""

    states: Counter[str]
    attempts: Counter[tuple[str, ...]]
    error: str
    #: What attempts said of themselves that were not as they should be.
    strange: list[str]


def _row(
    session: pilot.Session,
    kind: Kind,
    futures: list[pilot.Future[Any]],
    errors: list[BaseException | None],
) -> Row:
    states: Counter[str] = Counter()
    attempts: Counter[tuple[str, ...]] = Counter()
    strange: list[str] = []
    for future in futures:
        shown = session.query("task", task=future.task_id)
        states[shown["state"]] += 1
        outcomes = tuple(attempt["outcome"] for attempt in shown["attempts_made"])
        attempts[outcomes] += 1
        if outcomes != kind.outcomes:
            strange.append(f"{future.task_id}: {shown['attempts_made']}")
    error = errors[0]
    text = "" if error is None else ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return Row(states, attempts, text, strange)


def _show(table: dict[str, Row]) -> None:
    for name, row in table.items():
        states = ", ".join(f"{count} {state}" for state, count in row.states.items())
        attempts = "; ".join(
            f"{count} x {', '.join(outcomes)}" for outcomes, count in row.attempts.items()
        )
        print(f"| {name} | {states} | {attempts} | {row.error} |")


def _count(site: SiteUnderTest, title: str) -> int:
    return sum(process.title.startswith(title) for process in site.processes(title))


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _zombies(site: SiteUnderTest) -> list[str]:
    """Children of the site's processes that have ended, and that nobody has taken notice of."""
    parents = {process.pid for process in site.processes()}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:
            continue  # it has gone meanwhile
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if state == "Z" and int(parent) in parents:
            found.append(stat)
    return found
