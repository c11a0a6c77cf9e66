"""The check of a site: facts are judged, gathering has time limits, and the command tells all."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import wait_until

from pilot.cli import cli
from pilot.doctor import facts as f
from pilot.doctor import gathering, judging, opening, trials
from pilot.doctor.checks import checks_here
from pilot.doctor.limited import NotGathered, gathered
from pilot.doctor.over_files import Echo, try_over_files
from pilot.errors import SiteError
from pilot.findings import Check, Finding, Level, ok, problem
from pilot.site import Site, create_site
from pilot.wire.keys import load_keys


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


def told(findings: Iterable[Finding]) -> str:
    return " ".join(f"{finding.found} -> {finding.todo}" for finding in findings)


# --- judging -------------------------------------------------------------------------------------


def on(kind: str, *options: str, global_locks: bool | None = None) -> f.FileSystem:
    mount = f.Mount(point="/work", kind=kind, options=("rw", *options))
    return f.FileSystem(directory="/work/site", mount=mount, global_locks=global_locks)


@pytest.mark.parametrize(
    ("its", "is_local", "level", "word"),
    [
        (on("lustre", "flock"), False, "ok", "lustre"),
        (on("lustre", "noflock"), False, "problem", "noflock"),
        (on("lustre", "localflock"), False, "warning", "one machine only"),
        (on("nfs4", "hard", "local_lock=none"), False, "ok", "nfs4"),
        (on("nfs", "nolock"), False, "warning", "nolock"),
        (on("nfs4", "local_lock=posix"), False, "warning", "one machine only"),
        (on("nfs4", "soft"), False, "warning", "hard"),
        (on("beegfs", global_locks=False), False, "warning", "tuneUseGlobalFileLocks"),
        (on("beegfs"), False, "ok", "beegfs"),
        (on("gpfs"), False, "ok", "gpfs"),
        (on("fuse.sshfs"), False, "ok", "sshfs"),
        (on("ext4"), False, "warning", "--job"),
        (on("ext4"), True, "ok", "ext4"),
        (on("tmpfs"), False, "problem", "memory"),
        (on("tmpfs"), True, "warning", "gone"),
        (on("nfs4", "ro"), False, "problem", "read-only"),
        (f.FileSystem(directory="/work/site", mount=None), False, "warning", "not known"),
    ],
)
def test_file_systems(its: f.FileSystem, is_local: bool, level: str, word: str) -> None:
    found = [*judging.file_system(its, is_local)]
    assert levels(found) == [level]
    assert word in told(found)


def test_a_job_of_the_same_run_tells_what_nodes_see() -> None:
    assert levels(judging.file_system(on("ext4"), False, by_job=True)) == ["ok"]
    assert levels(judging.file_system(on("tmpfs"), False, by_job=True)) == ["problem"]


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "total_files", "quotas", "expected"),
    [
        (1 << 40, 10**6, 10**7, (), ["ok"]),
        (1 << 30, 10**6, 10**7, (), ["warning"]),
        (1 << 20, 10**6, 10**7, (), ["problem"]),
        (1 << 40, 5000, 10**7, (), ["warning"]),
        (1 << 40, 100, 10**7, (), ["problem"]),
        (1 << 40, 0, 0, (), ["ok"]),  # a file system that does not count files
        (1 << 40, 10**6, 10**7, (f.Quota(unit="MiB", used=50, limit=100),), ["ok"]),
        (1 << 40, 10**6, 10**7, (f.Quota(unit="MiB", used=96, limit=100),), ["warning"]),
        (1 << 40, 10**6, 10**7, (f.Quota(unit="files", used=100, limit=100),), ["problem"]),
    ],
)
def test_space(
    free_bytes: int,
    free_files: int,
    total_files: int,
    quotas: tuple[f.Quota, ...],
    expected: list[str],
) -> None:
    its = f.Space(
        free_bytes=free_bytes, free_files=free_files, total_files=total_files, quotas=quotas
    )
    assert levels(judging.space(its)) == expected


@pytest.mark.parametrize(
    ("flock", "fcntl", "across", "level"),
    [
        ("held", "held", False, "ok"),
        ("not seen", "held", False, "warning"),
        ("held", "not seen", False, "problem"),
        ("held", "No locks available", False, "problem"),
        ("not seen", "not seen", True, "warning"),
    ],
)
def test_locks(flock: str, fcntl: str, across: bool, level: str) -> None:
    found = [*judging.locks(f.Locks(flock=flock, fcntl=fcntl), "two", across)]
    assert levels(found) == [level]


@pytest.mark.parametrize(("ahead_s", "level"), [(0.0, "ok"), (-1.5, "ok"), (40.0, "warning")])
def test_clocks_of_file_systems(ahead_s: float, level: str) -> None:
    assert levels(judging.clock(f.Clock(ahead_s=ahead_s))) == [level]


def test_what_the_file_system_cannot_do_is_a_problem() -> None:
    its = f.Operations(sync_s=0.001, errors={"hard links": "Operation not permitted"})
    assert levels(judging.operations(its)) == ["problem"]
    assert levels(judging.operations(f.Operations(sync_s=0.001))) == ["ok"]
    assert levels(judging.operations(f.Operations(sync_s=2.0))) == ["warning"]


def limits(**changes: Any) -> f.Limits:
    none = (-1, -1)
    fields: dict[str, Any] = {
        "files": (1024, 65536),
        "processes": none,
        "locked_bytes": none,
        "memory_bytes": none,
        "cpu_s": none,
    }
    return f.Limits(**{**fields, **changes})


@pytest.mark.parametrize(
    ("its", "word"),
    [
        (limits(files=(1024, 1024)), "ulimit -n"),
        (limits(processes=(100, 100)), "ulimit -u"),
        (limits(memory_bytes=(8 << 30, -1)), "ulimit -v"),
        (limits(cpu_s=(3600, -1)), "ulimit -t"),
    ],
)
def test_limits(its: f.Limits, word: str) -> None:
    found = [*judging.limits(its)]
    assert levels(found) == ["warning"]
    assert word in told(found)


def test_limits_that_travel() -> None:
    here = limits()
    assert levels(judging.limits(here)) == ["ok"]
    assert "as here" in told(judging.node_limits(limits(), here))
    assert "its own" in told(judging.node_limits(limits(files=(4096, 65536)), here))
    few = (65536, 65536)
    assert levels(judging.node_limits(limits(locked_bytes=few), here)) == ["ok"]
    fast = limits(locked_bytes=few, locks_memory=True)
    assert "InfiniBand" in told(judging.node_limits(fast, here))


def a_python(version: str = "3.11.7", **packages: str) -> f.Python:
    named = {"pilot": "0.1.0", "numpy": "2.0.0", **packages}
    return f.Python(executable="/venv/bin/python", version=version, packages=named)


@pytest.mark.parametrize(
    ("its", "level"),
    [
        (a_python(), "ok"),
        (a_python("3.11.9"), "ok"),
        (a_python("3.12.1"), "problem"),
        (a_python(pilot="0.0.9"), "problem"),
        (a_python(numpy="1.26.0"), "warning"),
        (a_python(mpi4py="4.0.0"), "warning"),
    ],
)
def test_pythons_of_nodes(its: f.Python, level: str) -> None:
    assert levels(judging.same_python(its, a_python())) == [level]


def test_other_packages_of_nodes_are_named_where_both_have_them() -> None:
    def having(**others: str) -> f.Python:
        return f.Python(executable="python", version="3.11.7", packages={}, others=others)

    found = [*judging.same_python(having(scipy="1.9", xarray="1"), having(scipy="1.8", dask="2"))]
    assert levels(found) == ["warning"] and "scipy 1.9 (1.8)" in told(found)
    assert "xarray" not in told(found) and "dask" not in told(found)


def test_a_python_on_a_disk_of_this_machine() -> None:
    def its(kind: str) -> f.Python:
        return f.Python(
            executable="python",
            version="3.11.7",
            packages={},
            mount=f.Mount(point="/", kind=kind),
        )

    assert levels(judging.python(its("ext4"), is_local=True)) == ["ok"]
    assert levels(judging.python(its("ext4"), is_local=False)) == ["warning"]
    assert levels(judging.python(its("lustre"), is_local=False)) == ["ok"]


@pytest.mark.parametrize(
    ("its", "level", "word"),
    [
        (f.Setup(status=0, took_s=1.0, output="", python=a_python()), "ok", "run here"),
        (f.Setup(status=0, took_s=40.0, output="", python=a_python()), "warning", "fewer modules"),
        (f.Setup(status=3, took_s=1.0, output="a\nno such module\n"), "problem", "no such module"),
        (f.Setup(status=0, took_s=1.0, output="", python=a_python("3.9.1")), "problem", "3.9.1"),
    ],
)
def test_the_lines_of_the_job_script(its: f.Setup, level: str, word: str) -> None:
    found = [*judging.setup(its, a_python())]
    assert level in levels(found)
    assert word in told(found)


@pytest.mark.parametrize(
    ("its", "level"),
    [
        (f.Mpi(error="no mpiexec"), "warning"),
        (f.Mpi(way="srun"), "warning"),
        (f.Mpi(way="srun", mpi4py="4.1"), "ok"),
        (
            f.Mpi(
                mpi4py="4.1",
                worlds=(f.World(way="srun", hosts=("n1", "n2"), took_s=1.0),),
            ),
            "ok",
        ),
        (
            f.Mpi(
                mpi4py="4.1",
                worlds=(f.World(way="srun", hosts=("n1",), took_s=1.0, error="each alone"),),
            ),
            "problem",
        ),
    ],
)
def test_mpi(its: f.Mpi, level: str) -> None:
    assert level in levels(judging.mpi(its, "set mpi.launcher"))


@pytest.mark.parametrize(
    ("tries", "level", "word"),
    [
        ([("login1", "")], "ok", "login1:1"),
        ([("login1", "the name is not known")], "problem", "head.address"),
        ([("login1", "timed out")], "problem", "firewall"),
        ([("login1", "timed out"), ("10.0.0.1", "")], "warning", "10.0.0.1"),
        ([], "problem", "no address"),
    ],
)
def test_reaching_another_machine(tries: list[tuple[str, str]], level: str, word: str) -> None:
    its = [f.Reach(host=host, port=1, error=error) for host, error in tries]
    found = [*judging.reach(its, "the head", "head.address")]
    assert levels(found) == [level]
    assert word in told(found)


def test_files_where_the_network_does_not_lead() -> None:
    away = [f.Reach(host="login1", port=1, error="timed out")]
    there = [f.Reach(host="login1", port=1)]
    (found,) = judging.reach_or_files(away, "auto")
    assert levels([found]) == ["warning"]
    assert "over files" in found.found and "head.transport to files" in found.todo
    assert levels(judging.reach_or_files(away, "network")) == ["problem"]
    assert levels(judging.reach_or_files(there, "auto")) == ["ok"]
    assert levels(judging.reach_or_files([], "auto")) == ["problem"]
    for its, level, word in (
        (f.OverFiles(trips_s=(0.01, 0.02, 0.03)), "ok", "takes 20"),
        (f.OverFiles(trips_s=(0.01, 0.02, 3.0)), "warning", "3.0 s at most"),
        (f.OverFiles(error="no answer came"), "problem", "no answer came"),
    ):
        judged = [*judging.over_files(its)]
        assert levels(judged) == [level] and word in told(judged)
    assert "over files" in told(
        judging.head_address(f.HeadAddress(setting="auto", listens=False, takes_files=True))
    )


def test_messages_of_two_nodes_go_over_files_and_back(tmp_path: Path) -> None:
    site = create_site(tmp_path / "site", "local")
    secret = load_keys(site.keys).client_secret
    echo = Echo(tmp_path / "wire", secret)
    try:
        with ThreadPoolExecutor(2) as nodes:
            tries = [nodes.submit(try_over_files, echo.endpoint, site) for _ in range(2)]
        found = [each.result() for each in tries]
        assert [(its.error, len(its.trips_s)) for its in found] == [("", 19), ("", 19)]
    finally:
        echo.close()
    assert "nobody answers" in try_over_files(f"files://{tmp_path}/nowhere", site).error
    (tmp_path / "file").touch()
    closed = Echo(tmp_path / "file", secret)
    assert closed.endpoint == ""
    closed.close()


def test_clocks_of_nodes() -> None:
    def its(ahead_s: float | None) -> f.Reach:
        return f.Reach(host="login1", port=1, ahead_s=ahead_s, within_s=0.001)

    assert levels(judging.node_clock([its(0.5)])) == ["ok"]
    assert "ahead of this machine's" in told(judging.node_clock([its(-60.0)]))
    assert "behind this machine's" in told(judging.node_clock([its(60.0)]))
    assert levels(judging.node_clock([its(-60.0)])) == ["warning"]
    assert levels(judging.node_clock([its(None)])) == ["warning"]


def test_shared_memory(tmp_path: Path) -> None:
    def its(free: int, total: int = 8 << 30, error: str = "") -> f.SharedMemory:
        return f.SharedMemory(directory="/dev/shm", free_bytes=free, total_bytes=total, error=error)

    assert levels(judging.shared_memory(its(2 << 30))) == ["ok"]
    assert levels(judging.shared_memory(its(60 << 20))) == ["warning"]
    assert levels(judging.shared_memory(its(1 << 20))) == ["problem"]
    assert levels(judging.shared_memory(its(2 << 30, error="No space left"))) == ["problem"]
    (small,) = judging.shared_memory(its(60 << 20, 64 << 20))
    (filled,) = judging.shared_memory(its(60 << 20))
    assert "--shm-size" in small.todo and "--shm-size" not in filled.todo
    here = gathering.shared_memory(tmp_path)
    assert here.free_bytes > 0 and not here.error and not list(tmp_path.iterdir())
    assert "No such" in gathering.shared_memory(tmp_path / "missing").error


def test_nodes_and_shrinking() -> None:
    node = f.Node(host="n1", cores=4, memory_mib=8000)
    assert levels(judging.node(node, 4, 4000)) == ["ok"]
    assert levels(judging.node(node, 8, 4000)) == ["warning"]
    assert levels(judging.node(node, 4, 9000)) == ["problem"]
    assert levels(judging.shrink(f.Shrink(nodes=1))) == ["ok"]
    assert levels(judging.shrink(f.Shrink(nodes=2))) == ["warning"]
    assert levels(judging.shrink(f.Shrink(error="Access/permission denied"))) == ["warning"]


def test_signs_that_long_processes_are_ended() -> None:
    assert levels(judging.resident(f.Resident())) == ["ok"]
    for its in (
        f.Resident(ends_at_logout=True),
        f.Resident(cpu_s=1800),
        f.Resident(memory_bytes=200 << 20),
    ):
        assert levels(judging.resident(its)) == ["warning"]


def test_the_same_findings_of_nodes_are_one() -> None:
    joined = [*judging.merged({"n1": [ok("a"), ok("b")], "n2": [ok("a")]})]
    assert joined == [(("n1", "n2"), ok("a")), (("n1",), ok("b"))]


# --- gathering -----------------------------------------------------------------------------------

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:40 / /home rw,nosuid - nfs4 server:/home rw,vers=4.2,soft
31 22 0:41 / /my\040work rw - lustre mds@o2ib:/work rw,localflock
32 22 0:42 / /home rw - lustre mds@o2ib:/home rw,flock
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/site", "lustre"),
        ("/homes", "ext4"),
        ("/my work/x", "lustre"),
        ("/", "ext4"),
    ],
)
def test_the_mount_of_a_path(path: str, kind: str) -> None:
    mount = gathering.find_mount(MOUNTS, path)
    assert mount is not None and mount.kind == kind


def test_options_of_mount_and_file_system() -> None:
    mount = gathering.find_mount(MOUNTS, "/my work")
    assert mount is not None and mount.options == ("rw", "localflock")


@given(st.text())
def test_any_text_of_mounts_is_read(text: str) -> None:
    gathering.find_mount(text, "/home")
    gathering.parse_quota(text)


QUOTA = """Disk quotas for user me (uid 1000):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
      /dev/sda1   2048*   1024    4096       0      10       0       0       0
"""
LFS = "          /work  1048576       0 2097152       -   1000      0   5000       -\n"


def test_quotas() -> None:
    assert gathering.parse_quota(QUOTA) == [f.Quota(unit="MiB", used=2, limit=1)]
    assert gathering.parse_quota(LFS) == [
        f.Quota(unit="MiB", used=1024, limit=2048),
        f.Quota(unit="files", used=1000, limit=5000),
    ]
    assert gathering.parse_quota("") == []


def test_locks_are_tried_by_two_processes(tmp_path: Path) -> None:
    assert gathering.locks_here(tmp_path) == f.Locks(flock="held", fcntl="held")
    assert list(tmp_path.iterdir()) == []


def test_locks_that_nobody_holds_are_not_seen(tmp_path: Path) -> None:
    gathering.HeldLocks(tmp_path / "lock").close()
    assert gathering.try_locks(tmp_path / "lock") == f.Locks(flock="not seen", fcntl="not seen")


def test_operations_leave_nothing(tmp_path: Path) -> None:
    its = gathering.operations(tmp_path)
    assert not its.errors and its.sync_s > 0
    assert abs(gathering.clock(tmp_path).ahead_s) < 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_connection_tells_the_time() -> None:
    server = gathering.TimeServer("127.0.0.1")
    try:
        its = gathering.reach("127.0.0.1", server.port)
    finally:
        server.close()
    assert its.error == "" and its.resolved == ("127.0.0.1",)
    assert its.ahead_s is not None and abs(its.ahead_s) < 1.0


def test_what_cannot_be_reached_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "refused" in gathering.reach("127.0.0.1", port).error
    assert "not known" in gathering.reach("nowhere.invalid", port).error


# --- time limits ---------------------------------------------------------------------------------


def check(gather: object, limit_s: float = 5.0) -> Check[int]:
    return Check("x", int, gather, lambda _: (), limit_s)  # type: ignore[arg-type]  # of any


def test_facts_come_from_another_process() -> None:
    assert gathered(check(os.getpid)) not in (0, os.getpid())


def test_what_hangs_is_given_up_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def hang() -> int:
        os.system(f"sleep 600 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}")
        signal.pause()
        return 0

    begun = time.monotonic()
    with pytest.raises(NotGathered, match="no answer within 1 s"):
        gathered(check(hang, 1.0))
    assert time.monotonic() - begun < 20.0
    pid = int(pid_file.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), 10.0, "sleep to end")


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_what_fails_says_why() -> None:
    def fail() -> int:
        raise OSError(5, "Input/output error")

    with pytest.raises(NotGathered, match="Input/output error"):
        gathered(check(fail))


def test_what_dies_is_told() -> None:
    with pytest.raises(NotGathered, match="died"):
        gathered(check(lambda: os._exit(3)))


def test_a_site_whose_file_system_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "OPEN_S", 0.5)

    def hang() -> Site:
        signal.pause()
        raise AssertionError

    with pytest.raises(SiteError, match="does its file system answer"):
        opening.open_in_time(hang)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PILOT_SITE", raising=False)
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    # What takes long is tried in other tests.
    monkeypatch.setattr(trials, "mpi_here", lambda _: f.Mpi(mpi4py="4.1", way="srun"))
    return tmp_path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments], prog_name="pilot")


def test_a_local_site_is_well(home: Path) -> None:
    result = doctor("--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert data["problems"] == 0
    names = [finding["check"] for finding in data["findings"]]
    site = create_site(home / "local", "local", exist_ok=True)
    assert list(dict.fromkeys(names)) == [
        each.name for each in checks_here(site, gathering.python(), False)
    ]


def test_a_problem_is_told_with_what_to_do_and_ends_with_1(home: Path) -> None:
    site = create_site(home / "local", "local")
    file = site.directory / "site.yaml"
    file.write_text(file.read_text() + "\nenvironment:\n  setup: |\n    echo no module; exit 3\n")
    result = doctor()
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if "no module" in line)
    assert line.startswith("problem  job script")
    assert "-> check environment.setup" in result.stdout
    assert "1 problem," in result.stdout


def test_a_check_that_fails_itself_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> f.Space:
        raise OSError(121, "Remote I/O error")

    monkeypatch.setattr(gathering, "space", fail)
    data = json.loads(doctor("--json").stdout)
    (space,) = (each for each in data["findings"] if each["check"] == "space")
    assert space["level"] == "warning"
    assert "could not be checked: OSError: [Errno 121] Remote I/O error" in space["found"]


@pytest.mark.parametrize(
    "arguments", [["main"], ["--job", "nosuch"], ["--job", "--deadline", "soon"]]
)
def test_wrong_command_lines(home: Path, arguments: list[str]) -> None:
    assert doctor(*arguments).exit_code == 2


def test_levels_are_told_by_words() -> None:
    assert [level.value for level in Level] == ["ok", "warning", "problem"]
    assert problem("a", "b") == Finding(Level.PROBLEM, "a", "b")
