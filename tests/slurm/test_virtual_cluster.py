"""The virtual cluster itself: that it is the Slurm cluster which the other tests take it for."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from virtual_cluster import packages
from virtual_cluster.errors import ClusterError
from virtual_cluster.installation import PARTS, find_installation
from virtual_cluster.plan import SLURMD_PORT, Layout, Plan, Shape, choose_subnet
from virtual_cluster.slurm import parse_nodes

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

LAYOUT = Layout(Path("/somewhere"))

#: Open MPI is what the distribution's Slurm starts; the virtual environment may hold another MPI.
OPEN_MPI = "MPI4PY_LIBMPI=libmpi.so.40"

WORLD = """
import json, socket
from mpi4py import MPI

world = MPI.COMM_WORLD
places = world.gather(socket.gethostname())
total = world.allreduce(world.rank)
if world.rank == 0:
    print(json.dumps({"places": places, "total": total, "library": MPI.Get_library_version()}))
"""

STUBBORN = """
import ctypes, os, signal, sys, time

PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"a name so", 0, 0, 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
time.sleep(float(sys.argv[1]))
"""


# What needs no cluster


def test_a_plan_survives_being_written() -> None:
    plan = Plan(LAYOUT, Shape(nodes=3, cpus=2), IPv4Network("10.203.7.0/24"), "login", "cgroup")
    assert Plan.from_json(plan.to_json(), LAYOUT) == plan
    assert len({node.address for node in plan.nodes} | {plan.login_address}) == 4


@pytest.mark.parametrize(("nodes", "cpus"), [(0, 4), (65, 4), (4, 0), (4, 257)])
def test_an_impossible_shape_is_refused(nodes: int, cpus: int) -> None:
    with pytest.raises(ClusterError, match="must be 1 to"):
        Shape(nodes, cpus)


def test_a_subnet_is_chosen_that_nobody_has() -> None:
    first = choose_subnet([], LAYOUT)
    assert choose_subnet([], LAYOUT) == first
    second = choose_subnet([first, IPv4Network("192.168.0.0/16")], LAYOUT)
    assert not second.overlaps(first)
    with pytest.raises(ClusterError, match="no subnet is free"):
        choose_subnet([IPv4Network("10.0.0.0/8")], LAYOUT)


def test_what_an_installed_slurm_lacks_is_told() -> None:
    with pytest.raises(ClusterError, match=r"every node has its own /tmp"):
        find_installation("/tmp/slurm")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        parts = iter(PARTS)
        with pytest.raises(ClusterError, match=f"there is no {directory}/{next(parts)}; install"):
            find_installation(directory)
        for part in PARTS:
            path = Path(directory, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert find_installation(directory) == Path(directory)
        path.unlink()
        with pytest.raises(ClusterError, match="configure Slurm --with-pmix"):
            find_installation(directory)


def test_sinfo_is_read() -> None:
    reports = parse_nodes(
        "n1  idle       urgent\n"
        "n2  down*      main*\n"
        "n1  idle       main*\n"
        "n3  mixed-     main*\n"
        "n4  drained    main*\n"
    )
    assert reports["n1"].partitions == ("main", "urgent")
    assert [name for name, report in reports.items() if report.usable] == ["n1", "n3"]
    assert [name for name, report in reports.items() if report.drained] == ["n4"]
    assert not reports["n2"].responding


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 0\n"])
def test_installing_starts_no_service(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    if before:
        policy.write_text(before)
    with packages.services_held_back():
        answer = subprocess.run(["sh", policy], check=False)
    assert answer.returncode == (0 if before else 101)
    assert (policy.read_text() if policy.exists() else None) == before


# What it is


def test_nodes_are_apart(virtual_cluster: VirtualCluster) -> None:
    status = virtual_cluster.status()
    assert status["healthy"], status["problems"]
    names = [node["name"] for node in status["nodes"]]
    assert names == [f"n{number}" for number in range(1, len(names) + 1)]
    assert all(node["partitions"] == ["main", "urgent"] for node in status["nodes"])
    addresses = {node["address"] for node in status["nodes"]} | {status["login_address"]}
    assert len(addresses) == len(names) + 1
    for node in status["nodes"]:
        assert virtual_cluster.run("hostname", on=node["name"]).strip() == node["name"]
        assert node["address"] in virtual_cluster.run("ip", "address", on=node["name"])


@pytest.mark.parametrize("private", ["/tmp", "/dev/shm"])
def test_some_directories_are_private_to_a_node(
    virtual_cluster: VirtualCluster, private: str
) -> None:
    with tempfile.NamedTemporaryFile(dir=private) as file:
        assert virtual_cluster.script("run", "--on", "n1", "cat", file.name).returncode != 0
    name = virtual_cluster.run("mktemp", f"--tmpdir={private}", on="n1").strip()
    assert not Path(name).exists()
    assert virtual_cluster.script("run", "--on", "n2", "cat", name).returncode != 0
    virtual_cluster.run("rm", name, on="n1")


def test_the_shared_directory_is_seen_everywhere(
    virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    nodes = virtual_cluster.nodes
    for node in nodes:
        virtual_cluster.run("touch", shared_directory / node, on=node)
    assert {file.name for file in shared_directory.iterdir()} == {*nodes}
    assert {*virtual_cluster.run("ls", shared_directory, on="n1").split()} == {*nodes}


def test_names_are_known_on_the_nodes(virtual_cluster: VirtualCluster) -> None:
    status = virtual_cluster.status()
    expected = {node["name"]: node["address"] for node in status["nodes"]}
    expected[status["login"]] = status["login_address"]
    for name, address in expected.items():
        assert virtual_cluster.run("getent", "ahostsv4", name, on="n2").split()[0] == address


def test_run_passes_on_input_and_exit_status(virtual_cluster: VirtualCluster) -> None:
    assert virtual_cluster.script("run", "sh", "-c", "exit 7").returncode == 7
    assert virtual_cluster.script("run", "--on", "n1", "sh", "-c", "exit 7").returncode == 7
    assert virtual_cluster.script("run", "no-such-command").returncode == 127
    exports = virtual_cluster.do("env")
    shell = f"{exports}\nsinfo --noheader --format=%R"
    answer = subprocess.run(["sh"], input=shell, capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) == {"main", "urgent"}


def test_a_second_up_does_nothing(virtual_cluster: VirtualCluster) -> None:
    before = virtual_cluster.status()
    nodes = len(before["nodes"])
    release = ["--slurm", before["slurm_prefix"]] if before["slurm_prefix"] else []
    answer = virtual_cluster.script("up", f"--nodes={nodes}", *release)
    assert answer.returncode == 0, answer.stderr
    assert "already up" in answer.stderr
    after = virtual_cluster.status()
    assert [node["slurmd_pid"] for node in after["nodes"]] == [
        node["slurmd_pid"] for node in before["nodes"]
    ]
    other_shape = virtual_cluster.script("up", "--nodes=2", *release)
    assert other_shape.returncode == 1
    assert f"{nodes} nodes x 4 cpus is up, which is not 2 nodes x 4 cpus" in other_shape.stderr


# What Slurm does on it


def test_srun_over_all_nodes(virtual_cluster: VirtualCluster) -> None:
    nodes = virtual_cluster.nodes
    assert {*virtual_cluster.run("srun", f"--nodes={len(nodes)}", "hostname").split()} == {*nodes}


def test_accounting_knows_how_a_job_ended(
    virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    with virtual_cluster.job_of("exit 3", shared_directory, "--account=pilot") as job_id:

        def accounted() -> list[str]:
            columns = "--format=State,ExitCode,Account"
            query = ["sacct", "-X", "-n", "-P", columns, "-j", str(job_id)]
            return virtual_cluster.run(*query).split()

        virtual_cluster.wait_for("sacct", lambda: accounted() == ["FAILED|3:0|pilot"], 20)


@pytest.mark.parametrize("launcher", ["srun --mpi=pmix", "/usr/bin/mpirun"])
def test_mpi_over_two_nodes(
    virtual_cluster: VirtualCluster, shared_directory: Path, launcher: str
) -> None:
    pytest.importorskip("mpi4py")
    program = shared_directory / "world.py"
    program.write_text(WORLD)
    result = shared_directory / "result"
    script = f"{launcher} env {OPEN_MPI} {sys.executable} {program} >{result}.part 2>errors\n"
    script += f"mv {result}.part {result}"
    options = ["--nodes=2", "--ntasks-per-node=2"]
    with virtual_cluster.job_of(script, shared_directory, *options):
        virtual_cluster.wait_for("the end of the MPI program", result.exists, 40)
    errors = (shared_directory / "errors").read_text()
    assert result.read_text(), errors
    world = json.loads(result.read_text())
    first, second = sorted(set(world["places"]))
    assert world["places"] == [first, first, second, second]
    assert world["total"] == 0 + 1 + 2 + 3
    assert "Open MPI" in world["library"]


def test_no_process_outlives_its_step(
    virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    # One that ignores SIGTERM, has left its session, and has a name with spaces in it.
    duration_s = _unique_duration_s()
    program = shared_directory / "stubborn.py"
    program.write_text(STUBBORN)
    script = f"srun {sys.executable} {program} {duration_s}"
    with virtual_cluster.job_of(script, shared_directory) as job_id:
        virtual_cluster.wait_for("two processes", lambda: len(_sleepers(duration_s)) == 2, 30)
        virtual_cluster.run("scancel", str(job_id))
        virtual_cluster.wait_for("their end", lambda: not _sleepers(duration_s), 30)
    virtual_cluster.wait_for(
        "idle nodes", lambda: set(virtual_cluster.node_states().values()) == {"idle"}, 30
    )


def test_preemption_requeues_under_the_same_id(
    virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    lives = _Lives(shared_directory)
    nodes = virtual_cluster.nodes
    options = [f"--nodes={len(nodes)}", "--exclusive", "--requeue"]
    with virtual_cluster.job_of(lives.script, shared_directory, *options) as job_id:
        virtual_cluster.wait_for("the first life", lambda: len(lives.seen()) == 1, 30)
        urgent = ["srun", "--partition=urgent", f"--nodes={len(nodes)}", "hostname"]
        assert {*virtual_cluster.run(*urgent).split()} == {*nodes}
        virtual_cluster.wait_for("the second life", lambda: len(lives.seen()) == 2, 60)
        assert lives.seen() == [f"{job_id} 0", f"{job_id} 1"]


def test_a_running_job_gives_nodes_back(
    virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    # A step for each node, as a step over more nodes would end with the first that is given back.
    script = """\
for node in $(scontrol show hostnames); do
    srun --overlap --nodes=1 --ntasks=1 --nodelist=$node sh -c 'hostname >>started; sleep 300' &
done
wait"""

    def nodes_in_use() -> set[str]:
        return {name for name, state in virtual_cluster.node_states().items() if state != "idle"}

    with virtual_cluster.job_of(script, shared_directory, "--nodes=3", "--exclusive") as job_id:
        started = shared_directory / "started"
        virtual_cluster.wait_for(
            "three steps", lambda: started.exists() and len(started.read_text().split()) == 3, 30
        )
        # In Slurm's order: the script runs on the first, which cannot be given back.
        names = sorted(started.read_text().split(), key=lambda name: int(name.removeprefix("n")))
        for kept in (names[:2], names[:1]):  # twice: without accounting, the second is refused
            update = ["scontrol", "update", f"JobId={job_id}", f"NodeList={','.join(kept)}"]
            virtual_cluster.run(*update)
            assert virtual_cluster.job(job_id)["NumNodes"] == str(len(kept))
            expected = set(kept)
            virtual_cluster.wait_for("nodes given back", lambda: nodes_in_use() == expected, 30)  # noqa: B023
        assert virtual_cluster.job(job_id)["JobState"] == "RUNNING"

        def nodes_of_steps() -> set[str]:
            query = ["squeue", "--steps", "--noheader", "--format=%N", f"--jobs={job_id}"]
            return set(virtual_cluster.run(*query).split())

        # The step on the node that was kept goes on, and only that.
        virtual_cluster.wait_for("the others' end", lambda: nodes_of_steps() == {names[0]}, 30)


# What is done to it


def test_a_node_that_is_cut_off_is_down_for_slurm_and_lives_on(
    virtual_cluster: VirtualCluster, joined: None
) -> None:
    node = _node(virtual_cluster, "n4")
    _connect_to_slurmd(node)
    virtual_cluster.do("cut", "n4")
    with pytest.raises(OSError, match=r"timed out|[Nn]o route"):
        _connect_to_slurmd(node)
    answer = virtual_cluster.script("status")
    assert answer.returncode == 1
    assert "the link of n4 is down" in answer.stdout
    virtual_cluster.wait_for(
        "Slurm sees the loss", lambda: virtual_cluster.node_states()["n4"] == "down*", 40
    )
    assert _node(virtual_cluster, "n4")["slurmd_pid"] == node["slurmd_pid"]
    virtual_cluster.do("join", "n4")
    assert _node(virtual_cluster, "n4")["slurmd_pid"] == node["slurmd_pid"]
    assert virtual_cluster.status()["healthy"]
    assert virtual_cluster.run("srun", "--nodelist=n4", "hostname").split() == ["n4"]


def test_a_killed_node_comes_back_empty_and_its_job_is_requeued(
    virtual_cluster: VirtualCluster, shared_directory: Path, joined: None
) -> None:
    lives = _Lives(shared_directory)
    options = ["--nodelist=n4", "--requeue"]
    with virtual_cluster.job_of(lives.script, shared_directory, *options) as job_id:
        virtual_cluster.wait_for("the first life", lambda: bool(lives.processes()), 30)
        virtual_cluster.run("touch", "/tmp/lost-with-the-node", on="n4")
        killed = _node(virtual_cluster, "n4")["slurmd_pid"]
        virtual_cluster.do("kill", "n4")
        assert not Path(f"/proc/{killed}").exists()
        assert not lives.processes()
        assert virtual_cluster.script("run", "--on", "n4", "true").returncode == 1

        virtual_cluster.do("join", "n4")
        assert not virtual_cluster.run("ls", "/tmp", on="n4").split()
        # That it then starts again is shown by the test of preemption.
        virtual_cluster.wait_for(
            "the job's requeue", lambda: virtual_cluster.job(job_id)["Restarts"] == "1", 30
        )


def test_a_node_without_slurmd_gets_a_new_one(
    virtual_cluster: VirtualCluster, joined: None
) -> None:
    os.kill(_node(virtual_cluster, "n3")["slurmd_pid"], signal.SIGKILL)
    virtual_cluster.wait_for(
        "the end of slurmd", lambda: _node(virtual_cluster, "n3")["slurmd_pid"] is None, 10
    )
    virtual_cluster.do("join", "n3")
    assert virtual_cluster.run("srun", "--nodelist=n3", "hostname").split() == ["n3"]


@pytest.mark.parametrize("command", ["cut n99", "join n99", "kill n99", "run --on n99 true"])
def test_an_unknown_node_is_named(virtual_cluster: VirtualCluster, command: str) -> None:
    answer = virtual_cluster.script(*command.split())
    assert answer.returncode == 1
    assert "no node 'n99'" in answer.stderr


# How it comes and goes


def test_down_leaves_nothing_behind(spare_cluster: VirtualCluster) -> None:
    directory = spare_cluster.state_directory
    assert directory is not None
    links_before = _links()
    assert spare_cluster.script("status").returncode == 3
    assert spare_cluster.script("run", "sinfo").returncode == 3

    # Two at once: one does it, the other finds it done.
    up = ["up", "--nodes=1", "--cpus=2"]
    with _started(spare_cluster, *up) as one, _started(spare_cluster, *up) as other:
        assert [one.wait(60), other.wait(60)] == [0, 0]
    assert spare_cluster.run("srun", "--cpus-per-task=2", "hostname").split() == ["n1"]
    assert spare_cluster.run("sinfo", "-h", "-p", "main", "-o", "%c %m").split() == ["2", "4000"]
    # A process that has left its parent and its session, and does not say to whom it belongs.
    stray = _unique_duration_s()
    script = f"setsid sleep {stray} >/dev/null 2>&1 &"
    spare_cluster.run("env", "-i", "sh", "-c", script, on="n1")
    assert _processes(stray)

    # Pieces are killed from outside, which `down` has to bear.
    for pid in _processes(f"{directory}\0services\0"):
        os.kill(pid, signal.SIGKILL)
    answer = spare_cluster.script("status")
    assert answer.returncode == 1
    assert "daemons of the login node are dead" in answer.stdout
    spare_cluster.do("down")

    assert not directory.exists()
    assert not _processes(str(directory))
    assert not _processes(stray)
    assert str(directory) not in Path("/proc/mounts").read_text()
    assert _links() == links_before
    assert not list(Path("/sys/fs/cgroup").glob(f"freezer/{Layout(directory).tag}-*"))
    assert spare_cluster.script("status").returncode == 3
    spare_cluster.do("down")


def test_an_interrupted_up_removes_what_it_made(spare_cluster: VirtualCluster) -> None:
    directory = spare_cluster.state_directory
    assert directory is not None
    with _started(spare_cluster, "up", "--nodes=1") as up:
        spare_cluster.wait_for("the database", (directory / "database" / "data").exists, 30)
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 130
    assert not directory.exists()
    assert not _processes(str(directory))


def test_what_is_no_cluster_is_left_alone(virtual_cluster: VirtualCluster) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        precious = Path(directory) / "precious"
        precious.touch()
        foreign = type(virtual_cluster)(Path(directory))
        for command in ("up", "down"):
            answer = foreign.script(command)
            assert answer.returncode == 1
            assert "holds no virtual cluster" in answer.stderr
        assert precious.exists()
    in_tmp = type(virtual_cluster)(Path("/tmp/virtual-cluster")).script("up")
    assert in_tmp.returncode == 1
    assert "every node has its own /tmp" in in_tmp.stderr


class _Lives:
    """A batch script that writes down each of its lives: job id, and how often it was restarted."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "lives"
        self._sleep_s = _unique_duration_s()
        self.script = f"""\
echo "$SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}}" >>{self._file}
srun sleep {self._sleep_s}"""

    def seen(self) -> list[str]:
        return self._file.read_text().splitlines() if self._file.exists() else []

    def processes(self) -> list[int]:
        return _processes(self._sleep_s)


def _unique_duration_s() -> str:
    """Return a duration of about 300 s by which a sleeping process is known."""
    return f"300.{random.randrange(10**9):09}"


def _processes(argument: str) -> list[int]:
    """Return the processes of this machine that have `argument` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and argument.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _sleepers(duration_s: str) -> list[int]:
    """Return the processes of `STUBBORN` (not srun, which has the duration in its command too)."""
    return [pid for pid in _processes(duration_s) if _name(pid) == "a name so"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _links() -> set[str]:
    """Return the names of the network links of this machine."""
    return {link.name for link in Path("/sys/class/net").iterdir()}


def _node(cluster: VirtualCluster, name: str) -> dict[str, Any]:
    return next(node for node in cluster.status()["nodes"] if node["name"] == name)


def _connect_to_slurmd(node: dict[str, Any]) -> None:
    with socket.create_connection((node["address"], SLURMD_PORT), timeout=2):
        pass


@pytest.fixture
def joined(virtual_cluster: VirtualCluster) -> Iterator[None]:
    """Whatever the test does to nodes: afterwards all are back."""
    yield
    for node in virtual_cluster.status()["nodes"]:
        if not (node["usable"] and node["link"] and node["slurmd_pid"]):
            virtual_cluster.do("join", node["name"])


@contextlib.contextmanager
def _started(cluster: VirtualCluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the script without waiting for it; it is killed if it does not end."""
    with cluster.start(*arguments) as process:
        try:
            yield process
        finally:
            process.kill()
