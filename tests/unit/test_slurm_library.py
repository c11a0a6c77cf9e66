"""Slurm by its library: what is answered, and what happens where the library fails.

pyslurm is a stand-in, since the real one can only be had where its release of Slurm is installed;
it is imported by the real process. The real one has the contract tests.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.scheduler.batch import BatchUnavailable, Phase, WhyEnded, find_kind
from pilot.scheduler.batch.slurm import library
from pilot.scheduler.batch.slurm.checks import Commands, judge_commands
from pilot.scheduler.batch.slurm.commands import SlurmBatch
from pilot.scheduler.batch.slurm.library import LibraryBatch, Versions, mismatch, why_not

PYSLURM = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace

print("what a library may print")
here = json.loads(Path(__file__).with_name("here.json").read_text())
__version__ = here["pyslurm"]
if here["fatal"]:
    print("pyslurm: error: resolve_ctls_from_dns_srv: Unknown host", file=sys.stderr)
    print("fatal: Could not establish a configuration source", file=sys.stderr, flush=True)
    os._exit(1)


def slurm_api_version():
    return tuple(here["library"])


class RPCError(Exception):
    pass


class Config:
    @staticmethod
    def load():
        if not here["controller"]:
            raise RPCError("Zero Bytes were transmitted or received")
        return SimpleNamespace(version=here["controller"])


slurmctld = SimpleNamespace(Config=Config)


class Jobs:
    @staticmethod
    def load():
        now = json.loads(Path(__file__).with_name("here.json").read_text())
        if now["hangs"]:
            time.sleep(60)
        if now["crashes"]:
            os.abort()
        if now["refuses"]:
            raise RPCError("Unable to contact slurm controller (connect failure)")
        return dict(enumerate(SimpleNamespace(**job) for job in now["jobs"]))
"""

SQUEUE = """#!/bin/sh
echo asked >>"$(dirname "$0")/asked"
cat "$(dirname "$0")/queue" 2>/dev/null || { echo "squeue: error: Unable to contact" >&2; exit 1; }
"""


def a_job(**changes: Any) -> dict[str, Any]:
    job = {
        "id": 17,
        "user_id": os.getuid(),
        "name": "pilot-site-1",
        "state": "RUNNING",
        "state_reason": None,
        "submit_time": 1000,
        "start_time": 2000,
        "end_time": 5600,
        "requeue_count": 1,
        "exit_code": 0,
        "exit_code_signal": 0,
        "num_nodes": 2,
        "max_nodes": None,
        "allocated_nodes": "n[1-2]",
    }
    return {**job, **changes}


def queue_line(**changes: str) -> str:
    fields = {
        "id": "17",
        "state": "RUNNING",
        "reason": "None",
        "submit": "1000",
        "start": "2000",
        "end": "5600",
        "restarts": "1",
        "exit": "0",
        "count": "2",
        "nodes": "n[1-2]",
        "name": "pilot-site-1",
    }
    return "".join(f"{text}\x1f" for text in (fields | changes).values()) + "\n"


class Here:
    """A machine with a pyslurm and a squeue, which do as they are told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "pyslurm.py").write_text(PYSLURM)
        (directory / "squeue").write_text(SQUEUE)
        (directory / "squeue").chmod(0o700)
        self._facts: dict[str, Any] = {
            "pyslurm": "25.11.2",
            "library": [25, 11, 7],
            "controller": "25.11.7",
            "jobs": [],
            **dict.fromkeys(("fatal", "hangs", "crashes", "refuses"), False),
        }
        self.has()

    def has(self, queue: str | None = None, **facts: Any) -> None:
        self._facts |= facts
        (self.directory / "here.json").write_text(json.dumps(self._facts))
        if queue is not None:
            (self.directory / "queue").write_text(queue)

    @property
    def asked(self) -> int:
        """The number of times that squeue was asked."""
        record = self.directory / "asked"
        return len(record.read_text().splitlines()) if record.exists() else 0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Here(tmp_path)


@pytest.fixture
def opened() -> Iterator[Callable[..., LibraryBatch]]:
    batches = []

    def open_one(limit_s: float = 30.0, **options: bool) -> LibraryBatch:
        batches.append(LibraryBatch(limit_s, **options))
        return batches[-1]

    yield open_one
    for batch in batches:
        batch.close()


Open = Callable[..., LibraryBatch]


def test_the_library_answers_as_squeue_does(here: Here, opened: Open) -> None:
    waits: dict[str, Any] = {"state": "PENDING", "state_reason": "Priority", "max_nodes": 4}
    here.has(
        queue=queue_line()
        + queue_line(
            id="18", state="PENDING", reason="Priority", nodes="", count="2-4", name="pilot-site-2"
        )
        + queue_line(id="19", name="other"),
        jobs=[
            a_job(),
            a_job(id=18, name="pilot-site-2", allocated_nodes=None, **waits),
            a_job(id=19, name="other"),
            a_job(id=20, name="pilot-site-3", user_id=os.getuid() + 1),
        ],
    )
    batch = opened()
    for prefix, ids in (("pilot-", ()), ("no", ["19"]), ("no", ())):
        listed = batch.jobs(prefix, ids)
        assert (here.asked, batch.trouble) == (0, "")
        assert listed == SlurmBatch().jobs(prefix, ids)
        (here.directory / "asked").unlink()


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        ({"fatal": True}, "fatal: Could not establish a configuration source"),
        ({"crashes": True}, "exit status -6"),
        ({"hangs": True}, "no answer within"),
        ({"refuses": True}, "RPCError: Unable to contact slurm controller"),
        ({"controller": ""}, "pyslurm 25.11.2 gets no answer .* earlier release: RPCError: Zero"),
        ({"controller": "24.05.8"}, "another release than that of the cluster, Slurm 24.05.8"),
        ({"library": [26, 5, 0]}, "was not built for the library .* Slurm 26.05"),
        ({"jobs": [{"id": 1}]}, "AttributeError"),
    ],
)
def test_the_commands_take_over_where_the_library_fails(
    here: Here, opened: Open, fact: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.has(queue=queue_line(), **fact)
    # Enough to start Python, and not long to wait where it hangs.
    batch = opened(5.0 if "hangs" in fact else 30.0)
    assert list(batch.jobs("pilot-")) == ["17"]
    assert here.asked == 1
    assert re.search(why, batch.trouble), batch.trouble
    # It is not tried again before some time has gone by.
    here.has(fatal=False, hangs=False, crashes=False, refuses=False)
    here.has(controller="25.11.7", library=[25, 11, 7], jobs=[a_job()])
    assert list(batch.jobs("pilot-")) == ["17"]
    assert here.asked == 2
    later = time.monotonic() + library.REST_S
    monkeypatch.setattr(library, "time", SimpleNamespace(monotonic=lambda: later))
    assert list(batch.jobs("pilot-")) == ["17"]
    assert (here.asked, batch.trouble) == (2, "")


def test_nothing_is_concluded_where_neither_answers(here: Here, opened: Open) -> None:
    here.has(refuses=True)
    with pytest.raises(BatchUnavailable, match="Unable to contact"):
        opened().jobs("pilot-")


def test_a_controller_with_many_jobs_of_others_is_spared(here: Here, opened: Open) -> None:
    others = [a_job(id=i, user_id=os.getuid() + 1) for i in range(100, 101 + library.MOST_JOBS)]
    here.has(queue=queue_line(), jobs=[a_job(), *others])
    batch = opened()
    assert list(batch.jobs("pilot-")) == ["17"]
    assert here.asked == 0
    assert "asks for the jobs of all users, and there are 2002" in batch.trouble
    assert list(batch.jobs("pilot-")) == ["17"]
    assert here.asked == 1
    insistent = opened(insists=True)
    for _ in range(2):
        assert list(insistent.jobs("pilot-")) == ["17"]
    assert (here.asked, insistent.trouble) == (1, "")


def test_the_exit_status_of_a_failed_job_is_exact(here: Here, opened: Open) -> None:
    ended = {"state": "FAILED", "reason": "NonZeroExitCode"}
    here.has(
        queue=queue_line(exit=str(130 << 8), **ended),
        jobs=[a_job(exit_code=2, state="FAILED", state_reason="NonZeroExitCode")],
    )
    batch = opened()
    for _ in range(3):
        (status,) = batch.jobs("pilot-").values()
        assert (status.why_ended, status.exit_status) == (WhyEnded.FAILED, 130)
        assert here.asked == 1
    # It was queued again, and failed once more.
    here.has(jobs=[a_job(end_time=7000)])
    assert batch.jobs("pilot-")["17"].phase is Phase.RUNNING
    here.has(
        queue=queue_line(exit=str(131 << 8), end="8000", **ended),
        jobs=[a_job(exit_code=3, end_time=8000, state="FAILED")],
    )
    assert batch.jobs("pilot-")["17"].exit_status == 131
    assert here.asked == 2


def test_an_odd_name_hides_no_other_job(here: Here, opened: Open) -> None:
    odd = """
class Odd:
    user_id = __import__("os").getuid()
    id = 5
    @property
    def state(self):
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "odd")
load = Jobs.load
Jobs.load = staticmethod(lambda: {**load(), 5: Odd()})
"""
    (here.directory / "pyslurm.py").write_text(PYSLURM + odd)
    here.has(jobs=[a_job()])
    batch = opened()
    assert list(batch.jobs("")) == ["17"]
    assert batch.trouble == ""


def test_no_process_is_left(here: Here, opened: Open) -> None:
    here.has(hangs=True)
    batch = opened()
    batch.open_library()
    process = batch._library._process
    assert process is not None
    batch.close()
    assert process.returncode is not None
    assert not batch._library.runs


def test_the_process_ends_with_the_head(here: Here, opened: Open) -> None:
    batch = opened()
    batch.open_library()
    process = batch._library._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # as the kernel does when the head is killed
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("versions", "fit"),
    [
        (("25.11.2", "25.11", "25.11.7"), True),
        (("25.11.2", "", "25.11.7-2"), True),
        (("25.11.2", "25.05", "25.11.7"), False),
        (("25.11.2", "25.11", "25.05.3"), False),
        (("25.11.2", "25.11", "unknown"), False),
    ],
)
def test_releases_must_fit(versions: tuple[str, str, str], fit: bool) -> None:
    assert (mismatch(Versions(*versions)) == "") is fit


def test_the_choice_follows_the_site_file_and_what_is_installed(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = find_kind("slurm")

    def open_with(**keys: str) -> SlurmBatch:
        manners = SimpleNamespace(
            command_limit_s=1.0, **{"cluster": "", "interface": "auto"} | keys
        )
        batch: SlurmBatch = kind.open(manners, tmp_path)
        return batch

    assert type(open_with(interface="commands")) is SlurmBatch
    with monkeypatch.context() as without:
        # It may be installed where these tests run.
        path = [entry for entry in sys.path if not Path(entry, "pyslurm").is_dir()]
        without.setattr(sys, "path", path)
        assert type(open_with()) is SlurmBatch
        assert why_not("auto", "") == "pyslurm is not installed"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(open_with()) is LibraryBatch
    assert type(open_with(interface="pyslurm")) is LibraryBatch
    assert type(open_with(interface="commands")) is SlurmBatch
    assert type(open_with(cluster="north")) is SlurmBatch
    assert "slurm.cluster" in why_not("auto", "north")


@pytest.mark.parametrize(
    ("interface", "version", "why", "level", "said"),
    [
        ("auto", "25.11.2", "", "ok", "pyslurm 25.11.2 lists the jobs"),
        ("auto", "", "pyslurm is not installed", "ok", "squeue lists the jobs: pyslurm is not"),
        ("pyslurm", "", "pyslurm is not installed", "warning", "though slurm.interface is pyslurm"),
    ],
)
def test_doctor_says_which_and_why(
    interface: str, version: str, why: str, level: str, said: str
) -> None:
    its = Commands(
        paths=dict.fromkeys(
            ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "sacct"), "/"
        ),
        version="slurm 25.11.7",
        squeue_s=0.01,
        accounts=True,
        pyslurm=version,
        why_squeue=why,
    )
    (finding,) = [f for f in judge_commands(its, 2.0, interface) if "the jobs" in f.found]
    assert finding.level == level
    assert said in finding.found
