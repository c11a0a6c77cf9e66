"""Nodes that are cut off, killed or taken away under a running pilot, in a real Slurm.

Whatever becomes of a node, its tasks are run again elsewhere and end well, and no attempt counts as
a fault of its task: none may crash or fail even once here.

What takes its time is that somebody misses a node. So all that can become of one happens at once,
each to a site and nodes of its own, as far as there are so many; a test tells of each.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot
from pilot.agent.agent import NODE_SILENT_S

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

#: Slurm gives a node up after 20 s, the head a pilot after 60 s; a job waits for some time before
#: it may start again.
DEADLINE_S = 120.0
#: So many tasks run on each node.
CORES = 2
#: A large result has so many numbers: 8 MiB.
FLOATS = 1 << 20


@pilot.task(retries=0, max_crashes=0)
def held(number: int, directory: str) -> int:
    """Leave a mark for each time that this is run, and end when it may."""
    mark = f"{number}-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}"
    (Path(directory) / mark).touch()
    end = time.monotonic() + 240.0
    while not (Path(directory) / "go").exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody has let it go")
        time.sleep(0.05)
    return number * number


@pilot.mpi(ranks=2, ranks_per_node=1, max_crashes=0)
def held_world(number: int, directory: str) -> int:
    """Do the same in a world over two nodes."""
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(held(number, directory))) // 2


@pilot.task(retries=0, max_crashes=0)
def held_block(number: int, directory: str) -> Any:
    """Do the same, and leave a large result."""
    import numpy as np

    held(number, directory)
    return np.full(FLOATS, float(number))


@pilot.task(retries=0, max_crashes=0)
def held_sum(number: int, directory: str, *blocks: Any) -> float:
    """Sum blocks up, and say whether some have come from another node, and end when it may."""
    total = float(sum(block.sum() for block in blocks))
    if "/copies/results/" in Path("/proc/self/maps").read_text():
        (Path(directory).parent / f"copied-{number}").touch()
    held(number, directory)
    return total


@pilot.task(nodes=2)
def on_two_nodes() -> None:
    """Need a pilot of two nodes."""


@pilot.mpi(ranks=3, ranks_per_node=1)
def on_three_nodes() -> None:
    """Need a pilot of three nodes."""


class Scene:
    """Tasks that fill a pilot and run until they are let go, and the nodes that they are on."""

    def __init__(self, cluster: VirtualCluster, session: pilot.Session, directory: Path) -> None:
        self.cluster = cluster
        self.session = session
        self.directory = directory
        self.directory.mkdir()
        self._lost: set[str] = set()

    def begin(self, count: int, function: pilot.Task[..., Any] = held) -> None:
        """Have so many tasks run, and see where."""
        arguments = [(number, str(self.directory)) for number in range(count)]
        self.futures = self.session.submit_many(function, arguments)
        self.wait("all to run")
        #: The one job that runs.
        self.job = self.running_job()
        #: The node that its agent is on.
        self.first = self.job_shown()["BatchHost"]

    @property
    def where(self) -> dict[int, list[str]]:
        """The nodes on which each task was begun, in this order."""
        return self.where_in(self.directory)

    def where_in(self, directory: Path) -> dict[int, list[str]]:
        """The same of tasks that leave their marks elsewhere."""
        marks = [mark.name.split("-") for mark in directory.iterdir() if mark.name != "go"]
        found: dict[int, list[str]] = {}
        for number, node, _, _ in sorted(marks, key=lambda mark: int(mark[3])):
            found.setdefault(int(number), []).append(node)
        return found

    def wait(self, what: str, starts: int = 1, of: set[int] | None = None) -> None:
        """Return when each of these tasks, or of all, was begun so often."""
        wanted = set(range(len(self.futures))) if of is None else of
        wait_until(
            lambda: all(len(self.where.get(number, ())) >= starts for number in wanted),
            DEADLINE_S,
            what,
        )

    def running_job(self) -> str:
        """The one job of a pilot that runs."""
        rows = [row for row in self.session.query("fleet", alive=True) if row["job"]]
        (row,) = [row for row in rows if row["state"] == "RUNNING"]
        return str(row["job"])

    def job_shown(self) -> dict[str, str]:
        """What Slurm says of the job."""
        return self.cluster.job(int(self.job))

    def requeue(self) -> None:
        """Have Slurm start the job again, as soon as it does that."""
        self.cluster.run("scontrol", "requeue", self.job)
        self.cluster.wait_for(
            "the job to wait", lambda: self.job_shown()["JobState"] == "PENDING", DEADLINE_S
        )
        self.cluster.run("scontrol", "update", f"JobId={self.job}", "StartTime=now")

    def wait_for_states(self, *states: str) -> None:
        """Return when the pilots are in these states."""
        wait_until(
            lambda: [row["state"] for row in self.session.query("fleet")] == [*states],
            DEADLINE_S,
            f"{states} to be told",
        )

    def lose(self, how: str, node: str) -> None:
        """Cut off or kill a node; it is joined again in the end, if not before."""
        self._lost.add(node)
        self.cluster.do(how, node)

    def join(self) -> None:
        """Have all nodes again."""
        while self._lost:
            self.cluster.do("join", self._lost.pop())

    def let_go(self) -> None:
        """Let all tasks end."""
        (self.directory / "go").touch()

    def end(self) -> list[list[str]]:
        """Let all tasks go, which must end well; returns how the attempts of each have ended."""
        self.let_go()
        wanted = [number * number for number in range(len(self.futures))]
        assert pilot.gather(self.futures, timeout=DEADLINE_S) == wanted
        shown = [self.session.query("task", task=future.task_id) for future in self.futures]
        for each in shown:
            assert each["state"] == "COMPLETED"
            numbers = [attempt["number"] for attempt in each["attempts_made"]]
            assert numbers == list(range(1, len(numbers) + 1)), "each try has its number"
        return [[attempt["outcome"] for attempt in each["attempts_made"]] for each in shown]


@dataclass(frozen=True)
class Scenario:
    """What becomes of nodes, and of the tasks on them."""

    play: Callable[[Scene], None]
    #: The nodes of a pilot, those that the pool may have, and all that it takes with the lost ones.
    of: int
    most: int
    takes: int
    #: The cores of a node; how long one that is idle is kept.
    cores: int = CORES
    idle_time: str = "auto"
    #: True if it is told how the tasks begin; otherwise they fill the pilot at first.
    begins: bool = False

    def run(self, cluster: VirtualCluster, room: Room, directory: Path) -> None:
        """Have it happen, when the cluster has nodes for it."""
        pool: dict[str, Any] = {
            "cores_per_node": self.cores,
            "max_nodes": self.most,
            "nodes_per_pilot": self.of,
            "idle_time": self.idle_time,
        }
        with (
            room.taken(self.takes),
            cluster.site(directory / "site", **pool) as site,
            pilot.Session(site) as session,
        ):
            scene = Scene(cluster, session, directory / "runs")
            try:
                if not self.begins:
                    scene.begin(self.cores * self.of)
                self.play(scene)
            finally:
                scene.let_go()  # the session's end waits for them
                scene.join()


#: In the order in which they begin: what takes the longest first.
SCENARIOS: dict[str, Scenario] = {}


def scenario(
    of: int, most: int, takes: int, **more: Any
) -> Callable[[Callable[[Scene], None]], None]:
    """Have a function be what becomes of nodes: see `Scenario`."""

    def add(play: Callable[[Scene], None]) -> None:
        SCENARIOS[play.__name__] = Scenario(play, of, most, takes, **more)

    return add


class Room:
    """The nodes of the cluster that no scenario has taken."""

    def __init__(self, nodes: int) -> None:
        self._free = nodes
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, nodes: int) -> Iterator[None]:
        """Take so many, when they are there, until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= nodes)
            self._free -= nodes
        try:
            yield
        finally:
            with self._changed:
                self._free += nodes
                self._changed.notify_all()


@scenario(of=2, most=2, takes=3)
def what_a_lost_agent_leaves_of_its_job_is_given_back_and_replaced(scene: Scene) -> None:
    """The job goes on on its other node, where no process is left: the pool may have no more."""
    scene.lose("kill", scene.first)
    scene.wait("all to run again", starts=2)
    assert scene.job_shown()["JobState"] != "RUNNING"
    (row,) = [row for row in scene.session.query("fleet") if row["job"] == scene.job]
    assert row["state"] == "ENDED" or row["draining"]
    assert scene.end() == [["interrupted", "ok"]] * 4


@scenario(of=1, most=2, takes=2)
def tasks_of_a_node_that_is_cut_off_run_elsewhere(scene: Scene) -> None:
    """Its processes live on, and end their tasks too: nobody gets to know, and nothing is told
    twice when it comes back."""
    scene.lose("cut", scene.first)
    scene.wait("all to run again", starts=2)
    assert scene.end() == [["interrupted", "ok"]] * 2
    scene.join()
    again = scene.session.submit(held, 9, str(scene.directory))
    assert again.result(DEADLINE_S) == 81
    ends = Counter(e.task for e in scene.session.events() if e.state == "COMPLETED")
    assert list(ends.values()) == [1] * 3
    assert all(len(scene.where[number]) == 2 for number in range(2))


@scenario(of=2, most=3, takes=3)
def a_killed_node_takes_only_its_own_tasks(scene: Scene) -> None:
    """One that the agent is not on: the pilot goes on with the others."""
    where = {number: nodes[0] for number, nodes in scene.where.items()}
    assert Counter(where.values()) == dict.fromkeys(set(where.values()), CORES)
    (other,) = set(where.values()) - {scene.first}
    lost = {number for number, node in where.items() if node == other}
    scene.lose("kill", other)
    scene.wait("the lost tasks to run again", starts=2, of=lost)
    assert scene.job_shown()["JobState"] == "RUNNING"
    outcomes = scene.end()
    for number, nodes in scene.where.items():
        assert outcomes[number] == (["interrupted", "ok"] if number in lost else ["ok"])
        assert len(nodes) == len(outcomes[number]) and other not in nodes[1:]


@scenario(of=3, most=3, takes=3, cores=3, idle_time="10m", begins=True)
def a_node_that_is_cut_off_takes_its_share_of_a_world_and_is_avoided(scene: Scene) -> None:
    """One that the agent is not on, in the middle of MPI and other tasks: the pilot goes on with
    the others, and does not use the node again when that is back."""
    scene.session.submit(on_three_nodes).result(DEADLINE_S)
    place = scene.directory.parent / "world"
    place.mkdir()

    def ranks() -> list[str]:
        return scene.where_in(place).get(7, [])

    world = scene.session.submit(held_world, 7, str(place))
    try:
        wait_until(lambda: len(ranks()) == 2, DEADLINE_S, "the world to run")
        scene.begin(3)
        before = {number: nodes[0] for number, nodes in scene.where.items()}
        other = next(node for node in ranks() if node != scene.first)
        lost = {number for number, node in before.items() if node == other}
        scene.lose("cut", other)
        scene.wait("the lost tasks to run again", starts=2, of=lost)
        outcomes = scene.end()
        for number, nodes in scene.where.items():
            assert outcomes[number] == (["interrupted", "ok"] if number in lost else ["ok"])
            assert other not in nodes[1:]
        wait_until(lambda: len(ranks()) == 4, DEADLINE_S, "the world to run again")
        assert len(set(ranks()[2:])) == 2 and other not in ranks()[2:]
        assert scene.job_shown()["JobState"] == "RUNNING"
    finally:
        (place / "go").touch()
    assert world.result(DEADLINE_S) == 49
    scene.join()
    calls = scene.session.submit_many(held, [(number, str(scene.directory)) for number in range(9)])
    pilot.gather(calls, timeout=DEADLINE_S)
    shown = [scene.session.query("task", task=call.task_id) for call in [world, *calls]]
    (first, *_), *later = [each["attempts_made"] for each in shown]
    assert [each["outcome"] for each in shown[0]["attempts_made"]] == ["interrupted", "ok"]
    used = {
        attempt["node"]
        for attempts in later
        for attempt in attempts
        if attempt["pilot"] == first["pilot"]
    }
    assert used and other not in used


def _is_handed_out(session: pilot.Session, task: str) -> bool:
    """Whether a pilot has a task; one that was just submitted may not be known yet."""
    try:
        return bool(session.query("task", task=task)["attempts"])
    except pilot.PilotError:
        return False


@scenario(of=2, most=3, takes=3, idle_time="10m", begins=True)
def results_in_the_memory_of_a_node_that_is_cut_off_are_made_again(scene: Scene) -> None:
    """Some are with tasks on the other node, which has fetched them: all that rests on what was
    nowhere else is made again, and nothing is told twice."""
    session, sums = scene.session, scene.directory.parent / "sums"
    known = scene.directory.parent / "known"
    for directory in (sums, known):
        directory.mkdir()
    (known / "go").touch()
    session.submit(on_two_nodes).result(DEADLINE_S)
    # Then the head knows that these leave large results, and sends what needs them ahead.
    session.submit(held_block, 0, str(known)).result(DEADLINE_S)
    scene.begin(2 * CORES, held_block)
    where = {number: nodes[0] for number, nodes in scene.where.items()}
    (other,) = {*where.values()} - {scene.first}
    totals = [session.submit(held_sum, number, str(sums), *scene.futures) for number in range(2)]
    # They are with the pilot, ahead of their inputs: so it is told that these need not be written.
    for total in totals:
        wait_until(partial(_is_handed_out, session, total.task_id), DEADLINE_S, "it to be with it")
    session.release(scene.futures)
    session.query("fleet")  # it has come to the head
    try:
        scene.let_go()

        def begun(times: int) -> bool:
            found = scene.where_in(sums)
            return all(len(found.get(number, ())) >= times for number in range(2))

        wait_until(lambda: begun(1), DEADLINE_S, "the sums to be begun")
        assert list(sums.parent.glob("copied-*"))
        states = [session.query("task", task=one.task_id)["state"] for one in scene.futures]
        # Some have gone by way of the disk, where that was quicker.
        unwritten = {number for number, state in enumerate(states) if state != "COMPLETED"}
        assert unwritten, "they are nowhere but in the memory of these nodes"
        scene.lose("cut", other)
        if any(where[number] == other for number in unwritten):
            wait_until(lambda: begun(2), DEADLINE_S, "the sums to be begun again")
    finally:
        (sums / "go").touch()
    assert pilot.gather(totals, timeout=DEADLINE_S) == [6.0 * FLOATS] * 2
    for number, future in enumerate(scene.futures):
        attempts = session.query("task", task=future.task_id)["attempts_made"]
        outcomes = [attempt["outcome"] for attempt in attempts]
        assert outcomes[-1] == "ok" and {*outcomes[:-1]} <= {"interrupted"}
        assert len(outcomes) >= 1 + (number in unwritten and where[number] == other)
    ends = Counter(e.task for e in session.events() if e.state == "COMPLETED")
    assert {*ends.values()} == {1}


@scenario(of=1, most=2, takes=2)
def a_killed_node_with_the_agent_ends_the_pilot(scene: Scene) -> None:
    scene.lose("kill", scene.first)
    scene.wait("all to run again", starts=2)
    assert scene.end() == [["interrupted", "ok"]] * 2
    assert all(nodes[0] == scene.first != nodes[1] for nodes in scene.where.values())


@scenario(of=2, most=2, takes=2)
def a_suspended_pilot_of_two_nodes_goes_on(scene: Scene) -> None:
    scene.cluster.run("scontrol", "suspend", scene.job)
    rows = scene.session.query("fleet")
    scene.wait_for_states("SUSPENDED")
    # Longer than a node worker may be silent.
    end = time.monotonic() + NODE_SILENT_S + 5.0
    wait_until(lambda: time.monotonic() > end, DEADLINE_S, "that time to go by")
    scene.cluster.run("scontrol", "resume", scene.job)
    scene.wait_for_states("RUNNING")
    assert scene.end() == [["ok"]] * 4
    assert [row["job"] for row in scene.session.query("fleet")] == [row["job"] for row in rows]


@scenario(of=2, most=2, takes=2)
def no_more_nodes_are_asked_for_while_a_job_waits_to_start_again(scene: Scene) -> None:
    """A pilot that is taken down tells of fewer nodes each moment; its job keeps its claim."""
    scene.requeue()
    scene.wait("all to run again", starts=2)
    assert [row["job"] for row in scene.session.query("fleet")] == [scene.job]
    assert scene.end() == [["interrupted", "ok"]] * 4


@scenario(of=1, most=2, takes=2)
def a_requeued_pilot_runs_its_tasks_again_or_another_one_does(scene: Scene) -> None:
    scene.requeue()
    scene.wait("all to run again", starts=2)
    assert scene.end() == [["interrupted", "ok"]] * 2


@scenario(of=1, most=1, takes=2)
def a_preempted_pilot_starts_again(scene: Scene) -> None:
    """A job of higher priority takes its node; when that has ended, it is the same job again."""
    cluster, node = scene.cluster, scene.first
    options = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--time=10")
    with cluster.job_of("sleep 600", scene.directory.parent, *options) as urgent:
        cluster.wait_for(
            "the urgent job to have the node",
            lambda: cluster.job(urgent)["JobState"] == "RUNNING",
            DEADLINE_S,
        )
        assert scene.job_shown()["JobState"] != "RUNNING"
        # Other nodes are free: the pilot need not wait for the end of what has taken this one.
        scene.wait("all to run again", starts=2)
        assert scene.running_job() == scene.job and scene.job_shown()["Restarts"] == "1"
    assert scene.end() == [["interrupted", "ok"]] * 2
    assert all(nodes[0] == node != nodes[1] for nodes in scene.where.values())


@scenario(of=1, most=1, takes=1)
def a_node_that_is_cut_off_for_a_moment_loses_nothing(scene: Scene) -> None:
    scene.lose("cut", scene.first)
    scene.let_go()  # they end while nobody can be told
    scene.join()
    assert scene.end() == [["ok"]] * 2
    assert all(len(nodes) == 1 for nodes in scene.where.values())


@pytest.fixture(scope="module")
def outcomes(
    virtual_cluster: VirtualCluster, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[None]]]:
    """What has become of each scenario that some test tells of."""
    items = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["name"] for item in items if isinstance(item, pytest.Function)}
    room = Room(len(virtual_cluster.nodes))
    with (
        tempfile.TemporaryDirectory(dir=virtual_cluster.shared) as directory,
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(len(SCENARIOS)) as threads,
    ):
        virtual_cluster.enter(Path(directory), patch)
        found = {}
        for name in filter(wanted.__contains__, SCENARIOS):
            place = Path(directory) / name
            place.mkdir()
            found[name] = threads.submit(SCENARIOS[name].run, virtual_cluster, room, place)
        yield found


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_becomes_of_tasks(outcomes: dict[str, Future[None]], name: str) -> None:
    outcomes[name].result()
