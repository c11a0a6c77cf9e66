"""Job scripts on a local site: what their directives ask for, and what they find."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.sites import SiteUnderTest
from support.waiting import wait_until

from pilot.cli import cli
from pilot.client.task import OptionError
from pilot.errors import SubmissionError

DEADLINE_S = 60.0

Submit = Callable[..., Result]


@pytest.fixture(scope="module")
def cores() -> int:
    return 4


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def submit(shared_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Submit:
    """Submit a script of these lines, and wait for it; in a directory of the test's own."""
    for name in ("PILOT_SITE", "PILOT_DEBUG", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(script: str, *options: str, args: tuple[str, ...] = (), code: int = 0) -> Result:
        Path("job.sh").write_text(f"#!/bin/bash\n{script}\n")
        words = ["submit", "--wait", *options, "job.sh", *args]
        result = CliRunner().invoke(cli, words, prog_name="pilot")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def only(pattern: str) -> Path:
    (found,) = Path.cwd().glob(pattern)
    return found


def test_a_script_is_taken_as_sbatch_takes_it(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "a b")
    result = submit(
        """
#SBATCH --job-name=greeting -n 2
#SBATCH --mail-user=me
#SBATCH --output=%x-%j.out
echo "$0 $1 $FROM_HERE $SLURM_JOB_NAME $SLURM_NTASKS ${SLURM_CPUS_PER_TASK:-none}"
echo "$SLURM_SUBMIT_DIR $PWD $PILOT_SITE"
nproc
echo wrong >&2
""",
        args=("x y",),
    )
    assert "job.sh: line 4: --mail-user=me is ignored" in result.stderr
    output = only("greeting-1*.out")
    first, second, cores, wrong = output.read_text().splitlines()
    assert first.split("/script ")[1] == "x y a b greeting 2 none"
    assert second.split()[:2] == [str(Path.cwd())] * 2
    assert (cores, wrong) == ("2", "wrong")
    # Where the output is in a file, whoever waits sees it all the same.
    assert "wrong" in result.stdout


def test_the_default_output_is_that_of_sbatch_and_the_status_is_passed_on(submit: Submit) -> None:
    submit("#SBATCH -n 1\ncat <<END\n$SLURM_JOB_ID\nEND\nexit 3", code=3)
    output = only("slurm-*.out")
    assert output.name == f"slurm-{output.read_text().strip()}.out"


def test_an_array_knows_its_indices_and_keeps_its_limit(submit: Submit) -> None:
    submit(
        """
#SBATCH --array=1-7:2%1 --output=out-%a
mkdir busy || exit 1
echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT to $SLURM_ARRAY_TASK_MAX
rmdir busy
"""
    )
    found = {path.name: path.read_text() for path in Path.cwd().glob("out-*")}
    assert found == {f"out-{n}": f"{n} of 4 to 7\n" for n in (1, 3, 5, 7)}


def test_scripts_wait_for_others(submit: Submit, shared_site: SiteUnderTest) -> None:
    submit("#SBATCH --array=1-2 -o %a.first\ntouch made-$SLURM_ARRAY_TASK_ID")
    session = shared_site.query("sessions", limit=1)[0]["id"]
    submit("#SBATCH -n 1\nls made-1 made-2", "--directive", f"--dependency=afterok:{session}")
    element = f"--directive=-daftercorr:{session}"
    submit("#SBATCH --array=2 -o x\nls made-$SLURM_ARRAY_TASK_ID", element)
    bad = submit("#SBATCH -n 1\nexit 1", code=1)
    assert bad.exit_code == 1
    failed = shared_site.query("tasks", sort="newest", limit=1)[0]["id"]
    told = submit("#SBATCH -n 1\ntrue", f"--directive=-dafterok:{failed}", code=8)
    assert f"its input, task {failed} (job.sh), is FAILED" in told.output
    submit("#SBATCH -n 1\ntrue", f"--directive=-d afterany:{failed}")


def test_steps_have_ranks_and_cores_of_their_own(submit: Submit) -> None:
    submit(
        """
#SBATCH -n 2 -c 2 -o steps.out
srun sh -c 'echo $SLURM_PROCID/$SLURM_NTASKS $SLURM_STEP_ID' | sort
srun -n1 -c1 python3 -c 'import os; print(len(os.sched_getaffinity(0)))'
srun -n 2 -c 1 -l echo hello | sort
srun -n 9 true || echo refused
srun -n 1 sh -c 'exit 7'; echo $?
for n in 1 2 3; do srun -n1 -c4 sh -c "mkdir busy && rmdir busy" || echo met & done; wait
srun -n 2 -o rank-%t.txt hostname
scontrol show hostnames | wc -l
"""
    )
    lines = Path("steps.out").read_text().splitlines()
    cores = min(1, len(os.sched_getaffinity(0)))
    assert lines[:5] == ["0/2 0", "1/2 0", lines[2], "0: hello", "1: hello"]
    assert int(lines[2]) >= cores
    assert [line for line in lines[5:] if "srun" not in line] == ["refused", "7", "1"]
    assert sorted(path.name for path in Path.cwd().glob("rank-*")) == ["rank-0.txt", "rank-1.txt"]


def test_signals_and_traps(submit: Submit) -> None:
    submit(
        """
#SBATCH --signal=B:USR1@59 --time=1 -o trapped
trap 'echo saved; exit 0' USR1
echo begun
while :; do sleep 0.1; done
"""
    )
    assert Path("trapped").read_text() == "begun\nsaved\n"


def test_a_login_shell_finds_srun_and_the_end_leaves_nothing(submit: Submit) -> None:
    Path("login.sh").write_text("")
    submit("#SBATCH -o place\necho $PILOT_SCRIPT; command -v srun")
    place, srun = Path("place").read_text().split()
    assert srun == f"{place}/bin/srun"
    wait_until(lambda: not Path(place).exists(), DEADLINE_S, "the script's directory to go")
    path = Path("job.sh")
    script = "#!/bin/bash -l\n#SBATCH -o login\nPATH=$PATH; command -v srun; echo ${0##*/} $1\n"
    path.write_text(script)
    result = CliRunner().invoke(cli, ["submit", "--wait", "job.sh", "arg"], prog_name="pilot")
    assert result.exit_code == 0, result.output
    lines = Path("login").read_text().splitlines()
    assert lines[0].endswith("/bin/srun") and lines[1] == "script arg"


def test_a_program_submits_scripts(
    shared_site: SiteUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "job.sh"
    asks = "#SBATCH -n 1 -o %x-%a.out"
    script.write_text(f"#!/bin/sh\n{asks} --mail-user=me\necho $1 $MINE $SLURM_NTASKS\n")
    with shared_site.session() as session:
        with pytest.warns(UserWarning, match=r"line 2: --mail-user=me is ignored"):
            (done,) = session.submit_script(script, "word", env={"MINE": "x"}, name="one")
        assert done.result(60.0).returncode == 0
        assert only("one-*.out").read_text() == "word x 1\n"
        script.write_text(f"#!/bin/sh\n{asks}\necho $1 $SLURM_NTASKS\n")
        several = session.submit_script(
            script, "b", array="0-4:2", directives=["-o many-%a.out"], retries=1
        )
        assert [future.result(60.0).returncode for future in several] == [0, 0, 0]
        assert sorted(path.name for path in tmp_path.glob("many-*")) == [
            f"many-{n}.out" for n in (0, 2, 4)
        ]
        (after,) = session.submit_script(
            script, directives=[f"--dependency=afterok:{done.task_id}", "--output=c"]
        )
        assert after.result(60.0).returncode == 0
        with pytest.raises(OptionError, match="array: 'x': write numbers"):
            session.submit_script(script, array="x")
        with pytest.raises(OptionError, match="given beside it: --nodes=x: give"):
            session.submit_script(script, directives=["--nodes=x"])
        with pytest.raises(OptionError, match="none is no job script: that is a file"):
            session.submit_script(tmp_path / "none")
        with pytest.raises(SubmissionError, match="a job script does not run in a container"):
            session.submit_script(script, container="/images/a")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("#SBATCH --nodes=x", "job.sh: line 2: --nodes=x: give a number of nodes"),
        ("#SBATCH -o none/there.out", "directory of its output"),
        ("#SBATCH --dependency=afterok:999999.1", ""),
    ],
)
def test_what_cannot_be_done_is_told(submit: Submit, script: str, told: str) -> None:
    Path("job.sh").write_text(f"#!/bin/bash\n{script}\n")
    result = CliRunner().invoke(cli, ["submit", "--wait", "job.sh"], prog_name="pilot")
    assert result.exit_code != 0
    assert told in result.output + str(result.exception)


def test_an_mpirun_has_all_cores_of_the_script(submit: Submit) -> None:
    """MPICH's starts its daemon by srun where it finds itself in a job of Slurm."""
    daemon = Path("hydra_pmi_proxy")
    daemon.write_text("#!/bin/sh\nnproc\necho ${OMP_NUM_THREADS:-unset}\n")
    daemon.chmod(0o755)
    submit("#SBATCH -n 2 -o out\nnproc\nsrun -N 1 -n 1 ./hydra_pmi_proxy")
    here, there, threads = Path("out").read_text().split()
    assert (there, threads) == (here, "unset")


def test_logs_show_files_while_they_grow(submit: Submit, shared_site: SiteUnderTest) -> None:
    Path("job.sh").write_text(
        "#!/bin/bash\n#SBATCH -n 1 -o grows-%N\necho begun\n"
        "until [ -e go ]; do sleep 0.05; done\necho ended\n"
    )
    task = CliRunner().invoke(cli, ["submit", "job.sh"], prog_name="pilot").stdout.strip()

    def logs(*options: str) -> str:
        return CliRunner().invoke(cli, ["task", "logs", *options, task], prog_name="pilot").stdout

    # With a heading, where the task's executor has a log as well.
    wait_until(lambda: logs().endswith("begun\n"), DEADLINE_S, "the first line")
    Path("go").touch()
    assert logs("--follow").endswith("begun\nended\n")


def test_show_tells_what_a_script_was(submit: Submit, shared_site: SiteUnderTest) -> None:
    submit("#SBATCH --job-name=shown -o shown.out\ntrue", args=("a b",))
    task = shared_site.query("tasks", sort="newest", limit=1)[0]["id"]
    result = CliRunner().invoke(cli, ["task", "show", task, "--json"], prog_name="pilot")
    shown = json.loads(result.stdout)
    assert shown["name"] == "shown"
    assert "job.sh 'a b'" in json.dumps(shown)
