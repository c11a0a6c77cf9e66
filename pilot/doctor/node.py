"""The processes of a job that checks its nodes: one on each node, started as node workers are.

The one on the first node starts the others, makes the checks that concern all, and stays until the
job is cancelled. What each finds goes into the site directory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pilot.doctor import ask as a
from pilot.doctor import facts as f
from pilot.doctor import gathering
from pilot.doctor.checks import checks_of_first, checks_of_other, checks_there
from pilot.doctor.limited import NotGathered, gathered_json
from pilot.findings import AnyCheck
from pilot.interpreter import pilot_command
from pilot.launchers import leave_identity, node_worker
from pilot.process import die_with_parent
from pilot.site import Site, open_site
from pilot.wire import addresses

#: The first node waits so long for the others, in seconds.
OTHERS_S = 90.0
#: A job whose asker has gone ends after so long, in seconds.
STAY_S = 120.0


def main(arguments: list[str]) -> None:
    """Run ``examine python``, or ``examine job SITE JOB [NODE]``."""
    if arguments == ["python"]:
        print(msgspec.json.encode(gathering.python()).decode())  # noqa: T201 - for who started it
        return
    _, site_path, job, *node = arguments
    site = open_site(Path(site_path))
    leave_identity(os.environ)
    if node:
        _examine_other(site, job, node[0])
    else:
        _examine_first(site, job)


def _report(site: Site, job: str, node: str, checks: Iterable[AnyCheck], is_first: bool) -> None:
    facts, failures = {}, {}
    for check in checks:
        try:
            facts[check.name] = msgspec.Raw(gathered_json(check))
        except NotGathered as error:
            failures[check.name] = str(error)
    path = a.directory_of(site, job) / f"report-{node}.json"
    a.write(path, a.Report(node, is_first, facts, failures))


def _checks(site: Site, job: str) -> list[AnyCheck]:
    """Return the checks of each node; what they are compared with is not known here."""
    ask = a.read(a.directory_of(site, job) / "ask.json", a.Ask)
    unknown = (0, 0)
    limits = f.Limits(
        files=unknown,
        processes=unknown,
        locked_bytes=unknown,
        memory_bytes=unknown,
        cpu_s=unknown,
    )
    return checks_there(site, job, ask, f.Python(executable="", version="", packages={}), limits)


def _examine_first(site: Site, job: str) -> None:
    nodelist = os.environ.get("PILOT_NODELIST")
    hosts = site.config.kind.node_names(nodelist) if nodelist else [socket.gethostname()]
    directory = a.directory_of(site, job)
    pool = a.read(directory / "ask.json", a.Ask).pool
    setting = site.config.pools[pool].address
    told, bound = addresses.resolve(setting, f"pools.{pool}.address")
    server = gathering.TimeServer(bound)
    try:
        its = tuple((name, server.port) for name in told)
        a.write(directory / "lead.json", a.Lead(hosts[0], its))
        others = [_start(site, job, host) for host in hosts[1:]]
        checks = [*_checks(site, job), *checks_of_first(site, tuple(hosts))]
        _report(site, job, hosts[0], checks, is_first=True)
        deadline = time.monotonic() + OTHERS_S
        for other in others:
            try:
                other.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                other.terminate()
    finally:
        server.close()
    # Whoever asked gives a node of this job back while it runs, and then cancels it.
    signal.alarm(int(STAY_S))
    signal.pause()


def _start(site: Site, job: str, host: str) -> subprocess.Popen[bytes]:
    """Start the checks on another node, as a node worker is started."""
    command = pilot_command("examine", "job", str(site.directory), job, host)
    launch = node_worker(site.config.kind.node_launcher, host, command)
    return subprocess.Popen(
        launch.argv,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **launch.env},
        preexec_fn=_child,
    )


def _child() -> None:
    die_with_parent(signal.SIGTERM)


def _examine_other(site: Site, job: str, node: str) -> None:
    lead = a.read(a.directory_of(site, job) / "lead.json", a.Lead)
    _report(site, job, node, [*_checks(site, job), *checks_of_other(lead)], is_first=False)
