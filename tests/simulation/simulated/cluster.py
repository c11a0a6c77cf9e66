"""One run of a site, from its seed."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import msgspec

from pilot.head import assignments, outcome_cache, telling
from pilot.model.states import READY
from pilot.model.tasks import Function, Template
from pilot.site import Site
from pilot.site_configs.schema import HeadConfig, SiteConfig, pool_type, site_type
from simulated.agent import CORES, Agent
from simulated.batch import Batch
from simulated.client import Client
from simulated.clock import Clock
from simulated.disk import make_disk
from simulated.head import Head
from simulated.misfortunes import Misfortunes
from simulated.oracle import NothingUnexpected, Oracle
from simulated.tasks import SITE, Tasks

#: After this time nothing goes wrong any more, and what is left has to end.
CALM_S = 120.0
#: By then everything must have ended.
END_S = 4000.0
#: Where nothing has ended for so long, what never ends is in the way.
STUCK_S = 60.0


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """Judge what the program logs."""
    log, judge = logging.getLogger("pilot"), NothingUnexpected(logging.ERROR)
    level, propagate = log.level, log.propagate
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(judge)
    try:
        yield
    finally:
        log.removeHandler(judge)
        log.setLevel(level)
        log.propagate = propagate


class Cluster:
    """A site, and all that there is around it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.calm = False
        self.disk = make_disk()
        self.site = Site(Path("/nowhere"), self._config(), "simulated")
        self.oracle = Oracle(self)
        self.tasks = Tasks(self)
        self.batch = Batch(self)
        self.agents: dict[str, Agent] = {}
        self.misfortunes = Misfortunes(self)
        self._epoch = 0
        #: How many tasks are unfinished, and since when.
        self._left, self._progress_at = 0, self.clock.now
        self.head: Head | None = None
        self._start_head()
        count = self.rng.choice((1, 1, 2, 3))
        self.clients = [Client(self, f"c{number}") for number in range(count)]

    def _config(self) -> SiteConfig:
        rng = self.rng
        pool = pool_type("slurm")(
            cores_per_node=CORES,
            max_nodes=rng.choice((3, 6)),
            nodes_per_pilot=rng.choice((2, 3)),
            max_pilots_queued=rng.choice((1, 2)),
            walltime_s=rng.choice((90.0, 300.0, 3600.0)),
            warning_s=rng.choice((20.0, 60.0)),
            idle_time_s=rng.choice((5.0, 60.0)),
        )
        config = site_type("slurm")(
            name="simulated",
            batch="slurm",
            pools={"main": pool},
            resources=dict(SITE),
            head=HeadConfig(idle_timeout_s=0.0, session_idle_s=60.0),
        )
        manners = msgspec.structs.replace(config.manners, submit_interval_s=0.0)
        return msgspec.structs.replace(config, manners=manners)

    @staticmethod
    def function(template: Template) -> Function:
        """Return the function of a template."""
        return Function(template.function, b"code")

    def a_client(self) -> Client:
        """Return a client that lives."""
        return self.rng.choice([client for client in self.clients if client.is_alive])

    # --- the run

    def run(self) -> None:
        """Let it all happen, and see that everything has ended well."""
        choose = self.rng.choice
        with (
            _listening(),
            # So small that what goes beyond is reached.
            patch.object(assignments, "PAYLOAD_BYTES", choose((0, 20, 1 << 28))),
            patch.object(outcome_cache, "RECENT", choose((0, 10, 50_000))),
            patch.object(telling, "PORTION", choose((1, 100))),
        ):
            self._run()

    def _run(self) -> None:
        rng, clock = self.rng, self.clock
        start = clock.now
        self.clients[0].open(0, self._opened)
        for client in self.clients:
            if rng.random() < 0.7:
                client.open(0, self._opened)
        for _ in range(rng.randrange(5, 30)):
            clock.after(rng.uniform(0.0, CALM_S * 0.9), self._submit_some)
        for _ in range(rng.randrange(0, 25)):
            clock.after(rng.uniform(0.5, CALM_S), self.misfortunes.happen)
        clock.after(CALM_S, self._calm_down)
        while clock.step():
            if self.calm and self._is_over():
                break
            assert clock.now - start < END_S, f"it does not end: {self.describe()}"
        self.oracle.check_end()

    def _opened(self, session: int) -> None:
        self.tasks.know(session)
        for client in self.clients:
            if client.is_alive and session not in client.numbers and self.rng.random() < 0.5:
                client.open(session, lambda _: None)
        if self.calm:
            self.a_client().control(session, "close")

    def _submit_some(self) -> None:
        client = self.a_client()
        if self.calm or not client.numbers:
            return
        if not self.tasks.submit(client, self.rng.choice(list(client.numbers))):
            self.clock.after(0.1, self._submit_some)

    def _is_over(self) -> bool:
        if self.head is None or self.head.service is None:
            return False
        service = self.head.service
        return (
            all(client.is_settled for client in self.clients if client.is_alive)
            and not service._core.sessions
            and not service._commits.pending
            and set(self.oracle.sessions().values()) == {"CLOSED"}
            and all(
                agent.rules.is_idle and not agent.service.reports for agent in self.agents.values()
            )
            and not any(agent.service.sessions for agent in self.agents.values())
            and not any(agent.executors or agent.worlds for agent in self.agents.values())
            and not any(pilot.held for pilot in service._core.pilots.values())
            and not service._core.site.holders
        )

    def _calm_down(self) -> None:
        self.calm = True
        for session in self.oracle.sessions():
            client = self.a_client()
            client.control(session, "resume")
            client.control(session, "close")
        self._cancel_endless()

    def _cancel_endless(self) -> None:
        """End what never ends, once all others have ended or wait for it, or for its place."""
        self.clock.after(1.0, self._cancel_endless)
        if self.head is None or self.head.service is None:
            return
        endless = {
            executor.current.task
            for agent in self.agents.values()
            for executor in agent.executors.values()
            if executor.hangs and executor.current is not None
        }
        tasks = self.head.service._core.tasks.values()
        others = [
            t
            for t in tasks
            if t.id not in endless
            and not (t.missing or t.owed)
            # What it needs of the site may be with those.
            and not (t.state == READY and t.template.resources.site)
        ]
        stuck = self.clock.now - self._progress_at > STUCK_S
        if len(tasks) != self._left:
            self._left, self._progress_at = len(tasks), self.clock.now
        if endless and (stuck or not others):
            self.tasks.cancelled.update(endless)
            client = self.a_client()
            for session in self.oracle.sessions():
                mine = [t.id for t in tasks if t.id in endless and t.template.session == session]
                if mine:
                    client.cancel(session, mine)

    # --- heads

    def _start_head(self) -> None:
        if self.head is None or not self.head.is_alive:
            self._epoch += 1
            head = Head(self, self._epoch)
            self.head = head

    def head_is_gone(self) -> None:
        """Have the next one start after a while."""
        self.clock.after(self.rng.uniform(0.1, 3.0), self._start_head)

    def describe(self) -> str:
        """Return what there is, for who wants to know why it does not end."""
        head = self.head
        core = head.service._core if head is not None and head.service is not None else None
        tasks = core.tasks.values() if core is not None else ()
        pilots = core.pilots.values() if core is not None else ()
        return (
            f"unfinished {[(hex(t.id), t.state, t.attempt) for t in tasks if not t.missing]}, "
            f"pilots {[(p.name, p.nodes, p.draining, p.held) for p in pilots]}, "
            f"agents {[(a.name, a.rules.held, a.service.ending) for a in self.agents.values()]}, "
            f"jobs {[(j.number, j.phase.name) for j in self.batch.jobs_by_number.values()]}, "
            f"clients {[client.describe() for client in self.clients if client.is_alive]}, "
            f"sessions {self.oracle.sessions()}"
        )
