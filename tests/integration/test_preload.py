"""Modules that a session has preloaded: imported once, in its executors alone, whatever they do.

One site for all; about 10 s.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sites import TESTS, SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot

DEADLINE_S = 60.0

#: Leaves a line wherever it is imported.
NOTES = """
import os, sys
with open(os.environ["NOTES"], "a") as notes:
    print(__name__, os.getpid(), file=notes)
"""
MODULES = {
    "preloaded_well": NOTES + "import numpy\n",
    "preloaded_too": NOTES,
    "preloaded_raises": NOTES + "raise ValueError('not today')\n",
    "preloaded_leaves": NOTES + "sys.exit(3)\n",
    "preloaded_dies": NOTES
    + "if 'executor' not in open('/proc/self/cmdline').read(): os._exit(3)\n",
    "preloaded_threads": NOTES
    + "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True, "
    "name='watcher').start()\n",
}


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    pools: dict[str, Any] = {"main": {"cores_per_node": 2, "idle_time": "1m"}}
    with site_under_test(local_template(pools=pools)) as site:
        yield site


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """The arguments of a session that finds the modules, and leaves their notes."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    return {"sys_path": [tmp_path], "variables": {"NOTES": str(tmp_path / "notes")}}


def open_session(site: SiteUnderTest, **arguments: Any) -> pilot.Session:
    arguments["sys_path"] = [TESTS, *arguments.get("sys_path", ())]
    return pilot.Session(site.site, **arguments)


def notes(given: dict[str, Any]) -> list[str]:
    path = Path(given["variables"]["NOTES"])
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def look(name: str, seconds: float = 0.2) -> tuple[int, bool, float, str]:
    """Return this executor, whether it has the module, a random number, and the threads."""
    time.sleep(seconds)
    there = name in sys.modules
    import numpy as np

    return os.getpid(), there, float(np.random.rand()), os.environ["OPENBLAS_NUM_THREADS"]


def test_a_node_imports_once_and_no_other_session_sees_it(
    site: SiteUnderTest, given: dict[str, Any]
) -> None:
    with open_session(site, preload=["preloaded_well", "preloaded_too"], **given) as session:
        futures = [session.submit(look, "preloaded_well") for _ in range(6)]
        seen = [future.result(DEADLINE_S) for future in futures]
        assert notes(given) == ["preloaded_well", "preloaded_too"]
        assert all(there for _, there, _, _ in seen)
        assert len({number for _, _, number, _ in seen}) == 6, "each has random numbers of its own"
        assert len({process for process, _, _, _ in seen}) == 2
        wide = session.submit(pilot.task(cores=2)(look), "preloaded_too").result(DEADLINE_S)
        assert wide[1] and wide[3] == "2", "numeric libraries have their threads"
        with open_session(site, **given) as other:
            assert not other.submit(look, "preloaded_well").result(DEADLINE_S)[1]
        assert site.processes("template")
    wait_until(lambda: not site.processes("template"), DEADLINE_S, "the templates to end")


def test_a_module_that_cannot_be_preloaded_is_named_and_left_out(
    site: SiteUnderTest, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    modules = ["preloaded_raises", "preloaded_dies", "no_such_module", "preloaded_leaves"]
    with (
        caplog.at_level(logging.WARNING, "pilot"),
        open_session(
            site, preload=[*modules, "preloaded_threads", "preloaded_too"], **given
        ) as session,
    ):
        assert session.submit(look, "preloaded_too").result(DEADLINE_S)[1]
        assert not session.submit(look, "preloaded_threads").result(DEADLINE_S)[1]
        wait_until(lambda: len(caplog.messages) >= 5, DEADLINE_S, "the warnings")
    told = "\n".join(caplog.messages)
    for words in (
        "'preloaded_raises' is not preloaded on",
        "ValueError: not today",
        "'no_such_module' is not preloaded on",
        "ModuleNotFoundError: No module named 'no_such_module'",
        "'preloaded_leaves' is not preloaded on",
        "SystemExit: 3",
        "'preloaded_dies' is not preloaded on",
        "the process in it has ended",
        "it has started threads (watcher), which no fork keeps; tasks import it by themselves",
    ):
        assert words in told


def test_a_template_may_be_killed(site: SiteUnderTest, given: dict[str, Any]) -> None:
    with open_session(site, preload=["preloaded_too"], **given) as session:
        first = session.submit(look, "preloaded_too").result(DEADLINE_S)
        os.kill(site.pid_of("template"), signal.SIGKILL)
        wait_until(lambda: not site.processes("template"), DEADLINE_S, "the template to end")
        wait_until(lambda: not Path(f"/proc/{first[0]}").exists(), DEADLINE_S, "its executor's end")
        again = session.submit(look, "preloaded_too").result(DEADLINE_S)
        assert again[0] != first[0] and not again[1], "from the fork server"


def test_what_is_no_module_is_refused(site: SiteUnderTest) -> None:
    for wrong, words in (
        ("numpy", "give a list of modules"),
        (["num py"], "'num py' cannot be the name of a module"),
        ([3], "3 cannot be the name of a module"),
        (["mpi4py.MPI"], "must not be forked"),
    ):
        with pytest.raises(pilot.PilotError, match=words):
            open_session(site, preload=wrong)
