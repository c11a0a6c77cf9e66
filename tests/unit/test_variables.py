"""The variables that tell a task's process what it has."""

from __future__ import annotations

import pytest

from pilot.variables import process_variables, task_variables, thread_defaults

ALL = {
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "JULIA_NUM_THREADS",
}
#: Those that do not take OpenMP's number for theirs.
OWN = {"VECLIB_MAXIMUM_NUM_THREADS", "NUMBA_NUM_THREADS", "JULIA_NUM_THREADS"}


def test_libraries_use_as_many_threads_as_there_are_cores() -> None:
    assert thread_defaults({"PATH": "/bin"}, 3) == dict.fromkeys(ALL, "3")


@pytest.mark.parametrize("name", sorted(ALL - {"OMP_NUM_THREADS"}))
def test_a_number_that_is_set_by_hand_is_left_alone(name: str) -> None:
    assert thread_defaults({name: "1"}, 3) == dict.fromkeys(ALL - {name}, "3")


def test_openmps_number_counts_for_the_libraries_that_take_it_for_theirs() -> None:
    assert thread_defaults({"OMP_NUM_THREADS": "1"}, 3) == dict.fromkeys(OWN, "3")
    assert thread_defaults({"OMP_NUM_THREADS": "", "NUMBA_NUM_THREADS": "2"}, 3) == dict.fromkeys(
        OWN - {"NUMBA_NUM_THREADS"}, "3"
    )


def test_a_second_look_changes_nothing() -> None:
    environment = {"MKL_NUM_THREADS": "1"}
    environment |= thread_defaults(environment, 2)
    assert thread_defaults(environment, 4) == {}


def test_a_process_knows_its_cores_and_a_command_its_task() -> None:
    assert process_variables(2) == {"PILOT_CORES": "2", "PILOT_RANK": "0", "PILOT_RANKS": "1"}
    assert process_variables(1, 3, 4)["PILOT_RANK"] == "3"
    assert task_variables("3.17", 2) == {"PILOT_TASK_ID": "3.17", "PILOT_ATTEMPT": "2"}
