"""IDLE, waiting tasks: the share of a core that the head uses while 100,000 tasks wait, over 30 s.

They wait for a core (another task has the only one of their pool), or for the result of that task.
Nothing else happens, and no client is connected. On a site of this machine.
"""

from __future__ import annotations

import time

from bench import backlog, measure
from bench.stage import Stage
from pilot.head.running import find_head

#: How long the head is watched, and has before that to come to rest, in seconds.
WATCH_S, REST_S = 30, 5


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(100_000, 10_000)
    watch_s = stage.count(WATCH_S, WATCH_S // 10)
    shares: dict[str, float] = {}
    for reason in ("core", "result"):
        stage.say(f"tasks that wait for a {reason}")
        with backlog.opened(stage) as waiting:
            (waiting.for_core if reason == "core" else waiting.for_result)(count)
            there = waiting.session.task_counts()
            if sum(there.values()) < count:
                raise RuntimeError(f"of {count} tasks the head knows {there}")
            waiting.session.detach()
            head = find_head(waiting.site)
            assert head is not None
            time.sleep(REST_S)
            before_s, began = measure.cpu_s(head.pid), time.perf_counter()
            time.sleep(watch_s)
            elapsed_s = time.perf_counter() - began
            if head.is_dead():
                raise RuntimeError("the head has ended meanwhile")
            shares[reason] = 100 * (measure.cpu_s(head.pid) - before_s) / elapsed_s
        case = f"head, {count:,} tasks wait for a {reason}"
        stage.findings.add("IDLE", case, "% of a core", shares[reason], more_is_better=False)
    stage.findings.data["IDLE"] = shares
