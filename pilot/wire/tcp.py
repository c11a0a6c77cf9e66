"""Frames between machines: ZeroMQ with CURVE, over TCP.

Every connection is encrypted, and authenticated with the site's keys; one that breaks is made anew.

Invariants
----------
- No queue here drops anything: high-water marks are off. Whoever sends bounds what is under way,
  and a router breaks a peer off that does not take what it is sent.
- A peer that has not proved to hold the key can make a router keep a part of a message at most, and
  for seconds; and when many have come they are turned away (`listening`).

How it works: a message goes in parts (frames of one ZeroMQ message, which arrive all or not at
all), so that no frame is large, neither before nor after the greeting. An empty message is a word
between both ends. From a dealer it says that so many more bytes have been taken; from a router,
that it sends nothing more, and that the dealer may connect again.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from typing import Any

import zmq
from zmq.utils import z85

from pilot.wire.keys import Keys
from pilot.wire.listening import Port
from pilot.wire.refusals import refused

log = logging.getLogger("pilot.wire")

#: At most so many frames are read from a socket before others have their turn.
_BATCH = 1000

#: As numbers: what pyzmq names them is slow to combine and to look up.
_MORE, _NO_WAIT = int(zmq.SNDMORE), int(zmq.NOBLOCK)
_EVENTS, _READABLE, _MORE_FOLLOWS = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)

#: Messages go in parts of so many bytes; encryption adds less than the last.
_PART_BYTES = 1 << 20
_OVERHEAD_BYTES = 1 << 10
#: A dealer says each time that it has taken so many more bytes.
_TAKEN_BYTES = 1 << 20
#: So long may a greeting take, in milliseconds.
_GREETING_MS = 10_000
#: A peer that has not taken so much, and has taken nothing for so long (or twice that), in seconds,
#: is broken off: it does not read, or the rest was lost with a connection that broke. It says that
#: it has taken a message when that is there as a whole, which may take long.
_STALLED_BYTES, _STALLED_S = 4 << 20, 180.0
#: A peer with which nothing was exchanged at so many looks is forgotten: ZeroMQ does not tell which
#: have gone. A living one says so more often, and one that was stopped so long is owed nothing.
_QUIET_LOOKS = 10


def _tune(sock: zmq.Socket[bytes]) -> None:
    sock.linger = 0
    sock.sndhwm = sock.rcvhwm = 0
    # A peer whose machine vanished is noticed, and the connection is made anew.
    sock.heartbeat_ivl = 5_000
    sock.heartbeat_timeout = 20_000
    sock.reconnect_ivl = 50
    sock.reconnect_ivl_max = 1_000
    sock.maxmsgsize = _PART_BYTES + _OVERHEAD_BYTES


def _send(sock: zmq.Socket[bytes], frame: bytes) -> None:
    if len(frame) <= _PART_BYTES:
        sock.send(frame)
        return
    whole = memoryview(frame)
    last = (len(frame) - 1) // _PART_BYTES * _PART_BYTES
    for begin in range(0, last, _PART_BYTES):
        sock.send(whole[begin : begin + _PART_BYTES], _MORE)
    sock.send(whole[last:])


def _is_readable(sock: zmq.Socket[bytes]) -> bool:
    """Tell whether there is something to read, at less cost than an exception if there is
    nothing."""
    return bool(int(sock.getsockopt(_EVENTS)) & _READABLE)


class _Doorkeeper:
    """A doorkeeper that admits to the servers of a context only peers that prove to hold one key.

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
                    refused(f"a key of another site, from {address.decode(errors='replace')}")
                status, text = (b"200", b"OK") if known else (b"400", b"unknown key")
                self._socket.send_multipart((version, request, status, text, b"", b""))
        except zmq.ContextTerminated:
            self._socket.close()


class _Peer:
    """A dealer as its router knows it."""

    __slots__ = ("is_broken_off", "quiet_looks", "taken", "taken_before", "untaken")

    def __init__(self) -> None:
        #: The bytes that the peer was sent and has not said that it has taken.
        self.untaken = 0
        #: How often it has said that, and had when it was looked at.
        self.taken = self.taken_before = 0
        #: True if the peer is sent nothing more.
        self.is_broken_off = False
        #: How often it was looked at since something went to it or came from it.
        self.quiet_looks = 0


class Router:
    """The end that many connect to: a ROUTER socket.

    Parameters
    ----------
    keys
        The site's.
    address
        The address to listen at; ``*``: all.
    port
        TCP port; 0: any that is free.
    unsent_bytes
        A peer that has not taken so much, and is sent more, is broken off; None: none is.

    Raises
    ------
    OSError
        The port cannot be bound.
    """

    def __init__(
        self, keys: Keys, address: str, port: int, unsent_bytes: int | None = None
    ) -> None:
        self._context = zmq.Context()
        _Doorkeeper(self._context, keys.client_public)
        #: The peers that something was sent to, where that is bounded.
        self._peers: dict[bytes, _Peer] = {}
        self._unsent_bytes = unsent_bytes
        self._looked = time.monotonic()
        #: Can be read when there is something to `receive`.
        self.source = self._context.socket(zmq.ROUTER)
        _tune(self.source)
        self.source.handshake_ivl = _GREETING_MS
        self.source.router_handover = True
        self.source.curve_server = True
        self.source.curve_secretkey = keys.server_secret
        self.source.curve_publickey = keys.server_public
        try:
            self._port = Port(address, port)
        except OSError:
            self.source.close()
            self._context.term()
            raise
        self.port = self._port.number
        self.source.setsockopt(zmq.USE_FD, self._port.share())
        self.source.bind(f"tcp://127.0.0.1:{self.port}")  # the address is that of the descriptor

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Return the frames that have arrived, with the names of their senders."""
        sock, arrived = self.source, list[tuple[bytes, bytes]]()
        while len(arrived) < _BATCH and _is_readable(sock):
            peer, *parts = sock.recv_multipart(_NO_WAIT)
            frame = parts[0] if len(parts) == 1 else b"".join(parts)
            if frame:
                arrived.append((peer, frame))
            if known := self._peers.get(peer):
                known.quiet_looks = 0
                if not frame:
                    known.untaken -= _TAKEN_BYTES
                    known.taken += 1
                if known.is_broken_off:
                    self._break_off(peer, known)  # it has not heard it
        return arrived

    def send(self, peer: bytes, frame: bytes) -> None:
        """Send to a peer; the frame is dropped if the peer is gone."""
        if self._unsent_bytes is not None:
            known = self._peers.get(peer)
            if known is None:
                known = self._peers[peer] = _Peer()
            known.quiet_looks = 0
            if known.is_broken_off:
                return
            if known.untaken > self._unsent_bytes:
                self._break_off(peer, known)
                return
            known.untaken += len(frame)
        self.source.send(peer, _MORE)
        _send(self.source, frame)

    def unsent(self, peer: bytes) -> int:
        """Return how many bytes that were sent to a peer are not confirmed yet."""
        known = self._peers.get(peer)
        return max(0, known.untaken - _TAKEN_BYTES) if known is not None else 0

    def look_after(self) -> None:
        """Keep descriptors for files free, and break off peers that take nothing."""
        self._port.look_after()
        now = time.monotonic()
        if now - self._looked > _STALLED_S:
            self._looked = now
            for name, peer in list(self._peers.items()):
                if peer.untaken > _STALLED_BYTES and peer.taken == peer.taken_before:
                    self._break_off(name, peer)
                peer.taken_before = peer.taken
                peer.quiet_looks += 1
                if peer.quiet_looks > _QUIET_LOOKS:
                    del self._peers[name]

    def _break_off(self, name: bytes, peer: _Peer) -> None:
        """Break off a peer and tell it, so that it connects again under another name."""
        if not peer.is_broken_off:
            log.warning(
                "broken off: a peer has not taken %d MiB; it may come again", peer.untaken >> 20
            )
        peer.is_broken_off = True
        peer.untaken = 0
        self.source.send(name, _MORE)
        self.source.send(b"")

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to leave."""
        self._port.close()
        self.source.close(linger=round(linger_s * 1e3))
        self._context.term()


class Dealer:
    """The end that connects to a router: a DEALER socket.

    Parameters
    ----------
    endpoint
        The router's, as ZeroMQ writes it.
    name
        The name of this peer at the router; one that comes with the same name takes its place.
    keys
        The site's.
    """

    def __init__(self, endpoint: str, name: bytes, keys: Keys) -> None:
        self._context = zmq.Context()
        #: How often the router has broken off a greeting without a word.
        self._cut_off = 0
        self._refused = False
        #: Bytes that were taken, and the router was not told of.
        self._taken = 0
        #: True if the router sends nothing more by this connection.
        self.is_lost = False
        #: True if there is no router at all: the endpoint is none.
        self._is_nowhere = False
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
        try:
            self.source.connect(endpoint)
        except zmq.ZMQError as error:
            log.info("nobody can be at %s: %s", endpoint, error)
            self.is_lost = self._is_nowhere = True

    @property
    def refused(self) -> bool:
        """True if the router holds another key."""
        while not self._refused and self._monitor.poll(0):
            (event,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])
            self._cut_off += event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            # One that dies breaks off as well, but not again.
            self._refused = event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or self._cut_off > 1
        return self._refused

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives, for up to `timeout_s` seconds; None: without a limit."""
        return bool(self.source.poll(None if timeout_s is None else round(timeout_s * 1e3)))

    def send(self, frame: bytes) -> None:
        """Send to the router."""
        if not self._is_nowhere:
            _send(self.source, frame)

    def receive(self) -> list[bytes]:
        """Return the frames that have arrived."""
        sock, arrived = self.source, list[bytes]()
        while len(arrived) < _BATCH and _is_readable(sock):
            frame = sock.recv(_NO_WAIT)
            if sock.getsockopt(_MORE_FOLLOWS):
                frame = b"".join([frame, *sock.recv_multipart(_NO_WAIT)])
            if not frame:
                self.is_lost = True
                continue
            arrived.append(frame)
            self._taken += len(frame)
            while self._taken >= _TAKEN_BYTES:
                self._taken -= _TAKEN_BYTES
                sock.send(b"")
        return arrived

    def drain(self) -> None:
        """Do nothing: a thread of ZeroMQ's sends what is left."""

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to leave."""
        self.source.disable_monitor()
        self._monitor.close(linger=0)
        self.source.close(linger=round(linger_s * 1e3))
        if linger_s:
            self._context.term()
        else:
            # ZeroMQ may be looking for a name that nobody knows, and cannot be stopped in that.
            threading.Thread(target=self._context.term, name="end ZeroMQ", daemon=True).start()
