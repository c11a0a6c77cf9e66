"""The set-up of a process: where it finds modules, and how it is ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import wait_until

from pilot.process import (
    descendants,
    enter_environment,
    kill_with_descendants,
    missing_gpus,
    show_resources,
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


def test_gpus_are_shown_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_GPU_VENDOR", "amd")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.delenv("PILOT_RESOURCE_GPUS", raising=False)
    monkeypatch.setenv("PILOT_RESOURCE_FPGA", "")
    show_resources({"fpga": ("b", "c")}, 0)
    assert os.environ["PILOT_RESOURCE_FPGA"] == "b,c"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"  # none of Pilot's business
    show_resources({"gpus": ("1",)}, 2)
    assert os.environ.pop("PILOT_RESOURCE_GPUS") == "1"
    assert os.environ["ROCR_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert missing_gpus(0) == missing_gpus(1) == ""
    assert "gpus_per_node: 2, and the job was given 1 (ROCR" in missing_gpus(2)


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
