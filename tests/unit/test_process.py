"""The set-up of a process: where it finds modules, and which GPUs it is told that it has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import wait_until

from pilot import process
from pilot.process import (
    descendants,
    enter_environment,
    kill_with_descendants,
    resource_variables,
)


@pytest.mark.parametrize(
    ("named", "paths"),
    [
        (0, ["/new", "/by", "/library", "/packages", "/checkout"]),
        (1, ["/packages", "/new", "/by", "/library", "/checkout"]),
        (2, ["/packages", "/new", "/by", "/library", "/checkout"]),
        (3, ["/packages", "/new", "/checkout", "/by", "/library"]),
    ],
)
def test_what_a_user_names_is_searched_first_and_nothing_else_moves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: int, paths: list[str]
) -> None:
    monkeypatch.setattr(sys, "path", ["/by", "/library", "/packages", "/checkout"])
    monkeypatch.chdir(tmp_path)
    assert enter_environment(str(tmp_path), ("/packages", "/new", "/checkout"), {}, named) is None
    assert sys.path == paths


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of AMD's driver: nothing is there yet."""
    path = tmp_path / "kfd"
    monkeypatch.setattr(process, "_AMD_GPUS", path)
    return path


def _seen_by_hip(variables: dict[str, str], gpus: int) -> list[int]:
    """The GPUs that HIP shows: ROCr leaves some, and HIP numbers those anew to choose from them."""
    left = [
        int(index) for index in variables["ROCR_VISIBLE_DEVICES"].split(",") if int(index) < gpus
    ]
    seen = []
    for index in map(int, variables["CUDA_VISIBLE_DEVICES"].split(",")):
        if index >= len(left):
            break
        seen.append(left[index])
    return seen


@pytest.mark.parametrize("indices", [("0",), ("3",), ("2", "5"), ("7", "0", "1")])
def test_a_task_sees_its_gpus_of_any_maker(driver: Path, indices: tuple[str, ...]) -> None:
    listed = ",".join(indices)
    variables = resource_variables({"gpus": indices})
    assert variables["CUDA_VISIBLE_DEVICES"] == listed
    driver.touch()
    variables = resource_variables({"gpus": indices})
    assert _seen_by_hip(variables, gpus=8) == [int(index) for index in indices]
    assert variables["ROCR_VISIBLE_DEVICES"] == variables["PILOT_RESOURCE_GPUS"] == listed


def test_no_gpus_are_hidden_from_a_task_that_has_none(driver: Path) -> None:
    driver.touch()
    assert resource_variables({"fpga": ("1",)}) == {"PILOT_RESOURCE_FPGA": "1"}


WAITS = """
import pathlib, subprocess, sys
subprocess.run(["/bin/sh", "-c", "setsid sleep 600 & wait"])
pathlib.Path(sys.argv[1]).write_text("it goes on")
"""


def test_a_process_is_killed_before_it_can_take_the_end_of_a_child_for_that_of_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = tmp_path / "went-on"
    parent = subprocess.Popen([sys.executable, "-c", WAITS, str(went_on)])
    wait_until(lambda: len(descendants(parent.pid)) == 2)
    below = descendants(parent.pid)
    kill = os.kill

    def slowly(pid: int, number: int) -> None:
        kill(pid, number)
        time.sleep(0.2)  # as on a busy machine

    monkeypatch.setattr(os, "kill", slowly)
    kill_with_descendants(parent.pid)
    assert parent.wait(20) == -9
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in below))
    assert not went_on.exists()
    kill_with_descendants(parent.pid)  # it is no more
