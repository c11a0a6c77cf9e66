"""What goes wrong: by plan, at some moments, and in the middle of what a head does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulated.agent import Agent
    from simulated.cluster import Cluster

#: As SQLite says it.
FULL = "database or disk is full"


class Misfortunes:
    """Chooses what goes wrong, until all is calm."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock, self.rng = cluster.clock, cluster.rng
        #: How likely a head dies at each thing that it asks of its ports.
        self._deaths = self.rng.choice((0.0, 0.0, 0.0002, 0.002))
        self._full_until = 0.0
        self._kinds: list[Callable[[], None]] = [
            self._kill_head,
            self._kill_head,
            self._fill_disk,
            self._silence_batch,
            self._break_pool,
            self._refuse,
            self._hide_job,
            self._break_off_client,
            self._client_dies,
            self._watch_others,
            self._cancel,
            self._pause,
            self._stop_head,
            self._stop_head_and_pilots,
            self._freeze_head,
            self._of_agent(self._freeze),
            self._executor_dies,
            self._of_agent(self._lose_node),
            self._of_agent(self._cut_off),
            self._of_agent(self._cut_off),
            self._of_agent(self._break_off),
            self._of_agent(lambda agent: cluster.batch.lose(agent)),
            self._of_agent(lambda agent: cluster.batch.preempt(agent)),
            self._of_agent(lambda agent: agent.terminate()),
            self._of_agent(lambda agent: agent.drain()),
        ]

    @property
    def _calm(self) -> bool:
        return self.cluster.calm

    def happen(self) -> None:
        """Let something go wrong."""
        if not self._calm:
            self.rng.choice(self._kinds)()

    def kills_head(self) -> bool:
        """Tell whether the head dies of what it is about to do."""
        return self._deaths > 0 and not self._calm and self.rng.random() < self._deaths

    def write(self) -> None:
        """Raise where the disk is full."""
        if self.clock.now < self._full_until and not self._calm:
            raise sqlite3.OperationalError(FULL)

    # --- each of them

    def _for_a_while(self, most_s: float) -> float:
        return self.clock.now + self.rng.choice((1.0, most_s / 4, most_s)) * self.rng.random()

    def _kill_head(self) -> None:
        if self.cluster.head is not None:
            self.cluster.head.die()

    def _stop_head(self) -> None:
        """Have somebody stop the head, and leave the pilots."""
        self.cluster.a_client().command("stop", leave_pilots=True)

    def _stop_head_and_pilots(self) -> None:
        self.cluster.a_client().command("stop")

    def _freeze_head(self) -> None:
        """Let its machine be suspended, or so busy that it seems so."""
        if self.cluster.head is not None:
            self.cluster.head.frozen_until = self._for_a_while(200.0)

    def _freeze(self, agent: Agent) -> None:
        """Let a job be suspended for a while."""
        agent.freeze(self.rng.choice((1.0, 20.0, 100.0)) * self.rng.random())

    def _fill_disk(self) -> None:
        self._full_until = self._for_a_while(20.0)

    def _silence_batch(self) -> None:
        self.cluster.batch.silent_until = self._for_a_while(60.0)

    def _break_pool(self) -> None:
        self.cluster.batch.broken_until = self._for_a_while(60.0)

    def _refuse(self) -> None:
        self.cluster.batch.refusing_until = self._for_a_while(60.0)

    def _hide_job(self) -> None:
        if jobs := list(self.cluster.batch.jobs_by_number.values()):
            self.rng.choice(jobs).hidden_until = self._for_a_while(40.0)

    def _break_off_client(self) -> None:
        self.rng.choice(self.cluster.clients).break_off()

    def _client_dies(self) -> None:
        clients = [client for client in self.cluster.clients if client.is_alive]
        if len(clients) > 1:
            self.rng.choice(clients).die()

    def _watch_others(self) -> None:
        cluster = self.cluster
        client = self.rng.choice(cluster.clients)
        known = list(cluster.tasks.by_client)
        if known and client.is_alive:
            client.watch([self.rng.choice(known)])

    def _cancel(self) -> None:
        cluster = self.cluster
        if not cluster.tasks.specs:
            return
        session = self.rng.choice(list(cluster.tasks.of_session))
        specs = cluster.tasks.specs
        tasks = [task for task, (its, _) in specs.items() if its.session == session]
        named = self.rng.sample(tasks, min(len(tasks), 3))
        if named:
            cluster.tasks.cancelled.update(named)
            cluster.a_client().cancel(session, named)

    def _pause(self) -> None:
        cluster = self.cluster
        if cluster.tasks.of_session:
            session = self.rng.choice(list(cluster.tasks.of_session))
            client = cluster.a_client()
            client.control(session, "pause")
            self.clock.after(
                self.rng.uniform(0.0, 10.0), lambda: cluster.a_client().control(session, "resume")
            )

    def _executor_dies(self) -> None:
        agent = self._an_agent()
        processes = [*agent.executors.values(), *agent.worlds.values()] if agent else []
        if processes:
            self.rng.choice(processes).die(-9 if self.rng.random() < 0.5 else 1)

    def _an_agent(self) -> Agent | None:
        agents = list(self.cluster.agents.values())
        return self.rng.choice(agents) if agents else None

    def _of_agent(self, what: Callable[[Agent], None]) -> Callable[[], None]:
        def happen() -> None:
            if agent := self._an_agent():
                what(agent)

        return happen

    def _lose_node(self, agent: Agent) -> None:
        if len(agent.nodes) > 1:
            agent.lose_node(self.rng.choice(agent.nodes))

    def _cut_off(self, agent: Agent) -> None:
        """Let nothing get through to the head; after a minute it takes the pilot for lost."""
        if agent.link is not None:
            long_s = self.rng.choice((3.0, 30.0, 90.0, 200.0))
            agent.link.cut_until = self.clock.now + self.rng.uniform(0.5, 1.0) * long_s

    def _break_off(self, agent: Agent) -> None:
        if agent.link is not None:
            agent.link.break_off()
