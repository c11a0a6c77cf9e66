"""Whatever comes through a port: processes live, do not grow, and the work of others goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fuzz.ports import Ground, Peers, Strangers, agent_of, tell_client
from support.sites import local_template, site_under_test
from support.waiting import wait_until

from pilot.site import create_site
from pilot.wire.channel import Client
from pilot.wire.keys import load_keys
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.worker import ToAgent

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
    ends = ground.endpoints
    for turn in range(6):
        peers.say((ends.local, ends.remote, ends.files)[turn % 3], ToHead, 100)
    for name in (b"pilot:p:0", b"client:again"):
        peers.say(ground.endpoints.local, ToHead, 100, name)
    ground.check()


def test_whatever_peers_say_the_agent_lives(ground: Ground) -> None:
    peers = Peers(SEED, ground.site.site)
    for name in (b"executor:fuzz", b"rank:9.9", b"rank:x", b"sealer:99", b"node:n", b""):
        peers.say(ground.agents[0], ToAgent, 100, name)
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


def test_what_the_head_cannot_read_is_answered(ground: Ground) -> None:
    client: Client[Any] = Client(load_keys(ground.site.site.keys), b"client:odd", m.ToClient)
    client.connect(ground.endpoints.local)
    client.send(m.ClientHello(PROTOCOL, "odd"))
    for frame in (
        b"\x94\xa5Query\x07\xa4head\x81\xa1a" + b"\x91" * 1100 + b"\xc0",  # nested too deep
        b"\x93\xa5Query\x08\xa2\xff\xfe",  # no UTF-8
        b"\x93\xaaAskTheMoon\x09\x01",  # of a later release
        b"\x96\xa6Submit\x0a\x01\x90\x90\x91\x93\xcf" + b"\xff" * 8 + b"\x01\xc4\x00",
    ):
        client.way.send(frame)
    answers: dict[int, str] = {}

    def all_there() -> bool:
        for message in client.receive():
            if isinstance(message, m.Reply):
                answers[message.request] = message.error
        return len(answers) == 4

    try:
        wait_until(all_there, 60.0)
        assert sorted(answers) == [7, 8, 9, 10]
        assert all("the head cannot read this" in error for error in answers.values())
        assert "this head is Pilot" in answers[9] and "<= 9223372036854775807" in answers[10]
    finally:
        client.close(0.0)
    ground.check()
