"""Nodes from which no network leads to the head: work is done over files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

pytestmark = pytest.mark.skipif(
    os.environ.get("PILOT_TEST_TRANSPORT", "auto") != "auto", reason="the transport is set"
)
DEADLINE_S = 150.0


@pytest.fixture
def directory(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    virtual_cluster.enter(shared_directory, monkeypatch)
    yield shared_directory / "site"


def pilot(site: Site, *arguments: str) -> str:
    """Run a command of Pilot, which must succeed; return its output."""
    command = [sys.executable, "-m", "pilot", "--site", str(site.directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def port_of_head(site: Site) -> str:
    endpoints = json.loads(site.address_file.read_text())["endpoints"]
    return str(endpoints["remote"].rpartition(":")[2])


@contextlib.contextmanager
def cut(virtual_cluster: VirtualCluster, port: str) -> Iterator[None]:
    """No node sends anything to this TCP port."""
    rule = ("ipproto", "tcp", "dport", port, "prohibit")
    nodes = virtual_cluster.nodes
    for node in nodes:
        virtual_cluster.run("ip", "rule", "add", *rule, on=node)
    try:
        yield
    finally:
        for node in nodes:
            virtual_cluster.run("ip", "rule", "del", *rule, on=node)


def test_work_is_done_over_files_where_no_network_leads_to_the_head(
    virtual_cluster: VirtualCluster, directory: Path
) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=2, min_nodes=2) as site:
        pilot(site, "head", "start")
        with cut(virtual_cluster, port_of_head(site)):
            assert pilot(site, "submit", "--wait", "--", "hostname").strip() in (
                virtual_cluster.nodes
            )
            command = ["submit", "--wait", "--ranks", "2", "--ranks-per-node", "1", "--"]
            ranks_on = set(pilot(site, *command, "hostname").split())
            assert len(ranks_on & set(virtual_cluster.nodes)) == 2
            assert "reach this head over the shared file system" in pilot(site, "status")
            pilot(site, "head", "stop")
        assert not [*site.wire.glob("*/*/*")]


def test_doctor_says_what_to_set(virtual_cluster: VirtualCluster, directory: Path) -> None:
    with virtual_cluster.site(directory, nodes_per_pilot=1) as site:
        path = site.directory / "site.yaml"
        config = yaml.safe_load(path.read_text())
        config["head"] = {"address": "lo"}  # which no node reaches
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "pilot", "--site", str(site.directory)]
        done = subprocess.run(
            [*command, "doctor", "--job"], capture_output=True, text=True, timeout=DEADLINE_S
        )
        print(done.stdout, done.stderr)
        assert "pilots will speak with the head over files" in done.stdout
        assert "head.transport to files" in done.stdout
        assert "this machine is reached over files: there and back takes" in done.stdout
