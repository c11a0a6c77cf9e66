"""W1, throughput: 10,000 independent zero-work tasks, from the first submission to the last result.

Variants: 1 KiB in and out; one frame of tasks in place of single submissions; 100,000 and 1,000,000
tasks with the head's memory. Beside the rates: the processor time that each hop spends on a task,
and all together. Where others use the machine too it says more than the rate, which favours what
has more processes.
"""

from __future__ import annotations

import multiprocessing
import time

import pilot
from bench import measure, tasks
from bench.contenders import Contender, medians
from bench.loads import warm
from bench.measure import Deadline
from bench.ours import Pilot
from bench.references import ProcessPool
from bench.stage import Stage, cpu_by_role, rest, site_processes
from bench.systems import System
from pilot.head.running import find_head

ROUNDS = 3
#: Tasks in one call of the large variants, so that a million does not lie around at once.
CHUNK = 10_000

ROLES = ("client", "head", "agent", "executor")


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(10_000, 1_000)
    processor: dict[str, list[dict[str, float]]] = {}

    def measurement(contender: Contender) -> dict[str, float | None]:
        roles = _processes(contender.system)
        before = cpu_by_role(roles)
        rates = {"zero-work": contender.do("zero_work", count=count)}
        after = cpu_by_role(roles)
        if roles:
            used = {role: (after[role] - before[role]) / count for role in before}
            processor.setdefault(contender.name, []).append(used)
        rates["1 KiB in and out"] = contender.do("data", count=count, size=1024)
        rates["zero-work, sent as one"] = contender.do("sent_as_one", count=count)
        return rates

    samples = stage.contest("W1", measurement, stage.count(ROUNDS, 1))
    for case in samples[Pilot.name][0]:
        rates = medians(samples, case)
        stage.findings.add("W1", f"{count:,} {case}", "tasks/s", rates[Pilot.name], rest(rates))
    for role in ROLES:
        used_s = measure.median([one.get(role, 0.0) for one in processor[Pilot.name]])
        stage.findings.add(
            "W1", f"processor time, {role}", "µs/task", 1e6 * used_s, more_is_better=False
        )
    in_all = {
        name: 1e6 * measure.median([sum(one.values()) for one in each])
        for name, each in processor.items()
    }
    stage.findings.add(
        "W1",
        "processor time, all",
        "µs/task",
        in_all[Pilot.name],
        rest(in_all),
        more_is_better=False,
    )
    stage.findings.data["W1"] = {"rates": samples, "processor_s_per_task": processor}
    if not stage.large:
        stage.findings.miss("W1", "100,000 and 1,000,000 tasks", "they take long; ask by --large")
        return
    small = medians(samples, "zero-work, sent as one")[Pilot.name]
    for many in (100_000, 1_000_000) if not stage.quick else (100_000,):
        _large(stage, many, small)


def _processes(system: System | None) -> dict[str, list[int]]:
    """Return the processes besides this one that a system works with, where they are known."""
    if isinstance(system, Pilot):
        return site_processes(system.session.site)
    if isinstance(system, ProcessPool):
        workers = multiprocessing.active_children()
        return {"worker": [process.pid for process in workers if process.pid is not None]}
    return {}


def _large(stage: Stage, count: int, small_rate: float | None) -> None:
    stage.say(f"{count:,} tasks")
    with stage.site() as site, pilot.Session(site, name="bench") as session:
        warm(Pilot(session), stage.workers)
        head = find_head(site)
        assert head is not None
        before_mib = measure.memory_mib(head.pid, "VmRSS")
        deadline = Deadline(60.0 + count / 500)
        begin = time.perf_counter()
        futures = []
        for first in range(0, count, CHUNK):
            futures.extend(
                session.submit_many(tasks.one_more, [(n,) for n in range(first, first + CHUNK)])
            )
        submitted_s = time.perf_counter() - begin
        values = pilot.gather(futures, timeout=deadline.left_s())
        rate = count / (time.perf_counter() - begin)
        if values != list(range(1, count + 1)):
            raise RuntimeError("results are not what they should be")
        peak_mib = measure.memory_mib(head.pid)
    case = f"{count:,} zero-work, sent in frames"
    stage.findings.add(
        "W1", case, "tasks/s", rate, {f"pilot, {stage.count(10_000, 1_000):,} tasks": small_rate}
    )
    stage.findings.add("W1", case, "MiB head's peak", peak_mib, more_is_better=False)
    stage.findings.add(
        "W1",
        case,
        "KiB head's peak per task",
        1024 * (peak_mib - before_mib) / count,
        more_is_better=False,
    )
    stage.findings.data[f"W1 {count}"] = {"submitted_s": submitted_s, "rate": rate}
