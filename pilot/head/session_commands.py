"""Requests of clients about sessions and results: open, pause, stop, close, purge, delete.

Invariants
----------
- What is changed here is read from the database first, and all that happened before is in it.
- No result is deleted that an unfinished task still needs, and no session that has not ended. What
  is a version of a named object stays.
- What is deleted in the database is removed from the disk by the janitor, at some time later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from pilot import limits
from pilot.errors import PilotError
from pilot.formatting import duration
from pilot.head.connections import Handler
from pilot.head.core import events as ev
from pilot.head.core.bound_sessions import BoundSessions
from pilot.head.core.leaving import Leaving, lives
from pilot.head.core.numbering import FIRST_BLOCK
from pilot.head.janitor import Janitor, who_needs
from pilot.head.retention import Retention
from pilot.head.shell import Shell
from pilot.head.store.rows import SessionRow
from pilot.inherited import carried
from pilot.model.ids import task_label
from pilot.model.objects import versioned
from pilot.model.states import CLOSED_STATES, COMPLETED
from pilot.model.tasks import SessionInfo
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.messages import client as m

log = logging.getLogger("pilot.head")

#: The key in the database for sessions that were closed because all clients had gone.
_LEFT = "left_sessions"
#: The number of tasks whose results are released at a time.
_PORTION = 500
#: The largest weight: beyond it other sessions' shares would vanish.
_MOST_WEIGHT = 1e9


class SessionCommands:
    """Changes sessions, and deletes their data.

    Parameters
    ----------
    site
        The site.
    shell
        The core and what belongs to it.
    janitor
        Removes files.
    """

    def __init__(self, site: Site, shell: Shell, janitor: Janitor) -> None:
        self._site = site
        self._shell = shell
        self._store = shell.store
        self._commits = shell.commits
        self._janitor = janitor
        data = site.config.data
        self._retention = Retention(
            site.directory, data.keep_s, data.keep_size_mib << 20, shell.machine
        )
        self._leaving = Leaving(site.config.head.session_idle_s, shell.store.meta(_LEFT) or "")
        # As long as a lease may stand still before a client takes its head for dead.
        self._bound = BoundSessions(site.config.lease.expire_s)
        self.handlers: Mapping[type, Handler] = {
            m.OpenSession: self._open,
            m.ControlSession: self._change,
            m.DeleteResults: self._delete_results,
        }

    def _open(self, peer: bytes, message: m.OpenSession, now: float) -> None:
        session = message.session
        if session:
            self._rejoin(session, now)
            row = self._row(session)
            if row.state != "OPEN":
                raise PilotError(f"session {session} is {row.state}: it takes no more tasks")
            options = row.options
        else:
            if not 0 < message.weight <= _MOST_WEIGHT:
                raise PilotError(
                    f"weight={message.weight}: give a number above 0, up to {_MOST_WEIGHT:g}"
                )
            message = self._with_carried(message)
            _refuse_if_large(message)
            session = self._store.add_session(message, now)
            options = message.options
            self._bound.bind(session, message.grace_s)
            info = SessionInfo(session, message.name, message.environment)
            self._shell.assignments.open(info, {})
            self._shell.apply(ev.SessionOpened(session, message.weight, message.priority), now)
        block = self._shell.numbers.block(session, FIRST_BLOCK)
        self._shell.peers.give(peer, *block)
        # Not before the log has it, too.
        self._commits.tell(peer, m.Reply(message.request, [session, options, *block]))

    def _with_carried(self, message: m.OpenSession) -> m.OpenSession:
        """Return the message with those variables alone that tasks are to see of its program's."""
        environment = message.environment
        its = carried(environment.inherited) if self._site.config.environment.inherit else {}
        environment = msgspec.structs.replace(environment, inherited=its)
        return msgspec.structs.replace(message, environment=environment)

    def _row(self, session: int) -> SessionRow:
        if session in self._store.damaged:
            raise PilotError(self._store.damaged[session])
        row = self._store.session(session)
        if row is None:
            raise PilotError(f"there is no session {session}; `pilot session list` shows them")
        return row

    def _change(self, peer: bytes, message: m.ControlSession, now: float) -> None:
        session, verb = message.session, message.verb
        self._commits.flush(now)  # what it was told just before is in the row, too
        row = self._row(session)
        if verb in ("purge", "delete"):
            self._remove(row, verb)
        elif verb == "release":
            self._release(session, now)
        elif verb == "reopen":
            if row.state != "OPEN" and row.grace_s:
                self._unbind(session)  # whoever does it need not stay
            self._reopen(row._replace(grace_s=0.0), now)
        elif verb == "rejoin":
            self._rejoin(session, now)
        elif row.state in CLOSED_STATES:
            if verb != "close":
                raise PilotError(f"session {session} is {row.state}: it cannot {verb}")
        elif verb == "unbind":
            self._unbind(session)
        elif verb == "budget":
            self._store.set_session_budget(session, message.budget)
        else:
            row = _changed(row, verb)
            if verb in ("pause", "resume"):
                self._commits.batch.pause_session(session, row.paused)
            else:
                self._commits.batch.end_session(session, row.state, None)
            self._shell.apply(opened(row), now)
        self._commits.tell(peer, m.Reply(message.request, True))

    def _unbind(self, session: int) -> None:
        """Let a session live without its clients."""
        self._store.unbind_session(session)
        self._bound.release(session)

    def restore(self, rows: Iterable[SessionRow]) -> None:
        """Take over the open sessions of an earlier head."""
        for row in rows:
            self._bound.bind(row.id, row.grace_s, restored=True)

    def end_bound(self, is_here: Callable[[bytes], bool], now: float) -> None:
        """End the sessions whose clients have been gone for as long as was said.

        Parameters
        ----------
        is_here
            Tells whether a client is on this machine, so that the end of its connection is known.
        now
            The time.
        """
        peers = self._shell.peers

        def is_attended(session: int, since: float) -> bool:
            return any(
                # One that is stopped, or whose connection a forked copy has, is silent as well.
                (is_here(peer) and lives(peers.heard, (peer,), now))
                or peers.heard.get(peer, 0.0) > since
                for peer in peers.members.get(session, ())
            )

        for session, grace_s in self._bound.due(self._shell.core.sessions, is_attended, now):
            row = self._store.session(session)
            if row is not None and row.state not in CLOSED_STATES:
                why = f"its client has been gone for {duration(grace_s)}"
                # First: the end of the last task ends a session that is closed.
                self._commits.batch.end_session(session, "CLOSING", None, why)
                self._shell.apply(opened(row._replace(state="CLOSING"), reason=why), now)
                self._shell.apply(ev.TasksCancelled(session, None, reason=why), now)
            self._bound.release(session)

    def close(self) -> None:
        """End the thread that measures what sessions take."""
        self._retention.close()

    def purge_old(self, now: float) -> None:
        """Purge a session that the site file keeps no longer, if it is time."""
        if self._retention.wants(now):
            rows = self._store.rows("kept_sessions", {})
            self._retention.look({row["id"]: row["ended"] for row in rows}, now)
        session = self._retention.take()
        if session is None or (row := self._store.session(session)) is None:
            return
        if row.state != "CLOSED":
            return  # a client has come back to it
        self._commits.flush(now)
        try:
            self._remove(row, "purge")
        except PilotError as error:
            log.info("session %d is kept for now: %s", session, error)
        else:
            log.info("session %d is purged: data.keep and data.keep_size say so", session)

    def close_left(self, now: float) -> None:
        """Close the sessions that have had no client for some time."""
        peers = self._shell.peers
        due = self._leaving.due(
            self._shell.core.sessions,
            lambda session: lives(peers.heard, peers.members.get(session, ()), now),
            now,
        )
        for session in due:
            if (row := self._store.session(session)) is not None and row.state not in CLOSED_STATES:
                row = _changed(row, "close")
                self._commits.batch.end_session(session, row.state, None)
                self._shell.apply(opened(row), now)
        if due:
            self._leaving.closed(due)
            self._store.set_meta(_LEFT, self._leaving.text)

    def _rejoin(self, session: int, now: float) -> None:
        """Open a session again that was closed because all its clients had gone."""
        if session not in self._leaving:
            return
        self._commits.flush(now)
        row = self._row(session)
        if row.state == "CLOSED":
            self._reopen(row, now)
            self._commits.flush(now)
        self._leaving.opened(session)
        self._store.set_meta(_LEFT, self._leaving.text)

    def _reopen(self, row: SessionRow, now: float) -> None:
        """Let a session that has ended take tasks again."""
        if row.state == "OPEN":
            return
        if row.state != "CLOSED":
            wait = f"; wait for its end: `pilot session wait {row.id}`"
            raise PilotError(
                f"session {row.id} is {row.state}: it cannot take tasks again"
                + (wait if row.state == "CLOSING" else "")
            )
        row = row._replace(state="OPEN", paused=False)
        info = SessionInfo(row.id, row.name, row.environment)
        self._shell.assignments.open(info, self._store.functions(row.id))
        self._commits.batch.pause_session(row.id, False)
        self._commits.batch.end_session(row.id, "OPEN", None)
        self._shell.apply(opened(row), now)
        self._bound.bind(row.id, row.grace_s)
        # Who is still there, or comes back, may refer to what it has sent before.
        templates, versions = self._store.templates(row.id), self._store.versions(row.id)
        self._shell.apply(ev.TasksRestored(templates, [], versions=versions), now)

    def _remove(self, row: SessionRow, verb: str) -> None:
        """Delete a session's data, or the whole session."""
        if row.state not in CLOSED_STATES:
            raise PilotError(
                f"session {row.id} is {row.state}; "
                + (
                    f"wait for its end (`pilot session wait {row.id}`)"
                    if row.state == "CLOSING"
                    else "close it and let it end"
                )
                + f", or cancel it, before you {verb} it"
            )
        core = self._shell.core
        inputs = {ref[0] for task in core.tasks.values() for ref in (*task.inputs, *task.given)}
        needed = dict.fromkeys(self._store.tasks_of(row.id, inputs), ())
        self._refuse_if_needed(needed, f"session {row.id}", verb)
        directories = [
            (above / str(row.id)).relative_to(self._site.directory).as_posix()
            for above in (self._site.results, self._site.checkpoints)
        ]
        if verb == "purge":
            garbage = self._store.purge(row.id, directories)
            if row.state != "PURGED":
                core.log.other("session", "PURGED", row.id, self._shell.machine.now())
        else:
            garbage = self._store.delete(row.id, directories)
            core.log.other("session", "DELETED", row.id, self._shell.machine.now(), row.name)
        self._janitor.add(garbage)
        # What is remembered may be of this session; the rest is read again when it is needed.
        self._shell.outcomes.forget_all()

    def _release(self, session: int, now: float) -> None:
        """Release the results of a session's completed tasks, some at a time."""
        last = 0
        while tasks := self._store.completed_of(session, last, _PORTION):
            last = tasks[-1]
            results = self._shell.releasing.found(tasks, (), self._shell.core.tasks)
            if results:
                self._shell.apply(ev.ResultsReleased(results), now)
                self._commits.flush(now)

    def _delete_results(self, peer: bytes, message: m.DeleteResults, now: float) -> None:
        self._commits.flush(now)
        known = self._store.states(message.tasks)
        for task in message.tasks:
            label = task_label(task)
            if task not in known:
                raise PilotError(f"task {label} does not exist; nothing was deleted")
            if task in self._shell.core.tasks:
                raise PilotError(
                    f"task {label} has not ended; nothing was deleted. Cancel it, or wait for it"
                )
        if named := self._store.objects_of(message.tasks):
            task, name, version = named[0]
            this = versioned(name, version)
            raise PilotError(
                f"the result of task {task_label(task)} is {this}; nothing was deleted. Remove "
                f"that first: `pilot object rm {this}`"
            )
        outcomes = self._store.results(message.tasks)
        values = {outcome.task: outcome.values for outcome in outcomes}
        self._refuse_if_needed(values, "its result", "delete")
        self._janitor.add(self._store.delete_results(message.tasks))
        for task in message.tasks:
            self._shell.outcomes.forget(task)
        count = sum(outcome.state == COMPLETED for outcome in outcomes)
        self._shell.send(peer, m.Reply(message.request, count))

    def _refuse_if_needed(
        self, deleted: Mapping[int, Collection[Value]], what: str, verb: str
    ) -> None:
        needed = who_needs(self._shell.core.tasks.values(), self._store.owing(), deleted)
        if needed is not None:
            unfinished, source = map(task_label, needed)
            raise PilotError(
                f"task {unfinished} still needs the result of task {source}; nothing was deleted. "
                f"Cancel it, or wait for it, before you {verb} {what}"
            )


def _refuse_if_large(message: m.OpenSession) -> None:
    for what, size, limit in (
        ("its name", len(message.name.encode(errors="replace")), limits.NAME_BYTES),
        ("its default options", len(message.options), limits.OPTIONS_BYTES),
        (
            "its variables and module search path",
            len(msgspec.msgpack.encode(message.environment)),
            limits.OPTIONS_BYTES,
        ),
    ):
        if size > limit:
            raise PilotError(
                f"the session is not opened: {what} would be {size / 2**10:.0f} KiB, and "
                f"{limit / 2**10:.0f} KiB is the most"
            )


def opened(row: SessionRow, restored: bool = False, reason: str = "") -> ev.SessionOpened:
    """Return the event that tells the core of a session in the database."""
    return ev.SessionOpened(
        row.id,
        row.weight,
        row.priority,
        closed=row.state == "CLOSING",
        stopped=row.state == "STOPPED",
        paused=row.paused,
        restored=restored,
        reason=reason,
    )


def _changed(row: SessionRow, verb: str) -> SessionRow:
    """Return the session's row after a command."""
    if verb in ("pause", "resume"):
        return row._replace(paused=verb == "pause")
    if verb == "stop":
        return row._replace(state=row.state if row.state == "CLOSING" else "STOPPED")
    if verb == "close":
        return row._replace(state="CLOSING")
    raise PilotError(f"there is no command {verb!r} for sessions")
