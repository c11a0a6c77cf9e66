"""BUDGET, what one task costs in each hop: processor time, context switches, bytes.

Three loads that differ in how much goes together: 10,000 tasks that do nothing, 1,000 of them one
after the other, and 2,000 commands. Processor time is that of all threads of a process; that of the
commands, from the fork on, is told apart. Bytes are those of a task that does nothing: in each
message, without CURVE's 33 for the whole, in the database's file, and written to the disk.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

import pilot
from bench import loads, measure
from bench.ours import Pilot
from bench.stage import Stage, site_processes
from pilot.model.tasks import Completion, TaskOutcome, TaskSpec
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.messages.client import Outcomes, Submit
from pilot.wire.messages.pilot import Assign, AttemptSpec, Completions
from pilot.wire.messages.worker import Done, Run

ROLES = ("client", "head", "agent", "executor", "commands")
#: So many tasks are in a message.
TOGETHER = 64


def run(stage: Stage) -> None:
    """Measure."""
    for title, count, load in (
        ("zero-work", stage.count(10_000, 1_000), loads.zero_work),
        ("one after the other", stage.count(1_000, 100), _one_after_the_other),
        ("/bin/true", stage.count(2_000, 200), loads.commands),
    ):
        with stage.site() as site, pilot.Session(site, name="bench") as session:
            system = Pilot(session)
            loads.warm(system, stage.workers)
            load(system, count)
            before = _State(site)
            load(system, count)
            _add(stage, title, count, before, _State(site))
    for message, size in message_sizes().items():
        stage.findings.add("BUDGET", message, "bytes/task", size / TOGETHER, more_is_better=False)


def _one_after_the_other(system: Pilot, count: int) -> object:
    return loads.latencies(system, count, 1)


class _State:
    """The resources that a site's processes have used so far, by role, and the bytes on the
    disk."""

    def __init__(self, site: Site) -> None:
        roles = {**site_processes(site), "client": [os.getpid()]}
        self.cpu_s = {role: sum(map(measure.cpu_s, pids)) for role, pids in roles.items()}
        self.cpu_s["commands"] = sum(map(measure.children_cpu_s, roles["executor"]))
        self.switches = {role: sum(map(measure.switches, pids)) for role, pids in roles.items()}
        self.written = sum(map(measure.written, roles["head"]))
        files = (Path(f"{site.database}{suffix}") for suffix in ("", "-wal"))
        self.size = sum(file.stat().st_size for file in files)


def _add(stage: Stage, title: str, count: int, before: _State, after: _State) -> None:
    """Note the costs of a load of `count` tasks."""

    def add(case: str, unit: str, used: float) -> None:
        case = f"{title}: {case}"
        stage.findings.add("BUDGET", case, f"{unit}/task", used / count, more_is_better=False)

    for role in ROLES:
        if (used_s := after.cpu_s[role] - before.cpu_s[role]) or role != "commands":
            add(role, "µs", 1e6 * used_s)
    for role in ROLES[:-1]:
        add(role, "switches", after.switches[role] - before.switches[role])
    add("the database's file", "bytes", after.size - before.size)
    add("written to the disk", "bytes", after.written - before.written)


def message_sizes() -> dict[str, int]:
    """Return the bytes of the messages on a task's way, each with as many tasks as travel
    together."""
    stream, now = 5 << 32, time.time()
    value = Value(5, b"hello")
    numbers = range(stream + 1, stream + 1 + TOGETHER)
    times = (now,) * 5  # received, fetched, started, ended, reported
    work = [AttemptSpec(number, 1, stream, b"hello") for number in numbers]
    ends = [Completion(number, 1, "ok", (value,), None, "node1", *times) for number in numbers]
    messages = {
        "client → head": Submit(
            1, 1, [], [], [TaskSpec(number, stream, b"hello") for number in numbers]
        ),
        "head → agent": Assign([], [], [], work),
        "agent → executor": Run([], [], work),
        "executor → agent": Done(1, ends),
        "agent → head": Completions("pilot-bench-1", 1, ends),
        "head → client": Outcomes(
            [TaskOutcome(number, "COMPLETED", (value,)) for number in numbers]
        ),
    }
    return {name: len(msgspec.msgpack.encode(message)) for name, message in messages.items()}
