"""Addresses that nodes do not reach: another is tried, or it is told soon which key to set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

#: How soon it has to be told, in seconds.
TOLD_S = 60.0


def pilot(site: Site, *arguments: str, status: int = 0) -> str:
    """Run a command of Pilot; return its output."""
    command = [sys.executable, "-m", "pilot", "--site", str(site.directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def directory(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    virtual_cluster.enter(shared_directory, monkeypatch)
    yield shared_directory / "site"


def test_a_name_that_nodes_do_not_know_is_passed_over(
    virtual_cluster: VirtualCluster, directory: Path
) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=1) as site:
        # A host name that nobody else knows; clients here take it for another machine, too.
        command = f"hostname nobody-knows; exec {sys.executable} -m pilot head start --foreground"
        head = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", command],
            env={**os.environ, "PILOT_SITE": str(site.directory)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            virtual_cluster.wait_for("the head", site.address_file.exists, 30.0)
            assert "nobody-knows" in site.address_file.read_text()
            node = pilot(site, "submit", "--wait", "--", "hostname").strip()
            assert node in virtual_cluster.nodes
            assert not [*site.jobs.glob("*.unreached")]
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60.0)


def test_a_head_that_no_node_reaches_is_told_with_the_key(
    virtual_cluster: VirtualCluster, directory: Path
) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=1) as site:
        file = site.directory / "site.yaml"
        unreached = "address: lo\n  transport: network"
        file.write_text(file.read_text().replace("address: auto", unreached))
        pilot(site, "submit", "--", "hostname")
        virtual_cluster.wait_for(
            "the key to be told", lambda: "set head.address" in pilot(site, "status"), TOLD_S
        )
        told = pilot(site, "why")
        print(told)
        assert "Connection refused" in told and "set head.address" in told


def test_a_first_node_that_the_others_do_not_reach_is_told_with_the_key(
    virtual_cluster: VirtualCluster, directory: Path
) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=2, address="lo", min_nodes=2) as site:
        pilot(site, "head", "start")
        virtual_cluster.wait_for(
            "the key to be told",
            lambda: "set the key 'address' of the pool" in pilot(site, "status"),
            TOLD_S,
        )


def test_an_interface_for_the_nodes_of_a_pilot(
    virtual_cluster: VirtualCluster, directory: Path
) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=2, address="eth0", min_nodes=2) as site:
        pilot(site, "head", "start")
        virtual_cluster.wait_for(
            "both nodes", lambda: "RUNNING" in pilot(site, "fleet", "list"), TOLD_S
        )
        command = ["submit", "--wait", "--ranks", "2", "--ranks-per-node", "1", "--", "hostname"]
        nodes = pilot(site, *command).split()
        assert len(set(nodes) & set(virtual_cluster.nodes)) == 2
