"""Requests of clients about pools and pilots: scale, hold, resume, drain, cancel.

Invariants
----------
- An order is in the database before it is carried out, and answered after.
- The allocation that a user has made is never ended: its pilot may leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pilot.errors import PilotError
from pilot.formatting import counted, duration
from pilot.head import orders
from pilot.head.connections import Handler, Send
from pilot.head.outlook import RUNNING, PilotRow
from pilot.head.own_pilot import shape_of
from pilot.head.pilots import Pilots
from pilot.scheduler.batch import Allocation
from pilot.site import Site
from pilot.wire.messages import client as m

#: The verb that takes a hold back, and the one that takes back the number of nodes.
RESUME, SCALE_AUTO = "resume", "scale auto"
#: The verb that makes an allocation a pilot.
ADOPT = "adopt"


class FleetCommands:
    """Carries out what users order for pools and pilots.

    Parameters
    ----------
    site
        The site.
    pilots
        The head's side of the pilots.
    send
        Sends a reply.
    """

    def __init__(self, site: Site, pilots: Pilots, send: Send) -> None:
        self._config = site.config
        self._site_file = site.directory / "site.yaml"
        self._pilots = pilots
        self._fleet = pilots.fleet
        self._send = send
        self._verbs: Mapping[str, Callable[[m.ControlFleet, float], str]] = {
            orders.SCALE: self._scale,
            SCALE_AUTO: self._scale_auto,
            orders.HOLD: self._hold,
            RESUME: self._resume,
            orders.DRAIN: self._drain,
            orders.CANCEL: self._cancel,
        }
        self.handlers: Mapping[type, Handler] = {m.ControlFleet: self._control}

    def _control(self, peer: bytes, message: m.ControlFleet, now: float) -> None:
        if message.verb == ADOPT:
            self._adopt(peer, message, now)
            return
        verb = self._verbs.get(message.verb)
        if verb is None:
            raise PilotError(f"the head cannot {message.verb!r:.40} pools or pilots")
        self._send(peer, m.Reply(message.request, verb(message, now)))

    # --- pools

    def _scale(self, message: m.ControlFleet, now: float) -> str:
        pool, nodes = self._pool(message.subject), message.nodes
        most = self._config.pools[pool].max_nodes
        if not 0 <= nodes <= most:
            raise PilotError(
                f"pool {pool} may have up to {counted(most, 'node')}: give a number from 0 to "
                f"{most}, or raise its max_nodes in {self._site_file}"
            )
        order = self._fleet.orders.give(orders.SCALE, pool, message.reason, now, nodes)
        self._decided(orders.SCALE, pool, f"is {order.words}", now)
        there = sum(row.nodes for row in self._fleet.pilots.values() if row.pool == pool)
        return (
            f"pool {pool} keeps {counted(nodes, 'node')} from now on; {there} are there or on the "
            f"way. `pilot fleet scale {pool} auto` lets it follow its work again"
        )

    def _scale_auto(self, message: m.ControlFleet, now: float) -> str:
        pool = self._pool(message.subject)
        if self._fleet.orders.take_back(orders.SCALE, pool) is None:
            return f"pool {pool} follows its work already"
        self._decided(orders.SCALE, pool, _because("follows its work again", message), now)
        return f"pool {pool} follows its work again"

    def _hold(self, message: m.ControlFleet, now: float) -> str:
        pool = self._pool(message.subject)
        order = self._fleet.orders.give(orders.HOLD, pool, message.reason, now)
        self._decided(orders.HOLD, pool, f"is {order.words}", now)
        return (
            f"pool {pool} gets no new pilots; those that are there, and in the queue, go on. "
            f"`pilot fleet resume {pool}` lets new ones come"
        )

    def _resume(self, message: m.ControlFleet, now: float) -> str:
        pool = self._pool(message.subject)
        if self._fleet.orders.take_back(orders.HOLD, pool) is None:
            return f"pool {pool} was not held"
        self._decided(RESUME, pool, _because("gets new pilots again", message), now)
        return f"pool {pool} gets new pilots again"

    def _pool(self, name: str) -> str:
        if name not in self._config.pools:
            there = ", ".join(self._config.pools)
            raise PilotError(f"there is no pool {name!r:.80}; there are {there}")
        return name

    def _decided(self, kind: str, pool: str, text: str, now: float) -> None:
        self._fleet.history.note(kind, pool, "", text, now)
        self._fleet.hurry()

    # --- pilots

    def _drain(self, message: m.ControlFleet, now: float) -> str:
        if message.subject:
            rows = [self._pilot(message.subject)]
        else:
            rows = list(self._fleet.pilots.values())
        longest = 0.0
        for row in rows:
            within_s = message.within_s or self._left_s(row.name, now)
            order = self._fleet.orders.give(
                orders.DRAIN, row.name, message.reason, now, within_s=within_s
            )
            self._fleet.history.note(orders.DRAIN, row.pool, row.name, order.words, now)
            self._pilots.drain(row.name, order.words, now, within_s)
            longest = max(longest, within_s)
        if not rows:
            return "there are no pilots"
        latest = ""
        if message.within_s or (longest and message.subject):
            latest = f", in {duration(longest)} at the latest"
        if longest and not message.within_s:
            latest += ", as was said before" if message.subject else ", or earlier as said before"
        if message.subject:
            return f"pilot {rows[0].name} ends when its tasks have ended{latest}"
        return (
            f"{counted(len(rows), 'pilot')} will end when their tasks have ended{latest}. "
            "Where there is more to do, new ones are asked for: `pilot fleet hold POOL` prevents "
            "that"
        )

    def _left_s(self, name: str, now: float) -> float:
        """Return the time that an earlier order leaves the tasks of a pilot; 0: it says none.

        They were told, so it holds until another time is said.
        """
        before = self._fleet.orders.pilots.get(name)
        if before is None or before.verb != orders.DRAIN or not before.within_s:
            return 0.0
        return max(before.left_s(now), 0.001)  # 0 would be none

    def _cancel(self, message: m.ControlFleet, now: float) -> str:
        row = self._pilot(message.subject)
        job = f"job {row.job}" if row.job else "its job"
        if row.left_alone:
            self._pilots.forget(row.name, "nothing of it runs any more, by a user's word", now)
            return f"pilot {row.name} ({job}) is forgotten: what its tasks held is free"
        if row.own or (row.job and row.submitted is None):
            advice = self._config.kind.end_advice(row.job or "")
            raise PilotError(
                f"pilot {row.name} is in an allocation that Pilot has not made ({job}), and does "
                f"not end: `pilot fleet drain {row.name}` has the pilot leave it when its tasks "
                f"have ended; {advice}"
            )
        order = self._fleet.orders.give(orders.CANCEL, row.name, message.reason, now)
        self._fleet.history.note(orders.CANCEL, row.pool, row.name, order.words, now)
        if row.state == RUNNING:
            self._pilots.drain(row.name, order.words, now)  # so it gets nothing more meanwhile
        self._fleet.withdraw(row, order.words, now)
        return f"pilot {row.name} ({job}) is cancelled; its tasks go to others"

    def _pilot(self, name: str) -> PilotRow:
        """Return a pilot that has not ended, by its name or its job."""
        row = self._fleet.pilots.get(name)
        row = row or next((r for r in self._fleet.pilots.values() if name and r.job == name), None)
        if row is None:
            raise PilotError(
                f"there is no pilot {name!r:.80} that has not ended; `pilot fleet list` shows them"
            )
        return row

    def _adopt(self, peer: bytes, message: m.ControlFleet, now: float) -> None:
        """Make an allocation a pilot; the answer comes when the batch system has given its own."""
        pool = self._pool(message.pool or next(iter(self._config.pools)))

        def done(row: PilotRow, allocation: Allocation) -> None:
            shape = shape_of(self._config.pools[pool].shape, allocation)
            has = f"{counted(row.nodes, 'node')}, with {shape} for tasks on each"
            text = _because(f"adopted: job {row.job} has {has}", message)
            self._fleet.history.note(ADOPT, pool, row.name, text, now)
            said = f"job {row.job} becomes pilot {row.name} of pool {pool}: {has}"
            self._send(peer, m.Reply(message.request, said))

        def refuse(why: str) -> None:
            self._send(peer, m.Reply(message.request, error=why))

        self._fleet.adopting.adopt_other(message.subject, pool, now, done, refuse)


def _because(text: str, message: m.ControlFleet) -> str:
    return text + (f": {message.reason}" if message.reason else "")
