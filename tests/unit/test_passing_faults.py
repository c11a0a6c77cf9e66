"""Calls that fail for a moment: what is done again, and what is never taken for written."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot.data import durable
from pilot.data.patience import is_passing, patiently
from pilot.errors import StorageError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def do() -> str:
        if left:
            raise left.pop()
        return "done"

    return do


def stored_in_vain(number: int) -> StorageError:
    error = StorageError("cannot write")
    error.__cause__ = OSError(number, "told")
    return error


@pytest.mark.parametrize(
    "error", [OSError(errno.ESTALE, ""), OSError(errno.EIO, ""), stored_in_vain(errno.ENOTCONN)]
)
def test_what_passes_is_done_again(error: Exception) -> None:
    assert is_passing(error)
    assert patiently(failing(1, error)) == patiently(failing(3, error)) == "done"
    with pytest.raises(type(error)):
        patiently(failing(100, error))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, ""),
        OSError(errno.ENOSPC, ""),
        PermissionError(errno.EACCES, ""),
        stored_in_vain(errno.EDQUOT),
        ValueError("no"),
    ],
)
def test_what_does_not_pass_is_told_at_once(error: Exception) -> None:
    assert not is_passing(error)
    with pytest.raises(type(error)):
        patiently(failing(1, error))


def test_what_the_kernel_could_not_write_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 * durable._BLOCK_BYTES + 17)
    temporary, final = tmp_path / "t", tmp_path / "f"
    temporary.write_bytes(content)
    calls: list[str] = []
    real_fsync, real_pwrite = os.fsync, os.pwrite
    written: list[tuple[int, bytes]] = []

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        if len(calls) == 1:
            raise OSError(errno.EIO, "told")
        real_fsync(descriptor)

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        calls.append("pwrite")
        count = real_pwrite(descriptor, data[: len(data) // 2 + 1], offset)
        written.append((offset, data[:count]))
        return count

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with temporary.open("r+b") as file:
        durable.publish(file.fileno(), temporary, final)
    assert final.read_bytes() == content
    assert b"".join(data for _, data in written) == content
    first_again = calls.index("fsync", 1)
    assert set(calls[1:first_again]) == {"pwrite"}, "all is written before the next look"


@pytest.mark.parametrize("came_about", [True, False])
def test_a_renaming_that_may_have_come_about_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came_about: bool
) -> None:
    temporary, final = tmp_path / "t", tmp_path / "f"
    temporary.write_bytes(b"new")
    final.write_bytes(b"old")
    real = Path.rename
    failed: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        if failed:
            return real(self, target)
        failed.append(self)
        if came_about:
            real(self, target)
        raise OSError(errno.ESTALE, "told")

    monkeypatch.setattr(Path, "rename", rename)
    with temporary.open("r+b") as file:
        durable.publish(file.fileno(), temporary, final, replaces=True)
    assert final.read_bytes() == b"new" and not temporary.exists()
