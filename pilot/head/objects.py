"""Requests of clients about named objects: name a result, remove versions, move aliases.

Invariants
----------
- A version is told of only once it is in the database, and its number is never given again.
- No version is removed that an unfinished task needs, or that an alias stands for.
- What is removed in the database is removed from the disk by the janitor, at some time later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pilot.errors import PilotError
from pilot.formatting import counted
from pilot.head.connections import Handler
from pilot.head.janitor import Janitor, who_needs
from pilot.head.object_lookup import find
from pilot.head.shell import Shell
from pilot.head.store.rows import object_row
from pilot.model.ids import task_label
from pilot.model.objects import Naming, alias_problem, check, parse, versioned
from pilot.model.states import COMPLETED
from pilot.model.tasks import TaskOutcome
from pilot.wire.messages import client as m

log = logging.getLogger("pilot.head")

#: The time between two searches for versions whose time is over, in seconds, and how many are
#: removed at a time.
EXPIRY_S, EXPIRED_MOST = 10.0, 100


class Objects:
    """Changes named objects.

    Parameters
    ----------
    shell
        The core and what belongs to it.
    janitor
        Removes files.
    """

    def __init__(self, shell: Shell, janitor: Janitor) -> None:
        self._shell = shell
        self._store = shell.store
        self._janitor = janitor
        self._looked = 0.0
        self.handlers: Mapping[type, Handler] = {
            m.NameResult: self._name_result,
            m.ControlObject: self._control,
        }

    def _name_result(self, peer: bytes, message: m.NameResult, now: float) -> None:
        check(message.naming)
        self._shell.commits.flush(now)  # what it was told just before is in the database, too
        outcome = self._outcome(message.task)
        label = task_label(message.task)
        if message.place >= len(outcome.values):
            count = counted(len(outcome.values), "result")
            raise PilotError(f"task {label} has {count}, counted from 0: not {message.place}")
        value = outcome.values[message.place]
        if value.is_released or self._shell.core.releases.is_claimed((message.task, message.place)):
            raise PilotError(f"the result of task {label} was released: it can have no name")
        kind = self._store.rows("show_task", {"task": message.task})[0]
        maker = kind["parent"] if kind["kind"] == "value" else message.task
        row = object_row(
            message.naming, message.task, message.place, value.size, maker, now, put=False
        )
        version = self._store.add_object(row, outcome.values)
        if version:
            self._say_again(message.naming, version, row["expires"])
        self._shell.send(peer, m.Reply(message.request, version))

    def _say_again(self, naming: Naming, version: int, expires: object) -> None:
        """Take in what is said of a version that may have been there before."""
        text = versioned(naming.name, version)
        there = find(self._store, parse(text))
        tags = json.loads(naming.tags)
        if tags and tags != json.loads(there["tags"]):
            raise PilotError(
                f"the result is {text} already, with the tags {there['tags']:.200}, and a version "
                "never changes: leave out the tags, or name a result of another task"
            )
        if expires is not None and expires != there["expires"]:
            self._store.keep_object(naming.name, version, expires)

    def _outcome(self, task: int) -> TaskOutcome:
        """Return the outcome of a completed task whose results are there."""
        found = self._store.results([task])
        if found and found[0].state == COMPLETED:
            return found[0]
        if not found and task not in self._store.states([task]):
            raise PilotError(f"task {task_label(task)} does not exist; nothing was named")
        state = found[0].state if found else "unfinished"
        raise PilotError(
            f"task {task_label(task)} is {state}: it has no result that could have a name"
        )

    def _control(self, peer: bytes, message: m.ControlObject, now: float) -> None:
        self._shell.commits.flush(now)  # no number is told that may be given anew
        if message.verb == "remove":
            done = self._remove(message.objects, now)
        elif message.verb == "alias":
            done = self._alias(message)
        elif message.verb == "unalias":
            done = self._unalias(message)
        else:
            raise PilotError(f"there is no command {message.verb!r} for objects")
        self._shell.send(peer, m.Reply(message.request, done))

    def _alias(self, message: m.ControlObject) -> str:
        if why := alias_problem(message.alias):
            raise PilotError(why)
        (text,) = message.objects
        row = find(self._store, parse(text))
        name, version = row["name"], row["version"]
        before = {
            each["alias"]: each["version"] for each in self._store.rows("aliases", {"name": name})
        }.get(message.alias)
        self._store.set_alias(name, message.alias, version)
        was = f" (before: {versioned(name, before)})" if before not in (None, version) else ""
        return f"{name}@{message.alias} is {versioned(name, version)} now{was}"

    def _unalias(self, message: m.ControlObject) -> str:
        (text,) = message.objects
        name = parse(text).name
        row = find(self._store, parse(f"{name}@{message.alias}"))
        self._store.remove_alias(name, message.alias)
        return f"{name}@{message.alias} is no alias any more of {versioned(name, row['version'])}"

    def _remove(self, objects: Iterable[str], now: float) -> str:
        rows = []
        for text in objects:
            wanted = parse(text)
            if not wanted.version:
                raise PilotError(
                    f"{text!r:.100} is no version by number, such as "
                    f"{versioned(wanted.name, 3)}; nothing was removed"
                )
            rows.append(find(self._store, wanted))
        for row in rows:
            if why := self._why_kept(row):
                raise PilotError(f"{why}; nothing was removed")
        self._delete(rows, now)
        return ", ".join(versioned(row["name"], row["version"]) for row in rows) + " removed"

    def _why_kept(self, row: Mapping[str, Any]) -> str:
        """Return why a version cannot be removed now; empty: it can."""
        this = versioned(row["name"], row["version"])
        aliases = [
            each["alias"]
            for each in self._store.rows("aliases", {"name": row["name"]})
            if each["version"] == row["version"]
        ]
        if aliases:
            return (
                f"{this} is {row['name']}@{aliases[0]}: move that alias, or remove it "
                f"(`pilot object alias {row['name']} {aliases[0]} --remove`)"
            )
        task = row["task"]
        deleted = {outcome.task: outcome.values for outcome in self._store.results([task])}
        needed = who_needs(self._shell.core.tasks.values(), self._store.owing(), deleted)
        if needed is not None:
            return (
                f"task {task_label(needed[0])}, which has not ended, needs {this}: cancel it, or "
                "wait for it"
            )
        return ""

    def _delete(self, rows: Iterable[Mapping[str, Any]], now: float) -> None:
        gone = [(row["name"], row["version"]) for row in rows]
        self._janitor.add(self._store.remove_objects(gone, now))
        for row in rows:
            self._shell.outcomes.forget(row["task"])

    def expire(self, now: float) -> None:
        """Remove the versions whose time is over, but for those that are needed."""
        if now - self._looked < EXPIRY_S:
            return
        self._looked = now
        due = self._store.rows("expired_objects", {"now": now, "limit": EXPIRED_MOST})
        if not due:
            return
        self._shell.commits.flush(now)
        rows = [
            row
            for each in due
            for row in (find(self._store, parse(versioned(each["name"], each["version"]))),)
            if not self._why_kept(row)
        ]
        if rows:
            self._delete(rows, now)
            log.info("%s removed, whose time is over", counted(len(rows), "version"))
