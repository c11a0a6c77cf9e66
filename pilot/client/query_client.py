"""Queries about a site without submitting to it: to its head, or else to its database file.

Invariant: asking starts no head. A head that ends or is killed between two questions, and one that
starts, is no error: the next question goes to whichever of the two is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from types import TracebackType
from typing import Any

from pilot.client.connection import Connection
from pilot.client.outgoing import plain
from pilot.errors import HeadError, PilotError
from pilot.head.running import HeadChanges, await_head, find_head
from pilot.pickled import public
from pilot.site import Site, find_site
from pilot.texts import as_name
from pilot.wire.discovery import HeadAddress
from pilot.wire.messages import client as m

#: Heads may come and go so often before a question is given up.
_TRIES = 5


class QueryClient:
    """A client that asks queries of `pilot.head.queries` by name, and returns plain data.

    Parameters
    ----------
    site
        The site.

    Raises
    ------
    HeadError
        A head is there, but does not answer.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self._connection: Connection | None = None
        self._head: HeadAddress | None = None
        self._connect()

    @property
    def has_head(self) -> bool:
        """True if a head gave the last answer, False if the database did."""
        return self._connection is not None

    def __call__(self, query: str, /, **arguments: Any) -> Any:
        """Ask a query.

        Raises
        ------
        PilotError
            There is no such query, or what it asks for does not exist.
        HeadError
            The head does not answer, or the database cannot be read.
        """
        arguments = plain(m.Query(0, query, arguments)).arguments

        for left in reversed(range(_TRIES)):
            if self._connection is None:
                self._connect()
            try:
                if self._connection is None:
                    # Late: where a head answers, which is mostly, no database is loaded.
                    from pilot.head.offline import answer

                    return answer(self.site, query, arguments)
                return self._connection.request(lambda n: m.Query(n, query, arguments))
            except HeadChanges:
                if not left:
                    raise
            except HeadError:
                if self._connection is None or not left or self._head == find_head(self.site):
                    raise  # the file cannot be read, or the head does not answer
                self.close()
        raise AssertionError("unreachable")

    def _connect(self) -> None:
        self._head = await_head(self.site)
        if self._head is not None:
            try:
                self._connection = Connection(self.site, start=False, submits=False)
            except HeadError:
                if find_head(self.site) is not None:
                    raise  # it is there, but does not answer

    def close(self) -> None:
        """End the connection; another question makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> QueryClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@public
def sessions(
    site: str | os.PathLike[str] | Site | None = None,
    *,
    state: str | list[str] | None = None,
    name: str | None = None,
    since: float | datetime | None = None,
    open_only: bool = False,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Return the sessions of a site, the newest first; from its head, or the database file.

    Parameters
    ----------
    site
        Name or path of a site; default: ``$PILOT_SITE``, or ``local``.
    state
        Only sessions in this state, or in one of several: OPEN, STOPPED, CLOSING, CLOSED, PURGED,
        and PAUSED for those of the first three that are paused.
    name
        Only sessions of this name.
    since
        Only sessions created at this time or later.
    open_only
        Only sessions that have not ended.
    limit
        The maximum number of sessions.
    """
    with QueryClient(site if isinstance(site, Site) else find_site(site)) as ask:
        found: list[dict[str, Any]] = ask(
            "sessions",
            state=state,
            name=None if name is None else as_name(name),
            since=as_epoch(since),
            open_only=open_only,
            limit=limit,
        )
    return found


def in_words(answer: dict[str, Any]) -> str:
    """Return an answer of the query ``why`` in lines: the answer, its causes, and advice."""
    lines = [answer["answer"], *_indented(answer["because"], "  ", answer["answer"])]
    return "\n".join([*lines, *(f"to do: {text}" for text in answer["advice"])])


def _indented(causes: list[dict[str, Any]], indent: str, told: str) -> Iterator[str]:
    for cause in causes:
        if cause["because"] or cause["text"] not in told:  # nothing twice
            yield indent + cause["text"]
        yield from _indented(cause["because"], indent + "  ", told)


def list_filters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters of a list of tasks, as a user gives them, in the form of the query."""
    filters: dict[str, Any] = {
        name: as_epoch(value) if name.endswith(("_since", "_until")) else value
        for name, value in given.items()
    }
    if (wanted := filters.get("name")) is not None:
        several = isinstance(wanted, (list, tuple, set))
        filters["name"] = [as_name(one) for one in wanted] if several else as_name(wanted)
    return filters


def as_epoch(when: Any) -> float | None:
    """Return a point in time in seconds since the epoch; None stays None.

    Raises
    ------
    PilotError
        The value is not a time.
    """
    if hasattr(when, "item"):
        when = when.item()  # of NumPy
    if when is None:
        return None
    if isinstance(when, date):
        day = when if isinstance(when, datetime) else datetime.combine(when, datetime.min.time())
        return day.timestamp()
    try:
        return float(when)
    except (TypeError, ValueError, OverflowError):
        raise PilotError(
            f"{when!r:.100} is no time; give a datetime, or seconds since the epoch"
        ) from None


__all__ = ["QueryClient", "as_epoch", "in_words", "sessions"]
