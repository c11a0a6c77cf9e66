"""FILES, pilots that reach the head over the shared file system: throughput, latency, and idleness.

The same on a site of this machine whose pilot is reached over files, and on one whose pilot is
reached over a Unix socket: zero-work tasks that are submitted as one, tasks one after the other,
and the share of a core that the head uses while its pilot has nothing to do. The directory is on a
disk of this machine: a file system of a cluster adds its own time to each look and each write.
`WIRE` has the channel alone, beside TCP.
"""

from __future__ import annotations

import time

import yaml

import pilot
from bench import measure, tasks
from bench.loads import warm
from bench.measure import Deadline
from bench.ours import Pilot
from bench.stage import Stage
from pilot.head.running import find_head

ROUNDS = 3
#: How long the head is watched, and has before that to come to rest, in seconds.
WATCH_S, REST_S = 20, 4
#: The setting of ``head.transport``, and what it is called.
WAYS = {"files": "files", "auto": "Unix socket"}


def run(stage: Stage) -> None:
    """Measure."""
    samples: dict[str, dict[str, list[float]]] = {}
    for _ in range(stage.count(ROUNDS, 1)):
        for transport in WAYS:
            for measured, value in _measured(stage, transport).items():
                samples.setdefault(measured, {}).setdefault(transport, []).append(value)
    for measured, unit, more_is_better in (
        (_many(stage), "tasks/s", True),
        ("one after the other, p50", "ms", False),
        ("one after the other, p95", "ms", False),
        ("idle head with a pilot", "% of a core", False),
    ):
        found = {way: measure.median(each) for way, each in samples[measured].items()}
        others = {WAYS["auto"]: found["auto"]}
        stage.findings.add(
            "FILES", measured, unit, found["files"], others, more_is_better=more_is_better
        )
    stage.findings.data["FILES"] = samples


def _many(stage: Stage) -> str:
    return f"{stage.count(10_000, 1_000):,} zero-work, sent as one"


def _measured(stage: Stage, transport: str) -> dict[str, float]:
    content = {**yaml.safe_load(stage.site_text), "head": {"transport": transport}}
    count, turns = stage.count(10_000, 1_000), stage.count(300, 30)
    with stage.site(yaml.safe_dump(content)) as site, pilot.Session(site, name="bench") as session:
        warm(Pilot(session), stage.workers)
        deadline = Deadline(60.0 + count / 100)
        begin = time.perf_counter()
        futures = session.submit_many(tasks.one_more, [(number,) for number in range(count)])
        pilot.gather(futures, timeout=deadline.left_s())
        rate = count / (time.perf_counter() - begin)
        waits: list[float] = []
        for number in range(turns):
            begin = time.perf_counter()
            session.submit(tasks.one_more, number).result(deadline.left_s())
            waits.append(1e3 * (time.perf_counter() - begin))
        head = find_head(site)
        assert head is not None
        time.sleep(REST_S)
        before_s, began = measure.cpu_s(head.pid), time.perf_counter()
        time.sleep(stage.count(WATCH_S, WATCH_S // 5))
        share = 100 * (measure.cpu_s(head.pid) - before_s) / (time.perf_counter() - began)
    waits.sort()
    return {
        _many(stage): rate,
        "one after the other, p50": waits[len(waits) // 2],
        "one after the other, p95": waits[int(0.95 * (len(waits) - 1))],
        "idle head with a pilot": share,
    }
