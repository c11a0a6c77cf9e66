"""The report of a site: findings of checks, of this machine and of nodes, in one list."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pilot.doctor import gathering, judging
from pilot.doctor.ask import Lead
from pilot.doctor.checks import (
    checks_here,
    checks_of_first,
    checks_of_other,
    checks_there,
)
from pilot.doctor.job import Examined
from pilot.doctor.limited import NotGathered, gathered
from pilot.findings import AnyCheck, Finding, Level, problem, warning
from pilot.site import Site


class Line(msgspec.Struct, frozen=True):
    """A line of the report."""

    check: str
    level: Level
    #: A sentence without its full stop.
    found: str
    #: What to do about it; empty: nothing.
    todo: str = ""
    #: The nodes that it is of; empty: this machine.
    nodes: tuple[str, ...] = ()


def report_here(site: Site, by_job: bool = False) -> Iterator[Line]:
    """Check this machine; give the lines one by one, as they are found.

    With `by_job` a job of the same run tells what nodes see.
    """
    for check in checks_here(site, gathering.python(), by_job):
        yield from _lines(check.name, _run(check))


def _run(check: AnyCheck) -> list[Finding]:
    try:
        facts = gathered(check)
    except NotGathered as error:
        return [failed(str(error))]
    return list(check.judge(facts))


def failed(why: str) -> Finding:
    """Return the finding that a check has failed itself."""
    return warning(
        f"this could not be checked: {why}",
        "if it says that again, what it looks at may be slow, or not be there",
    )


def _lines(check: str, findings: list[Finding], nodes: tuple[str, ...] = ()) -> Iterator[Line]:
    for finding in findings:
        yield Line(check, finding.level, finding.found, finding.todo, nodes)


def report_there(site: Site, job: str, examined: Examined) -> Iterator[Line]:
    """Give the lines about the nodes of a job, from the facts that they have told."""
    if examined.trouble is not None:
        yield from _lines("job", [examined.trouble])
    hosts = tuple(report.node for report in examined.reports)
    order: dict[str, None] = {}
    found: dict[str, dict[str, list[Finding]]] = {}
    for report in examined.reports:
        for check in _of_node(site, job, examined, report.is_first, hosts):
            order[check.name] = None
            its = found.setdefault(check.name, {})
            if check.name in report.facts:
                its[report.node] = _judged(check, bytes(report.facts[check.name]))
            elif check.name in report.failures:
                its[report.node] = [failed(report.failures[check.name])]
    for name in order:
        for nodes, finding in judging.merged(found[name]):
            yield from _lines(name, [finding], nodes)
    if examined.shrink is not None:
        yield from _lines("giving nodes back", list(judging.shrink(examined.shrink)))


def _judged(check: AnyCheck, facts: bytes) -> list[Finding]:
    try:
        return list(check.judge(msgspec.json.decode(facts, type=check.facts)))
    except msgspec.DecodeError as error:
        return [
            problem(f"the node told what is not understood: {error}", "install Pilot there anew")
        ]


def _of_node(
    site: Site, job: str, examined: Examined, is_first: bool, hosts: tuple[str, ...]
) -> list[AnyCheck]:
    """Return the checks of a node, to judge its facts."""
    here = checks_there(site, job, examined.ask, gathering.python(), gathering.limits())
    if is_first:
        return [*here, *checks_of_first(site, hosts)]
    return [*here, *checks_of_other(Lead(hosts[0], ()))]


def summary(lines: list[Line]) -> tuple[int, int]:
    """Return how many problems and warnings there are."""
    levels = [line.level for line in lines]
    return levels.count(Level.PROBLEM), levels.count(Level.WARNING)
