"""Requests of clients about tasks: submit, watch, cancel, release results.

Invariants
----------
- A submission is acknowledged when it is committed. One that is sent twice, also to two heads, is
  taken on once; so is a child that is detached again by its parent's next attempt.
- A release is answered when it is committed, and counts for what is submitted after it.
- A submission is of tasks of one session, by their ids; otherwise it is refused.
- A client hears of the end of each task that it has submitted or watches: when the end is
  committed, or at once if that was before.
- A client on another machine that has not said for `CLIENT_S` that it lives is forgotten; if it
  lives after all, it is asked to greet again, and asks again for what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from pilot import limits
from pilot.errors import PilotError
from pilot.head.connections import Handler, refusal
from pilot.head.core import events as ev
from pilot.head.core.leaving import CLIENT_S
from pilot.head.pilots_installation import PilotsInstallation
from pilot.head.shell import Shell
from pilot.model.ids import session_of
from pilot.model.installation import Installation
from pilot.model.tasks import Function, TaskSpec
from pilot.version import __version__
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome

#: The number of silent clients that are remembered after they were removed.
SILENT_KNOWN = 10_000

encode = msgspec.msgpack.Encoder().encode


def _too_large(what: str, limit: int) -> str:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return f"{what} would be larger than {size}; give data as arguments, or with `session.put`"


class Clients:
    """The head's side of each client, and of each task that submits detached children.

    Parameters
    ----------
    shell
        The core and what belongs to it.
    epoch
        The head's epoch.
    hurry
        Called when there are new tasks and no pilot.
    installation
        What the pilots' tasks run in.
    most
        The largest number of unfinished tasks that the head accepts.
    """

    def __init__(
        self,
        shell: Shell,
        epoch: int,
        hurry: Callable[[], None],
        installation: PilotsInstallation | None = None,
        most: int = 1 << 62,
    ) -> None:
        self._installation = installation or PilotsInstallation(shell.store, "auto")
        #: The Python that each client runs in, of those that submit tasks.
        self._pythons: dict[bytes, str] = {}
        self._shell = shell
        self._store = shell.store
        self._peers = shell.peers
        self._commits = shell.commits
        self._epoch = epoch
        self._hurry = hurry
        self._most = most
        self._too_many = (
            f"{most:,} tasks are unfinished at this site, and no more are taken: each takes some "
            "1 kB of the head's memory. Submit in portions, when others have ended, or set "
            "head.max_unfinished in site.yaml"
        )
        #: The last clients that were removed because they were silent.
        self._silent: dict[bytes, None] = {}
        #: Detached children that are not committed yet: (parent, ordinal) → id.
        self._detached: dict[tuple[int, int], int] = {}
        self.handlers: Mapping[type, Handler] = {
            m.ClientHello: self._hello,
            m.ClientBye: self._bye,
            m.Reserve: self._reserve,
            m.Submit: self._submit,
            m.Detach: self._detach,
            m.Watch: self._watch,
            m.Cancel: self._cancel,
            m.Release: self._release,
        }

    def _hello(self, peer: bytes, hello: m.ClientHello, now: float) -> None:
        refused = refusal(hello.protocol, hello.version)
        if not refused and hello.submits:
            self._peers.add_client(peer, hello.blocks)
            self._peers.heard[peer] = now
        database = self._store.identity
        python = self._installation.python
        self._shell.send(peer, Welcome(self._epoch, __version__, refused, python, database))
        if not refused and hello.submits and hello.python:
            self._pythons[peer] = hello.python
            self._tell_installation(peer)

    def learn_installation(self, told: Installation) -> None:
        """Take in what a pilot's tasks run in, and tell clients that run in something else."""
        if self._installation.learn(told):
            for peer in self._pythons:
                self._tell_installation(peer)

    def _tell_installation(self, peer: bytes) -> None:
        if self._installation.python not in ("", self._pythons[peer]):
            self._shell.send(peer, m.PilotsInstallation(self._installation.installation))

    def _bye(self, peer: bytes, message: m.ClientBye, _now: float) -> None:
        self.gone(peer)
        is_open = self._shell.assignments.is_open
        self._shell.numbers.take_back(r for r in message.unused if is_open(session_of(r[0])))

    def gone(self, peer: bytes) -> None:
        """Send a client nothing more: it said good-bye, or its connection has ended.

        If it still lives it connects again, under another name, and asks again.
        """
        self._peers.remove_client(peer)
        self._pythons.pop(peer, None)
        self._shell.telling.forget(peer)

    def forget_silent(self, is_here: Callable[[bytes], bool], now: float) -> None:
        """Forget clients of other machines that have been silent for more than `CLIENT_S`."""
        heard = self._peers.heard
        for peer in list(self._peers.clients):
            if now - heard.get(peer, now) >= CLIENT_S and not is_here(peer):
                self.gone(peer)
                self._silent[peer] = None
        while len(self._silent) > SILENT_KNOWN:
            del self._silent[next(iter(self._silent))]

    def hear(self, peer: bytes, now: float) -> None:
        """Note that a peer, which may be a client, has sent something."""
        heard = self._peers.heard
        if peer in heard:
            heard[peer] = now
        elif self._silent and peer in self._silent:
            del self._silent[peer]
            self._shell.send(peer, Welcome(self._epoch, __version__, WHO_ARE_YOU))

    def _reserve(self, peer: bytes, message: m.Reserve, _now: float) -> None:
        first, count = self._shell.numbers.block(message.session, message.count)
        self._peers.give(peer, first, count)
        self._shell.send(peer, m.Reply(message.request, [first, count]))

    def _submit(self, peer: bytes, message: m.Submit, now: float) -> None:
        session, tasks = message.session, message.tasks
        why = ""
        if any(session_of(spec.id) != session for spec in tasks):
            why = f"it was submitted to session {session} under an id of another one"
        elif peer in self._peers.resumed:
            # It may have sent these to the head before, which may have finished them.
            live = self._shell.core.tasks
            known = self._shell.outcomes.known({spec.id for spec in tasks} - live.keys())
            if known:
                self._tell_ended(peer, [spec.id for spec in tasks if spec.id in known])
                tasks = [spec for spec in tasks if spec.id not in known]
        if not self._shell.assignments.is_open(session):
            why = why or f"session {session} is closed or unknown"
        if why:
            self._shell.send(peer, m.Accepted(message.seq, [(spec.id, why) for spec in tasks]))
            return
        watched = self._peers.watch_own(peer, [spec.id for spec in tasks])
        refused = self._take_on(message, tasks, 0, now)
        if watched:
            self._peers.unwatch(peer, (task for task, _ in refused))
        self._commits.tell(peer, m.Accepted(message.seq, refused))
        if not self._shell.core.pilots:
            self._hurry()

    def _detach(self, peer: bytes, message: m.Detach, now: float) -> None:
        if not self._shell.assignments.is_open(message.session):
            raise PilotError(f"session {message.session} is closed or unknown")
        keys = [(message.parent, spec.ordinal) for spec in message.tasks]
        # All that may fail comes first: a repeated request must not get a number without a task.
        known = [self._detached.get(key) or self._store.detached(*key) for key in keys]
        missing = known.count(None)
        numbers = iter(self._shell.numbers.take(message.session, missing) if missing else ())
        given, new = [], []
        for spec, key, number in zip(message.tasks, keys, known, strict=True):
            if number is None:
                self._detached[key] = number = next(numbers)
                new.append(msgspec.structs.replace(spec, id=number))
            given.append(number)
        refused = self._take_on(message, new, message.parent, now)
        for spec in new:
            # Once it is committed the database knows it; one that is refused is not known.
            self._commits.then(partial(self._detached.__delitem__, (message.parent, spec.ordinal)))
        self._commits.tell(
            peer,
            m.Reply(message.request, error=refused[0][1])
            if refused
            else m.Reply(message.request, given),
        )

    def _take_on(
        self, message: m.Submit | m.Detach, tasks: list[TaskSpec], parent: int, now: float
    ) -> list[tuple[int, str]]:
        """Accept tasks, with functions and templates; return the refused ones with reasons."""
        session, templates = message.session, message.templates
        functions, unfit = self._without_unfit(message)
        self._shell.learn(session, functions, [one for one in templates if one.id not in unfit])
        if unfit:
            self._shell.refuse(unfit, {})
        ended, lost, gone = self._shell.ended_inputs(tasks)
        taken, refused = tasks, []
        live = self._shell.core.tasks
        if len(live) + len(tasks) > self._most:
            # What is sent twice is not new.
            count = self._most - len(live)
            new = [spec for spec in tasks if spec.id not in live]
            refused = [(spec.id, self._too_many) for spec in new[max(0, count) :]]
            taken = [*new[: max(0, count)], *(spec for spec in tasks if spec.id in live)]
        if any(len(spec.payload) > limits.ARGUMENTS_BYTES for spec in taken):
            why = _too_large("its arguments", limits.ARGUMENTS_BYTES)
            large = [spec for spec in taken if len(spec.payload) > limits.ARGUMENTS_BYTES]
            refused += [(spec.id, why) for spec in large]
            taken = [spec for spec in taken if len(spec.payload) <= limits.ARGUMENTS_BYTES]
        submitted = ev.TasksSubmitted(session, templates, taken, ended, parent, lost, gone)
        return self._shell.apply(submitted, now).refused + refused

    def _without_unfit(self, message: m.Submit | m.Detach) -> tuple[list[Function], dict[int, str]]:
        """Return the functions that can be stored, and the reasons why templates cannot be."""
        functions = [one for one in message.functions if len(one.payload) <= limits.FUNCTION_BYTES]
        here = {one.digest for one in functions}
        unfit: dict[int, str] = {}
        for template in message.templates:
            if len(template.name.encode(errors="replace")) > limits.NAME_BYTES:
                unfit[template.id] = _too_large("its name", limits.NAME_BYTES)
            elif len(encode(template)) > limits.OPTIONS_BYTES + limits.NAME_BYTES:
                unfit[template.id] = _too_large(
                    "what its options hold (such as `default`)", limits.OPTIONS_BYTES
                )
            elif template.function not in here and not self._shell.assignments.has(
                message.session, template.function
            ):
                unfit[template.id] = (
                    "its function is not kept: it is larger than a function may be "
                    f"({limits.FUNCTION_BYTES >> 20} MiB), or the database did not take it; give "
                    "large data as arguments, or with `session.put`"
                )
        return functions, unfit

    def _release(self, peer: bytes, message: m.Release, now: float) -> None:
        results = self._shell.releasing.found(message.tasks, message.parts, self._shell.core.tasks)
        if results:
            self._shell.apply(ev.ResultsReleased(results), now)
        self._commits.tell(peer, m.Accepted(message.seq))

    def _watch(self, peer: bytes, message: m.Watch, _now: float) -> None:
        live = self._shell.core.tasks
        ended = []
        for task in message.tasks:
            if task in live:
                self._peers.watch(peer, task)
            else:
                ended.append(task)
        if ended:
            self._tell_ended(peer, ended)

    def _tell_ended(self, peer: bytes, tasks: Iterable[int]) -> None:
        """Tell a client how tasks ended, once those ends are committed."""
        self._commits.then(partial(self._shell.telling.look_up, peer, tasks))

    def _cancel(self, peer: bytes, message: m.Cancel, now: float) -> None:
        named = ev.TasksCancelled(
            message.session, message.tasks or None, message.group, message.waiting_only
        )
        ended = self._shell.apply(named, now).ended
        which = [end.task for end in ended] if message.waiting_only else len(ended)
        self._commits.tell(peer, m.Reply(message.request, which))
