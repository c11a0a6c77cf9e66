"""One run of a site: a life."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from unittest.mock import patch

import msgspec

from pilot.agent import service as agent_service
from pilot.agent.rules import executors, worlds
from pilot.head import (
    adopting,
    assignments,
    clients,
    fleet,
    giving_up,
    outcome_cache,
    pilots,
    service,
    setbacks,
    steps,
    telling,
)
from pilot.head.core import dispatch, leaving, state
from pilot.head.store import opening
from pilot.model.states import CLOSED_STATES, READY
from pilot.model.tasks import Function, Template
from pilot.scheduler import assignment, demand, elasticity, waits
from pilot.site import Site
from pilot.site_configs.schema import HeadConfig, SiteConfig, pool_type, site_type
from simulated.agent import CORES, Agent
from simulated.batch import Batch
from simulated.client import Client
from simulated.clock import Clock
from simulated.disk import Janitor, make_disk
from simulated.head import Head
from simulated.life import Life
from simulated.moves import Moves
from simulated.oracle import NothingUnexpected, Oracle
from simulated.tasks import SITE, Tasks

#: By then everything must have ended.
END_S = 3000.0
#: Clients look for a new head, and say that they live, in time for this, in seconds.
LEAST_GRACE_S = 4.0
#: A head ends a session, which it has to, so late at most, in seconds.
ALONE_S = 20.0
#: Where nothing has ended for so long, what never ends is in the way.
STUCK_S = 60.0
#: How long the program waits for what may never come: the shorter, the hastier a life.
_PATIENCE: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (fleet, ("DECIDE_S",)),
    (giving_up, ("SILENT_S", "JOIN_S", "MISSING_S", "MISSING_MOST_S", "CANCEL_AGAIN_S")),
    (giving_up, ("NEVER_SUBMITTED_S", "UNKNOWN_S", "LEFT_BEHIND_S")),
    (waits, ("UNKNOWN_KEEP_S", "LEAST_S", "MOST_S", "LEAST_WORK_S", "MOST_WORK_S")),
    (pilots, ("REJOIN_S",)),
    (clients, ("CLIENT_S",)),
    (leaving, ("CLIENT_S",)),
    (service, ("STOP_S",)),
    (setbacks, ("BACK_OFF_S", "SHORT_LIFE_S")),
    (steps, ("MOST_S",)),
    (dispatch, ("STARVING_S", "STUCK_S", "AVOID_S")),
    (state, ("STILL_S",)),
    (assignment, ("DRAIN_S", "START_S")),
    (elasticity, ("DRAIN_S",)),
    (demand, ("UNKNOWN_S",)),
    (agent_service, ("ORPHAN_S", "END_S", "LEAVE_S")),
    (executors, ("GRACE_S", "STUCK_S", "DRAINED_S")),
    (worlds, ("RANKS_LEAVE_S",)),
)


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

    def __init__(self, life: Life) -> None:
        self.life = life
        self.rng = self.chance("site")
        self.clock = Clock()
        self.calm = False
        self.disk = make_disk()
        self.site = Site(Path("/nowhere"), self._config(), "simulated")
        self.oracle = Oracle(self)
        self.tasks = Tasks(self)
        self.batch = Batch(self)
        self.agents: dict[str, Agent] = {}
        #: The segments that are in the site directory.
        self.written: set[str] = set()
        self.moves = Moves(self)
        self._graces = self.chance("graces")
        #: Since when sessions whose clients are dead are so, as a head could know, in the end.
        self._alone: dict[tuple[int, float, int], float] = {}
        self._epoch = 0
        #: How many tasks are unfinished, and since when.
        self._left, self._progress_at = 0, self.clock.now
        self.head: Head | None = None
        self.clients: list[Client] = []

    def chance(self, *names: object) -> Random:
        """Return what leaves a part of the site to chance, whatever happens in the others."""
        return Random(f"{self.life.seed} {names}")

    def hasty(self, seconds: float) -> float:
        """Return how long something takes in this life."""
        return seconds / self.life.size.haste

    def _config(self) -> SiteConfig:
        rng, hasty = self.rng, self.hasty
        pool = pool_type("slurm")(
            cores_per_node=CORES,
            max_nodes=rng.choice((3, 6)),
            nodes_per_pilot=rng.choice((2, 3)),
            max_pilots_queued=rng.choice((1, 2)),
            walltime_s=hasty(rng.choice((90.0, 300.0, 3600.0))),
            warning_s=hasty(rng.choice((20.0, 60.0))),
            idle_time_s=hasty(rng.choice((5.0, 60.0))),
        )
        config = site_type("slurm")(
            name="simulated",
            batch="slurm",
            pools={"main": pool},
            resources=dict(SITE),
            head=HeadConfig(idle_timeout_s=0.0, session_idle_s=hasty(60.0)),
        )
        interval_s = rng.choice((0.0, None, 1.0, 5.0))
        manners = msgspec.structs.replace(
            config.manners,
            submit_interval_s=None if interval_s is None else hasty(interval_s),
            poll_interval_s=max(0.5, hasty(config.manners.poll_interval_s)),
        )
        return msgspec.structs.replace(config, manners=manners)

    @staticmethod
    def function(template: Template) -> Function:
        """Return the function of a template."""
        return Function(template.function, b"code")

    def a_client(self, rng: Random) -> Client:
        """Return a client that lives."""
        return rng.choice([client for client in self.clients if client.is_alive])

    # --- the run

    def run(self) -> None:
        """Let it all happen, and see that everything has ended well."""
        choose = self.rng.choice
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(_listening())
            # Names of pilots, and with them all chances, are of it.
            enter(patch.object(opening, "new_identity", lambda: "simulated"))
            enter(patch.object(adopting, "start_agent", self.batch.start_own))
            # So small that what goes beyond is reached.
            enter(patch.object(assignments, "PAYLOAD_BYTES", choose((0, 20, 1 << 28))))
            enter(patch.object(outcome_cache, "RECENT", choose((0, 10, 50_000))))
            # Often so few that more must be let in.
            enter(patch.object(state, "WAITING_PER_CORE", choose((1, 1, 8))))
            enter(patch.object(telling, "PORTION", choose((1, 100))))
            for module, names in _PATIENCE if self.life.size.haste != 1.0 else ():
                for name in names:
                    value = getattr(module, name)
                    several = isinstance(value, tuple)
                    shorter = tuple(map(self.hasty, value)) if several else self.hasty(value)
                    enter(patch.object(module, name, shorter))
            janitor = partial(Janitor, self.clock, self.chance("janitor"))
            enter(patch.object(service, "Janitor", janitor))
            self._run()

    def _run(self) -> None:
        rng, clock, calm_s = self.rng, self.clock, self.life.size.calm_s
        start = clock.now
        self._start_head()
        count = rng.choice((1, 1, 2, 3))
        self.clients += (Client(self, f"c{number}") for number in range(count))
        self.open_session(self.clients[0])
        for client in self.clients:
            if rng.random() < 0.7:
                self.open_session(client)
        for move in self.life.moves:
            clock.after(move.at_s, partial(self.moves.happen, move))
        clock.after(calm_s, self._calm_down)
        while clock.step():
            if self.calm and self._is_over():
                break
            assert clock.now - start < calm_s + self.hasty(END_S), (
                f"it does not end: {self.describe()}"
            )
        self.oracle.check_end()

    def open_session(self, client: Client) -> None:
        """Have a client open a session, and others attach to it; some end with their clients."""
        grace_s = self._graces.choice((0.0, 0.0, max(LEAST_GRACE_S, self.hasty(40.0))))
        client.open(0, self._opened, grace_s)

    def _opened(self, session: int) -> None:
        self.tasks.know(session)
        for client in self.clients:
            if client.is_alive and session not in client.numbers and self.rng.random() < 0.5:
                client.open(session, lambda _: None)

    def _is_over(self) -> bool:
        if self.head is None or self.head.service is None:
            return False
        service = self.head.service
        return (
            all(client.is_settled for client in self.clients if client.is_alive)
            and not service._core.sessions
            and not service._commits.pending
            and set(self.oracle.sessions().values()) <= set(CLOSED_STATES)
            and all(
                agent.rules.is_idle and not agent.service.reports for agent in self.agents.values()
            )
            and not any(agent.service.sessions for agent in self.agents.values())
            and not any(agent.executors or agent.worlds for agent in self.agents.values())
            and not any(pilot.held for pilot in service._core.pilots.values())
            and not service._core.site.holders
            and not self.disk.read("SELECT * FROM garbage")
        )

    def _calm_down(self) -> None:
        """Let everything end: nothing goes wrong any more."""
        self.calm = True
        client = self.a_client(self.rng)
        if not client.is_asking:
            attended = {one for each in self.clients if each.is_alive for one in each.numbers}
            alone = self.oracle.bound().keys() - attended
            self._check_alone(alone)
            for session, state in self.oracle.sessions().items():
                if state not in CLOSED_STATES and session not in alone:
                    client.control(session, "resume")
                    client.control(session, "close")
        self._cancel_endless()
        self._forget_dead()
        self.clock.after(1.0, self._calm_down)

    def _check_alone(self, alone: Collection[int]) -> None:
        """See that sessions end by themselves whose clients are dead, and which are to end so."""
        head, now = self.head, self.clock.now
        if head is None or head.service is None or head.frozen_until > now:
            return
        for session, grace_s in self.oracle.bound().items():
            if session in alone and session in head.service._core.sessions:
                since = self._alone.setdefault((self._epoch, head.frozen_until, session), now)
                most_s = self.site.config.lease.expire_s + grace_s + ALONE_S
                assert now - since < most_s, f"{session} goes on without its clients"

    def _forget_dead(self) -> None:
        """Say, as a user would, that nothing runs of a dead pilot, in a job that goes on."""
        if self.head is not None and self.head.service is not None:
            pilots = self.head.service._pilots
            for row in list(pilots.fleet.pilots.values()):
                agent = self.agents.get(row.name)
                if row.left_alone and not (agent is not None and agent.is_alive):
                    pilots.forget(row.name, "it is dead", self.clock.now)

    def _cancel_endless(self) -> None:
        """End what never ends, once all others have ended or wait for it, or for its place."""
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
        stuck = self.clock.now - self._progress_at > self.hasty(STUCK_S)
        if len(tasks) != self._left:
            self._left, self._progress_at = len(tasks), self.clock.now
        if endless and (stuck or not others):
            client = self.a_client(self.rng)
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
        self.clock.after(self.hasty(self.rng.uniform(0.1, 3.0)), self._start_head)

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
