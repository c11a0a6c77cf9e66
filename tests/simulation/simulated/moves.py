"""The moves: what somebody does or what goes wrong, as planned or in the middle of something."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from pilot.model.ids import session_of
from simulated.batch import OWN
from simulated.tasks import NAMES

if TYPE_CHECKING:
    from simulated.agent import Agent
    from simulated.cluster import Cluster
    from simulated.life import Move

#: As SQLite says it.
FULL = "database or disk is full"
#: The kinds of moves besides submissions, as often as they are to come.
MOVES = (
    *("kill_head", "cut_off", "cancel", "pause") * 2,
    "fill_disk",
    "silence_batch",
    "break_pool",
    "refuse",
    "hide_job",
    "break_off_client",
    "client_dies",
    "watch_others",
    "open_session",
    "cancel_many",
    "end_session",
    "delete_results",
    *("release",) * 3,
    "stop_head",
    "stop_head_and_pilots",
    "freeze_head",
    "freeze",
    "hang",
    "executor_dies",
    "lose_node",
    "break_off",
    "lose_job",
    "preempt",
    "terminate",
    "drain",
)


def _of_an_agent(what: Callable[[Moves, Agent], None]) -> Callable[[Moves], None]:
    """Make a move of what concerns a pilot, if there is one."""

    def happen(moves: Moves) -> None:
        if agents := list(moves.cluster.agents.values()):
            what(moves, moves.rng.choice(agents))

    return happen


class Moves:
    """Makes moves, until all is calm."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        #: Of the present move.
        self.rng = cluster.chance("moves")
        self._chance_of_death = cluster.chance("deaths")
        self._deaths = self.rng.choice(cluster.life.size.deaths)
        self._full_until = 0.0

    @property
    def _calm(self) -> bool:
        return self.cluster.calm

    def happen(self, move: Move) -> None:
        """Make a move."""
        if not self._calm:
            self.rng = Random(move.seed)
            self.cluster.oracle.seen[f"move: {move.kind}"] += 1
            getattr(self, f"_{move.kind}")()

    def kills_head(self) -> bool:
        """Tell whether the head dies of what it is about to do."""
        return self._deaths > 0 and not self._calm and self._chance_of_death.random() < self._deaths

    def write(self) -> None:
        """Raise where the disk is full."""
        if self.clock.now < self._full_until and not self._calm:
            raise sqlite3.OperationalError(FULL)

    def _for_a_while(self, most_s: float) -> float:
        most_s = self.cluster.hasty(most_s)
        return self.clock.now + self.rng.choice((1.0, most_s / 4, most_s)) * self.rng.random()

    # --- clients

    def _submit(self) -> None:
        rng, cluster = self.rng, self.cluster

        def submit() -> None:
            client = cluster.a_client(rng)
            if cluster.calm or not client.numbers:
                return
            if not cluster.tasks.submit(client, rng.choice(list(client.numbers)), rng):
                self.clock.after(0.1, submit)

        submit()

    def _open_session(self) -> None:
        self.cluster.open_session(self.cluster.a_client(self.rng))

    def _break_off_client(self) -> None:
        """Let a connection of a client end, or that by which tasks have their children begin."""
        askers = [agent.asker for agent in self.cluster.agents.values() if agent.has_asked]
        self.rng.choice([*self.cluster.clients, *askers]).break_off()

    def _client_dies(self) -> None:
        clients = [client for client in self.cluster.clients if client.is_alive]
        if len(clients) > 1:
            client = self.rng.choice(clients)
            if self.rng.random() < 0.5:
                client.die()
            else:
                client.leave()

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
        session = self._a_session()
        specs = cluster.tasks.specs
        tasks = [task for task, (its, _) in specs.items() if its.session == session]
        named = self.rng.sample(tasks, min(len(tasks), 3))
        if named:
            cluster.a_client(self.rng).cancel(session, named)

    def _cancel_many(self) -> None:
        """Cancel a group, or a whole session, or what of it waits."""
        if self.cluster.tasks.of_session:
            group, waiting = self.rng.choice((("a", False), ("b", False), ("", True), ("", False)))
            client = self.cluster.a_client(self.rng)
            client.cancel(self._a_session(), [], group, waiting)

    def _a_session(self) -> int:
        return self.rng.choice(list(self.cluster.tasks.of_session))

    def _end_session(self) -> None:
        """Let a session take no more; after its end it may take tasks again, or be removed."""
        if self.cluster.tasks.of_session:
            session, rng = self._a_session(), self.rng
            self.cluster.a_client(rng).control(session, rng.choice(("stop", "close", "close")))
            then = rng.choice(((), ("reopen",), ("purge",), ("delete",), ("purge", "delete")))
            # What is a version of a named object by then outlives it.
            for task in [one for one in self.cluster.oracle.told if session_of(one) == session][:3]:
                self.cluster.a_client(rng).name_result(task, rng.choice(NAMES))
            for verb in then:
                self._later(partial(self._control, session, verb))

    def _control(self, session: int, verb: str) -> None:
        self.cluster.a_client(self.rng).control(session, verb)

    def _delete_results(self) -> None:
        """Delete a result, and keep or give up others by their names."""
        if told := list(self.cluster.oracle.told):
            self.cluster.a_client(self.rng).delete_results(self.rng.sample(told, 1))
            self._later(self._name_result)
            self._later(self._remove_object)

    def _release(self) -> None:
        """Release some of the last results, and all of others; some are still to be made."""
        cluster, rng = self.cluster, self.rng
        specs = cluster.tasks.specs
        known = [task for task in specs if task in cluster.tasks.by_client or rng.random() < 0.3]
        chosen = rng.sample(known[-30:], min(len(known), 30, rng.choice((1, 3, 10))))
        whole = [task for task in chosen if rng.random() < 0.5]
        parts = [(task, rng.randrange(specs[task][0].returns)) for task in {*chosen} - {*whole}]
        cluster.a_client(rng).release(whole, sorted(parts))

    def _name_result(self) -> None:
        """Make a result a version of a named object, which keeps it."""
        client, name = self.cluster.a_client(self.rng), self.rng.choice(NAMES)
        client.name_result(self.rng.choice(list(self.cluster.oracle.told)), name)

    def _remove_object(self) -> None:
        """Remove a version, or have an alias stand for it, which keeps it."""
        if versions := list(self.cluster.oracle.versions):
            client, rng = self.cluster.a_client(self.rng), self.rng
            name, version = rng.choice(versions)
            if rng.random() < 0.3:
                client.control_object("alias", f"{name}@{version}", "best")
            else:
                client.control_object("remove", f"{name}@{version}")

    def _pause(self) -> None:
        if self.cluster.tasks.of_session:
            session = self._a_session()
            self._control(session, "pause")
            self._later(partial(self._control, session, "resume"))

    def _later(self, what: Callable[[], None]) -> None:
        late_s = self.cluster.hasty(self.rng.uniform(0.0, 10.0))
        self.clock.after(late_s, lambda: None if self._calm else what())

    # --- the head

    def _kill_head(self) -> None:
        if self.cluster.head is not None:
            self.cluster.head.die()

    def _stop_head(self) -> None:
        """Have somebody stop the head, and leave the pilots."""
        self.cluster.a_client(self.rng).command("stop", leave_pilots=True)

    def _stop_head_and_pilots(self) -> None:
        self.cluster.a_client(self.rng).command("stop")

    def _freeze_head(self) -> None:
        """Let its machine be suspended, or so busy that it seems so."""
        if self.cluster.head is not None:
            self.cluster.head.frozen_until = self._for_a_while(200.0)

    def _fill_disk(self) -> None:
        self._full_until = self._for_a_while(20.0)

    # --- the batch system

    def _silence_batch(self) -> None:
        self.cluster.batch.silent_until = self._for_a_while(60.0)

    def _break_pool(self) -> None:
        self.cluster.batch.broken_until = self._for_a_while(200.0)

    def _refuse(self) -> None:
        self.cluster.batch.refusing_until = self._for_a_while(200.0)

    def _hide_job(self) -> None:
        if jobs := list(self.cluster.batch.jobs_by_number.values()):
            self.rng.choice(jobs).hidden_until = self._for_a_while(40.0)

    # --- pilots

    @_of_an_agent
    def _freeze(self, agent: Agent) -> None:
        """Let a job be suspended for a while."""
        agent.freeze(self._for_a_while(100.0) - self.clock.now)

    @_of_an_agent
    def _hang(self, agent: Agent) -> None:
        """Let a pilot be silent until its job is ended."""
        if agent.job != OWN:  # that job is not the head's to end
            agent.freeze(math.inf)

    @_of_an_agent
    def _executor_dies(self, agent: Agent) -> None:
        if processes := [*agent.executors.values(), *agent.worlds.values()]:
            self.rng.choice(processes).die(-9 if self.rng.random() < 0.5 else 1)

    @_of_an_agent
    def _lose_node(self, agent: Agent) -> None:
        if len(agent.nodes) > 1:
            agent.lose_node(self.rng.choice(agent.nodes))

    @_of_an_agent
    def _cut_off(self, agent: Agent) -> None:
        """Let nothing get through to the head; after a minute it takes the pilot for lost."""
        if agent.link is not None:
            long_s = self.cluster.hasty(self.rng.choice((3.0, 30.0, 90.0, 200.0)))
            agent.link.cut_until = self.clock.now + self.rng.uniform(0.5, 1.0) * long_s

    @_of_an_agent
    def _break_off(self, agent: Agent) -> None:
        if agent.link is not None:
            agent.link.break_off()

    @_of_an_agent
    def _lose_job(self, agent: Agent) -> None:
        self.cluster.batch.lose(agent)

    @_of_an_agent
    def _preempt(self, agent: Agent) -> None:
        self.cluster.batch.preempt(agent)

    @_of_an_agent
    def _terminate(self, agent: Agent) -> None:
        agent.terminate()

    @_of_an_agent
    def _drain(self, agent: Agent) -> None:
        agent.drain()
