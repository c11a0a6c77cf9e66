"""What forms MPI worlds at a site: what is tried, in which order, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.waiting import wait_until

from pilot.agent import mpi_choice as c
from pilot.agent.mpi_choice import Choice, MpiChoice, run_for, try_out
from pilot.scheduler.batch import MpiWay, find_kind
from pilot.scheduler.batch.slurm import kinds_of_mpi

SLURM = find_kind("slurm")

OLD = "srun: MPI types are...\nsrun: cray_shasta\nsrun: none\nsrun: pmi2\nsrun: pmix\n"
NEW = """MPI plugin types are...
\tnone
\tpmi2
\tpmix
specific pmix plugin versions available: pmix_v4,pmix_v5
"""


@pytest.mark.parametrize(
    ("listed", "kinds"),
    [
        (OLD, ["pmix", "pmi2", "cray_shasta"]),
        (NEW, ["pmix", "pmi2"]),
        ("", []),
        ("srun: error: Unable to contact\n", []),
        ("srun: openmpi\nsrun: none\n", []),
    ],
)
def test_what_slurm_names_is_tried(listed: str, kinds: list[str]) -> None:
    assert kinds_of_mpi(listed) == kinds
    options = [(), *((f"--mpi={kind}",) for kind in kinds)]
    wanted = [*(MpiWay("srun", each) for each in options), MpiWay("mpiexec")]
    assert SLURM.mpi_ways(listed) == wanted


class Slurm:
    """Ranks find each other where they are started with this option."""

    def __init__(self, forms: str) -> None:
        self.forms = forms
        self.started: list[Sequence[str]] = []

    def run(
        self, argv: Sequence[str], variables: Mapping[str, str], limit_s: float
    ) -> tuple[int, str]:
        if "--mpi=list" in argv:
            return 0, NEW
        self.started.append(argv)
        size = 2 if self.forms in argv else 1
        return 0, f"this is an MPI world of {size}\n" * 2


def test_the_first_that_forms_a_world_is_taken() -> None:
    slurm = Slurm("--mpi=pmi2")
    found = try_out(SLURM, "n1", {}, slurm.run)
    assert found.choice == Choice("srun", ("--mpi=pmi2",))
    assert len(slurm.started) == 3
    assert found.failures[0] == "srun: each rank was a world of its own"


def test_all_that_failed_is_told() -> None:
    def run(*_: object) -> tuple[int, str]:
        return 1, "srun: error: no\n"

    found = try_out(SLURM, "n1", {}, run)
    assert found.choice is None
    assert found.failures[0] == "srun: exit status 1 (srun: error: no)"


def test_a_choice_is_remembered_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = Slurm("--mpi=pmix")
    monkeypatch.setattr(c, "run_for", slurm.run)
    path = tmp_path / "mpi.json"
    first = MpiChoice(path, SLURM, "n1", {})
    assert first.found is None
    first.start()
    wait_until(lambda: first.found is not None, 20.0, "the trials to end")
    again = MpiChoice(path, SLURM, "n1", {})
    assert again.found is not None and str(again.found.choice) == "srun --mpi=pmix"
    assert MpiChoice(path, SLURM, "n1", {"MPI4PY_LIBMPI": "other"}).found is None
    path.write_text("{")
    assert MpiChoice(path, SLURM, "n1", {}).found is None
    again.forget()
    assert again.found is None and not path.exists()


def test_a_trial_that_hangs_is_ended() -> None:
    status, output = run_for(("sh", "-c", "echo begun; exec sleep 300"), {}, 0.5)
    assert status == 124 and "begun" in output and "no answer within 0.5 s" in output
    assert run_for(("/no/such/program",), {}, 1.0)[0] == 127
