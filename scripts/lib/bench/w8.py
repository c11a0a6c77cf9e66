"""W8, survival: W1, and SIGKILL to the head when half of the results are there.

Lost are tasks without a result; repeated are those that ran more than once, as they tell themselves
by a mark in a file. The time to the first new result is counted from the kill, and from the moment
where the next head says where it listens. With ``--large`` also beside 1,000,000 tasks that wait
for a core, which the next head takes on first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pilot
from bench import backlog, measure, tasks
from bench.loads import warm
from bench.measure import Deadline
from bench.ours import Pilot
from bench.stage import Stage
from pilot.head.running import find_head
from pilot.site import Site

ROUNDS = 3
#: A machine that stands still for a moment may let all results come before the kill.
TRIES = 3
#: So many tasks wait beside, with ``--large``.
BESIDE = 1_000_000
LIMIT_S = 120.0


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(10_000, 1_000)
    runs = []
    for _ in range(stage.count(ROUNDS, 1)):
        with stage.site() as site:
            runs.append(_surviving(stage, site, count))
    _tell(stage, f"{count:,} tasks, head killed halfway", runs)
    stage.findings.data["W8"] = runs
    if not stage.large:
        stage.findings.miss("W8", f"beside {BESIDE:,} waiting tasks", "they take long; --large")
        return
    stage.say(f"beside {BESIDE:,} waiting tasks")
    with backlog.opened(stage) as waiting:
        waiting.for_core(BESIDE)
        waiting.session.flush()
        waiting.session.detach()
        beside = _surviving(stage, waiting.site, count)
    _tell(stage, f"{count:,} tasks beside {BESIDE:,} that wait, head killed halfway", [beside])


def _tell(stage: Stage, title: str, runs: list[dict[str, float]]) -> None:
    for case, unit, figure in (
        ("lost, all rounds", "tasks", sum(one["lost"] for one in runs)),
        ("repeated, all rounds", "tasks", sum(one["repeated"] for one in runs)),
        ("kill → first new result", "s", measure.median([one["from_kill_s"] for one in runs])),
        ("next head → first new result", "s", measure.median([one["from_head_s"] for one in runs])),
    ):
        stage.findings.add("W8", f"{title}: {case}", unit, figure, more_is_better=False)


class _Arrivals:
    """The times at which results arrived, with an event for half of them."""

    def __init__(self, half: int) -> None:
        self.times: list[float] = []
        self.half_is_there = threading.Event()
        self._half = half

    def note(self, _: Any) -> None:
        """Note a result; called from the session's one thread only."""
        self.times.append(time.time())
        if len(self.times) == self._half:
            self.half_is_there.set()


def _surviving(stage: Stage, site: Site, count: int) -> dict[str, float]:
    """Measure; once more where all results were there before the head was gone."""
    for _ in range(TRIES):
        if (found := _one(stage, site, count)) is not None:
            return found
    raise RuntimeError("no result came from a second head: all were there before the kill")


def _one(stage: Stage, site: Site, count: int) -> dict[str, float] | None:
    marks = stage.directory / f"marks-{time.time_ns()}"
    marks.mkdir()
    with pilot.Session(site, name="bench") as session:
        warm(Pilot(session), stage.workers)
        arrivals = _Arrivals(count // 2)
        deadline = Deadline(LIMIT_S)
        futures = [session.submit(tasks.mark, number, str(marks)) for number in range(count)]
        for future in futures:
            future.add_done_callback(arrivals.note)
        arrivals.half_is_there.wait(deadline.left_s())
        killed_at = _kill_head(site)
        values = pilot.gather(futures, timeout=deadline.left_s(), return_exceptions=True)
        listens_at = site.address_file.stat().st_mtime
    lost = sum(value != number for number, value in enumerate(values))
    after = [then for then in arrivals.times if then > listens_at]
    if listens_at < killed_at or not after:
        return None
    repeated = sum(times - 1 for times in _executions(marks).values())
    return {
        "lost": lost,
        "repeated": repeated,
        "from_kill_s": after[0] - killed_at,
        "from_head_s": after[0] - listens_at,
    }


def _kill_head(site: Site) -> float:
    head = find_head(site)
    if head is None:
        raise RuntimeError("there was no head to kill")
    os.kill(head.pid, signal.SIGKILL)
    return time.time()


def _executions(marks: Path) -> Counter[int]:
    """Return how many times each task ran."""
    return Counter(int(line) for file in marks.iterdir() for line in file.read_text().splitlines())
