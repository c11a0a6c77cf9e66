"""Frames between machines: ZeroMQ with CURVE, over TCP.

Every connection is encrypted, and authenticated with the site's keys; one that breaks is made anew.

No queue here drops anything: high-water marks are off, and whoever sends bounds what is under way.
"""

from __future__ import annotations

import logging
import struct
import threading
from typing import Any

import zmq
from zmq.utils import z85

from pilot.wire.keys import Keys

#: At most so many frames are read from a socket before others have their turn.
_BATCH = 1000

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


class Router:
    """The end that many connect to: a ROUTER socket.

    Parameters
    ----------
    keys
        The site's.
    port
        TCP port; 0: any that is free.

    Raises
    ------
    zmq.ZMQError
        The port cannot be bound.
    """

    def __init__(self, keys: Keys, port: int) -> None:
        self._context = zmq.Context()
        _Doorkeeper(self._context, keys.client_public)
        #: Can be read when there is something to `receive`.
        self.source = self._context.socket(zmq.ROUTER)
        _tune(self.source)
        self.source.router_handover = True
        self.source.curve_server = True
        self.source.curve_secretkey = keys.server_secret
        self.source.curve_publickey = keys.server_public
        try:
            if port:
                self.source.bind(f"tcp://*:{port}")
            self.port = port or self.source.bind_to_random_port("tcp://*")
        except zmq.ZMQError:
            self.close(0.0)
            raise

    def receive(self) -> list[tuple[bytes, bytes]]:
        """What has arrived, with the name of who sent it."""
        sock, arrived = self.source, list[tuple[bytes, bytes]]()
        while len(arrived) < _BATCH and _is_readable(sock):
            peer, *frames = sock.recv_multipart(_NO_WAIT)
            arrived += [(peer, frame) for frame in frames]
        return arrived

    def send(self, peer: bytes, frame: bytes) -> None:
        """Send to a peer; one that is gone gets nothing."""
        self.source.send(peer, _MORE)
        self.source.send(frame)

    def close(self, linger_s: float) -> None:
        """Close; what was sent has so long to leave."""
        self.source.close(linger=round(linger_s * 1e3))
        self._context.term()


class Dealer:
    """The end that connects to a router: a DEALER socket.

    Parameters
    ----------
    endpoint
        The router's, as ZeroMQ writes it.
    name
        What the router knows this peer by; one that comes with the same name takes its place.
    keys
        The site's.
    """

    def __init__(self, endpoint: str, name: bytes, keys: Keys) -> None:
        self._context = zmq.Context()
        #: How often the router has broken off a greeting without a word.
        self._cut_off = 0
        self._refused = False
        #: Can be read when there is something to `receive`.
        self.source = self._context.socket(zmq.DEALER)
        _tune(self.source)
        self.source.identity = name
        self.source.curve_serverkey = keys.server_public
        self.source.curve_secretkey = keys.client_secret
        self.source.curve_publickey = keys.client_public
        self._monitor = self.source.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self.source.connect(endpoint)

    @property
    def refused(self) -> bool:
        """Whether the router holds another key."""
        while not self._refused and self._monitor.poll(0):
            (event,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])
            self._cut_off += event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            # One that dies breaks off as well, but not again.
            self._refused = event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or self._cut_off > 1
        return self._refused

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives; None: for ever."""
        return bool(self.source.poll(None if timeout_s is None else round(timeout_s * 1e3)))

    def send(self, frame: bytes) -> None:
        """Send to the router."""
        self.source.send(frame)

    def receive(self) -> list[bytes]:
        """What has arrived."""
        sock, arrived = self.source, list[bytes]()
        while len(arrived) < _BATCH and _is_readable(sock):
            arrived.append(sock.recv(_NO_WAIT))
        return arrived

    def drain(self) -> None:
        """Wait until all is on its way: a thread of ZeroMQ's sees to that."""

    def close(self, linger_s: float) -> None:
        """Close; what was sent has so long to leave."""
        self.source.disable_monitor()
        self._monitor.close(linger=0)
        self.source.close(linger=round(linger_s * 1e3))
        self._context.term()
