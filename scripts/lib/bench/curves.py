"""CURVES, the data of the pictures beside W2: throughput over the length of tasks, efficiency over
the number of executors, overhead over the number of waiting tasks.

Tasks of a length sleep, so that more of them than there are cores can run at a time, and nobody's
overhead is hidden by the work of another. On sites of this machine.
"""

from __future__ import annotations

import time

import pilot
from bench import backlog, references, tasks
from bench.contenders import Contender, Local, medians
from bench.loads import LIMIT_S, WARM_S, warm
from bench.ours import Pilot
from bench.stage import Stage, cpu_by_role, one_pool, rest, site_processes
from pilot.site_configs import template_text

#: Lengths of tasks, in seconds.
LENGTHS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
#: Numbers of executors on one node, and the lengths of the tasks that keep them busy, in seconds.
EXECUTORS = (1, 2, 4, 8, 16, 32)
BUSY_LENGTHS_S = (0.01, 0.1, 1.0)
#: Numbers of tasks that wait, and how many are run beside them.
WAITING = (0, 1_000, 10_000, 100_000)
BESIDE = 5_000
#: Without any overhead a point would take so long, in seconds.
IDEAL_S = 3.0


def run(stage: Stage) -> None:
    """Measure."""
    stage.findings.data["CURVES"] = {
        "lengths": _lengths(stage),
        "executors": _executors(stage),
        "waiting": _waiting(stage),
    }


def _count(stage: Stage, at_a_time: int, length_s: float) -> int:
    """Return the number of tasks of a length that keeps all of `at_a_time` executors busy long
    enough."""
    ideal_s = IDEAL_S / 10 if stage.quick else IDEAL_S
    return at_a_time * max(1, round(ideal_s / length_s))


def _lengths(stage: Stage) -> dict[str, list[tuple[float, float]]]:
    """Return points of length (seconds) and rate by contender; ``ideal`` is the workers' limit."""

    def measurement(contender: Contender) -> dict[str, float | None]:
        return {
            _named(length_s): contender.do(
                "sleeps", count=_count(stage, stage.workers, length_s), length_s=length_s
            )
            for length_s in LENGTHS_S
        }

    stage.say("throughput over length")
    samples = stage.contest("CURVES", measurement, 1)
    curves: dict[str, list[tuple[float, float]]] = {}
    for length_s in LENGTHS_S:
        rates = medians(samples, _named(length_s))
        ideal = stage.workers / length_s
        case = f"{stage.workers} workers, tasks of {_named(length_s)}"
        stage.findings.add(
            "CURVES", case, "tasks/s", rates[Pilot.name], {**rest(rates), "ideal": ideal}
        )
        for name, rate in {**rates, "ideal": ideal}.items():
            if rate is not None:
                curves.setdefault(name, []).append((length_s, rate))
    return curves


def _executors(stage: Stage) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return points of executors and efficiency (0 to 1) by length and contender."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    lengths = BUSY_LENGTHS_S[:2] if stage.quick else BUSY_LENGTHS_S
    for executors in EXECUTORS[:3] if stage.quick else EXECUTORS:
        stage.say(f"{executors} executors")
        text = one_pool(template_text("local"), cores_per_node=executors)
        with references.process_pool(executors) as pool:
            warm(pool, executors)
            with stage.site(text) as site, pilot.Session(site, name="bench") as session:
                ours = Pilot(session)
                warm(ours, executors)
                for length_s in lengths:
                    found = {}
                    for system in (ours, pool):
                        count = _count(stage, executors, length_s)
                        rate = Local(system).do("sleeps", count=count, length_s=length_s)
                        found[system.name] = rate * length_s / executors
                        of_length = curves.setdefault(_named(length_s), {})
                        of_length.setdefault(system.name, []).append(
                            (executors, found[system.name])
                        )
                    case = f"{executors} executors, tasks of {_named(length_s)}"
                    shares: dict[str, float | None] = {n: 100 * x for n, x in found.items()}
                    stage.findings.add("CURVES", case, "% busy", shares[Pilot.name], rest(shares))
    return curves


def _waiting(stage: Stage) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return points of waiting tasks and µs per task beside them, by what they wait for and by
    measure."""
    count = stage.count(BESIDE, BESIDE // 10)
    beside = pilot.task(pool=backlog.FREE)(tasks.nothing)
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for reason in ("core", "result"):
        points = curves.setdefault(reason, {"elapsed": [], "head": []})
        with backlog.opened(stage) as waiting:
            system = Pilot(waiting.session)
            there = 0
            for wanted in WAITING[:-1] if stage.quick else WAITING:
                stage.say(f"{wanted:,} tasks wait for a {reason}")
                (waiting.for_core if reason == "core" else waiting.for_result)(wanted - there)
                there = wanted
                # The head has taken them all when it answers; pilots and executors are warm.
                waiting.session.task_counts()
                system.values(system.submit_many(beside, [()] * count), WARM_S)
                roles = site_processes(waiting.site)
                before, began = cpu_by_role(roles), time.perf_counter()
                system.values(system.submit_many(beside, [()] * count), LIMIT_S)
                took_s = time.perf_counter() - began
                used_s = cpu_by_role(roles)["head"] - before["head"]
                for name, seconds in (("elapsed", took_s), ("head", used_s)):
                    points[name].append((wanted, 1e6 * seconds / count))
                    stage.findings.add(
                        "CURVES",
                        f"beside {wanted:,} tasks that wait for a {reason}: {name}",
                        "µs/task",
                        1e6 * seconds / count,
                        more_is_better=False,
                    )
    return curves


def _named(length_s: float) -> str:
    return f"{length_s:g} s" if length_s >= 1 else f"{1e3 * length_s:g} ms"
