"""Files that are seen late: looked for again for a while, and then told as missing."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pilot
from pilot.client.command import ShellCommand
from pilot.data.imported import Imported, checked
from pilot.data.patience import is_there, set_patience, when_there
from pilot.data.segments import SegmentWriter, read
from pilot.errors import ResultError

SEGMENT = bytes(100_000)


class Sea:
    """A file system on which files come when somebody has looked for them in vain so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept: list[float] = []
        self.comes: Callable[[], object] = lambda: None
        self.looks = 3
        self.now = 0.0
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if len(self.slept) == self.looks:
            self.comes()


@pytest.fixture
def sea(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sea]:
    set_patience(5.0)
    yield Sea(monkeypatch)
    set_patience(0.0)


def _away(path: Path) -> Callable[[], object]:
    """Take a file away; returns what brings it back."""
    hidden = path.with_name(f"{path.name}.away")
    path.rename(hidden)
    return lambda: hidden.rename(path)


def test_a_segment_that_comes_late_is_read(sea: Sea, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "owner")
    result = writer.add("s", "f", "1", 0, SEGMENT)
    writer.seal()
    sea.comes = _away(tmp_path / result.value.path)
    assert read(tmp_path, result.value) == SEGMENT
    assert len(sea.slept) == sea.looks
    assert read(tmp_path, result.value) == SEGMENT  # what is there costs no patience
    assert len(sea.slept) == sea.looks


def test_a_segment_that_does_not_come_is_told_as_missing(sea: Sea, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "owner")
    result = writer.add("s", "f", "1", 0, SEGMENT)
    writer.seal()
    _away(tmp_path / result.value.path)
    with pytest.raises(ResultError, match=r"no such file on .*data.patience.*was deleted"):
        read(tmp_path, result.value)
    assert sum(sea.slept) == pytest.approx(5.0)


def test_what_is_damaged_is_told_at_once(sea: Sea, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "owner")
    result = writer.add("s", "f", "1", 0, SEGMENT)
    writer.seal()
    (tmp_path / result.value.path).write_bytes(b"damaged")
    with pytest.raises(ResultError, match="damaged"):
        read(tmp_path, result.value)
    assert sea.slept == []


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_files_that_are_late_or_stale_are_looked_for_again(sea: Sea, code: int) -> None:
    looks: list[int] = []

    def look() -> str:
        looks.append(1)
        if len(looks) < 4:
            raise OSError(code, os.strerror(code))
        return "there"

    assert when_there(Path("/no/such/file"), look) == "there"
    assert len(sea.slept) == 3 and sea.slept == sorted(sea.slept)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), ValueError("no")])
def test_other_errors_are_told_at_once(sea: Sea, error: Exception) -> None:
    def look() -> Any:
        raise error

    with pytest.raises(type(error)):
        when_there(Path("/no/such/file"), look)
    assert sea.slept == []


def test_inputs_outputs_and_imported_files_may_come_late(sea: Sea, tmp_path: Path) -> None:
    file = tmp_path / "below" / "file"

    def make() -> None:
        file.parent.mkdir(exist_ok=True)
        file.write_text("it")

    command = ShellCommand("cat {x}", inputs=("x",), outputs=("x",))
    for look in (command.check_inputs, command.collect_outputs):
        sea.comes = make
        sea.slept.clear()
        look({"x": str(file)})
        assert len(sea.slept) == sea.looks
        file.unlink()
        file.parent.rmdir()
    make()
    imported = Imported(file)
    sea.comes = _away(file)
    sea.slept.clear()
    assert checked(str(file), imported.size, imported.mtime_ns) == file
    assert len(sea.slept) == sea.looks


def test_without_a_site_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sea = Sea(monkeypatch)
    assert not is_there(Path("/no/such/file"))
    with pytest.raises(FileNotFoundError):
        pilot.shell("true", inputs=["x"])(x="/no/such/file")
    assert sea.slept == []


def test_threads_wait_each_for_itself(tmp_path: Path) -> None:
    set_patience(30.0)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(is_there(tmp_path / f"{n}")))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for n in range(3):
        (tmp_path / f"{n}").touch()
    for thread in threads:
        thread.join(60)
    set_patience(0.0)
    assert found == [True] * 3
