"""The service of a pilot to its head: take work, report its ends, drain and end.

`agent` is the process around this, with sockets, node workers and signals; what runs where is
decided by `rules`. Here is when the head is greeted, told and waited for. No sockets, no processes.

Invariants
----------
- A completion is kept, and told to each new head, until a head says that it is committed.
- A head hears nothing but the greeting before it has welcomed the pilot.
- The pilot goes on without a head, and ends when it has had nothing to run for long as well.
- After the reason for its end nothing new begins.
- Before tasks are ended they are told, as far as there is time: those that look whether they are to
  stop go on until then, the others are ended at once where the job is, and else at the end.
- A node that the pilot has left is told to each head, until one says that the batch system has it
  back, or that it has to be kept: no node is forgotten between the two.
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
from pilot.model.installation import Installation
from pilot.model.tasks import Function, SessionInfo
from pilot.scheduler.assignment import DRAIN_S
from pilot.version import __version__
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import pilot as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome

log = logging.getLogger("pilot.agent")

#: Signs of life go to the head and to node workers so often, in seconds.
STATUS_S = 1.0
#: So many tasks are told that wait for large inputs from other nodes.
FETCHES_TOLD = 1000
#: A pilot without a head ends after so long, once it has nothing to run, in seconds.
ORPHAN_S = 600.0
#: The head is asked for a sign of life so often, in seconds.
ASK_S = 10.0
#: After so long without a word of the head the way to it may have been cut, in seconds.
QUIET_S = 3 * ASK_S
#: What still runs so long before the end of the walltime is interrupted, in seconds.
END_S = 10.0
#: Once tasks have been told that the walltime ends, a pilot without work waits so long for more, in
#: seconds: little of what still waits would fit.
STOPPED_S = 2.0
#: After what the head has sent could not be read, it is greeted at most so often, in seconds.
GREET_S = 10.0
#: A warning may come so much too early, in seconds: batch systems look at walltimes now and then.
WARNED_LATE_S = 60.0
#: How long the agent waits for its processes and for the head's last word at its end, in seconds.
LEAVE_S = 8.0


class Identity(NamedTuple):
    """The identity of a pilot: its name, its job and its pool."""

    pilot: str
    job: str
    #: Which life of the job: it may be requeued under the same id.
    life: int
    pool: str


class Notice(NamedTuple):
    """The time that tasks have from being told to stop until they are ended, in seconds."""

    #: Before the end of the walltime.
    walltime_s: float = 60.0
    #: Where the job is cancelled or preempted.
    signal_s: float = 15.0


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
    on_return
        Called with nodes that the pilot has left in its rules: whoever works there is to end, and
        `left` to be called then.
    on_keep
        Called with nodes that are the pilot's again.
    ends_at, warning_s
        When its walltime is over (0: never), and how long before that the batch system warns it.
    notice
        How long before their end tasks are told to stop.
    now
        Tells the time.
    installation
        The Python that runs it, and its tasks.
    """

    def __init__(
        self,
        identity: Identity,
        rules: Rules,
        send: Callable[[msgspec.Struct], None],
        nodes: Callable[[], list[m.NodeInfo]],
        running: Callable[[float], list[m.RunningTask]],
        on_end: Callable[[float], None],
        on_return: Callable[[list[str]], None],
        on_keep: Callable[[list[str]], None],
        ends_at: float,
        warning_s: float,
        notice: Notice,
        now: Clock = clock.now,
        installation: Installation = Installation(),  # noqa: B008 - it never changes
    ) -> None:
        self._identity = identity
        self._installation = installation
        self._rules = rules
        self._send = send
        self._nodes = nodes
        self._running = running
        self._on_end = on_end
        self._on_return = on_return
        self._on_keep = on_keep
        self._now = now
        self.ends_at = ends_at
        self._warning_s = warning_s
        self._notice = notice
        #: The time when the pilot drains: what is given to it before ends in time; 0: never.
        self.drain_at = drain_at(ends_at, now())
        #: The times when tasks are told that the walltime ends, the next one last.
        self._tell_at = self._tell_times(now())
        self._has_told = False
        #: The time when what still runs is interrupted, before the end of the walltime, and why; 0:
        #: there is none.
        self._cut_at, self._cut_for = 0.0, ""
        self.reports = Reports()
        #: The sessions that it has work of.
        self.sessions: dict[int, SessionInfo] = {}
        #: By session and digest.
        self.functions: dict[int, dict[bytes, Function]] = {}
        #: What users were told, by session and subject, and what waits for a head to tell it.
        self._noticed: set[tuple[int, str]] = set()
        self._notices: list[m.PilotNotice] = []
        self._welcomed = False
        #: The identity of the database in which the tasks here are.
        self._database = ""
        self._heard = now()
        self._told = self._asked = self._greeted = 0.0
        #: The nodes that were left, and that the batch system does not have back yet.
        self._returned: list[str] = []
        #: Why it drains; empty: it does not, or it ends at once.
        self._drains_for = ""
        #: Why it ends (empty: it does not), and when at the latest.
        self.ending = ""
        self._leave_by = 0.0
        self._handlers: Mapping[type, Callable[[Any, float], None]] = {
            Welcome: self._welcome,
            m.Assign: self._assign,
            m.Committed: self._committed,
            m.CancelWork: lambda message, now: rules.cancel(message.tasks, now),
            m.ForgetSession: lambda message, _now: rules.end_session(message.session),
            m.Released: lambda message, _now: rules.release(message.results),
            m.Reclaim: lambda message, now: rules.return_to_head(message.tasks, now),
            m.EndPilot: self._told_to_end,
            m.ReturnNodes: self._return_nodes,
            m.NodesReturned: self._nodes_returned,
            m.KeepNodes: self._keep_nodes,
            m.Walltime: lambda message, now: self.ends_in(message.left_s, now),
            m.HeadStatus: lambda _message, _now: None,
        }

    # --- the head

    @property
    def is_welcomed(self) -> bool:
        """True once the head that was greeted has answered."""
        return self._welcomed

    def hears_head(self, now: float) -> bool:
        """Tell whether a head has welcomed the pilot, and has answered since when it was asked."""
        return self._welcomed and now - self._heard < QUIET_S

    def greet(self) -> None:
        """Introduce the pilot to the head that it is connected to."""
        self._welcomed = False
        self._greeted = now = self._now()
        self._send_ended()
        held = self.reports.held() | self._rules.held
        self._send(
            m.PilotHello(
                PROTOCOL,
                __version__,
                *self._identity,
                self._nodes(),
                self.ends_at,
                list(held.items()),
                list(self.sessions),
                self.ends_at - now if self.ends_at else 0.0,
                self._database,
                list(self._rules.site_held.items()),
                self._installation,
            )
        )

    def notice(self, session: int, subject: str, text: str) -> None:
        """Tell the users of a session something, once for each subject; this head, or the next."""
        if (session, subject) not in self._noticed:
            self._noticed.add((session, subject))
            self._notices.append(m.PilotNotice(self._identity.pilot, session, subject, text))
            self._send_notices()

    def _send_notices(self) -> None:
        while self._welcomed and self._notices:
            self._send(self._notices.pop(0))

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

    def _welcome(self, message: Welcome, now: float) -> None:
        if message.refused == WHO_ARE_YOU:
            if self._welcomed:  # otherwise it was asked before the last greeting arrived
                self.greet()
        elif message.refused:
            log.error("the head refuses this pilot: %s", message.refused)
            self.end(message.refused, now, at_once=True)
        elif not self._welcomed:
            self._welcomed = True
            self._database = message.database
            self._rules.tell_held_back_again()
            self.tell_status(now)
            if waiting := self._rules.waiting_tasks():
                self._send(m.Waiting(self._identity.pilot, list(waiting.items())))
            # Also what has ended since the greeting.
            for number, completions in self.reports.frames.items():
                self._send(m.Completions(self._identity.pilot, number, completions))
            self._send_notices()

    def _assign(self, message: m.Assign, now: float) -> None:
        if not self._welcomed:
            # It crosses a greeting that has nothing of it: the head takes it for lost, and gives it
            # out again, maybe to others.
            return
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
        if not self._welcomed:
            # It crosses a greeting that says of these attempts that they are here: the head, which
            # may have learned of their tasks since, is to hear of their ends once more.
            return
        known = self.reports.acknowledge(message.seq)
        self._rules.forget(completion.task for completion in known)

    def _told_to_end(self, message: m.EndPilot, now: float) -> None:
        if message.now:
            self.interrupt(message.reason, now)
        else:
            self.drain(message.reason, now)
            if message.within_s:
                self._cut_at, self._cut_for = now + message.within_s, message.reason
                until = self._cut_at
                if self.ends_at:
                    until = min(until, self.ends_at - END_S)
                self._rules.tell_to_stop(f"its pilot is drained: {message.reason}", until)

    # --- nodes that go back

    def _return_nodes(self, message: m.ReturnNodes, now: float) -> None:
        if self.ending:
            return
        leaving = self._rules.give_back(message.nodes, now)
        if leaving:
            log.info("gives back %s: %s", ", ".join(leaving), message.reason)
            self._on_return(leaving)
        # The head learns from it which of them are left.
        self.tell_status(now)

    def left(self, node: str, now: float) -> None:
        """Tell this head, or the next, that nothing of the pilot is on a node any more."""
        self._returned.append(node)
        self.tell_status(now)

    def _nodes_returned(self, message: m.NodesReturned, _now: float) -> None:
        self._returned = [node for node in self._returned if node not in message.nodes]

    def _keep_nodes(self, message: m.KeepNodes, _now: float) -> None:
        kept = [node for node in self._returned if node in message.nodes]
        self._returned = [node for node in self._returned if node not in message.nodes]
        if kept:
            log.info("keeps %s: the batch system does not take them back", ", ".join(kept))
            self._on_keep(kept)

    def forget_session(self, session: int) -> None:
        """Drop everything that belongs to an ended session."""
        self.sessions.pop(session, None)
        self.functions.pop(session, None)
        self._noticed = {key for key in self._noticed if key[0] != session}

    # --- what the head is told

    def wait_s(self, now: float) -> float:
        """Return how long `report` may wait if nothing else happens, in seconds."""
        return self.reports.wait_s(now, self._rules.has_waiting)

    def report(self, now: float) -> None:
        """Report ended attempts to the head, if it is time, and at once those that wait for others
        or go on."""
        if (waits := self._rules.take_waits()) and self._welcomed:
            waiting = [(task, attempt) for task, (attempt, is_so) in waits.items() if is_so]
            going_on = [(task, attempt) for task, (attempt, is_so) in waits.items() if not is_so]
            self._send(m.Waiting(self._identity.pilot, waiting, going_on))
        self.reports.add(self._rules.take_completions(), now)
        if self._welcomed and (held_back := self._rules.take_held_back()):
            self._send(m.HeldBack(self._identity.pilot, held_back))
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
                self._rules.idle_nodes(now),
                self._returned,
                self.ends_at - now if self.ends_at else 0.0,
                self._rules.booking(now),
                self._rules.fetches(FETCHES_TOLD),
            )
        )

    # --- time, and the end

    def warned(self, now: float) -> None:
        """Take in the batch system's warning: the end may have been moved since the job began."""
        if not self.ends_at or self.ends_at - now > self._warning_s + WARNED_LATE_S:
            self.ends_in(self._warning_s, now)

    def ends_in(self, left_s: float, now: float) -> None:
        """Take in that the walltime is over in so many seconds: somebody has changed it."""
        log.info("its walltime is over in %.0f s", left_s)
        self.ends_at = now + left_s
        self.drain_at = drain_at(self.ends_at, now)
        self._tell_at, self._has_told = self._tell_times(now), False
        self.tell_status(now)

    def _tell_times(self, now: float) -> list[float]:
        """Return when tasks are told that the walltime ends, the first time last: in time for all
        that run then, and again when nothing more begins."""
        if not self.ends_at:
            return []
        notice_s = min(self._notice.walltime_s, (self.ends_at - now) / 4)
        return sorted({self.ends_at - END_S - notice_s, self.drain_at}, reverse=True)

    def tick(self, now: float) -> None:
        """Drain or end when the time has come, and report the status at intervals."""
        if self.drain_at and now > self.drain_at:
            self.drain("its walltime is near its end", now)
        while self._tell_at and now > self._tell_at[-1]:
            self._tell_at.pop()
            self._has_told = True
            reason = "the walltime of its pilot is over soon"
            self._rules.tell_to_stop(reason, self.ends_at - END_S)
        if self._cut_at and now > self._cut_at:
            self._cut_at = 0.0
            self.end(self._cut_for, now, at_once=True)
        if self.ends_at and now > self.ends_at - END_S and not self.ending:
            self.end("its walltime is over", now, at_once=True)
        if now - self._told >= STATUS_S:
            self._told = now
            self.tell_status(now)
        idle_s = now - self._rules.busy_at
        if self._has_told and self._rules.is_idle and idle_s > STOPPED_S:
            self.drain("its tasks have ended or stopped before the end of its walltime", now)
        if self._rules.draining and self._rules.is_idle and not self.ending:
            self.end(self._drains_for, now)
        alone_s = now - self._heard
        if not self.ending and min(idle_s, alone_s) > ORPHAN_S:
            # Without a head nothing ends that tasks here may wait for.
            only_waits = self._rules.only_waits
            if self._rules.is_idle or only_waits:
                text = f"no head has been heard of for {alone_s:.0f} s"
                self.end(text, now, at_once=only_waits)

    def slept(self, seconds: float, now: float) -> None:
        """Restart the timers after the whole process stood still, which was nobody's silence."""
        self._heard = now
        self._rules.slept(seconds)

    def drain(self, reason: str, now: float) -> None:
        """Start nothing more, return what has not started, and end after the rest."""
        if not self._rules.draining:
            log.info("draining: %s", reason)
            self._drains_for = reason
            self._rules.drain(reason, now)
            # Before what is handed back, so that it does not come again.
            self.tell_status(now)

    def interrupt(self, reason: str, now: float) -> None:
        """End soon, since the job is ended: at once but for tasks that look whether they are to
        stop, which have a moment to save their state."""
        if self._cut_at and self.ending:
            return  # it was told before
        until = now + self._notice.signal_s
        if self._rules.interrupt(reason, until, now):
            self._cut_at, self._cut_for = until, reason
            self.end(reason, now)
            self._leave_by = until + LEAVE_S
            self.tell_status(now)
        else:
            self.end(reason, now, at_once=True)

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


def drain_at(ends_at: float, now: float) -> float:
    """Return the time at which a pilot drains: shortly before its end, or half of a short walltime
    before it."""
    return ends_at - min(DRAIN_S, (ends_at - now) / 2) if ends_at else 0.0
