"""Launchers: the command lines they build, which MPI they find, and one real world of two ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.launchers import (
    LAUNCHERS,
    NODE_LAUNCHERS,
    HostRanks,
    Launch,
    Launcher,
    Placement,
    get_launcher,
    node_worker,
)
from pilot.launchers.local import LocalLauncher
from pilot.launchers.mpirun import (
    FLAVOURS,
    INTEL,
    MPICH,
    OPENMPI,
    Flavour,
    MpirunLauncher,
    find_mpi,
    parse_version,
)
from pilot.launchers.srun import SHARING_STEPS, SrunLauncher

COMMAND = ("python", "-m", "world", "--name", "w 1")
VENV_BIN = str(Path(sys.executable).parent)

BANNERS = {
    "openmpi 4": ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/", OPENMPI),
    "openmpi 5": ("mpirun (Open MPI) 5.0.3\n\nReport bugs to https://www.open-mpi.org/", OPENMPI),
    "openmpi 3": ("mpiexec (OpenRTE) 3.1.6\n\nReport bugs to http://www.open-mpi.org/", OPENMPI),
    "mpich": ("HYDRA build details:\n    Version:        4.2.1\n    CC: gcc", MPICH),
    "intel": (
        "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307 (id: d82b3071db)\n"
        "Copyright 2003-2023, Intel Corporation.",
        INTEL,
    ),
    "slurm": ("slurm 22.05.8", None),
    "nothing": ("", None),
}


def placed(**ranks: int) -> Placement:
    return Placement(tuple(HostRanks(host, n) for host, n in ranks.items()))


def mpirun(flavour: str, *options: str, here: str = "login") -> MpirunLauncher:
    (facts,) = (f for f in FLAVOURS if f.name == flavour)
    return MpirunLauncher(facts, "/opt/mpi/bin/mpiexec", options, SHARING_STEPS, here)


ALL: list[Launcher] = [LocalLauncher(), SrunLauncher(), *(mpirun(f.name) for f in FLAVOURS)]
PARALLEL = [launcher for launcher in ALL if launcher.name != "local"]
by_name = pytest.mark.parametrize("launcher", PARALLEL, ids=lambda launcher: launcher.name)

placements = st.dictionaries(
    st.from_regex(r"node[0-9]{1,4}", fullmatch=True), st.integers(1, 9), min_size=1, max_size=12
).map(lambda ranks: placed(**ranks))


# -- placements ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ((), "at least one host"),
        ((HostRanks("a", 1), HostRanks("a", 2)), "only one share"),
        ((HostRanks("a", 0),), "host a gets 0 ranks"),
    ],
)
def test_an_impossible_placement_is_refused(hosts: tuple[HostRanks, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement(hosts)


def test_a_host_is_the_same_with_and_without_its_domain() -> None:
    assert placed(n1=2).is_on("n1.cluster.example")
    assert Placement((HostRanks("n1.cluster.example", 1),)).is_on("n1")
    assert Placement((HostRanks("localhost", 1),)).is_on("anything")
    assert not placed(n1=1, n2=1).is_on("n1")
    assert not Placement((HostRanks("10.0.0.1", 1),)).is_on("10.0.0.2")


# -- what holds for every launcher -----------------------------------------------------------------


def layout(launcher: Launcher, argv: tuple[str, ...]) -> Counter[str]:
    """Read back from a command line how many ranks each host gets."""
    if launcher.name == "srun":
        options = dict(word.split("=", 1) for word in argv if word.startswith("--") and "=" in word)
        hosts = options["--nodelist"].split(",")
        if options["--distribution"] == "block":
            assert int(options["--nodes"]) == len(hosts)
            found = Counter({host: int(options["--ntasks-per-node"]) for host in hosts})
        else:
            assert "--nodes" not in options  # refused beside "arbitrary" by Slurm 24.05
            found = Counter(hosts)
        assert found.total() == int(options["--ntasks"])
        return found
    if launcher.name == "intel":
        found = Counter()
        for position in (i for i, word in enumerate(argv) if word == "-host"):
            host, option, ranks = argv[position + 1 : position + 4]
            assert option == "-n"
            found[host] += int(ranks)
        return found
    shares = argv[argv.index("-n") - 1].split(",")
    found = Counter({host: int(ranks) for host, ranks in (s.split(":") for s in shares)})
    assert found.total() == int(argv[argv.index("-n") + 1])
    return found


@by_name
@given(placement=placements)
def test_every_host_gets_its_ranks(launcher: Launcher, placement: Placement) -> None:
    launch = launcher.launch(COMMAND, placement, env={})
    found = layout(launcher, launch.argv)
    assert found == {share.host: share.ranks for share in placement.hosts}
    assert list(found) == list(placement.names)
    assert launch.argv[-len(COMMAND) :] == COMMAND


@pytest.mark.parametrize("launcher", ALL, ids=lambda launcher: launcher.name)
def test_values_of_variables_stay_out_of_the_command_line(launcher: Launcher) -> None:
    launch = launcher.launch(COMMAND, placed(n1=1), env={"PILOT_KEY": "s3cret"})
    assert launch.env["PILOT_KEY"] == "s3cret"
    assert not any("s3cret" in word for word in launch.argv)


@by_name
def test_the_callers_variables_win(launcher: Launcher) -> None:
    own = launcher.launch(COMMAND, placed(n1=1), env={}).env
    theirs = dict.fromkeys(own, "theirs")
    assert launcher.launch(COMMAND, placed(n1=1), env=theirs).env == theirs


@pytest.mark.parametrize("name", ["srun", *(f.name for f in FLAVOURS)])
def test_the_sites_options_come_after_the_launchers_own(name: str) -> None:
    launcher = SrunLauncher(("--site",)) if name == "srun" else mpirun(name, "--site")
    plain = SrunLauncher() if name == "srun" else mpirun(name)
    argv = list(launcher.launch(COMMAND, placed(n1=1), env={}).argv)
    before = argv.index("--site")
    argv.remove("--site")
    assert tuple(argv) == plain.launch(COMMAND, placed(n1=1), env={}).argv
    assert argv.index(COMMAND[0]) >= before
    assert not any(word.startswith(("--bind", "-bind", "--map-by")) for word in argv[before:])


# -- one by one ------------------------------------------------------------------------------------


def test_local_is_the_command_itself() -> None:
    launch = LocalLauncher().launch(COMMAND, placed(here=1), env={"A": "1"})
    assert launch == Launch(COMMAND, {"A": "1"})


def test_local_refuses_more_than_one_rank() -> None:
    with pytest.raises(ValueError, match="starts one process, not 2 ranks"):
        LocalLauncher().launch(COMMAND, placed(here=2), env={})


def srun_options(placement: Placement, *options: str) -> list[str]:
    argv = SrunLauncher(options).launch(COMMAND, placement, env={}).argv
    return list(argv[argv.index("srun") + 1 : -len(COMMAND)])


def test_srun_shares_the_nodes_with_other_steps_and_does_not_bind() -> None:
    options = srun_options(placed(n1=2, n2=2), "--mpi=pmix")
    assert options == [
        "--overlap",
        "--mem=0",
        "--cpu-bind=none",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=1",
        "--ntasks=4",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--nodelist=n1,n2",
        "--distribution=block",
        "--mpi=pmix",
    ]


def test_srun_lays_unequal_shares_out_in_the_order_of_ranks() -> None:
    options = srun_options(placed(n2=2, n1=1))
    assert options[-3:] == ["--ntasks=3", "--nodelist=n2,n2,n1", "--distribution=arbitrary"]


def test_srun_of_a_large_world_stays_far_below_the_longest_argument() -> None:
    options = srun_options(placed(**{f"node{i:05d}": 128 for i in range(1000)}))
    assert max(map(len, options)) < 16_384


def test_srun_overcommits_only_where_ranks_share_cores() -> None:
    roomy = Placement((HostRanks("n1", 2, (0, 1)), HostRanks("n2", 2)))
    tight = Placement((HostRanks("n1", 2, (0, 1)), HostRanks("n2", 2, (3,))))
    assert "--overcommit" not in srun_options(roomy)
    assert "--overcommit" in srun_options(tight)


@pytest.mark.parametrize("launch", [
    SrunLauncher().launch(("env",), placed(n1=1), env={}),
    node_worker("srun", "n1", ("env",)),
], ids=["ranks", "node worker"])  # fmt: skip
def test_srun_does_not_see_the_options_of_the_surrounding_job(
    launch: Launch, tmp_path: Path
) -> None:
    # A stand-in for srun which shows the environment that the real one would read options from.
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\nexec env\n")
    srun.chmod(0o755)
    job = {"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_CPU": "100", "SLURM_JOB_ID": "7"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    seen = subprocess.run(
        launch.argv, env={"PATH": path, **job}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "SLURM_JOB_ID=7" in seen
    assert not any(line.startswith(("SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU")) for line in seen)


def test_open_mpi_forwards_variables_by_name() -> None:
    launch = mpirun("openmpi").launch(COMMAND, placed(n1=2, n2=1), env={"A": "1"})
    assert launch.argv == (
        *SHARING_STEPS,
        "/opt/mpi/bin/mpiexec", "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none",
        "-x", "MPI4PY_LIBMPI", "-x", "A", "--host", "n1:2,n2:1", "-n", "3", *COMMAND,
    )  # fmt: skip
    assert launch.env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"


def test_mpich_forks_where_all_ranks_are_here_and_only_there() -> None:
    here = mpirun("mpich", here="n1").launch(COMMAND, placed(n1=2), env={}).argv
    there = mpirun("mpich", here="n1").launch(COMMAND, placed(n1=2, n2=2), env={}).argv
    assert here == (
        "/opt/mpi/bin/mpiexec", "-launcher", "fork",
        "-hosts", "n1:2", "-n", "2", *COMMAND,
    )  # fmt: skip
    assert "fork" not in there


def test_intel_gets_one_argument_set_per_host() -> None:
    launch = mpirun("intel").launch(COMMAND, placed(n1=2, n2=1), env={})
    assert launch.argv == (
        *SHARING_STEPS, "/opt/mpi/bin/mpiexec", "-genvall",
        "-host", "n1", "-n", "2", *COMMAND, ":", "-host", "n2", "-n", "1", *COMMAND,
    )  # fmt: skip
    assert launch.env["I_MPI_PIN"] == "0"


@pytest.mark.parametrize("flavour", [f.name for f in FLAVOURS])
def test_daemons_on_other_hosts_share_their_nodes_with_other_steps(flavour: str) -> None:
    launcher = mpirun(flavour, here="n1")
    here = launcher.launch(COMMAND, placed(n1=2), env={}).argv
    there = launcher.launch(COMMAND, placed(n2=2), env={}).argv
    assert here[0] == "/opt/mpi/bin/mpiexec"
    assert there[: there.index("/opt/mpi/bin/mpiexec")] == SHARING_STEPS
    assert {"SLURM_OVERLAP=1", "SLURM_MPI_TYPE=none"} <= set(SHARING_STEPS)


# -- which MPI mpi4py loads ------------------------------------------------------------------------


def test_ranks_load_the_library_that_belongs_to_the_launcher() -> None:
    env = mpirun("openmpi").launch(COMMAND, placed(n1=1), env={}).env
    assert env["MPI4PY_LIBMPI"].split(os.pathsep) == [
        "/opt/mpi/lib/libmpi.so.40",
        "/opt/mpi/lib64/libmpi.so.40",
        "libmpi.so.40",
    ]


@pytest.mark.parametrize("name", ["MPI4PY_LIBMPI", "MPI4PY_MPIABI"])
def test_a_choice_of_the_site_is_left_alone(name: str) -> None:
    env = mpirun("mpich").launch(COMMAND, placed(n1=1), env={name: "x"}).env
    assert {key: env[key] for key in env if key.startswith("MPI4PY")} == {name: "x"}


# -- finding an MPI --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "flavour"), BANNERS.values(), ids=BANNERS)
def test_an_mpi_is_known_by_what_it_says_of_itself(text: str, flavour: object) -> None:
    assert parse_version(text) is flavour


class Machine:
    """A machine on which these programs are installed, each saying its banner."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
        self.programs = {
            (VENV_BIN if place.startswith("venv") else "/usr/bin", place.split("_", 1)[1]): banner
            for place, banner in programs.items()
        }
        monkeypatch.setenv("PATH", f"{VENV_BIN}:/usr/bin")

    def which(self, name: str, *, path: str) -> str | None:
        return f"{path}/{name}" if (path, name) in self.programs else None

    def run(self, argv: Sequence[str]) -> str:
        program, option = argv
        assert option == "--version"
        directory, _, name = program.rpartition("/")
        banner = self.programs[directory, name]
        if banner == "hangs":
            raise subprocess.TimeoutExpired(argv, 1)
        if banner == "broken":
            raise OSError("Exec format error")
        return BANNERS[banner][0]

    def find(self, wanted: str = "") -> tuple[str, str]:
        flavour, program = find_mpi(wanted, which=self.which, run=self.run)
        return flavour.name, program


def test_the_virtual_environments_mpi_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, usr_mpirun="openmpi 4", venv_mpiexec="mpich")
    assert machine.find() == ("mpich", f"{VENV_BIN}/mpiexec")


def test_an_mpi_asked_for_by_name_is_found_behind_another(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, usr_mpirun="openmpi 4", venv_mpiexec="mpich")
    assert machine.find("openmpi") == ("openmpi", "/usr/bin/mpirun")


def test_programs_that_hang_or_break_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(
        monkeypatch, venv_mpiexec="hangs", venv_mpirun="broken", usr_mpiexec="slurm",
        usr_mpirun="intel",
    )  # fmt: skip
    assert machine.find() == ("intel", "/usr/bin/mpirun")


def test_no_mpi_is_an_error_that_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Machine(monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"any known MPI.*pip install 'pilot-hpc\[mpi\]'"):
        nothing.find()
    other = Machine(monkeypatch, usr_mpiexec="mpich")
    with pytest.raises(FileNotFoundError, match=r"mpiexec of openmpi.*/usr/bin/mpiexec \(mpich\)"):
        other.find("openmpi")


# -- by name ---------------------------------------------------------------------------------------


def test_launchers_come_by_name() -> None:
    assert get_launcher("local") == LocalLauncher()
    assert get_launcher("srun", ["--mpi=pmix"]) == SrunLauncher(("--mpi=pmix",))


def test_an_unknown_launcher_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown launcher 'jsrun'; known are") as caught:
        get_launcher("jsrun")
    assert all(name in str(caught.value) for name in LAUNCHERS)


def test_local_refuses_options_that_it_would_ignore() -> None:
    with pytest.raises(ValueError, match=r"'local' takes no options, but got --mpi=pmix"):
        get_launcher("local", ["--mpi=pmix"])


# -- node workers ----------------------------------------------------------------------------------


def test_a_local_node_worker_is_the_command_itself() -> None:
    assert node_worker("local", "n1", COMMAND) == Launch(COMMAND, {})


def test_a_node_worker_on_slurm_is_a_step_of_its_own_over_the_whole_node() -> None:
    argv = node_worker("srun", "n3", COMMAND, ["--site"]).argv
    options = argv[argv.index("srun") + 1 : -len(COMMAND)]
    assert argv[-len(COMMAND) :] == COMMAND
    assert {"--nodes=1", "--ntasks=1", "--nodelist=n3", "--overlap", "--mem=0"} <= set(options)
    assert not any(option.startswith("--cpus-per-task") for option in options)
    assert options[-1] == "--site"


def test_an_unknown_kind_of_node_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown node launcher 'ssh'; known are local, srun"):
        node_worker("ssh", "n1", COMMAND)
    assert NODE_LAUNCHERS == ("local", "srun")


# -- for real --------------------------------------------------------------------------------------

HELLO = """
from mpi4py import MPI
import os
world = MPI.COMM_WORLD
ranks = world.gather((world.rank, world.size, os.environ["GREETING"]))
if world.rank == 0:
    print(ranks)
"""


@pytest.mark.parametrize("host", [socket.gethostname(), "localhost"])
def test_a_world_of_two_ranks_on_this_host(host: str) -> None:
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")
    try:
        launcher = get_launcher("auto")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    launch = launcher.launch(
        (sys.executable, "-c", HELLO),
        Placement((HostRanks(host, 2),)),
        env={"GREETING": "a b,c"},
    )
    done = subprocess.run(
        launch.argv,
        env={**os.environ, **launch.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([(0, 2, "a b,c"), (1, 2, "a b,c")])


@pytest.mark.parametrize("flavour", [MPICH, INTEL], ids=lambda flavour: str(flavour.name))
def test_daemons_of_hydra_start_through_the_batch_system_on_several_hosts_alone(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's and Intel's would take ssh, which compute nodes need not have."""
    monkeypatch.setattr("pilot.launchers.find_mpi", lambda _: (flavour, "/opt/mpi/bin/mpiexec"))
    two = Placement((HostRanks("n1", 1), HostRanks("n2", 1)))
    here = Placement((HostRanks("localhost", 2),))
    by_srun, local = (get_launcher(flavour.name, (), node) for node in ("srun", "local"))
    assert " -launcher slurm " in " ".join(by_srun.launch(["x"], two, env={}).argv)
    assert " -launcher slurm " not in " ".join(by_srun.launch(["x"], here, env={}).argv)
    assert "-launcher" not in local.launch(["x"], two, env={}).argv
