"""Versions of a task: how users make them, what a pilot starts, and what pools grow for."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest
from support import tasks
from support.builders import done, spec, template
from support.virtual_pilot import VirtualPilot, VirtualSite

import pilot
from pilot.client.task import MPI, PYTHON, OptionError, Task
from pilot.client.versions import MOST, versions_of
from pilot.head.core.core import Core
from pilot.head.core.events import AttemptsEnded, AttemptsRunning, PilotJoined, TasksSubmitted
from pilot.scheduler.elasticity import Halt, PilotSupply, PoolLimits, standings
from pilot.scheduler.resources import NodeShape, Resources, needs, node_shape
from pilot.wire.messages.pilot import RunningTask


def cube(x: int, by: int = 3) -> int:
    return int(x**by)


def resources_of(task: Task[..., Any], *args: Any) -> Resources:
    return task.task_options.resolve(args, {}).resources


# --- as users make them ---------------------------------------------------------------------------


def test_a_version_has_the_options_of_its_task_but_for_its_own() -> None:
    task = pilot.task(cores=4, memory="2G", time_limit=60, retries=2)(cube)
    alone = task.version(cores=1, gpus=1, name="on_gpu")(lambda x, by=3: x**by)
    assert alone(2) == 8 and task(2) == 8
    assert resources_of(alone).gpus == 1
    (version,) = versions_of(task).values()
    assert resources_of(version).cores == 1 and resources_of(version).memory_mib == 2048
    assert resources_of(task).cores == 4 and resources_of(task).gpus == 0
    changed = task.options(memory="3G", cores=2)
    (version,) = versions_of(changed).values()
    assert resources_of(version).cores == 1 and resources_of(version).memory_mib == 3072
    assert list(versions_of(task)) == ["on_gpu"]


def test_a_version_that_is_made_later_is_one_of_copies_too() -> None:
    task = pilot.task(cores=2)(cube)
    copy = task.options(priority=1)
    assert not versions_of(copy)

    @task.version(gpus=1)
    def on_gpu(x: int, by: int = 3) -> int:
        return int(x**by)

    assert list(versions_of(copy)) == list(versions_of(task)) == ["on_gpu"]
    assert list(versions_of(pickle.loads(pickle.dumps(pilot.task(tasks.square))))) == []


def test_values_of_a_versions_options_may_depend_on_the_arguments() -> None:
    task = pilot.task(cube)
    task.version(cores=lambda x, by=3: x, name="large")(cube)
    (version,) = versions_of(task).values()
    assert resources_of(version, 5).cores == 5


def test_versions_may_be_of_other_kinds() -> None:
    task = pilot.task(cores=2)(cube)
    task.version(pilot.mpi(ranks=4, cores=1)(cube).options(name="with_mpi"))
    task.version(pilot.shell("expr {x}", name="as_command"))
    there = versions_of(task)
    assert [version.kind for version in there.values()] == ["mpi", "command"]
    assert resources_of(there["with_mpi"]).ranks == 4
    assert resources_of(there["as_command"]).cores == 2
    ranks = pilot.mpi(ranks=8, ranks_per_node=4)(cube)
    ranks.version(ranks=2, name="two")(cube)
    ranks.version(pilot.task(cores=8)(cube).options(name="threads"))
    there = versions_of(ranks)
    assert (there["two"].kind, there["threads"].kind) == (MPI, PYTHON)
    assert resources_of(there["two"]).ranks == 2
    assert str(resources_of(there["threads"])) == "8 cores"


def test_a_method_has_its_versions_bound() -> None:
    class Solver:
        def __init__(self, by: int) -> None:
            self.by = by

        @pilot.task
        def solve(self, x: int) -> int:
            return x * self.by

        @solve.version(gpus=1)
        def solve_on_gpu(self, x: int) -> int:
            return x * self.by + 1

    bound = Solver(3).solve
    assert bound(2) == 6
    (version,) = versions_of(bound).values()
    assert version(2) == 7
    assert versions_of(pickle.loads(pilot.data.pickles.encode(bound)))["solve_on_gpu"](2) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 2}, "retries is of the task, whichever version runs: give it to cube itself"),
        ({"on_failure": "ignore"}, "on_failure is of the task"),
        ({"gpu": 1}, "there is no option 'gpu'; did you mean 'gpus'"),
        ({"cores": -1}, "cores=-1"),
    ],
)
def test_what_no_version_may_change_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pilot.task(cube).version(**options)(cube)


def test_a_version_gets_the_arguments_of_its_task() -> None:
    task = pilot.task(cube)
    with pytest.raises(OptionError, match="other has no 'by'"):

        @task.version
        def other(x: int) -> int:
            return x

    with pytest.raises(OptionError, match="another needs 'z' besides"):

        @task.version
        def another(x: int, by: int, z: int) -> int:
            return x

    with pytest.raises(OptionError, match="third has them in another order"):

        @task.version
        def third(by: int, x: int) -> int:
            return x

    @task.version
    def fourth(x: int, by: int = 1, *, more: int = 2) -> int:
        return x

    assert list(task.versions) == ["fourth"]


def test_a_version_is_no_request_and_has_none_itself() -> None:
    request = pilot.http("GET", "https://example.org/{x}")
    with pytest.raises(OptionError, match="requests by HTTP have none"):
        request.version(cube)
    task, other = pilot.task(cube), pilot.task(tasks.square)
    other.version(gpus=1, name="a")(tasks.square)
    with pytest.raises(OptionError, match="square has versions itself"):
        task.version(other)
    with pytest.raises(OptionError, match="has a version 'a' already"):
        other.version(gpus=2, name="a")(tasks.square)
    for number in range(MOST):
        task.version(cores=number + 1, name=f"v{number}")(cube)
    with pytest.raises(OptionError, match="cube has 16 versions"):
        task.version(cores=20)(cube)


def test_labels_tell_versions_apart() -> None:
    task = pilot.task(cube)
    task.version(gpus=1)(cube)

    @task.version(cores=2)
    def _(x: int, by: int = 3) -> int:
        return x

    assert list(task.versions) == ["version 1", "version 2"]


# --- what a pilot starts --------------------------------------------------------------------------

#: Of a task of 4 cores.
CPU = template(1, resources=Resources(cores=4), versions=(2,))
GPU = template(2, name="t1", resources=needs(1, gpus=1), version="gpu", version_of=9, function=b"g")


def versions_run(pilot: VirtualPilot) -> dict[int, str]:
    """The version as which each task ran, as is reported."""
    return {end.task: end.version for end in pilot.rules.take_completions()}


def test_the_first_version_that_can_start_does() -> None:
    pilot = VirtualPilot([node_shape(6, gpus=2)])
    pilot.submit(0.0, CPU, range(1, 5), 10.0, versions=[GPU])
    assert pilot.run() == 20.0
    # One on four cores, two on the others, with a GPU each; then one on what is free first.
    counts = Counter(versions_run(pilot).values())
    assert counts == {"": 2, "gpu": 2} or counts == {"": 1, "gpu": 3}
    assert [run.began for run in sorted(pilot.runs, key=lambda run: run.task)] == [0, 0, 0, 10]


def test_a_version_that_the_node_cannot_hold_is_none() -> None:
    for shape, version in ((node_shape(4), ""), (node_shape(2, gpus=1), "gpu")):
        pilot = VirtualPilot([shape])
        pilot.submit(0.0, CPU, [1, 2], 10.0, versions=[GPU])
        assert pilot.run() == 20.0
        assert versions_run(pilot) == {1: version, 2: version}
    pilot = VirtualPilot([node_shape(2)])
    pilot.submit(0.0, CPU, [1], 10.0, versions=[GPU])
    pilot.run(1.0)
    (end,) = pilot.rules.take_completions()
    assert end.outcome == "interrupted" and end.is_unstarted


def test_waiting_tasks_with_versions_are_cancelled_and_handed_back_once() -> None:
    pilot = VirtualPilot([node_shape(4, gpus=1)])
    pilot.submit(0.0, CPU, range(1, 7), 10.0, versions=[GPU])
    pilot.run(1.0)
    pilot.rules.cancel([5], 1.0)
    pilot.rules.return_to_head([6], 1.0)
    pilot.rules.drain("as told", 2.0)
    ends = {end.task: end.outcome for end in pilot.rules.take_completions()}
    assert ends == dict.fromkeys((2, 3, 4, 6), "interrupted") | {5: "cancelled"}
    assert not pilot.rules.has_waiting and pilot.rules.held == {1: 1}


def test_a_version_with_other_amounts_of_the_site_is_chosen_by_the_head() -> None:
    licensed = template(1, resources=needs(1, site={"matlab": 10_000}), versions=(2,))
    free = template(2, resources=needs(2), version="free", version_of=9)
    site = VirtualSite([node_shape(8)], site=(("matlab", 10_000),))
    site.submit(0.0, licensed, range(1, 4), 10.0, versions=[free])
    assert site.run() == 10.0
    assert sorted(len(run.shares[0].cores) for run in site.runs) == [1, 2, 2]
    assert not site.core.site.holders


def test_a_world_and_an_executor_are_versions_of_a_task() -> None:
    ranks = template(1, kind="mpi", resources=Resources(ranks=8, ranks_per_node=4), versions=(2,))
    threads = template(2, resources=Resources(cores=3), version="threads", version_of=9)
    site = VirtualSite([node_shape(4), node_shape(4)])
    # Nodes that are not free both: only the other version can start.
    site.submit(0.0, template(5), [10], 5.0)
    site.submit(1.0, ranks, [11, 12], 5.0, versions=[threads])
    site.run()
    began = {run.task: run.began for run in site.runs}
    assert began[11] == began[12] == 1.0
    assert {len(run.shares) for run in site.runs if run.task > 10} == {1}


# --- what the head does ---------------------------------------------------------------------------


def head(**shapes: NodeShape) -> Core:
    core = Core()
    for name, shape in shapes.items():
        core.apply(PilotJoined(name, name, shape, 1, 0.0, []), 0.0)
    return core


def test_pilots_get_tasks_that_they_can_run_as_one_of_their_versions() -> None:
    core = head(large=node_shape(4), gpu=node_shape(2, gpus=2))
    core.apply(TasksSubmitted(1, [GPU, CPU], [spec(n) for n in range(1, 5)], {}), 1.0)
    given = {name: [task.id for task in those] for name, those in core.assign(2.0).items()}
    assert sorted(each for those in given.values() for each in those) == [1, 2, 3]
    assert len(given["gpu"]) == 2
    running = [RunningTask(each, 1, "", 2.0) for each in given["large"]]
    core.apply(AttemptsRunning("large", running), 3.0)
    (work,) = [task.task_class for task in core.tasks.values() if task.id in given["gpu"][:1]]
    assert work.version is GPU and work.ready == 1 == work.versions[0].ready
    # The time that a version took is of that version.
    first = given["gpu"][0]
    core.apply(AttemptsEnded("gpu", [done(first, version="gpu", ended=4.0)]), 4.0)
    own, gpu = work.versions
    assert (own.mean_s, gpu.mean_s) == (None, 3.0)
    assert [task.id for task in core.assign(5.0)["gpu"]] == [4]
    assert work.ready == 0
    assert sum(each.assigned for each in work.versions) == 3


def test_templates_may_come_in_any_order() -> None:
    for kinds in ([GPU, CPU], [CPU, GPU]):
        core = head(gpu=node_shape(1, gpus=1))
        core.apply(TasksSubmitted(1, kinds, [spec(1)], {}), 1.0)
        assert [task.id for task in core.assign(2.0)["gpu"]] == [1]


def test_a_returned_task_may_start_as_another_version() -> None:
    core = head(gpu=node_shape(2, gpus=1))
    core.apply(TasksSubmitted(1, [GPU, CPU], [spec(1)], {}), 1.0)
    assert core.assign(2.0)
    core.apply(PilotJoined("large", "large", node_shape(4), 1, 0.0, []), 3.0)
    assert core.ask_back(4.0) == {"gpu": [1]}
    back = done(1, "interrupted", started=0.0)
    core.apply(AttemptsEnded("gpu", [back]), 5.0)
    (task,) = core.assign(6.0)["large"]
    assert task.task_class.version is None


def pool(name: str, shape: NodeShape, most: int = 2, halt: Halt | None = None) -> PoolLimits:
    return PoolLimits(name, shape, 0, most, 1, 4, 3600.0, halt=halt)


def test_one_pool_grows_for_tasks_with_versions() -> None:
    core = Core()
    core.apply(TasksSubmitted(1, [GPU, CPU], [spec(n) for n in range(1, 4)], {}), 1.0)
    (work,) = core.demand()
    assert work.waiting == 3 and [each.waiting for each in work.versions] == [3]
    pools = [pool("gpu", node_shape(1, gpus=1)), pool("large", node_shape(4))]
    wanted = {its.pool.name: its.wanted for its in standings(pools, [work], [])}
    assert wanted == {"gpu": 0, "large": 3}
    # Where the pool of the task itself has all that it may have, another version counts.
    full = [PilotSupply("a", "large", 2, queued=False)]
    wanted = {its.pool.name: its.wanted for its in standings(pools, [work], full)}
    assert wanted == {"gpu": 3, "large": 0}
    held = [pools[0], pool("large", node_shape(4), halt=Halt("held", "it is held by hand"))]
    assert standings(held, [work], [])[0].wanted == 3
