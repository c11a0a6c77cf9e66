"""Send damaged and random data to every decoder and port: ``scripts/fuzz --minutes 30``.

Needs what the tests need (``scripts/test`` installs it). Ends with 1 at the first harm, and says
with which seed it comes again. Sites are made in a temporary directory, and removed.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import tempfile
import time
from pathlib import Path

from pilot.site import create_site
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.worker import ToAgent
from support.fuzz.decoders import Decoders
from support.fuzz.ports import Ground, Peers, Strangers, agent_of, tell_client
from support.sites import local_template, site_under_test


def one_round(seed: int, ground: Ground, directory: Path) -> int:
    """Send some thousands of samples; returns how many."""
    source = random.Random(seed)
    decoders = Decoders(seed, directory)
    for name in decoders.all:
        decoders.run(name, 200)
    strangers = Strangers(seed)
    try:
        strangers.run(ground.ports, 1000)
        ground.check()
    finally:
        strangers.close()
    peers = Peers(seed, ground.site.site, pilots=True)
    for _ in range(10):
        where = source.choice((ground.endpoints.local, ground.endpoints.remote))
        peers.say(where, ToHead, 100, source.choice((b"client:fuzz", b"pilot:p:0")))
        peers.say(ground.agents[0], ToAgent, 100, source.choice((b"executor:x", b"rank:9.9")))
    ground.check()
    site = create_site(directory / "site", "local")
    tell_client(site, seed, 10)
    with agent_of(site, seed) as agent:
        for _ in range(3):
            agent.tell_executor(agent.start_executor(), 30)
            agent.tell_node(60)
        agent.start_executor()
    return 200 * len(decoders.all) + 1000 + 2000 + 1000 + 270


def main() -> int:
    """Fuzz for as long as is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for how long (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: any)")
    arguments = parser.parse_args()
    seed = arguments.seed or random.SystemRandom().randrange(1, 1 << 31)
    logging.disable()
    end = time.monotonic() + 60 * arguments.minutes
    sent = rounds = 0
    with tempfile.TemporaryDirectory(prefix="pilot-fuzz-") as place:
        # Its sockets are not among those of other sites, which would be spoken to.
        os.environ["TMPDIR"] = tempfile.tempdir = place
        with site_under_test(local_template(head={"address": "127.0.0.1"})) as site:
            ground = Ground(site)
            while not rounds or time.monotonic() < end:
                print(f"seed {seed}", end=": ", flush=True)
                with tempfile.TemporaryDirectory() as directory:
                    sent += one_round(seed, ground, Path(directory))
                rounds += 1
                print(f"well; head {rss_mib(ground.head)} MiB, agent {rss_mib(ground.agent)} MiB")
                seed += 1
        tempfile.tempdir = None
    print(f"{rounds} rounds, {sent} samples: head, agent, node workers and clients live")
    return 0


def rss_mib(pid: int) -> int:
    """Return the memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))
