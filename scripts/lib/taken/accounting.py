"""The lives of jobs by Slurm's accounting: for how long each had how many nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: The columns of ``sacct --parsable2 --duplicates``: of a requeued job each life is a row, and of
#: one that gave nodes back each size.
COLUMNS = "JobIDRaw,Start,End,NNodes,State"


class Span(NamedTuple):
    """A time for which a job had some nodes."""

    job: str
    #: Seconds since the epoch.
    start: float
    end: float
    nodes: int
    state: str

    @property
    def node_s(self) -> float:
        """The node-seconds that the job held."""
        return self.nodes * (self.end - self.start)


def spans(output: str) -> list[Span]:
    """Read the output of ``sacct``, with times in seconds since the epoch; skip what never ran."""
    found = []
    for line in output.splitlines():
        job, start, end, nodes, state = line.split("|")
        if start.isdecimal() and end.isdecimal():
            found.append(Span(job, float(start), float(end), int(nodes), state.split()[0]))
    return sorted(found, key=lambda span: span.start)


def gaps(held: Iterable[Span], until: float) -> list[float]:
    """Return the times, in seconds, for which no node was held between the first start and
    `until`."""
    found = []
    end = None
    for span in sorted(held, key=lambda one: one.start):
        if end is not None and end < min(span.start, until):
            found.append(min(span.start, until) - end)
        end = span.end if end is None else max(end, span.end)
    return found
