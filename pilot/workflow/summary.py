"""The end of a workflow as plain data, from its record and the head: the same for ``pilot run``
and for programs that look later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pilot.data.storing import load
from pilot.model.ids import task_label
from pilot.model.values import Value
from pilot.workflow.record import FILE_NAME, Record, Stored
from pilot.workflow.run import command_part

#: The most failed tasks in a summary.
FAILED_MOST = 1000

#: Asks a query of `pilot.head.queries` by name.
Ask = Callable[..., Any]


def summarise(record: Record, session: int, results: Path, ask: Ask) -> dict[str, Any]:
    """Return a summary of a workflow whose tasks have all ended.

    Parameters
    ----------
    record
        The record of the workflow.
    session
        The session of the run.
    results
        The site's directory of results.
    ask
        A function that asks the head, or the database.

    Returns
    -------
    dict
        ``tasks``, ``states`` (how many are in which), ``found`` (how many of an earlier run),
        ``failed`` (a row for each, `FAILED_MOST` at most), ``results`` (a value, places or an
        error for each), ``data`` (the directory of large results).
    """
    outcomes = ask("outcomes", session=session, runs=record.runs, limit=FAILED_MOST)
    data = results / str(session)
    has_data = data.is_dir() and any(file.name != FILE_NAME for file in data.iterdir())
    return {
        "tasks": record.count,
        "states": outcomes["states"],
        "found": ask("found", session=session) if record.is_cached else 0,
        "failed": [
            {
                "task": row["task"],
                "label": record.label(row["id"]),
                "state": row["state"],
                "error": row["error"],
            }
            for row in outcomes["failed"]
        ],
        "results": {
            key: _result(record.result(key), results.parent, ask) for key in record.results
        },
        "data": str(data) if has_data else None,
    }


def _result(wanted: Any, site: Path, ask: Ask) -> dict[str, Any]:
    """Return one of the results: its value, or the datasets where it is too large to show."""
    places: list[dict[str, str]] = []
    values: dict[int, Any] = {}
    try:
        for ref in _stored_in(wanted):
            answer = ask("result", task=task_label(ref.task))
            if answer["state"] != "COMPLETED":
                return {"error": f"{ref.label} has no result"}
            rows = answer["values"]
            if isinstance(ref.part, int):
                rows = rows[ref.part : ref.part + 1]
            places += [
                {"file": str(site / row["path"]), "dataset": row["name"]}
                for row in rows
                if row["path"]
            ]
            values[ref.task] = answer["values"]
        if places:
            return {"stored": places}
        return {"value": _filled(wanted, values, site)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _stored_in(wanted: Any) -> Iterator[Stored]:
    """Yield every `Stored` in lists and mappings, at any depth."""
    if isinstance(wanted, Stored):
        yield wanted
    elif isinstance(wanted, dict):
        for item in wanted.values():
            yield from _stored_in(item)
    elif isinstance(wanted, list):
        for item in wanted:
            yield from _stored_in(item)


def _filled(wanted: Any, values: dict[int, Any], site: Path) -> Any:
    """Return a structure with values in the places of `Stored`."""
    if isinstance(wanted, Stored):
        loaded = [load(Value(**row), site) for row in values[wanted.task]]
        whole: Any = loaded[0] if len(loaded) == 1 else tuple(loaded)
        if isinstance(wanted.part, str):
            return command_part(whole, wanted.part)
        return whole if wanted.part is None else whole[wanted.part]
    if isinstance(wanted, dict):
        return {key: _filled(item, values, site) for key, item in wanted.items()}
    if isinstance(wanted, list):
        return [_filled(item, values, site) for item in wanted]
    return wanted
