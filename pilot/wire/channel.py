"""How messages travel: over Unix sockets on one machine (`unix`), and TCP between them (`tcp`).

Both ways let in who holds the site's keys, and nobody else.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec
import zmq

from pilot.errors import AuthenticationError, SiteError
from pilot.wire.endpoints import LOCAL, Endpoints, boot_id, socket_path
from pilot.wire.keys import Keys
from pilot.wire.tcp import Dealer, Router
from pilot.wire.unix import Line, Listener

M = TypeVar("M")

encode = msgspec.msgpack.Encoder().encode


class Server(Generic[M]):
    """What many peers connect to.

    Parameters
    ----------
    keys
        The site's keys.
    name
        What tells this server's Unix socket from others on the machine.
    message_type
        Union of the messages that may arrive; others are logged and dropped.
    address
        Host name or address that other machines reach this one by; ``auto``: the host name.
    port
        TCP port; 0: any that is free.

    Raises
    ------
    SiteError
        The port cannot be bound.
    """

    def __init__(
        self, keys: Keys, name: str, message_type: Any, address: str = "auto", port: int = 0
    ) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        host = socket.gethostname() if address == "auto" else address
        try:
            self._remote = Router(keys, port)
        except zmq.ZMQError as error:
            raise SiteError(
                f"port {port} cannot be bound: {error}; set head.port to 0 (any) in site.yaml"
            ) from error
        path = socket_path(name)
        self._local = Listener(path, keys.client_secret)
        self.endpoints = Endpoints(boot_id(), f"{LOCAL}{path}", f"tcp://{host}:{self._remote.port}")

    def register(self, poller: zmq.Poller) -> None:
        """Have a poller wake when there is something to `receive`."""
        poller.register(self._local.source, zmq.POLLIN)
        poller.register(self._remote.source, zmq.POLLIN)

    def receive(self) -> list[tuple[bytes, M]]:
        """What has arrived, with who sent it; more may be left, so that others have their turn."""
        messages: list[tuple[bytes, M]] = []
        decode = self._decoder.decode
        for way in (self._local, self._remote):
            for peer, frame in way.receive():
                try:
                    messages.append((peer, decode(frame)))
                except msgspec.DecodeError as error:
                    logging.getLogger("pilot.wire").warning("a message was dropped: %s", error)
        return messages

    def send(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send to a peer; one that is gone gets nothing."""
        self.send_to_all((peer,), message)

    def send_to_all(self, peers: Iterable[bytes], message: msgspec.Struct) -> None:
        """Send the same to several peers; it is encoded once."""
        frame = encode(message)
        for peer in peers:
            if not self._local.send(peer, frame):
                self._remote.send(peer, frame)

    def close(self, linger_s: float = 1.0) -> None:
        """Close; what was sent has so long to leave."""
        self._local.close(linger_s)
        self._remote.close(linger_s)


class Client(Generic[M]):
    """What is connected to one server at a time.

    Parameters
    ----------
    keys
        The site's keys.
    name
        What tells this client from others of the server's.
    message_type
        Union of the messages that may arrive.
    """

    def __init__(self, keys: Keys, name: bytes, message_type: Any) -> None:
        self._keys = keys
        self._name = name
        self._connections = 0
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self._way: Line | Dealer | None = None
        self.endpoint = ""

    def connect(self, endpoint: str) -> None:
        """Connect, in place of the server before; what was not sent to that one is dropped."""
        self.close(0.0)
        self.endpoint = endpoint
        # Each connection has a name of its own: the one before may find its way to the new server
        # as well (at the same port), and must not be taken for this one.
        self._connections += 1
        name = b"%s#%d" % (self._name, self._connections)
        if endpoint.startswith(LOCAL):
            self._way = Line(endpoint.removeprefix(LOCAL), name, self._keys.client_secret)
        else:
            self._way = Dealer(endpoint, name, self._keys)

    @property
    def way(self) -> Line | Dealer:
        """The connection."""
        assert self._way is not None, "it is not connected"
        return self._way

    @property
    def source(self) -> Any:
        """For a poller: can be read when there is something to `receive`; None: not connected."""
        return self._way and self._way.source

    def check(self) -> None:
        """Raise where the server refused our key, or has not the key that we expect.

        Raises
        ------
        AuthenticationError
            The keys of the two sides differ.
        """
        if self._way is not None and self._way.refused:
            raise AuthenticationError(
                f"the server at {self.endpoint} and this process hold different keys; "
                f"{self._keys.directory} must be the same directory for both "
                "(or copy it again, then restart the head)"
            )

    def poll(self, timeout_s: float | None = None) -> bool:
        """Wait until something may have arrived; None: for ever."""
        return self.way.poll(timeout_s)

    def send(self, message: msgspec.Struct) -> None:
        """Send to the server. What cannot leave at once follows in `receive` or `drain`."""
        self.way.send(encode(message))

    def receive(self) -> list[M]:
        """What has arrived; more may be left, so that others have their turn."""
        decode = self._decoder.decode
        return [decode(frame) for frame in self.way.receive()]

    def drain(self) -> None:
        """Wait until what was sent is on its way."""
        self.way.drain()

    def close(self, linger_s: float = 1.0) -> None:
        """Close the connection; what was sent has so long to leave."""
        if self._way is not None:
            self._way.close(linger_s)
            self._way = None
