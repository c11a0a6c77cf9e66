"""Whatever comes through a port: processes live, do not grow, and the work of others goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fuzz.ports import Ground, Peers, Strangers, agent_of, tell_client
from support.sites import local_template, site_under_test

from pilot.site import create_site
from pilot.wire import messages as m

SEED = 11


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with site_under_test(local_template(head={"address": "127.0.0.1"})) as site:
        yield Ground(site)


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def test_strangers_do_no_harm(ground: Ground) -> None:
    strangers = Strangers(SEED)
    before = rss_mib(ground.head)
    try:
        strangers.run(ground.ports, 600)
        ground.check()  # while some of them are there
    finally:
        strangers.close()
    ground.check()
    assert rss_mib(ground.head) < before + 100


def test_whatever_peers_say_the_head_lives(ground: Ground) -> None:
    peers = Peers(SEED, ground.site.site)
    for turn in range(6):
        where = ground.endpoints.local if turn % 2 else ground.endpoints.remote
        peers.say(where, m.ToHead, 100)
    for name in (b"pilot:p:0", b"client:again"):
        peers.say(ground.endpoints.local, m.ToHead, 100, name)
    ground.check()


def test_whatever_peers_say_the_agent_lives(ground: Ground) -> None:
    peers = Peers(SEED, ground.site.site)
    for name in (b"executor:fuzz", b"rank:9.9", b"rank:x", b"sealer:99", b"node:n", b""):
        peers.say(ground.agents[0], m.ToAgent, 100, name)
    ground.check()


def test_whatever_a_head_says_its_clients_live(tmp_path: Path) -> None:
    tell_client(create_site(tmp_path / "site", "local"), SEED, 10)


def test_whatever_an_agent_says_its_node_worker_lives(tmp_path: Path) -> None:
    """An executor may end, between two tasks, where what it is told may have been work; then its
    node worker tells, and another takes its place."""
    site = create_site(tmp_path / "site", "local")
    with agent_of(site, SEED) as agent:
        for _ in range(3):
            number = agent.start_executor()
            agent.tell_executor(number, 30)
            agent.tell_node(60)
        agent.start_executor()
