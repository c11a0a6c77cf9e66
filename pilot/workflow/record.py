"""Records of submitted workflows: enough to show the end without the workflow's file.

The record lies beside the results of its session, so that another program (after a lost
terminal, on another machine) can show what ``pilot run`` would have shown. It holds names, ids and
the section ``results``, and no values of tasks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilot.data.directories import make_private
from pilot.model.bounds import UNREADABLE
from pilot.regular_files import NotRegularError, read_regular
from pilot.workflow.graph import Result
from pilot.workflow.run import SubmittedWorkflow

#: The name of the file, in the session's directory of results.
FILE_NAME = "workflow.msgpack"


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """The place of a task's result in the section ``results``."""

    task: int
    #: The name for people: ``tasks.scan[3]``.
    label: str
    part: int | str | None


class Group(msgspec.Struct, array_like=True, frozen=True):
    """The tasks of one entry of the file, in their order."""

    name: str
    #: True if the entry has a ``foreach``.
    is_indexed: bool
    #: The ids, as runs of first and last.
    runs: list[tuple[int, int]]


class Record(msgspec.Struct, array_like=True, frozen=True):
    """A workflow that was submitted."""

    name: str
    groups: list[Group]
    #: The section ``results``, written by `_written`.
    results: dict[str, Any]
    #: True if any of its tasks may be found again.
    is_cached: bool
    #: Tasks that had failed, and those that have taken their places.
    retried: dict[int, int] = {}

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The ids of all tasks."""
        return [run for group in self.groups for run in group.runs]

    @property
    def count(self) -> int:
        """The number of tasks."""
        return sum(last - first + 1 for first, last in self.runs)

    def label(self, task: int) -> str:
        """Return the name of a task in the file, such as ``scan[3]``.

        A failed task whose place another task has taken has the same name as that.
        """
        # Whatever the file says: one that takes the place of another has a higher id.
        while (later := self.retried.get(task, 0)) > task:
            task = later
        for group in self.groups:
            before = 0
            for first, last in group.runs:
                if first <= task <= last:
                    index = before + task - first
                    return f"{group.name}[{index}]" if group.is_indexed else group.name
                before += last - first + 1
        return ""

    def with_ids(self, new: Mapping[int, int]) -> Record:
        """Return the record with other tasks in the places of some."""
        groups = [
            Group(
                group.name,
                group.is_indexed,
                _runs(
                    new.get(task, task)
                    for first, last in group.runs
                    for task in range(first, last + 1)
                ),
            )
            for group in self.groups
        ]
        results = {key: _replaced(value, new) for key, value in self.results.items()}
        return Record(self.name, groups, results, self.is_cached, {**self.retried, **new})

    def result(self, key: str) -> Any:
        """Return an entry of ``results``, with `Stored` in the place of references."""
        return _read(self.results[key])


def record_of(submitted: SubmittedWorkflow) -> Record:
    """Make the record of a workflow that has just been submitted."""
    graph = submitted.graph
    ids = {name: [future.task for future in futures] for name, futures in submitted.futures.items()}
    return Record(
        graph.name,
        [
            Group(
                group.name,
                any(node.index is not None for node in group.nodes),
                _runs(ids[group.name]),
            )
            for group in graph.groups
        ],
        {key: _written(value, ids) for key, value in graph.results.items()},
        any(node.options.cache for node in graph),
    )


def _runs(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Write ids as runs of neighbours, in their order."""
    runs: list[tuple[int, int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _written(value: Any, ids: Mapping[str, list[int]]) -> Any:
    """Return a value with references as plain data; each container says which one it is."""
    if isinstance(value, Result):
        return ["result", ids[value.task][value.index or 0], str(value), value.part]
    if isinstance(value, Mapping):
        return ["map", [[key, _written(item, ids)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list", [_written(item, ids) for item in value]]
    return value


def _read(written: Any) -> Any:
    if not isinstance(written, list):
        return written
    kind, *content = written
    if kind == "result":
        return Stored(*content)
    if kind == "map":
        return {key: _read(item) for key, item in content[0]}
    return [_read(item) for item in content[0]]


def _replaced(written: Any, new: Mapping[int, int]) -> Any:
    """Return a value of `_written` with other tasks in the places of some."""
    if not isinstance(written, list):
        return written
    kind, *content = written
    if kind == "result":
        return [kind, new.get(content[0], content[0]), *content[1:]]
    if kind == "map":
        return [kind, [[key, _replaced(item, new)] for key, item in content[0]]]
    return [kind, [_replaced(item, new) for item in content[0]]]


def write_record(results: Path, session: int, record: Record) -> None:
    """Keep the record of a session.

    Raises
    ------
    OSError
        The record cannot be written.
    """
    path = results / str(session) / FILE_NAME
    make_private(path.parent, results.parent)
    partial = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    try:
        partial.write_bytes(msgspec.msgpack.encode(record))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(results: Path, session: int) -> Record | None:
    """Return the record of a session; None where it has no workflow, or was purged."""
    try:
        data = read_regular(results / str(session) / FILE_NAME)
        return msgspec.msgpack.decode(data, type=Record)
    except (FileNotFoundError, NotRegularError):
        return None
    except UNREADABLE:
        return None
