"""Which directories travel with a session: all but those that every interpreter has by itself."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import pilot
from pilot.client.search_path import search_path
from pilot.client.session_settings import check_settings

PREFIX = Path(sys.prefix)


def test_what_is_given_always_travels_and_comes_first(tmp_path: Path) -> None:
    libraries = Path(sysconfig.get_path("purelib"))
    given: list[str | Path] = [tmp_path / "missing", PREFIX / "lib", libraries, "here"]
    found = search_path(given, [str(tmp_path)])
    assert found == (*map(str, given[:3]), str(Path("here").absolute()), str(tmp_path))


def test_it_is_told_how_many_are_given(tmp_path: Path) -> None:
    libraries = sysconfig.get_path("purelib")
    given = [libraries, str(tmp_path), libraries]
    environment = check_settings(None, None, given, None, 1.0, 0, None).environment
    assert environment.named == 2 and environment.sys_path[:2] == (libraries, str(tmp_path))


@pytest.mark.parametrize("name", ["libs", "library", "lib/mine", "lib64/root", "other"])
def test_directories_below_the_prefix_travel(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    directory = tmp_path / name
    directory.mkdir(parents=True)
    assert search_path([], [str(directory)]) == (str(directory),)


def test_nothing_of_the_interpreter_itself_travels() -> None:
    code = "import sys; print(*sys.path, sep='\\n')"
    own = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    checkout = str(Path(pilot.__file__).parents[1])  # an editable installation adds it
    assert set(search_path([], filter(None, own))) <= {checkout}


def test_what_is_not_there_does_not_travel_and_nothing_travels_twice(tmp_path: Path) -> None:
    found = search_path([tmp_path], [str(tmp_path / "missing"), str(tmp_path), "", "."])
    assert found == (str(tmp_path), str(Path.cwd()))
