"""How a head is found on a file system that fails for a moment."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from pilot.regular_files import read_regular
from pilot.wire import discovery
from pilot.wire.discovery import HeadAddress, read_address, write_address
from pilot.wire.endpoints import Endpoints, boot_id


def address(epoch: int) -> HeadAddress:
    return HeadAddress(epoch, "here", 1, 1, Endpoints(boot_id(), "unix:///s", ""), "0.1")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("times", [1, 100])
def test_what_was_known_stays_while_the_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    path = tmp_path / "head.json"
    write_address(path, address(2))
    read, left = read_regular, [times]

    def fail(path: Path, most: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(number, "as told")
        return read(path, most)

    monkeypatch.setattr(discovery, "_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(discovery, "read_regular", fail)
    known = address(1)
    assert read_address(path, known) == (address(2) if times == 1 else known)
    left[0] = times
    assert read_address(path) == (address(2) if times == 1 else None)


def test_a_file_that_is_gone_or_no_address_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    assert read_address(path, address(1)) is None
    path.write_bytes(b'{"epoch": \xff')
    assert read_address(path, address(1)) is None


ADDRESS: dict[str, Any] = {
    "epoch": 1,
    "host": "h",
    "pid": 1,
    "started": 4,
    "endpoints": {"boot": "b", "local": "unix:///x", "remote": "tcp://h.example:1"},
    "version": "1",
}
BIG = 10**30


@pytest.mark.parametrize(
    "changed",
    [
        {"epoch": BIG},
        {"epoch": -1},
        {"epoch": "1"},
        {"epoch": None},
        {"pid": BIG},
        {"pid": -1},
        {"pid": 1.5},
        {"endpoints": None},
        {"endpoints": "tcp://h:1"},
        *(
            {"endpoints": {**ADDRESS["endpoints"], **wrong}}
            for wrong in (
                {"boot": 1},
                {"local": "elsewhere:///x"},
                {"local": "tcp://h:1"},
                {"local": "unix://x"},
                {"local": "unix:///a\0b"},
                {"local": "unix:///" + "a" * 10_000},
                {"local": ""},
                {"remote": "elsewhere:///"},
                {"remote": "ipc:///tmp/x"},
                {"remote": "inproc://x"},
                {"remote": "tcp://h"},
                {"remote": "tcp://:1"},
                {"remote": "tcp://h:1234567"},
                {"remote": "tcp://a;b:1"},
                {"remote": "tcp://h 1:1"},
            )
        ),
    ],
    ids=str,
)
def test_what_no_head_has_written_says_nothing(tmp_path: Path, changed: dict[str, object]) -> None:
    path = tmp_path / "head.json"
    path.write_text(json.dumps(ADDRESS))
    assert read_address(path) is not None
    path.write_text(json.dumps({**ADDRESS, **changed}))
    assert read_address(path) is None


@pytest.mark.parametrize("data", [b"\xff\xfe\0", b"[" * 100_000, b"", b"null", b'"' + b"a" * 99])
def test_what_is_no_json_says_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "head.json"
    path.write_bytes(data)
    assert read_address(path) is None


def test_of_a_file_that_is_too_large_no_more_is_read_than_an_address_takes(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    with path.open("wb") as file:
        file.write(b'{"host": "')
        file.truncate(1 << 40)  # there is no memory for that
    assert read_address(path) is None


@pytest.mark.parametrize("remote", ["tcp://h_1.example:65535", "tcp://10.0.0.1:1", ""])
def test_what_heads_write_is_known(remote: str) -> None:
    assert Endpoints(boot_id(), "unix:///tmp/x", remote).are_known
