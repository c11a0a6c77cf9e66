"""The tests of faults and of what users rely on, with pilots that reach the head over files alone.

These are some of the tests of other modules. All of them run so with
``PILOT_TEST_TRANSPORT=files pytest tests/integration``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from integration.test_faults import (  # noqa: F401 - pytest runs what is here
    test_everything_killed_at_once,
    test_killed_head_is_replaced_and_no_task_runs_twice,
    test_killed_head_keeps_what_waits_for_inputs,
    test_killed_process_of_a_pilot,
    test_stopped_head_gives_way_and_ends_when_it_wakes,
    test_told_to_end_nothing_is_left,
)
from integration.test_session import (  # noqa: F401
    test_context,
    test_failure_reaches_all_that_depend_on_it,
    test_large_arrays_go_through_files,
    test_long_chain,
    test_next_attempt_finds_the_checkpoint,
    test_retries_until_it_works,
    test_tree_of_sums,
)
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot

DEADLINE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def over_files() -> Iterator[None]:
    """All sites of this module are reached over files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PILOT_TEST_TRANSPORT", "files")
        yield


def connections(site: SiteUnderTest) -> list[str]:
    """The directories of the connections that there are."""
    return [path.name for path in site.site.wire.glob("*/*") if not path.name.startswith(".")]


def test_pilots_speak_over_files_and_nothing_is_left(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        assert pilot.gather(session.map(tasks.square, range(3000))) == [n * n for n in range(3000)]
        assert len(connections(local_site)) == 1
        told = json.loads((local_site.directory / "head.json").read_text())
        assert told["endpoints"]["files"] and not told["endpoints"]["remote"]
        assert len(local_site.query("status")["over_files"]) == 1
        # What was read is gone.
        size = sum(path.stat().st_size for path in local_site.site.wire.rglob("*.*"))
        assert size < 20 << 20
    local_site.stop()
    wait_until(lambda: not local_site.processes(), DEADLINE_S, "the end")
    assert connections(local_site) == []


def test_a_stopped_pilot_comes_back_over_new_files(local_site: SiteUnderTest) -> None:
    """Its connection is given up meanwhile; nothing of its work is lost, or runs twice."""
    directory = local_site.scratch / "marks"
    directory.mkdir()
    with local_site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.005) for number in range(400)]
        )
        wait_until(lambda: len(list(directory.iterdir())) > 50, DEADLINE_S, "some runs")
        (before,) = connections(local_site)
        agent = local_site.pid_of("agent")
        os.kill(agent, signal.SIGSTOP)
        (wire,) = local_site.site.wire.iterdir()
        (wire / before).rename(wire / ".away")  # as the head's janitor does after a while
        os.kill(agent, signal.SIGCONT)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(400))
        assert before not in connections(local_site)
    runs = [len(path.read_text().splitlines()) for path in directory.iterdir()]
    assert runs == [1] * 400


ELSEWHERE = """
import sys
import pilot.wire.endpoints as endpoints
# As on another machine: the head's socket is not there.
endpoints.boot_id = lambda: "elsewhere/0"
import pilot
from pilot.site import open_site
from pathlib import Path
from support import tasks
with pilot.Session(open_site(Path(sys.argv[1])), sys_path=[sys.argv[2]]) as session:
    assert session._connection._client.endpoint.startswith("files://")
    print(sum(pilot.gather(session.map(tasks.square, range(1000)))))
"""


def test_a_client_on_another_machine_speaks_over_files(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        assert session.submit(tasks.add, 1, 1).result(DEADLINE_S) == 2
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, str(local_site.directory), str(TESTS)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(sum(n * n for n in range(1000)))
        wait_until(lambda: len(connections(local_site)) == 1, DEADLINE_S, "its files to go")
