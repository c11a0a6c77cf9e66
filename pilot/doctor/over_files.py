"""The try to speak over files: the machine that asks answers, and a node counts the time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pilot.doctor import facts as f
from pilot.errors import SiteError
from pilot.site import Site
from pilot.wire.endpoints import FILES
from pilot.wire.files.line import FileLine
from pilot.wire.files.listener import FileListener
from pilot.wire.keys import load_keys

#: So long a node waits for all answers, in seconds.
PATIENCE_S = 20.0
#: So many messages go there and back.
_TRIPS = 20


class Echo:
    """A process that sends back whatever comes over files.

    Parameters
    ----------
    above
        The directory in which it listens.
    secret
        The key that others must hold.
    """

    def __init__(self, above: Path, secret: bytes) -> None:
        reader, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(reader)
                self._serve(above, secret, writer, parent)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            #: Where others connect; empty: it cannot listen.
            self.endpoint = told.read()

    @staticmethod
    def _serve(above: Path, secret: bytes, writer: int, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            listener = FileListener(above, secret)
        except SiteError:
            return
        os.write(writer, os.fsencode(listener.endpoint))
        os.close(writer)
        while os.getppid() == parent:
            listener.poll(1.0)
            for peer, frame in listener.receive():
                listener.send(peer, bytes(frame))

    def close(self) -> None:
        """End the process."""
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)


def try_over_files(endpoint: str, site: Site) -> f.OverFiles:
    """Send messages over files, and count the time until each comes back."""
    path = endpoint.removeprefix(FILES)
    # Nodes that try at the same time would take each other's place under one name.
    name = f"doctor-{os.urandom(8).hex()}".encode()
    line = FileLine(path, name, load_keys(site.keys).client_secret)
    trips: list[float] = []
    deadline = time.monotonic() + PATIENCE_S
    try:
        for number in range(_TRIPS):
            begun = time.monotonic()
            line.send(b"%d" % number)
            while not line.receive():
                if line.is_lost:
                    return f.OverFiles(error=f"nobody answers in {path}")
                if time.monotonic() > deadline:
                    what = f"after {number} answers no more came" if number else "no answer came"
                    return f.OverFiles(error=f"{what} in {path} within {PATIENCE_S:.0f} s")
                line.poll(0.5)
            if number:  # the first one includes the connection
                trips.append(time.monotonic() - begun)
    finally:
        line.close(1.0)
    return f.OverFiles(trips_s=tuple(trips))
