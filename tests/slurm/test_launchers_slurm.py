"""Launchers on a real Slurm: worlds over two nodes, beside each other and beside node workers.

One job does it all: its batch script (`DRIVER`) starts what an agent would, and writes down what it
saw as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
JOB_TIMEOUT_S = 180.0

#: Ranks on the job's first and second node.
SHAPES = {"one each": (1, 1), "two each": (2, 2), "unequal": (2, 1), "second only": (0, 2)}

#: The library that must be loaded, and what a site says to have it.
LAUNCHERS: dict[str, dict[str, Any]] = {
    "srun": {
        "library": "Open MPI",
        "options": ["--mpi=pmix"],
        "env": {"MPI4PY_LIBMPI": "libmpi.so.40"},
    },
    "openmpi": {"library": "Open MPI", "options": [], "env": {}},
    "mpich": {"library": "MPICH", "options": [], "env": {}},
}

HELLO = """
import json, os, socket
from mpi4py import MPI

world = MPI.COMM_WORLD
hosts = world.gather(socket.gethostname())
greetings = world.gather(os.environ["GREETING"])
if world.rank == 0:
    library = MPI.Get_library_version()
    print(json.dumps({"hosts": hosts, "greetings": greetings, "library": library}))
"""

NODE_WORKER = """
import os, signal, socket

print(socket.gethostname(), os.environ["SLURM_STEP_ID"], flush=True)
signal.pause()
"""

DRIVER = """
import json, os, subprocess, sys

from pilot.launchers import HostRanks, Placement, get_launcher, node_worker

spec = json.loads(open("spec.json").read())
nodes = subprocess.run(
    ["scontrol", "show", "hostnames"], stdout=subprocess.PIPE, text=True, check=True
).stdout.split()


def start(launch):
    return subprocess.Popen(
        launch.argv,
        env={**os.environ, **launch.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def world(name, ranks):
    facts = spec["launchers"][name]
    shares = tuple(HostRanks(node, n) for node, n in zip(nodes, ranks) if n)
    env = {**facts["env"], "GREETING": "a b,c"}
    launcher = get_launcher(name, facts["options"], "srun")
    return start(launcher.launch([sys.executable, "-c", spec["hello"]], Placement(shares), env=env))


def outcome(process):
    try:
        stdout, stderr = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        stderr += " [killed after 40 s]"
    return {"status": process.returncode, "stdout": stdout, "stderr": stderr}


command = [sys.executable, "-c", spec["node_worker"]]
workers = [start(node_worker("srun", node, command)) for node in nodes]
seen = {"nodes": nodes, "workers": [worker.stdout.readline().split() for worker in workers]}
seen["worlds"] = {
    f"{name}, {shape}": outcome(world(name, ranks))
    for name in spec["launchers"]
    for shape, ranks in spec["shapes"].items()
}
seen["together"] = {}
for name in spec["launchers"]:
    pair = [world(name, (1, 1)) for _ in range(2)]
    seen["together"][name] = [outcome(process) for process in pair]
seen["workers_alive"] = [worker.poll() is None for worker in workers]
for worker in workers:
    worker.terminate()
    worker.communicate()
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""


@pytest.fixture(scope="module")
def seen(virtual_cluster: Any) -> Iterator[dict[str, Any]]:
    """What the job saw."""
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")
    with tempfile.TemporaryDirectory(prefix="launchers-", dir=virtual_cluster.shared) as name:
        directory = Path(name)
        spec = {
            "hello": HELLO,
            "node_worker": NODE_WORKER,
            "launchers": LAUNCHERS,
            "shapes": SHAPES,
        }
        (directory / "spec.json").write_text(json.dumps(spec))
        (directory / "driver.py").write_text(DRIVER)
        script = f"PYTHONPATH='{ROOT}' '{sys.executable}' driver.py > driver.log 2>&1; touch ended"
        with virtual_cluster.job_of(script, directory, "--nodes=2", "--exclusive"):
            ended = (directory / "ended").exists
            virtual_cluster.wait_for("the end of the job", ended, JOB_TIMEOUT_S)
        assert (directory / "seen.json").exists(), (directory / "driver.log").read_text()
        yield json.loads((directory / "seen.json").read_text())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_world_is_where_the_placement_says(
    seen: dict[str, Any], launcher: str, shape: str
) -> None:
    world = seen["worlds"][f"{launcher}, {shape}"]
    assert world["status"] == 0, world["stderr"]
    hello = json.loads(world["stdout"])
    ranks = SHAPES[shape]
    assert hello["hosts"] == [
        host for host, n in zip(seen["nodes"], ranks, strict=True) for _ in range(n)
    ]
    assert hello["greetings"] == ["a b,c"] * sum(ranks)
    assert hello["library"].startswith(LAUNCHERS[launcher]["library"])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_worlds_share_nodes(seen: dict[str, Any], launcher: str) -> None:
    for world in seen["together"][launcher]:
        assert world["status"] == 0, world["stderr"]
        assert json.loads(world["stdout"])["hosts"] == seen["nodes"]


def test_each_node_worker_is_a_step_of_its_own_on_its_node(seen: dict[str, Any]) -> None:
    assert [host for host, _ in seen["workers"]] == seen["nodes"]
    assert len({step for _, step in seen["workers"]}) == len(seen["nodes"])
    assert all(seen["workers_alive"])
