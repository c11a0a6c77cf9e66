"""How a head is found on a file system that fails for a moment."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pilot.wire import discovery
from pilot.wire.discovery import HeadAddress, read_address, write_address
from pilot.wire.endpoints import Endpoints, boot_id


def address(epoch: int) -> HeadAddress:
    return HeadAddress(epoch, "here", 1, 1, Endpoints(boot_id(), "/s", ""), "0.1")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("times", [1, 100])
def test_what_was_known_stays_while_the_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    path = tmp_path / "head.json"
    write_address(path, address(2))
    read, left = Path.read_bytes, [times]

    def fail(self: Path) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(number, "as told")
        return read(self)

    monkeypatch.setattr(discovery, "_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(Path, "read_bytes", fail)
    known = address(1)
    assert read_address(path, known) == (address(2) if times == 1 else known)
    left[0] = times
    assert read_address(path) == (address(2) if times == 1 else None)


def test_a_file_that_is_gone_or_no_address_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    assert read_address(path, address(1)) is None
    path.write_bytes(b'{"epoch": \xff')
    assert read_address(path, address(1)) is None
