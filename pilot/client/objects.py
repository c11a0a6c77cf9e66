"""Named objects: values that outlive their sessions, by names and versions that the site knows.

A `NamedObject` is the future of one version, which is always there: it may be given to tasks of any
session of its site, and in tasks, too.

Invariants
----------
- What this process has put, or named, before it asks is known to the head then.
- A question is asked of the head, or else of the database; only a change starts a head. A
  task waits for the next head, however long that takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future as PlainFuture
from typing import TYPE_CHECKING, Any

from pilot.client import current
from pilot.client.arguments import Origin, refer
from pilot.client.connection import Connection
from pilot.client.context import serves_tasks
from pilot.client.future import Future
from pilot.client.naming import naming_of
from pilot.client.outgoing import plain
from pilot.client.query_client import QueryClient, in_words
from pilot.errors import PilotError
from pilot.model.tasks import TaskOutcome
from pilot.model.values import Value
from pilot.pickled import public
from pilot.site import Site, find_site
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Message

if TYPE_CHECKING:
    from datetime import timedelta


class _Place:
    """A site, as named objects need it: questions and changes, and what a future asks for."""

    is_open = False
    id = 0

    def __init__(self, site: Site, database: str = "") -> None:
        self.site = site
        self.origin = Origin(site.name, str(site.directory), database)

    def ask_now(self, name: str, /, **arguments: Any) -> Any:
        """Ask a query, after the head has what this process has submitted."""
        session = _session_at(self.site)
        if session is not None:
            return session._query(name, **arguments)
        if serves_tasks():
            arguments = plain(m.Query(0, name, arguments)).arguments
            return self._request(lambda n: m.Query(n, name, arguments))
        with QueryClient(self.site) as ask:
            return ask(name, **arguments)

    def change(self, make: Callable[[int], Message]) -> Any:
        """Have the head change something, after it has what this process has submitted."""
        if (session := _session_at(self.site)) is not None:
            session.flush()
        return self._request(make)

    def _request(self, make: Callable[[int], Message]) -> Any:
        in_task = serves_tasks()
        connection = Connection(self.site, start=None if in_task else True, submits=False)
        try:
            return connection.request(make, timeout=None if in_task else 60.0)
        finally:
            connection.close()

    # --- for futures

    def why(self, future: Future[Any]) -> str:
        return in_words(self.ask_now("why", subject=future.task_id))

    def ask(self, name: str, /, **arguments: Any) -> PlainFuture[Any]:
        answer: PlainFuture[Any] = PlainFuture()
        answer.set_result(self.ask_now(name, **arguments))
        return answer

    def _query(self, name: str, /, **arguments: Any) -> Any:
        return self.ask_now(name, **arguments)

    def _cancel(self, future: Future[Any]) -> None:
        """Do nothing: what is there cannot be cancelled."""

    def _check_process(self) -> None:
        """Do nothing: nothing is kept that a forked process could not use."""


def _session_at(site: Site) -> Any:
    """Return an open session that this process has at a site; None: there is none."""
    for session in current.opened_here():
        if session.site.directory == site.directory:
            return session
    return None


def _place(site: str | os.PathLike[str] | Site | None) -> _Place:
    """Return the place that is meant; without a site that of the current session, if any."""
    if isinstance(site, Site):
        return _Place(site)
    if site is None and (current.is_running() or any(current.opened_here())):
        return _Place(find_site(current.find_current().origin.directory))
    return _Place(find_site(site))


@public
class NamedObject(Future[Any]):
    """A version of a named object: a future that is done, for tasks of any session of its site."""

    def __init__(self, place: _Place, told: Mapping[str, Any]) -> None:
        owner = _Place(place.site, told["database"])
        super().__init__(owner, told["number"], name=told["object"])
        self._place = owner
        self._index: int = told["place"]
        #: What the head told, but for the value.
        self._told = told
        value = Value(**told["value"])
        self._settle(TaskOutcome(self.task, "COMPLETED", (value,)))

    @property
    def object_name(self) -> str:
        """The name of the object, without the version."""
        return str(self._told["name"])

    @property
    def version(self) -> int:
        """The number of the version."""
        return int(self._told["version"])

    @property
    def tags(self) -> dict[str, Any]:
        """The tags that were given when it was made."""
        return dict(self._told["tags"])

    @property
    def info(self) -> dict[str, Any]:
        """All that was known of the version when it was looked up, as `pilot.objects` lists it."""
        return {
            k: v for k, v in self._told.items() if k not in ("value", "number", "count", "database")
        }

    def alias(self, alias: str) -> None:
        """Have an alias, as ``best`` in ``mesh@best``, stand for this version from now on.

        Whoever looks it up meanwhile gets the version before or this one.

        Raises
        ------
        PilotError
            The version was removed, or the alias can be none.
        """
        self._place.change(lambda n: m.ControlObject(n, "alias", [self.name], alias))

    def unalias(self, alias: str) -> None:
        """Remove an alias of the object, whatever version it stands for.

        Raises
        ------
        PilotError
            There is no such alias.
        """
        self._place.change(lambda n: m.ControlObject(n, "unalias", [self.object_name], alias))

    def remove(self) -> None:
        """Remove the version for good; its number is not given again.

        A value that was put under this name is deleted; the result of a task stays that task's,
        unless the data of its session are deleted.

        Raises
        ------
        PilotError
            It was removed before, an alias stands for it, or an unfinished task needs it.
        """
        self._place.change(lambda n: m.ControlObject(n, "remove", [self.name]))

    @property
    def key(self) -> tuple[int, ...]:
        """The identity of the result; see `Future.key`."""
        return (self.task, self._index)

    def __reduce__(self) -> tuple[Any, ...]:
        return refer(self.task, (self._index,), whole=False, origin=self.origin)

    def __repr__(self) -> str:
        return f"<pilot object {self.name}>"


@public
def named(name: str, *, site: str | os.PathLike[str] | Site | None = None) -> NamedObject:
    """Return a version of a named object: a future that is done.

    It may be given to tasks of any session of the site, and be looked up in tasks, too.

    Parameters
    ----------
    name
        ``mesh``: the newest version; ``mesh@3``: this one; ``mesh@best``: that of an alias.
    site
        Name or path of a site; default: that of the current session, or of the running task; or
        else ``$PILOT_SITE``, or ``local``.

    Raises
    ------
    PilotError
        There is no such object, version or alias, or the version was removed.
    """
    place = _place(site)
    return NamedObject(place, place.ask_now("named", name=name))


@public
def objects(
    name: str | None = None,
    *,
    site: str | os.PathLike[str] | Site | None = None,
    removed: bool = False,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Return the versions of named objects, by name, the newest first.

    Parameters
    ----------
    name
        Only those of this object.
    site
        As in `named`.
    removed
        Also what was removed.
    limit
        The maximum number of versions.

    Raises
    ------
    PilotError
        There is no such object.
    """
    answer: list[dict[str, Any]] = _place(site).ask_now(
        "objects", name=name, removed=removed, limit=limit
    )
    return answer


def publish(
    future: Any,
    site: Site,
    name: str,
    tags: Mapping[str, Any] | None,
    keep: float | str | timedelta | None,
    timeout: float | None,
) -> NamedObject:
    """Make the result of a task a version; see `Session.publish`."""
    naming = naming_of(name, tags, keep)
    count = len(future.key) - 1
    if count != 1:
        raise PilotError(f"task {future.task_id} has {count} results: take the future of one")
    _wait(future, timeout)
    naming = naming_of(name, tags, keep, future.loaded_type())
    place = _Place(site)
    task, index = future.key
    version = place.change(lambda n: m.NameResult(n, task, index, naming))
    return NamedObject(place, place.ask_now("named", name=f"{name}@{version}"))


def _wait(future: Future[Any], timeout: float | None) -> None:
    """Wait for a task that ends well; raise its error where it does not."""
    if (error := future.exception(timeout)) is not None:
        raise error
