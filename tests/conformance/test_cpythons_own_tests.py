"""CPython's own tests of executors, waiting, `as_completed` and shutdown, with a `Session`.

They are those of the Python that runs this, where it has them: some are installed without their
tests. What cannot apply is named below, and why.
"""

from __future__ import annotations

import importlib
import unittest
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from support.sites import SiteUnderTest, local_template, site_under_test

from pilot import Session

#: Where the classes are: in a package since 3.12, in one module before.
_PLACES = {
    "ExecutorTest": ("executor", ""),
    "WaitTests": ("test_wait", ""),
    "AsCompletedTests": ("test_as_completed", ""),
    "ExecutorShutdownTest": ("test_shutdown", ""),
}

#: Tests that say something of what a session has not.
_CANNOT_APPLY = {
    "test_max_workers_negative": "a session has no number of workers; pools have sizes",
    "test_interpreter_shutdown": "it imports the executor from concurrent.futures, and reads what "
    "a task prints in the program's output: here that is in the task's log",
    "test_submit_after_interpreter_shutdown": "it imports the executor from concurrent.futures",
    "test_hang_gh83386": "it imports the executor from concurrent.futures",
}

_site: list[SiteUnderTest] = []


@pytest.fixture(scope="module", autouse=True)
def site() -> Iterator[None]:
    """Make the site that the sessions are of, with workers that are there, as those of a pool."""
    pool = {"cores_per_node": 4, "walltime": "1h", "idle_time": "30m"}
    with site_under_test(local_template(pools={"main": pool})) as made:
        with made.session() as session:
            session.submit(pow, 2, 3).result(30)
        _site.append(made)
        yield
        _site.clear()


class _Executor(Session):
    """A session that is made as CPython's executors are."""

    def __init__(self, max_workers: int | None = None) -> None:
        del max_workers  # that is the site's
        super().__init__(_site[0].site)


class OnPilot(unittest.TestCase):
    """What CPython's classes expect of the one that makes the executor."""

    executor_type = _Executor
    worker_count = 4

    def setUp(self) -> None:
        """Open a session."""
        self.executor: Any = _Executor()

    def tearDown(self) -> None:
        """Close it."""
        self.executor.shutdown(wait=True)
        self.executor = None


def _found(name: str) -> type | None:
    """CPython's class of this name; None where this Python has it not."""
    for place in _PLACES[name]:
        module = "test.test_concurrent_futures" + (f".{place}" if place else "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found: type = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, unittest.SkipTest):
                continue
            return found
    return None


def _adapted(name: str) -> type:
    contract = _found(name)
    if contract is None:
        reason = "this Python was installed without its own tests"
        return type(f"Test{name}", (unittest.TestCase,), {"test_all": unittest.skip(reason)(_none)})
    skipped = {
        test: unittest.skip(reason)(_none)
        for test, reason in _CANNOT_APPLY.items()
        if hasattr(contract, test)
    }
    return type(f"Test{name}", (contract, OnPilot), skipped)


def _none(_self: unittest.TestCase) -> None:
    """Stand for a test that cannot apply."""


TestExecutor = _adapted("ExecutorTest")
TestWait = _adapted("WaitTests")
TestAsCompleted = _adapted("AsCompletedTests")
TestShutdown = _adapted("ExecutorShutdownTest")
