"""What is said to the batch system and what is read from its answers: pure functions."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.batch import (
    BatchUnavailable,
    JobRequest,
    Phase,
    Stuck,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.script import JobFacts, render
from pilot.scheduler.batch.slurm.answers import (
    STATES,
    missing_partitions,
    parse_accounting,
    parse_exit_status,
    parse_queue,
    parse_start,
    parse_submitted,
)
from pilot.scheduler.batch.slurm.commands import SlurmBatch, command_environment
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist
from pilot.scheduler.batch.slurm.script import (
    directives,
    format_walltime,
    job_script,
    quote_directive,
)
from pilot.scheduler.batch.slurm.times import parse_time
from pilot.scheduler.resources import parse_duration_s
from pilot.site_configs import pool_type

PoolConfig: Any = pool_type("slurm")
S = "\x1f"


def a_request(**changes: Any) -> JobRequest:
    fields: dict[str, Any] = {
        "name": "pilot-site-1",
        "command": ["python", "-m", "pilot", "agent"],
        "nodes": 2,
        "walltime_s": 3600,
        "directory": Path("/scratch/site/jobs"),
        "directives": PoolConfig(cores_per_node=4),
    }
    return JobRequest(**{**fields, **changes})


def queue_line(**changes: str) -> str:
    """One line as squeue prints it: fields padded, each ended by the separator."""
    fields = {
        "job_id": "17",
        "state": "RUNNING",
        "reason": "None",
        "submitted": "1000",
        "start": "2000",
        "end": "5600",
        "restarts": "0",
        "exit_code": "0",
        "count": "2",
        "nodes": "n[1-2]",
        "name": "pilot-site-1",
    }
    return "".join(f"{value:<20}{S}" for value in (fields | changes).values()) + "\n"


# --- host lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3,7],gpu01", ["n1", "n2", "n3", "n7", "gpu01"]),
        ("a[01-03]b[1-2]", ["a01b1", "a01b2", "a02b1", "a02b2", "a03b1", "a03b2"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[9-10,099-101]", ["n9", "n10", "n099", "n100", "n101"]),
        ("rack[1-2]-n[3]-ib", ["rack1-n3-ib", "rack2-n3-ib"]),
        ("login.example.org,n-1_x", ["login.example.org", "n-1_x"]),
        ("[1-2]", ["1", "2"]),
        (" n1 ", ["n1"]),
        ("", []),
        ("(null)", []),
        ("None assigned", []),
    ],
)
def test_expands_host_lists(text: str, names: list[str]) -> None:
    assert expand_nodelist(text) == names


@pytest.mark.parametrize(
    "text", ["n[1-3", "n1]", "n[3-1]", "n[a-b]", "n[]", "n[1,,2]", "n1,,n2", "n[1[2]]", ","]
)
def test_refuses_what_is_no_host_list(text: str) -> None:
    with pytest.raises(ValueError, match="not a host list"):
        expand_nodelist(text)


@given(
    st.lists(
        st.tuples(st.sampled_from(["n", "gpu-", "r1-n"]), st.integers(0, 999), st.integers(0, 40)),
        min_size=1,
        max_size=5,
    )
)
def test_expanding_ranges_gives_each_number(ranges: list[tuple[str, int, int]]) -> None:
    text = ",".join(f"{prefix}[{first}-{first + more}]" for prefix, first, more in ranges)
    expected = [
        f"{prefix}{number}"
        for prefix, first, more in ranges
        for number in range(first, first + more + 1)
    ]
    assert expand_nodelist(text) == expected


# --- sbatch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        "123\n",
        "123;cluster\n",
        "a site's own greeting\n123;c-1\n",
        "\n 123 \n\n",
        "Submitted batch job 123\n",
        "--> Verifying submit host (login-7.x) ... OK\nSubmitted batch job 123 on cluster n1\n",
        "Since 2026-01-31 there are 4096 cores.\nYour job id: 123, in queue 7\n",
        "accepted as 123, by login2\n",
    ],
)
def test_reads_the_job_id(output: str) -> None:
    assert parse_submitted(output) == "123"


@pytest.mark.parametrize("output", ["", "error 12a\n", "job 12 and job 13\n", "12 of 13\n"])
def test_no_job_id_means_unknown(output: str) -> None:
    with pytest.raises(BatchUnavailable, match="no job id"):
        parse_submitted(output)


# --- squeue and sacct ----------------------------------------------------------------------------


def test_reads_a_running_job() -> None:
    (job,) = parse_queue(queue_line(restarts="2"))
    assert (job.job_id, job.name, job.phase) == ("17", "pilot-site-1", Phase.RUNNING)
    assert (job.nodes, job.node_count) == (("n1", "n2"), 2)
    assert (job.submitted_at, job.started_at, job.ends_at) == (1000, 2000, 5600)
    assert job.expected_at is None
    assert job.reason == ""
    assert job.restart_count == 2
    assert job.exit_status is None
    assert job.why_ended is None


def test_a_queued_job_has_an_expected_start_and_no_nodes() -> None:
    (job,) = parse_queue(queue_line(state="PENDING", reason="Priority", nodes="", end="N/A"))
    assert job.phase is Phase.QUEUED
    assert (job.started_at, job.expected_at, job.ends_at) == (None, 2000, None)
    assert job.nodes == ()
    assert job.reason == "Priority"
    (job,) = parse_queue(queue_line(state="PENDING", nodes="", start="N/A"))
    assert job.expected_at is None


@pytest.mark.parametrize(
    ("reason", "state", "stuck"),
    [
        ("Priority", "PENDING", None),
        ("Resources", "PENDING", None),
        ("None", "PENDING", None),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "PENDING", None),
        ("PartitionDown", "PENDING", None),  # it may be up again, and the place is kept
        ("JobHeldUser", "PENDING", Stuck.HELD),
        ("JobHeldAdmin", "PENDING", Stuck.ADMIN),
        ("launch failed requeued held", "PENDING", Stuck.HELD),
        ("launch_failed_requeued_held", "PENDING", Stuck.HELD),
        ("BeginTime", "REQUEUE_HOLD", Stuck.HELD),
        ("PartitionTimeLimit", "PENDING", Stuck.NEVER),
        ("BadConstraints", "PENDING", Stuck.NEVER),
        ("AssocMaxNodePerJobLimit", "PENDING", Stuck.NEVER),
        ("QOSMaxWallDurationPerJobLimit", "PENDING", Stuck.NEVER),
        ("AssocMaxJobsLimit", "PENDING", Stuck.LIMIT),
        ("QOSMaxCpuPerUserLimit", "PENDING", Stuck.LIMIT),
        ("AssocGrpCPUMinutesLimit", "PENDING", Stuck.LIMIT),
        ("JobHeldUser", "RUNNING", None),
    ],
)
def test_reasons_tell_whether_a_job_will_start(
    reason: str, state: str, stuck: Stuck | None
) -> None:
    (job,) = parse_queue(queue_line(state=state, reason=reason))
    assert job.stuck is stuck


def test_a_preempted_job_is_the_same_job_queued_again() -> None:
    line = queue_line(state="PENDING", reason="BeginTime", restarts="1", nodes="(null)")
    (job,) = parse_queue(line)
    assert (job.job_id, job.phase, job.restart_count) == ("17", Phase.QUEUED, 1)
    assert job.held_back and job.expected_at == 2000.0


@pytest.mark.parametrize(
    ("reason", "state"),
    [("Priority", "PENDING"), ("BeginTime", "REQUEUE_HOLD"), ("BeginTime", "RUNNING")],
)
def test_only_a_job_that_waits_for_its_time_is_held_back(reason: str, state: str) -> None:
    (job,) = parse_queue(queue_line(state=state, reason=reason))
    assert not job.held_back


def test_a_job_cancelled_in_the_queue_never_started() -> None:
    line = queue_line(state="CANCELLED", start="3000", end="3000", nodes="")
    (job,) = parse_queue(line)
    assert (job.phase, job.why_ended) == (Phase.ENDED, WhyEnded.CANCELLED)
    assert (job.started_at, job.ends_at) == (None, 3000)


@pytest.mark.parametrize("name", ["a b|c,d", "-n", "'; rm -rf", "ü", "%j", "a:b"])
def test_odd_names_of_other_jobs_do_no_harm(name: str) -> None:
    jobs = parse_queue(queue_line(name=name) + queue_line(job_id="18_[1-4%2]"))
    assert [job.name for job in jobs] == [name, "pilot-site-1"]
    assert jobs[1].job_id == "18_[1-4%2]"


def test_an_empty_queue_is_empty() -> None:
    assert parse_queue("\n") == []


@pytest.mark.parametrize(
    "odd",
    [
        "slurm_load_jobs: a notice\n",
        "CLUSTER: other\n",
        queue_line(job_id="18")[:60] + "\n",
        queue_line(job_id="18", name="a\nb"),
        queue_line(job_id="18", name=f"a{S}b"),
        queue_line(job_id="18", name="\r\x00"),
        queue_line(job_id="", name=""),
    ],
)
def test_a_line_that_cannot_be_read_takes_nothing_from_others(odd: str) -> None:
    mine = queue_line()
    for output in (odd + mine, mine + odd, mine + odd + mine):
        assert "17" in {job.job_id for job in parse_queue(output)}


@given(st.text(), st.text())
def test_whatever_is_around_a_job_it_is_listed_as_it_is(before: str, after: str) -> None:
    (job,) = parse_queue(queue_line())
    assert job in parse_queue(f"{before}\n{queue_line()}{after}")


def test_host_list_that_is_cut_off_is_unknown() -> None:
    cut = queue_line(nodes="n[1-")
    (job,) = parse_queue(cut)
    assert (job.nodes, job.node_count, job.started_at) == ((), 2, 2000)
    lines = [queue_line(count=count) for count in ("3", "2-4", "", "many")]
    assert [job.node_count for job in parse_queue("".join(lines))] == [3, 4, 0, 0]


#: JOB STATE CODES and flags of the manual pages of squeue and sacct, 20.02 to 25.05.
ALL_STATES = """BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE EXPEDITING FAILED
    LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PENDING POWER_UP_NODE PREEMPTED RECONFIG_FAIL REQUEUED
    REQUEUED_CRON
    REQUEUE_FED REQUEUE_HOLD RESIZING RESV_DEL_HOLD REVOKED RUNNING SIGNALING SPECIAL_EXIT
    STAGE_OUT STOPPED SUSPENDED TIMEOUT UPDATE_DB"""


def test_every_state_has_a_meaning() -> None:
    assert set(STATES) == set(ALL_STATES.split())
    for state, meaning in STATES.items():
        assert (meaning.why_ended is not None) == (meaning.phase is Phase.ENDED), state
        (job,) = parse_queue(queue_line(state=state))
        assert (job.phase, job.why_ended, job.state) == (*meaning, state)


def test_a_state_of_a_later_slurm_concludes_nothing() -> None:
    (job,) = parse_queue(queue_line(state="TELEPORTING"))
    assert (job.phase, job.why_ended) == (Phase.ENDING, None)


def test_reads_accounting() -> None:
    lines = [
        ("17", "CANCELLED by 1000", "0:15", "1000", "2000", "3000", "n[1-2]", "pilot-site-1"),
        ("18", "OUT_OF_MEMORY", "0:125", "1000", "2000", "3000", "n1", "a|b"),
        ("19", "FAILED", "3:0", "1000", "2000", "3000", "n1", "c"),
        ("20", "CANCELLED", "0:0", "1000", "Unknown", "3000", "None assigned", "d"),
        # Its end was recorded before its start: not yet whole.
        ("21", "FAILED", "3:0", "Unknown", "Unknown", "3000", "None assigned", "allocation"),
    ]
    jobs = parse_accounting("".join(S.join(line) + "\n" for line in lines))
    assert [job.why_ended for job in jobs] == [
        WhyEnded.CANCELLED,
        WhyEnded.OUT_OF_MEMORY,
        WhyEnded.FAILED,
        WhyEnded.CANCELLED,
    ]
    assert [job.exit_status for job in jobs] == [143, 253, 3, 0]
    assert jobs[1].name == "a|b"
    assert (jobs[3].started_at, jobs[3].nodes) == (None, ())


@pytest.mark.parametrize(
    ("text", "status"),
    [("0:0", 0), ("3:0", 3), ("0:9", 137), ("0", 0), ("768", 3), ("15", 143), ("", None)],
)
def test_reads_exit_statuses(text: str, status: int | None) -> None:
    assert parse_exit_status(text) == status


def test_reads_times() -> None:
    assert parse_time("1763683200") == 1763683200
    local = parse_time("2026-01-31T12:00:00")
    assert local is not None
    assert abs(local - 1769860800) <= 14 * 3600  # as the time zone is
    for text in ("N/A", "Unknown", "None", "", "0"):
        assert parse_time(text) is None


# --- commands ------------------------------------------------------------------------------------


def test_a_users_defaults_and_the_job_around_change_nothing() -> None:
    given_ = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "7",
        "SLURM_CLUSTERS": "other",
        "SQUEUE_PARTITION": "x",
        "SBATCH_ACCOUNT": "y",
        "SRUN_CPUS_PER_TASK": "4",
    }
    assert command_environment(given_, "sbatch") == {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
    }
    assert command_environment(given_, "squeue")["SLURM_TIME_FORMAT"] == "%s"


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH but /bin: commands written there are Slurm's."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in ("bash", "sleep", "cat"):
        found = shutil.which(tool)
        assert found
        (directory / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(directory))
    return directory


def fake(directory: Path, command: str, body: str) -> None:
    path = directory / command
    path.write_text(f"#!{directory}/bash\n{body}\n")
    path.chmod(0o755)


def test_no_slurm_is_told_clearly(fake_slurm: Path, tmp_path: Path) -> None:
    slurm = SlurmBatch()
    with pytest.raises(BatchUnavailable, match=r"sbatch was not found in PATH.*batch: local"):
        slurm.submit(a_request(directory=tmp_path))
    with pytest.raises(BatchUnavailable, match="squeue was not found"):
        slurm.jobs("pilot")
    assert slurm.account(["1"]) == {}


def test_a_temporary_directory_that_has_gone_is_not_missed(
    fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(fake_slurm, "sbatch", "cat >/dev/null; echo 17")
    gone = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    assert SlurmBatch().submit(a_request(directory=tmp_path)) == "17"


def test_that_there_is_no_temporary_directory_is_told(
    fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(fake_slurm, "sbatch", "cat >/dev/null; echo 17")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(BatchUnavailable, match=r"no temporary directory can be made.*set TMPDIR"):
        SlurmBatch().submit(a_request(directory=tmp_path))


def test_a_failed_or_slow_query_is_unknown_never_empty(fake_slurm: Path) -> None:
    fake(fake_slurm, "squeue", "exit 1")
    with pytest.raises(BatchUnavailable, match="exit status 1"):
        SlurmBatch().jobs("pilot")
    fake(fake_slurm, "squeue", "exec sleep 60")
    with pytest.raises(BatchUnavailable, match=r"no answer within 0\.2 s"):
        SlurmBatch(command_limit_s=0.2).jobs("pilot")


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("Batch job submission failed: Invalid partition name specified", SubmitRefused),
        ("Batch job submission failed: Job violates accounting/QOS policy", SubmitRefused),
        ("Unable to open file", SubmitRefused),
        ("Batch job submission failed: Socket timed out on send/recv operation", BatchUnavailable),
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            BatchUnavailable,
        ),
        ("Batch job submission failed: Zero Bytes were transmitted or received", BatchUnavailable),
    ],
)
def test_a_refusal_is_told_from_silence(
    fake_slurm: Path, tmp_path: Path, told: str, error: type[Exception]
) -> None:
    fake(fake_slurm, "sbatch", f"cat >/dev/null; echo 'sbatch: error: {told}' >&2; exit 1")
    with pytest.raises(error) as raised:
        SlurmBatch().submit(a_request(directory=tmp_path))
    assert told in str(raised.value)


def test_submits_the_script_that_it_keeps(fake_slurm: Path, tmp_path: Path) -> None:
    fake(fake_slurm, "sbatch", f"cat > {tmp_path}/received; echo 17")
    request = a_request(directory=tmp_path)
    assert SlurmBatch().submit(request) == "17"
    assert (tmp_path / "received").read_text() == job_script(request)
    assert (tmp_path / "pilot-site-1.sh").read_text() == job_script(request)


def test_cancelling_what_has_ended_is_no_error(fake_slurm: Path) -> None:
    error = "scancel: error: Kill job error on job id 17:"
    fake(fake_slurm, "scancel", f"echo '{error} Invalid job id specified' >&2; exit 1")
    SlurmBatch().cancel(["17"])
    fake(fake_slurm, "scancel", f"echo '{error} Socket timed out' >&2; exit 1")
    with pytest.raises(BatchUnavailable):
        SlurmBatch().cancel(["17"])
    fake(fake_slurm, "scancel", "exit 1")
    with pytest.raises(BatchUnavailable):
        SlurmBatch().cancel(["17"])


# --- job scripts ---------------------------------------------------------------------------------


def test_the_script_says_what_was_asked() -> None:
    pool = PoolConfig(
        partition="gpu",
        account="proj-1",
        qos="long",
        constraint="a100&nvme",
        reservation="course",
        cores_per_node=32,
        memory_per_node_mib=2048,
        gpus_per_node=4,
        sbatch_options=("--exclusive", "--comment=two words"),
    )
    assert directives(a_request(directives=pool, walltime_s=90061, warning_s=120)) == [
        "--job-name=pilot-site-1",
        "--nodes=2",
        "--ntasks-per-node=32",
        "--time=1-01:01:01",
        "--signal=B:USR1@120",
        "--chdir=/scratch/site/jobs",
        "--output=/scratch/site/jobs/%j.out",
        "--requeue",
        "--open-mode=append",
        "--no-kill",
        "--partition=gpu",
        "--account=proj-1",
        "--qos=long",
        "--constraint=a100&nvme",
        "--reservation=course",
        "--mem=2048M",
        "--gres=gpu:4",
        "--exclusive",
        "--comment=two words",
    ]
    assert "--no-kill" not in directives(a_request(nodes=1))


@pytest.mark.parametrize(
    ("pool", "asked"),
    [
        ({"memory_per_node_mib": 2048}, ["--mem=2048M"]),
        ({"memory_per_node_mib": 2048, "memory_request": "all"}, ["--mem=0"]),
        ({"memory_request": "all"}, ["--mem=0"]),
        ({"memory_per_node_mib": 2048, "memory_request": "none"}, []),
        ({}, []),
        *(
            (
                {"memory_per_node_mib": 2048, "memory_request": asked, "sbatch_options": (own,)},
                [own],
            )
            for asked in ("counted", "all")
            for own in ("--mem-per-cpu=1000M", "--mem=0", "--mem 4G", "--mem-per-gpu=8G")
        ),
        (
            {"memory_per_node_mib": 2048, "sbatch_options": ("--mem-bind=local",)},
            ["--mem=2048M", "--mem-bind=local"],
        ),
    ],
)
def test_memory_is_asked_for_as_the_pool_says(pool: dict[str, Any], asked: list[str]) -> None:
    options = directives(a_request(directives=PoolConfig(cores_per_node=4, **pool)))
    assert [option for option in options if option.startswith("--mem")] == asked


def test_directives_come_before_the_first_command() -> None:
    text = job_script(a_request(setup="module load python", variables={"A": "1"}))
    lines = text.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])
    assert lines.index("module load python") > lines.index("export A=1") > last
    assert lines[-1] == "exec python -m pilot agent"


@pytest.mark.parametrize(
    ("option", "quoted"),
    [
        ("--nodes=2", "--nodes=2"),
        ("--comment=a b", '"--comment=a b"'),
        ('--comment="', '"--comment=\\""'),
        ("--chdir=/a\\b", '"--chdir=/a\\\\b"'),
        ("--chdir=/a'b#c", '"--chdir=/a\'b#c"'),
    ],
)
def test_quotes_directives(option: str, quoted: str) -> None:
    assert quote_directive(option) == quoted


def test_a_directive_cannot_begin_a_line() -> None:
    pool = PoolConfig(cores_per_node=1, account="x\nrm -rf /")
    with pytest.raises(ValueError, match="cannot stand on a line"):
        job_script(a_request(directives=pool))


def test_a_percent_sign_is_no_field_of_the_output_pattern() -> None:
    options = directives(a_request(directory=Path("/a%j")))
    assert "--output=/a%%j/%j.out" in options
    assert "--chdir=/a%j" in options


@given(st.integers(0, 10_000_000))
def test_walltime_is_read_back(seconds: int) -> None:
    assert parse_duration_s(format_walltime(seconds)) == seconds


@given(
    arguments=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=4
    ),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)
def test_no_text_becomes_code(arguments: list[str], value: str) -> None:
    command = ["/usr/bin/env", "printf", "%s\\0", value and "x" + value, *arguments]
    request = a_request(command=command, variables={"ODD": value})
    text = render(request, JobFacts("1", "here", "0")).replace(
        "exec ", '/usr/bin/env printf "%s\\0" "$ODD"; exec ', 1
    )
    done = subprocess.run(["/bin/bash", "-c", text], capture_output=True, check=True)
    expected = [value, value and "x" + value, *arguments]
    assert done.stdout == b"".join(part.encode() + b"\0" for part in expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": "a,b"},
        {"name": "a\nb"},
        {"name": "-a"},
        {"name": ""},
        {"nodes": 0},
        {"walltime_s": 0},
        {"command": []},
        {"directory": Path("relative")},
        {"directory": Path("/a\nb")},
        {"directory": Path("/a\\b")},
        {"variables": {"A=B; rm": "x"}},
    ],
)
def test_refuses_what_cannot_be_a_job(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"job|path|variable"):
        a_request(**changes)


@pytest.mark.parametrize(
    "text", ["a[1-99999999999]", f"a[1-{'9' * 5000}]", "a[1-1000][1-1000]", "a[1-60000,1-60000]"]
)
def test_host_list_of_more_hosts_than_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="not a host list"):
        expand_nodelist(text)


@pytest.mark.parametrize("text", ["9" * 400, "0001-01-01T00:00:00", "\u0967\u0968"])
def test_times_that_are_none(text: str) -> None:
    assert parse_time(text) is None or text.startswith("0001")


def test_all_commands_speak_to_the_cluster_that_is_named(fake_slurm: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        command = fake_slurm / name
        command.write_text(f'#!/bin/sh\necho "$0 $*" >> {calls}\necho 17\n')
        command.chmod(0o755)
    batch = SlurmBatch(cluster="north")
    batch.submit(a_request(directory=tmp_path))
    batch.jobs("pilot-")
    batch.account(["17"])
    with pytest.raises(BatchUnavailable):
        batch.allocation("17")
    batch.cancel(["17"])
    said = calls.read_text().splitlines()
    assert len(said) == 5
    assert all(line.split()[1:3] == ["-M", "north"] for line in said)


def test_partitions_that_are_not_there_are_named() -> None:
    pools = {
        "a": PoolConfig(partition="cpu,gpu"),
        "b": PoolConfig(partition="big"),
        "c": PoolConfig(),
    }
    assert missing_partitions(pools, "CLUSTER: north\ncpu\ngpu\nbig\n") == ""
    told = missing_partitions(pools, "cpu\nbig\n")
    assert told == "Slurm has no partition 'cpu,gpu' (pool a); it has big, cpu"


# --- what would become of a job -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "start"),
    [
        # As releases 20.11, 22.05 and 25.11 print it.
        ("sbatch: Job 2 to start at 2026-11-29T19:27:15 using 16 processors on n[1-4]", True),
        (
            "sbatch: Job 2 to start at 2026-11-29T19:27:15 using 16 processors on nodes n[1-4] in "
            "partition main",
            True,
        ),
        ("greetings of the site\nsbatch: Job 2 to start at 2026-11-29T19:27:15 using 1", True),
        ("sbatch: Job 2 to start at Unknown using 16 processors", False),
        ("sbatch: Job 1 to start at once", False),
        ("", False),
    ],
)
def test_reads_the_start_of_a_job_that_is_not_submitted(said: str, start: bool) -> None:
    expected = datetime(2026, 11, 29, 19, 27, 15).timestamp() if start else None
    assert parse_start(said) == expected


def test_choice_that_is_left_to_slurm_stands_in_the_script() -> None:
    text = job_script(a_request(nodes=4, least_nodes=2, walltime_s=3600.0, least_walltime_s=900.0))
    assert "#SBATCH --nodes=2-4\n" in text
    assert "#SBATCH --time=01:00:00\n" in text and "#SBATCH --time-min=00:15:00\n" in text
    exact = job_script(a_request(nodes=4, least_nodes=4, walltime_s=60.0, least_walltime_s=60.0))
    assert "--nodes=4\n" in exact and "--time-min" not in exact and "squeue" not in exact


@pytest.mark.parametrize(
    ("prints", "variables", "ends_at"),
    [
        ("1790000000", {}, "1790000000"),
        ("N/A", {}, ""),
        ("", {}, ""),
        # Slurm 25.11 sets the variable, to the end of the least walltime.
        ("1790000000", {"SLURM_JOB_END_TIME": "1780000000"}, "1790000000"),
        ("N/A", {"SLURM_JOB_END_TIME": "1780000000"}, "1780000000"),
    ],
)
def test_job_asks_for_its_end_where_slurm_has_chosen_its_walltime(
    tmp_path: Path, prints: str, variables: dict[str, str], ends_at: str
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {prints}\n")
    squeue.chmod(0o755)
    text = job_script(
        a_request(
            command=["sh", "-c", "echo $PILOT_JOB_ENDS_AT"],
            walltime_s=3600.0,
            least_walltime_s=900.0,
        )
    )
    done = subprocess.run(
        ["/bin/bash"],
        input=text,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    told = int(done.stdout)
    assert told == int(ends_at or told) and (ends_at or abs(told - time.time() - 3600.0) < 60.0)
