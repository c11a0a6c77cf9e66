"""HTC Mock: a tree of tasks that submit tasks gives its answer, and fails exactly as often as said.

That is when attempts raise, exit, are killed or never end, and when heads are killed meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys

import pytest
from support.htc import MANY_FAULTS, TREE, check, htc_mock
from support.sites import SiteUnderTest
from support.waiting import wait_until

DEADLINE_S = 60.0


@pytest.mark.parametrize("faults", [htc_mock.NO_FAULTS, MANY_FAULTS], ids=["", "faults"])
def test_tree(shared_site: SiteUnderTest, faults: htc_mock.Faults) -> None:
    with shared_site.session() as session:
        check(session, TREE._replace(faults=faults), DEADLINE_S)


def test_tree_with_large_results(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        check(session, TREE._replace(tasks=100, levels=5, data=100_000), DEADLINE_S)


def test_tree_of_one_task(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        check(session, TREE._replace(tasks=1, levels=0), DEADLINE_S)


def test_killed_heads_change_nothing(local_site: SiteUnderTest) -> None:
    """Not the answer, and not one attempt of a task that fails now and then."""
    mock = TREE._replace(total_s=4.0, faults=MANY_FAULTS)
    with (
        local_site.session() as session,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        checked = pool.submit(check, session, mock, DEADLINE_S)
        for share in (0.1, 0.5):

            def far_enough(least: float = share * mock.tasks) -> bool:
                counts = session.task_counts() if not checked.done() else {}
                return checked.done() or counts.get("COMPLETED", 0) >= least

            wait_until(far_enough, DEADLINE_S, f"{share:.0%} of the tree")
            assert not checked.done(), checked.exception()
            os.kill(local_site.head_pid, signal.SIGKILL)
        checked.result(DEADLINE_S)


def test_example_as_a_program(shared_site: SiteUnderTest) -> None:
    command = [sys.executable, str(htc_mock.__file__), "--tasks", "100", "--levels", "5"]
    done = subprocess.run(
        [*command, "--faults", "--site", str(shared_site.directory)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "100 tasks on 5 levels" in done.stdout and done.stdout.endswith("right\n")
