"""``pilot doctor`` on a real Slurm: nodes are checked from inside, and the job does not stay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster


def doctor(site: Site, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the findings."""
    command = [sys.executable, "-m", "pilot", "--site", str(site.directory), "doctor", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=180)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return done.returncode, found


def of(found: list[dict[str, Any]], check: str, level: str) -> str:
    return " ".join(
        f"{each['found']} -> {each['todo']}"
        for each in found
        if each["check"] == check and each["level"] == level
    )


def test_a_site_is_well_and_its_nodes_are(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_cluster.enter(shared_directory, monkeypatch)
    with virtual_cluster.site(shared_directory / "site", nodes_per_pilot=2) as site:
        status, found = doctor(site, "--job")
        assert virtual_cluster.jobs_of(site) == []
    assert status == 0, [each for each in found if each["level"] == "problem"]
    assert "would take 2 nodes" in of(found, "pool main", "ok")
    assert "is reached at" in of(found, "network", "ok")
    assert "the clock is" in of(found, "network", "ok")
    assert "is reached at" in of(found, "between nodes", "ok")
    assert "gave one of its 2 nodes back" in of(found, "giving nodes back", "ok")
    assert of(found, "MPI", "ok").count("find each other") == 2
    nodes = {node for each in found for node in each["nodes"]}
    assert len(nodes) == 2


def test_what_nodes_do_not_reach_and_slurm_does_not_have_is_told(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_cluster.enter(shared_directory, monkeypatch)
    with virtual_cluster.site(shared_directory / "site", partition="nosuch") as site:
        status, found = doctor(site)
        assert status == 1
        assert "nosuch" in of(found, "pool main", "problem")
    with virtual_cluster.site(shared_directory / "other", nodes_per_pilot=1) as site:
        file = site.directory / "site.yaml"
        unreached = "address: lo\n  transport: network"
        file.write_text(file.read_text().replace("address: auto", unreached))
        status, found = doctor(site, "--job")
    assert status == 1
    assert "head.address" in of(found, "network", "problem")
