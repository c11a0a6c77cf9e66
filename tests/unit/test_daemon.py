"""Starting a head where another one is being started, too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.waiting import wait_until

from pilot.client import starter
from pilot.errors import HeadError
from pilot.site import create_site
from pilot.version import __version__
from pilot.wire.discovery import HeadAddress, process_started, write_address
from pilot.wire.endpoints import Endpoints, boot_id

_LOSES = "import sys; print('pilot: a head of this site runs already'); sys.exit(5)"


@pytest.mark.parametrize("holder", [0, -1, None])
def test_head_that_loses_is_no_error_while_another_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: int | None
) -> None:
    """`holder`: the pid in the lease: nobody's, another one's that starts, or no lease."""
    site = create_site(tmp_path / "site", "local")
    site.prepare()
    pid = os.getpid()
    lease = None if holder is None else SimpleNamespace(pid=pid if holder else 0, epoch=2)
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(starter, "_started", started)
    monkeypatch.setattr(starter, "head_command", lambda *_: [sys.executable, "-c", _LOSES])
    monkeypatch.setattr(starter, "read_lease", lambda _: lease)
    if holder != -1:
        with pytest.raises(HeadError, match="runs already"):
            starter.ensure_head(site)
        return

    def announce() -> None:
        wait_until(lambda: started and started[0].poll() is not None)
        here = Endpoints(boot_id(), "unix:///nowhere", "")
        address = HeadAddress(2, "here", pid, process_started(pid), here, __version__)
        write_address(site.address_file, address)

    other = threading.Thread(target=announce)
    other.start()
    try:
        assert starter.ensure_head(site).epoch == 2
    finally:
        other.join()


_KILLED = """
import os, pathlib, signal, sys
times = pathlib.Path(sys.argv[1])
times.write_text(times.read_text() + "x")
if len(times.read_text()) <= int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
print("pilot: it has come that far")
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("kills", "starts", "told"),
    [
        (1, 2, "it has come that far"),
        (99, 4, "was killed by SIGKILL while it started, in the last of 4 tries"),
    ],
)
def test_head_that_is_killed_while_it_starts_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, starts: int, told: str
) -> None:
    site = create_site(tmp_path / "site", "local")
    site.prepare()
    times = tmp_path / "times"
    times.touch()
    command = [sys.executable, "-c", _KILLED, str(times), str(kills)]
    monkeypatch.setattr(starter, "head_command", lambda *_: command)
    monkeypatch.setattr(starter, "_PAUSES_S", (0.0, 0.0, 0.0))
    with pytest.raises(HeadError, match=told):
        starter.ensure_head(site)
    assert times.read_text() == "x" * starts
