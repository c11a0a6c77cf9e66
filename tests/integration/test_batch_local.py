"""What only local pilots have: keepers, process ids, and a machine that restarts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.scheduler.batch import (
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.local import processes as local_module
from pilot.scheduler.batch.local.keeper import process_state
from pilot.scheduler.batch.local.processes import LocalBatch
from pilot.site_configs import PoolConfig

_LIMIT_S = 20.0


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def batch(records: Path) -> Iterator[LocalBatch]:
    batch = LocalBatch(records, kill_grace_s=1.0)
    yield batch
    _wait(lambda: not _live(batch), "the test's jobs to end")


def _live(batch: LocalBatch) -> list[str]:
    live = [j for j, s in batch.jobs("").items() if s.phase is not Phase.ENDED]
    batch.cancel(live)
    return live


def _wait(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def submit(batch: LocalBatch, directory: Path, script: str, name: str = "job") -> str:
    return batch.submit(
        JobRequest(
            name=name,
            command=["/bin/bash", "-c", script],
            nodes=1,
            walltime_s=600,
            directory=directory,
            directives=PoolConfig(cores_per_node=1),
        )
    )


def status_of(batch: LocalBatch, job_id: str) -> JobStatus:
    return batch.jobs("")[job_id]


def record_of(records: Path, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((records / job_id / "status.json").read_text())
    return record


def rewrite(records: Path, job_id: str, **changes: object) -> None:
    record = record_of(records, job_id)
    (records / job_id / "status.json").write_text(json.dumps(record | changes))


def pids(records: Path, job_id: str) -> tuple[int, int]:
    """The keeper's and the script's process ids."""
    record = record_of(records, job_id)
    return record["keeper"]["pid"], record["job"]["pid"]


def alive(pid: int) -> bool:
    state = process_state(pid)
    return state is not None and state.letter != "Z"


def test_a_killed_keeper_takes_its_job_along(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    job_id = submit(batch, tmp_path, "sleep 300 & echo $! > child; sleep 300; true")
    _wait(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(), "the child")
    child = int((tmp_path / "child").read_text())
    keeper, script = pids(records, job_id)
    os.kill(keeper, signal.SIGKILL)
    _wait(lambda: not alive(script), "the script's end")
    status = status_of(batch, job_id)
    assert (status.phase, status.state) == (Phase.ENDED, "LOST")
    assert (status.why_ended, status.exit_status) == (WhyEnded.UNKNOWN, None)
    _wait(lambda: not alive(child), "the end of what the script started")
    assert status_of(LocalBatch(records), job_id).state == "LOST"
    assert batch.account([job_id])[job_id].why_ended is WhyEnded.UNKNOWN


def test_a_reused_process_id_is_no_job(batch: LocalBatch, records: Path, tmp_path: Path) -> None:
    """Another process that got the ids of an ended job is neither listed nor signalled."""
    job_id = submit(batch, tmp_path, "exit 0")
    _wait(lambda: status_of(batch, job_id).phase is Phase.ENDED, "the end")
    record = record_of(records, job_id)
    for key in ("ended_at", "exit_status", "why"):
        del record[key]
    me = {"pid": os.getpid(), "start_ticks": 1}
    (records / job_id / "status.json").write_text(json.dumps(record | {"keeper": me, "job": me}))
    fresh = LocalBatch(records)
    fresh.cancel([job_id])  # would be a SIGTERM to this very process
    assert status_of(fresh, job_id).state == "LOST"


def test_a_stopped_job_is_suspended(batch: LocalBatch, records: Path, tmp_path: Path) -> None:
    job_id = submit(batch, tmp_path, "exec sleep 300")
    _, script = pids(records, job_id)
    os.kill(script, signal.SIGSTOP)
    _wait(lambda: status_of(batch, job_id).phase is Phase.SUSPENDED, "the stop")
    os.kill(script, signal.SIGCONT)
    _wait(lambda: status_of(batch, job_id).phase is Phase.RUNNING, "the going on")


def test_jobs_end_when_the_machine_restarts(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    job_id = submit(batch, tmp_path, "exec sleep 300")
    keeper, script = pids(records, job_id)
    rewrite(records, job_id, boot_id="another")
    status = status_of(batch, job_id)
    assert (status.phase, status.why_ended) == (Phase.ENDED, WhyEnded.UNKNOWN)
    assert status.reason == "the machine was restarted"
    assert alive(script)  # of an id from before a restart nothing is known, so it is left alone
    os.kill(keeper, signal.SIGTERM)
    _wait(lambda: not alive(keeper), "the keeper's end")


def test_another_machines_jobs_are_unknown(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    job_id = submit(batch, tmp_path, "exec sleep 300")
    record = record_of(records, job_id)
    rewrite(records, job_id, boot_id="another", machine="another", host="elsewhere")
    with pytest.raises(BatchUnavailable, match="elsewhere"):
        batch.jobs("")
    with pytest.raises(BatchUnavailable, match="elsewhere"):
        batch.cancel([job_id])
    assert batch.account([job_id]) == {}
    rewrite(records, job_id, **record)
    assert status_of(batch, job_id).phase is Phase.RUNNING


def test_a_job_leaves_no_zombie_and_holds_no_stream(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    before = _children()
    job_id = submit(batch, tmp_path, "exec sleep 300")
    keeper, script = pids(records, job_id)
    for pid in (keeper, script):
        state = process_state(pid)
        assert state is not None
        assert state.parent != os.getpid()
        assert state.session != os.getsid(0)
    assert {str(Path(f"/proc/{keeper}/fd/{n}").readlink()) for n in (0, 1, 2)} == {"/dev/null"}
    batch.cancel([job_id])
    _wait(lambda: status_of(batch, job_id).phase is Phase.ENDED, "the end")
    assert not _children() - before


def _children() -> set[str]:
    """The processes that this one has to collect."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def test_the_keeper_collects_orphans_while_the_job_runs(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    script = "for i in 1 2 3; do (true & ); done; touch done; exec sleep 300"
    job_id = submit(batch, tmp_path, script)
    _wait((tmp_path / "done").exists, "the orphans")
    keeper, _ = pids(records, job_id)
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    _wait(lambda: len(children.read_text().split()) == 1, "the orphans' collection")


def test_ids_are_never_given_twice(
    batch: LocalBatch, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit(batch, tmp_path, "exit 0", name=f"job-{n}") for n in range(3)]
    _wait(lambda: all(s.phase is Phase.ENDED for s in batch.jobs("").values()), "the ends")
    monkeypatch.setattr(local_module, "KEPT_S", -1.0)
    ids.append(submit(batch, tmp_path, "exit 0"))
    assert len(set(ids)) == 4
    # Older records are gone, except the newest one, which keeps the count.
    assert {entry.name for entry in records.iterdir()} == {ids[2], ids[3]}
    assert batch.account(ids[:1]) == {}


def test_jobs_that_ended_long_ago_are_not_listed(
    batch: LocalBatch, records: Path, tmp_path: Path
) -> None:
    job_id = submit(batch, tmp_path, "exit 3")
    _wait(lambda: status_of(batch, job_id).phase is Phase.ENDED, "the end")
    rewrite(records, job_id, ended_at=time.time() - local_module.LISTED_S - 1)
    assert batch.jobs("") == {}
    assert batch.jobs("") == {}
    assert batch.account([job_id])[job_id].exit_status == 3


def test_a_record_without_a_start_is_no_job(batch: LocalBatch, records: Path) -> None:
    """The submitting process died between writing the record and starting the keeper."""
    (records / "7").mkdir(parents=True)
    (records / "7" / "job.json").write_text("{}")
    assert batch.jobs("") == {}
    assert batch.account(["7"]) == {}
    batch.cancel(["7"])


def test_a_script_that_cannot_start_is_refused(
    batch: LocalBatch, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.out").mkdir()  # where the output would go
    with pytest.raises(SubmitRefused, match=r"cannot be started.*1\.out"):
        submit(batch, tmp_path, "true")
    assert batch.jobs("") == {}
