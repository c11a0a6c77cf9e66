"""The variables of a program that its tasks see, in place of those of the head's starter."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pilot.inherited import GIVEN, carried, changes, digests, frames
from pilot.limits import VALUE_BYTES, VARIABLES_BYTES

HEAD = {
    "A": "head",
    "ONLY_HEAD": "1",
    "PATH": "/head/bin:/bin",
    "LIBS": "/head/lib",
    "HOME": "/home/me",
    "PILOT_HOME": "/home/me/.pilot",
}


def seen(job: Mapping[str, str | None], program: Mapping[str, str]) -> dict[str, str]:
    """What a task sees, where a site has changed the head's environment so (None: unset)."""
    environment = {name: text for name, text in {**HEAD, **job}.items() if text is not None}
    environment[GIVEN] = digests(HEAD)
    found: dict[str, str | None] = {
        **environment,
        **changes(environment, frames(environment), carried(program)),
    }
    found.pop(GIVEN)
    return {name: text for name, text in found.items() if text is not None}


def test_what_came_from_the_head_is_the_programs_or_goes() -> None:
    program = {"A": "program", "NEW": "2", "PATH": "/my/bin:/bin", "HOME": "/elsewhere"}
    assert seen({}, program) == {
        "A": "program",
        "NEW": "2",
        "PATH": "/my/bin:/bin",
        "HOME": "/home/me",
        "PILOT_HOME": "/home/me/.pilot",
    }


def test_what_the_site_or_the_batch_system_has_set_stays() -> None:
    program = {"A": "program", "SLURM_JOB_ID": "1", "MODULES": "mine", "B": "program"}
    job = {"A": "site", "SLURM_JOB_ID": "17", "MODULES": "its", "B": ""}
    found = seen(job, program)
    assert {name: found[name] for name in job} == job
    assert "B" not in seen({}, {}) and seen({}, program)["B"] == "program"


def test_what_the_site_has_removed_stays_away() -> None:
    assert "A" not in seen({"A": None}, {"A": "program"})


@pytest.mark.parametrize(
    ("job", "program", "told"),
    [
        ("/module/bin:/head/bin:/bin", "/my:/bin", "/module/bin:/my:/bin"),
        ("/head/bin:/bin:/late", "/my:/bin", "/my:/bin:/late"),
        ("/a:/b:/head/bin:/bin:/late", "/my", "/a:/b:/my:/late"),
        ("/module/bin:/head/bin:/bin", None, "/module/bin"),
        ("/head/bin:/bin:/late", None, "/late"),
        ("/a:/head/bin:/bin:/late", None, "/a:/late"),
        ("/module/bin", "/my", "/module/bin"),  # the site has made it anew
        ("/bin:/head/bin", "/my", "/bin:/head/bin"),  # and here in another order
    ],
)
def test_in_a_list_the_programs_part_takes_the_place_of_the_heads(
    job: str, program: str | None, told: str
) -> None:
    its = {} if program is None else {"PATH": program}
    assert seen({"PATH": job}, its)["PATH"] == told


def test_a_second_look_in_a_copy_changes_nothing() -> None:
    """An executor that is forked from a template of its session."""
    environment = {**HEAD, "PATH": "/module:/head/bin:/bin", GIVEN: digests(HEAD)}
    around = frames(environment)
    program = {"PATH": "/my", "NEW": "1"}

    def entered(before: dict[str, str]) -> dict[str, str]:
        after = {**before, **changes(before, around, program)}
        return {name: text for name, text in after.items() if text is not None}

    once = entered(environment)
    assert entered(once) == once


def test_variables_of_a_place_a_job_or_a_rank_do_not_travel() -> None:
    program = {
        **dict.fromkeys(("HOME", "TMPDIR", "DISPLAY", "SSH_TTY", "XDG_RUNTIME_DIR"), "x"),
        **dict.fromkeys(("SLURM_JOB_ID", "PMI_RANK", "OMPI_MCA_btl", "PILOT_SITE"), "x"),
        **dict.fromkeys(("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "0"),
        "MINE": "1",
        "BASH_FUNC_module%%": "() { :; }",
    }
    assert carried(program) == {"MINE": "1", "BASH_FUNC_module%%": "() { :; }"}
    assert carried({"OMPI_MCA_btl": "self"}) == {"OMPI_MCA_btl": "self"}  # it is no rank


def test_threads_that_pilot_has_set_do_not_travel() -> None:
    task = {"PILOT_CORES": "2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}
    assert carried(task) == {"MKL_NUM_THREADS": "1"}
    assert carried({"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2"}


def test_what_is_too_long_or_no_text_is_left_out() -> None:
    assert carried({"A": "x" * (VALUE_BYTES + 1), "B": "\udcff", "C": "1"}) == {"C": "1"}
    many = {f"V{number}": "x" * 10_000 for number in range(100)}
    found = carried(many)
    assert 0 < sum(map(len, found.values())) <= VARIABLES_BYTES
    assert digests({"A": "secret"}).find("secret") == -1


@pytest.mark.parametrize("told", ["", "no json", "[1]", '{"A": 1}'])
def test_without_a_word_of_the_head_all_is_left_as_it_is(told: str) -> None:
    environment = {"A": "1", GIVEN: told}
    around = frames(environment)
    assert around == {}
    assert changes(environment, around, {"A": "2", "B": "3"}) == {"B": "3"}
