"""The service of a pilot to its head: take work, report its ends, drain and end.

`agent` is the process around this, with sockets, node workers and signals; what runs where is
decided by `rules`. Here is when the head is greeted, told and waited for. No sockets, no processes.

Invariants
----------
- A completion is kept, and told to each new head, until a head says that it is committed.
- A head hears nothing but the greeting before it has welcomed the pilot.
- The pilot goes on without a head, and ends when it has had nothing to run for long as well.
- After the reason for its end nothing new begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from pilot import clock
from pilot.agent.rules.reports import Reports
from pilot.agent.rules.rules import Rules
from pilot.clock import Clock
from pilot.model.tasks import Function, SessionInfo
from pilot.version import __version__
from pilot.wire import messages as m

log = logging.getLogger("pilot.agent")

#: Signs of life go to the head and to node workers so often, in seconds.
STATUS_S = 1.0
#: A pilot without a head ends after so long, once it has nothing to run, in seconds.
ORPHAN_S = 600.0
#: The head is asked for a sign of life so often, in seconds.
ASK_S = 10.0
#: What still runs so long before the end of the walltime is interrupted, in seconds.
END_S = 10.0
#: After what the head has sent could not be read, it is greeted at most so often, in seconds.
GREET_S = 10.0
#: How long the agent waits for its processes and for the head's last word at its end, in seconds.
LEAVE_S = 8.0


class Identity(NamedTuple):
    """The identity of a pilot: its name, its job and its pool."""

    pilot: str
    job: str
    #: Which life of the job: it may be requeued under the same id.
    life: int
    pool: str


class Service:
    """The conversation of a pilot with its head.

    Parameters
    ----------
    identity
        The pilot's identity.
    rules
        Decide what runs where.
    send
        Sends a message to the head.
    nodes
        Gives its nodes.
    running
        Gives what has run for a while.
    on_end
        Called with the time when it begins to end.
    ends_at, warning_s
        When its walltime is over (0: never), and how long before that it drains.
    now
        Tells the time.
    """

    def __init__(
        self,
        identity: Identity,
        rules: Rules,
        send: Callable[[msgspec.Struct], None],
        nodes: Callable[[], list[m.NodeInfo]],
        running: Callable[[float], list[m.RunningTask]],
        on_end: Callable[[float], None],
        ends_at: float,
        warning_s: float,
        now: Clock = clock.now,
    ) -> None:
        self._identity = identity
        self._rules = rules
        self._send = send
        self._nodes = nodes
        self._running = running
        self._on_end = on_end
        self._now = now
        self.ends_at = ends_at
        #: From then on it drains, as the batch system's warning says too; 0: its job has no end.
        self.drain_at = drain_at(ends_at, warning_s, now())
        self.reports = Reports()
        #: The sessions that it has work of.
        self.sessions: dict[int, SessionInfo] = {}
        #: By session and digest.
        self.functions: dict[int, dict[bytes, Function]] = {}
        self._welcomed = False
        #: The identity of the database in which the tasks here are.
        self._database = ""
        self._heard = now()
        self._told = self._asked = self._greeted = 0.0
        #: Why it ends (empty: it does not), and when at the latest.
        self.ending = ""
        self._leave_by = 0.0
        self._handlers: Mapping[type, Callable[[Any, float], None]] = {
            m.Welcome: self._welcome,
            m.Assign: self._assign,
            m.Committed: self._committed,
            m.CancelWork: lambda message, now: rules.cancel(message.tasks, now),
            m.ForgetSession: lambda message, _now: rules.end_session(message.session),
            m.Reclaim: lambda message, now: rules.return_to_head(message.tasks, now),
            m.EndPilot: self._told_to_end,
            m.HeadStatus: lambda _message, _now: None,
        }

    # --- the head

    def greet(self) -> None:
        """Introduce the pilot to the head that it is connected to."""
        self._welcomed = False
        self._greeted = now = self._now()
        self._send_ended()
        held = self.reports.held() | self._rules.held
        self._send(
            m.PilotHello(
                m.PROTOCOL,
                __version__,
                *self._identity,
                self._nodes(),
                self.ends_at,
                list(held.items()),
                list(self.sessions),
                self.ends_at - now if self.ends_at else 0.0,
                self._database,
                list(self._rules.site_held.items()),
            )
        )

    def lost_head(self) -> None:
        """Send nothing more until the next head has welcomed the pilot."""
        self._welcomed = False

    def unreadable(self, now: float) -> None:
        """Greet the head again after an unreadable message, which may have been work."""
        if now - self._greeted > GREET_S:
            self.greet()  # it will send that again

    def take(self, message: Any, now: float) -> None:
        """Carry out a message from the head."""
        self._heard = now
        self._handlers[type(message)](message, now)

    def _welcome(self, message: m.Welcome, now: float) -> None:
        if message.refused == m.WHO_ARE_YOU:
            if self._welcomed:  # otherwise it was asked before the last greeting arrived
                self.greet()
        elif message.refused:
            log.error("the head refuses this pilot: %s", message.refused)
            self.end(message.refused, now, at_once=True)
        elif not self._welcomed:
            self._welcomed = True
            self._database = message.database
            self.tell_status(now)
            # Also what has ended since the greeting.
            for number, completions in self.reports.frames.items():
                self._send(m.Completions(self._identity.pilot, number, completions))

    def _assign(self, message: m.Assign, now: float) -> None:
        for session in message.sessions:
            self.sessions[session.id] = session
        for template in message.templates:
            for function in message.functions:
                if function.digest == template.function:
                    functions = self.functions.setdefault(template.session, {})
                    functions[function.digest] = function
        work = self.reports.meet(message.work, now)
        self._rules.add_work(message.templates, work, now)

    def _committed(self, message: m.Committed, _now: float) -> None:
        known = self.reports.acknowledge(message.seq)
        self._rules.forget(completion.task for completion in known)

    def _told_to_end(self, message: m.EndPilot, now: float) -> None:
        if message.now:
            self.end(message.reason, now, at_once=True)
        else:
            self.drain(message.reason, now)

    def forget_session(self, session: int) -> None:
        """Drop everything that belongs to an ended session."""
        self.sessions.pop(session, None)
        self.functions.pop(session, None)

    # --- what the head is told

    def wait_s(self, now: float) -> float:
        """Return how long `report` may wait if nothing else happens, in seconds."""
        return self.reports.wait_s(now, self._rules.has_waiting)

    def report(self, now: float) -> None:
        """Report ended attempts to the head, if it is time."""
        self.reports.add(self._rules.take_completions(), now)
        if self.ending or not self.wait_s(now):
            self._send_ended()

    def _send_ended(self) -> None:
        if not self.reports.next:
            return
        number = self.reports.close_frame()
        if self._welcomed:
            completions = self.reports.frames[number]
            self._send(m.Completions(self._identity.pilot, number, completions))

    def tell_status(self, now: float) -> None:
        """Send the head a sign of life, with the tasks that have run for a while."""
        if not self._welcomed:
            return
        ask = now - self._asked >= ASK_S
        self._asked = now if ask else self._asked
        self._send(
            m.PilotStatus(
                self._identity.pilot,
                self._running(now),
                self._nodes(),
                0.0 if self._rules.held else now - self._rules.busy_at,
                self._rules.draining,
                ask,
            )
        )

    # --- time, and the end

    def tick(self, now: float) -> None:
        """Drain or end when the time has come, and report the status at intervals."""
        if self.drain_at and now > self.drain_at:
            self.drain("its walltime is near its end", now)
        if self.ends_at and now > self.ends_at - END_S and not self.ending:
            self.end("its walltime is over", now, at_once=True)
        if now - self._told >= STATUS_S:
            self._told = now
            self.tell_status(now)
        idle_s = now - self._rules.busy_at
        if self._rules.draining and self._rules.is_idle and not self.ending:
            self.end("it has drained", now)
        alone_s = now - self._heard
        if not self.ending and self._rules.is_idle and min(idle_s, alone_s) > ORPHAN_S:
            self.end(f"no head has been heard of for {alone_s:.0f} s", now)

    def slept(self, seconds: float, now: float) -> None:
        """Restart the timers after the whole process stood still, which was nobody's silence."""
        self._heard = now
        self._rules.slept(seconds)

    def drain(self, reason: str, now: float) -> None:
        """Start nothing more, return what has not started, and end after the rest."""
        if not self._rules.draining:
            log.info("draining: %s", reason)
            self._rules.drain(reason, now)
            # Before what is handed back, so that it does not come again.
            self.tell_status(now)

    def end(self, reason: str, now: float, at_once: bool = False) -> None:
        """Drain and end soon; `at_once` interrupts running tasks."""
        if at_once:
            self._rules.stop_all(reason, now)
            self.tell_status(now)
        if self.ending:
            return
        log.info("ends: %s", reason)
        self.ending = reason
        self._on_end(now)
        self._leave_by = now + LEAVE_S
        self._rules.drain(reason, now)

    def is_over(self, now: float) -> bool:
        """Tell whether the pilot has ended: everything is reported, or no time is left for that."""
        if not self.ending:
            return False
        if now > self._leave_by:
            return True
        return self._rules.is_idle and not (self.reports and self._welcomed)

    def bye(self) -> None:
        """Tell the head that the pilot ends."""
        if self._welcomed:
            held = list(self._rules.held.items())
            self._send(m.PilotBye(self._identity.pilot, self.ending, held))


def drain_at(ends_at: float, warning_s: float, now: float) -> float:
    """Return the time at which a pilot drains: its pool's warning before its end, or half of a
    short walltime before it."""
    return ends_at - min(warning_s, (ends_at - now) / 2) if ends_at else 0.0
