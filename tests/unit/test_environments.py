"""Environments of tasks: what may be asked for, how they are entered, and that one builds them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from support.builders import template

import pilot
from pilot.agent.rules.queues import Queues
from pilot.client import pip_builds
from pilot.client.pip_builds import MARK, built, digest_of
from pilot.client.software_of import software_of
from pilot.errors import SubmissionError
from pilot.launchers.activation import activated, activation
from pilot.model.software import Container, Software
from pilot.scheduler.resources import node_shape


def software(**environment: Any) -> Software | None:
    site: Any = None
    return software_of(environment, None, site, (3, 11), False)


# --- what may be asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"environment": "numpy"}, "give a dict"),
        ({"environment": {"pipp": []}}, "there is no 'pipp'"),
        ({"environment": {"pip": "numpy"}}, "pip: give a list"),
        ({"environment": {"pip": ["a\nb"]}}, "can stand in a command line"),
        ({"environment": {"venv": 3}}, "venv is 3"),
        ({"environment": {"venv": "/v", "pip": ["x"]}}, "give pip or venv, not both"),
        ({"environment": {"conda": "c", "venv": "/v"}}, "give conda, or venv or pip"),
        ({"environment": {"pip_options": ["-U"]}}, "pip_options go with pip"),
        ({"environment": {"variables": {"A=": "b"}}}, "cannot be the name of a variable"),
        ({"environment": {"variables": {"A": 1}}}, "A is no text"),
        ({"container": 3}, "give an image"),
        ({"container": {"engine": "podman"}}, "image is None"),
        ({"container": {"image": "i", "engine": "rkt"}}, "engine is 'rkt'"),
        ({"container": {"image": "i", "binds": ["data"]}}, "write /host"),
        ({"container": "i", "environment": {"venv": "/v"}}, "venv and container: give one"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(pilot.OptionError, match=told):
        pilot.task(**given)(print)


def test_environments_are_merged_by_their_keys() -> None:
    task = pilot.task(environment={"modules": ["a"], "variables": {"A": "1", "B": "1"}})(print)
    below = {"environment": {"venv": "/v", "variables": {"B": "0", "C": "0"}}}
    made = task.with_defaults(below).task_options.environment
    want = {"venv": "/v", "modules": ("a",), "variables": {"A": "1", "B": "1", "C": "0"}}
    assert made == want
    other = task.options(environment={"conda": "/c"}).with_defaults(below).task_options.environment
    assert other is not None and "venv" not in other and other["conda"] == "/c"
    assert not task.options(environment=None).with_defaults(below).task_options.environment


# --- which it is ---------------------------------------------------------------------------------


def test_another_python_is_refused_by_its_name(tmp_path: Path) -> None:
    venv, conda = tmp_path / "v", tmp_path / "c"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.9.2\n")
    (conda / "conda-meta").mkdir(parents=True)
    (conda / "conda-meta" / "python-3.12.1-h1.json").touch()
    with pytest.raises(SubmissionError, match=r"/v has Python 3\.9, and the pilots .* 3\.11"):
        software(venv=str(venv))
    with pytest.raises(SubmissionError, match=r"/c has Python 3\.12"):
        software(conda=str(conda))
    with pytest.raises(SubmissionError, match="no virtual environment with a Python"):
        software(venv=str(tmp_path))
    site: Any = None
    of_commands = software_of({"venv": str(venv)}, None, site, (3, 11), True)
    assert of_commands is not None and of_commands.venv == str(venv)


def test_a_conda_environment_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "bin" / "conda"))
    monkeypatch.delenv("CONDA_ENVS_PATH", raising=False)
    meta = tmp_path / "envs" / "mine" / "conda-meta"
    meta.mkdir(parents=True)
    (meta / "python-3.11.9-0.json").touch()
    found = software(conda="mine")
    assert found is not None and found.conda == str(tmp_path / "envs" / "mine")
    with pytest.raises(SubmissionError, match="no conda environment 'yours' in"):
        software(conda="yours")


def test_only_where_something_is_asked_for_processes_are_others() -> None:
    assert software() is None
    assert Software(container=Container("i"), is_of_commands=True).needs_start is False
    assert Software(container=Container("i")).needs_start
    assert Software(modules=("a",), is_of_commands=True).needs_start


def test_tasks_of_other_environments_are_another_class() -> None:
    queues = Queues(node_shape(4))
    plain, one, same, other = (
        template(number, function=b"f", software=its)
        for number, its in enumerate(
            (None, Software("/a"), Software("/a"), Software("/a", modules=("x",))), start=1
        )
    )
    for each in (plain, one, same, other):
        queues.add_template(each)
    found = [queues._of_template[each.id] for each in (plain, one, same, other)]
    assert len({id(queue) for queue in found}) == 3 and found[1] is found[2]
    softwares = [None, one.software, one.software, other.software]
    assert [queue.software for queue in found] == softwares


# --- how it is entered ---------------------------------------------------------------------------


def run(command: tuple[str, ...], **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", **env}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_nothing_to_enter_is_no_shell() -> None:
    assert activated(["a", "b c"]) == ("a", "b c")
    assert activation("", "", ()) == ""


def test_a_virtual_environment_is_entered_whatever_its_name(tmp_path: Path) -> None:
    venv = tmp_path / "it's $HOME"
    (venv / "bin").mkdir(parents=True)
    tool = venv / "bin" / "tool"
    tool.write_text('#!/bin/sh\necho "$VIRTUAL_ENV|$PYTHONHOME|$1"\n')
    tool.chmod(0o755)
    done = run(activated(["tool", "a b"], venv=str(venv)), PYTHONHOME="/x")
    assert done.stdout == f"{venv}||a b\n", done.stderr
    done = run(activated(["true"], venv=str(tmp_path / "none")))
    assert done.returncode == 1 and "there is no environment" in done.stderr


def test_a_conda_environment_runs_its_hooks(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    hooks = tmp_path / "etc" / "conda" / "activate.d"
    hooks.mkdir(parents=True)
    (hooks / "a.sh").write_text("export HOOKED=$CONDA_PREFIX\n")
    done = run(activated(["sh", "-c", "echo $HOOKED"], conda=str(tmp_path)))
    assert done.stdout == f"{tmp_path}\n"


def test_modules_are_loaded_in_order_and_their_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text(
        'module() { [ "$2" != none ] && export LOADED="$LOADED $2" LD_LIBRARY_PATH=/x/$2; }\n'
    )
    words = ["sh", "-c", "echo $LOADED $LD_LIBRARY_PATH"]
    done = run(activated(words, modules=["gcc/12", "a b"]), MODULESHOME=str(tmp_path))
    assert done.stdout == "gcc/12 a b /x/a b\n", done.stderr
    done = run(activated(words, modules=["none", "gcc"]), MODULESHOME=str(tmp_path))
    assert done.returncode == 1 and "module load none has failed" in done.stderr


# --- that it is built once -----------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The environments that were built; no pip is run for them."""
    made: list[Path] = []
    lock = threading.Lock()

    def build(place: Path, pip: Any, options: Any) -> None:
        with lock:
            made.append(place)
        place.mkdir()
        (place / MARK).write_text("{}")

    monkeypatch.setattr(pip_builds, "_build", build)
    return made


def test_those_who_ask_for_the_same_build_it_once(tmp_path: Path, builds: list[Path]) -> None:
    places: list[Path] = []

    def ask() -> None:
        places.append(built(tmp_path / "environments", tmp_path, ["x"], ()))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and {*places} == {*builds}
    assert built(tmp_path / "environments", tmp_path, ["x"], ["-U"]) != places[0]
    assert len(builds) == 2
    assert sorted(path.name for path in (tmp_path / "environments").iterdir()) == sorted(
        path.name for path in builds
    )


def test_what_a_dead_builder_has_left_is_taken_over(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pip_builds, "DEAD_S", 0.3)
    place = tmp_path / "environments" / digest_of(["x"], ())
    right = place.with_suffix(".building")
    right.mkdir(parents=True)
    (right / "beat").write_text("dead 7")
    assert built(tmp_path / "environments", tmp_path, ["x"], ()) == place
    assert builds == [place] and not right.exists()


def test_a_failed_build_says_what_pip_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        told.append(command)
        if "pip" in command:
            return subprocess.CompletedProcess(command, 1, "collecting\nERROR: no such x\n")
        (tmp_path / "environments" / digest_of(["x"], ["--no-index"]) / "bin").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SubmissionError, match=r"pip cannot install x .*1\):\ncoll.*\nERROR"):
        built(tmp_path / "environments", tmp_path, ["x"], ["--no-index"])
    assert list((tmp_path / "environments").iterdir()) == []
    assert told[1][-3:] == ["--no-index", "--", "x"]
