"""How messages travel: ZeroMQ with CURVE, over Unix sockets on one machine and TCP between them.

Every connection is encrypted and authenticated: servers (the head, agents) have the site's server
key, everybody else its client key, and a server admits that one key only. Whoever can read the
site directory's ``keys`` is the user; nobody else is let in.

No queue here drops anything: high-water marks are off, and whoever sends bounds what is under way.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec
import zmq
from zmq.utils import z85

from pilot.errors import AuthenticationError, SiteError
from pilot.wire.endpoints import Endpoints, boot_id, socket_path
from pilot.wire.keys import Keys

M = TypeVar("M")

#: At most so many messages are read from a socket before others have their turn.
_BATCH = 1000

encode = msgspec.msgpack.Encoder().encode

#: As numbers: what pyzmq names them is slow to combine and to look up.
_MORE, _NO_WAIT = int(zmq.SNDMORE), int(zmq.NOBLOCK)
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)


def _tune(sock: zmq.Socket[bytes]) -> None:
    sock.linger = 0
    sock.sndhwm = sock.rcvhwm = 0
    # A peer whose machine vanished is noticed, and the connection is made anew.
    sock.heartbeat_ivl = 5_000
    sock.heartbeat_timeout = 20_000
    sock.reconnect_ivl = 50
    sock.reconnect_ivl_max = 1_000
    sock.maxmsgsize = 1 << 31


def _is_readable(sock: zmq.Socket[bytes]) -> bool:
    """Whether there is something; to ask costs less than the exception where there is nothing."""
    return bool(int(sock.getsockopt(_EVENTS)) & _READABLE)


class _Doorkeeper:
    """Lets into the servers of a context whoever has proved to hold one key, and nobody else.

    ZeroMQ asks it at each greeting, by its authentication protocol (ZAP 1.0). pyzmq has one too, on
    an event loop: to import that takes longer than all else that a pilot imports of ZeroMQ.
    It ends with its context.
    """

    def __init__(self, context: zmq.Context[Any], admitted: bytes) -> None:
        self._admitted = z85.decode(admitted)
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._run, name="doorkeeper", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                asked = self._socket.recv_multipart()
                version, request, _, address, _, mechanism, *proved = asked
                known = mechanism == b"CURVE" and proved == [self._admitted]
                if not known:
                    log = logging.getLogger("pilot.auth")
                    log.warning("refused: a key of another site, from %s", address.decode())
                status, text = (b"200", b"OK") if known else (b"400", b"unknown key")
                self._socket.send_multipart((version, request, status, text, b"", b""))
        except zmq.ContextTerminated:
            self._socket.close()


class Server(Generic[M]):
    """A ROUTER socket that many peers connect to.

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
    """

    def __init__(
        self, keys: Keys, name: str, message_type: Any, address: str = "auto", port: int = 0
    ) -> None:
        self._context = zmq.Context()
        _Doorkeeper(self._context, keys.client_public)
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self.socket = self._context.socket(zmq.ROUTER)
        _tune(self.socket)
        self.socket.router_handover = True
        self.socket.curve_server = True
        self.socket.curve_secretkey = keys.server_secret
        self.socket.curve_publickey = keys.server_public
        self._path = socket_path(name)
        self._path.unlink(missing_ok=True)
        self.socket.bind(f"ipc://{self._path}")
        host = socket.gethostname() if address == "auto" else address
        try:
            port = self._bind_tcp(port)
        except zmq.ZMQError as error:
            raise SiteError(
                f"port {port} cannot be bound: {error}; set head.port to 0 (any) in site.yaml"
            ) from error
        self.endpoints = Endpoints(boot_id(), f"ipc://{self._path}", f"tcp://{host}:{port}")

    def _bind_tcp(self, port: int) -> int:
        if port:
            self.socket.bind(f"tcp://*:{port}")
            return port
        return self.socket.bind_to_random_port("tcp://*")

    def receive(self) -> Iterator[tuple[bytes, M]]:
        """What has arrived, with who sent it; ends when nothing is left."""
        sock = self.socket
        for _ in range(_BATCH):
            if not _is_readable(sock):
                return
            frames = sock.recv_multipart(_NO_WAIT)
            if len(frames) != 2:
                continue
            try:
                yield frames[0], self._decoder.decode(frames[1])
            except msgspec.DecodeError as error:
                logging.getLogger("pilot.wire").warning("a message was dropped: %s", error)

    def send(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send to a peer; one that is gone gets nothing."""
        self.send_to_all((peer,), message)

    def send_to_all(self, peers: Iterable[bytes], message: msgspec.Struct) -> None:
        """Send the same to several peers; it is encoded once."""
        frame = encode(message)
        for peer in peers:
            self.socket.send(peer, _MORE)
            self.socket.send(frame)

    def close(self) -> None:
        """Close the socket; what was sent has a second to leave."""
        self.socket.close(linger=1000)
        self._context.term()
        self._path.unlink(missing_ok=True)


class Client(Generic[M]):
    """A DEALER socket that is connected to one server at a time."""

    def __init__(self, keys: Keys, identity: bytes, message_type: Any) -> None:
        self._context = zmq.Context()
        self._keys = keys
        self._identity = identity
        self._connections = 0
        #: How often the server has broken off a greeting without a word.
        self._cut_off = 0
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self.socket: zmq.Socket[bytes] = cast("zmq.Socket[bytes]", None)
        self._monitor: zmq.Socket[bytes] | None = None
        self.endpoint = ""

    def connect(self, endpoint: str) -> None:
        """Connect, in place of the server before; what was not sent to that one is dropped."""
        self._close_socket(0)
        self.endpoint = endpoint
        sock = self._context.socket(zmq.DEALER)
        _tune(sock)
        # Each connection has an identity of its own: the one before may find its way to the new
        # server as well (a head's Unix socket is where the last one's was), and must not be taken
        # for this one.
        self._connections += 1
        self._cut_off = 0
        sock.identity = b"%s#%d" % (self._identity, self._connections)
        sock.curve_serverkey = self._keys.server_public
        sock.curve_secretkey = self._keys.client_secret
        sock.curve_publickey = self._keys.client_public
        self._monitor = sock.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        sock.connect(endpoint)
        self.socket = sock

    def check(self) -> None:
        """Raise where the server refused our key, or has not the key that we expect.

        Raises
        ------
        AuthenticationError
            The keys of the two sides differ.
        """
        if self._monitor is not None and self._monitor.poll(0):
            (event,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])
            self._cut_off += event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._cut_off < 2:
                return  # a server that dies does this as well, but not again
            raise AuthenticationError(
                f"the server at {self.endpoint} and this process hold different keys; "
                f"{self._keys.directory} must be the same directory for both "
                "(or copy it again, then restart the head)"
            )

    def send(self, message: msgspec.Struct) -> None:
        """Send to the server."""
        self.socket.send(encode(message))

    def receive(self) -> Iterator[M]:
        """What has arrived; ends when nothing is left."""
        sock = self.socket
        for _ in range(_BATCH):
            if not _is_readable(sock):
                return
            yield self._decoder.decode(sock.recv(_NO_WAIT))

    def _close_socket(self, linger_ms: int) -> None:
        if self.socket is None:
            return
        self.socket.disable_monitor()
        if self._monitor is not None:
            self._monitor.close(linger=0)
            self._monitor = None
        self.socket.close(linger=linger_ms)

    def close(self, linger_ms: int = 1000) -> None:
        """Close the connection; what was sent has so long to leave."""
        self._close_socket(linger_ms)
        self._context.term()
