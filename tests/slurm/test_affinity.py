"""The cores of ranks, executors and programs are those that the placement gave them, on every node
of a pilot of four.

Everything runs at once and takes all cores that there are: so no two may have the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_until

import pilot

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 120.0
#: Each takes one core of a node.
TELL = """
import json, os, pathlib, sys, time
directory = pathlib.Path(sys.argv[1])
cores = sorted(os.sched_getaffinity(0))
told = [sys.argv[2], os.uname().nodename, cores, os.environ["OMP_NUM_THREADS"]]
name = f"{sys.argv[2]}-{os.environ.get('PILOT_RANK', 0)}"
(directory / f".{name}").write_text(json.dumps(told))
(directory / f".{name}").rename(directory / name)
end = time.monotonic() + 100
while not (directory / "go").exists() and time.monotonic() < end:
    time.sleep(0.02)
"""


def tell(directory: str, name: str) -> None:
    """Do what the program does, in a function."""
    os.environ["PILOT_RANK"] = str(pilot.context().rank)
    before, sys.argv = sys.argv, ["tell", directory, name]
    try:
        exec(TELL, {})
    finally:
        sys.argv = before
        del os.environ["PILOT_RANK"]


def told_in(directory: Path) -> list[tuple[str, str, list[int], str]]:
    files = [path for path in directory.iterdir() if path.name[0] not in ".g"]
    return [tuple(json.loads(path.read_text())) for path in files]


def test_all_cores_of_four_nodes_are_with_one_process_each(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores, which each node has")
    virtual_cluster.enter(shared_directory, monkeypatch)
    directory = shared_directory / "told"
    directory.mkdir()
    script = shared_directory / "tell.py"
    script.write_text(TELL)
    run = f"{sys.executable} {script} {{directory}} {{name}}"
    where = str(directory)
    # Nodes claim more cores than there are; with these, their numbers mean real ones.
    with (
        virtual_cluster.site(shared_directory / "site", cores_per_node=2, max_nodes=4) as site,
        pilot.Session(site) as session,
    ):
        session.submit(pilot.mpi(ranks=4, ranks_per_node=1)(tell), where, "world")
        program = pilot.shell(run, ranks=2, ranks_per_node=1)
        session.submit(program, directory=where, name="program")
        # The rest would be on the first node, before there is another one.
        wait_until(lambda: len(told_in(directory)) == 6, DEADLINE_S, "all ranks to run")
        session.submit(pilot.shell(run), directory=where, name="command")
        session.submit(tell, where, "executor")
        wait_until(lambda: len(told_in(directory)) == 8, DEADLINE_S, "all to run at once")
        told = told_in(directory)
        (directory / "go").touch()
        check(told)


def check(told: Sequence[tuple[str, str, list[int], str]]) -> None:
    of_node = defaultdict(list)
    for _, node, cores, threads in told:
        assert threads == "1"
        of_node[node].append(cores)
    assert len(of_node) == 4
    # The first two cores of the machine are those of every node: they share it.
    first = sorted(os.sched_getaffinity(0))[:2]
    assert all(sorted(cores) == [[core] for core in first] for cores in of_node.values()), told
