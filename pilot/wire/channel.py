"""Channels for messages: Unix sockets on one machine (`unix`), between machines TCP (`tcp`), and
files where no network leads (`files`).

All ways admit holders of the site's keys, and nobody else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from pilot.errors import AuthenticationError, EncodingError, SiteError
from pilot.limits import FRAME_BYTES
from pilot.texts import encodable, printable, shortened
from pilot.wire.endpoints import FILES, LOCAL, Endpoints, boot_id, socket_path
from pilot.wire.keys import Keys, load_keys
from pilot.wire.messages.client import Reply
from pilot.wire.socket_files import remove_dead
from pilot.wire.unix import Line, Listener

if TYPE_CHECKING:
    # Late: a process that speaks with its own machine only starts faster without them.
    from pilot.wire.files.line import FileLine
    from pilot.wire.files.listener import FileListener
    from pilot.wire.tcp import Dealer, Router

M = TypeVar("M")

log = logging.getLogger("pilot.wire")

#: A server looks so often whether its Unix socket is still there, in seconds.
_LOOK_S = 5.0
#: After so long a server surely has its socket again, where that had gone, in seconds.
REBIND_S = 2 * _LOOK_S
#: The time between the tries of a client that connects patiently, in seconds.
_TRY_S = 0.1
#: The length of the reason that is logged and told for a message that is wrong, in bytes.
_REASON_BYTES = 500

_encode = msgspec.msgpack.Encoder().encode


class Unreadable(msgspec.Struct, frozen=True):
    """A frame that could not be decoded: damaged, or of a release with more messages than this
    one."""

    #: The kind that the message names, and the number that an answer is to have; None: none.
    kind: str
    number: int | None
    reason: str


def encode(message: msgspec.Struct) -> bytes:
    """Encode a message for the wire; text that UTF-8 cannot carry is escaped.

    Raises
    ------
    EncodingError
        The message is too large.
    TypeError, OverflowError
        Something in it is no data, or a number that is too large.
    """
    try:
        frame = _encode(message)
    except UnicodeEncodeError:
        frame = _encode(_encodable(msgspec.to_builtins(message, builtin_types=(bytes,))))
    if len(frame) > FRAME_BYTES:
        raise EncodingError(
            f"a {type(message).__name__} of {len(frame) >> 20} MiB cannot be sent: "
            f"{FRAME_BYTES >> 20} MiB is the most; put large values into arguments or results"
        )
    return frame


def _encodable(data: Any) -> Any:
    if isinstance(data, str):
        return encodable(data)
    if isinstance(data, (list, tuple)):
        return [_encodable(item) for item in data]
    if isinstance(data, dict):
        return {_encodable(key): _encodable(item) for key, item in data.items()}
    return data


class _Reader(Generic[M]):
    """A decoder of messages that keeps aside what it cannot decode."""

    def __init__(self, message_type: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self._unreadable: list[tuple[bytes, Unreadable]] = []

    def read(self, arrived: Iterable[tuple[bytes, bytes | memoryview]]) -> list[tuple[bytes, M]]:
        """Return the messages among `arrived` frames, each with the name of its sender."""
        messages: list[tuple[bytes, M]] = []
        decode = self._decoder.decode
        for peer, frame in arrived:
            try:
                messages.append((peer, decode(frame)))
            except Exception as error:
                # Not only msgspec's own: texts that are no UTF-8, what is nested too deep.
                kind, number = _opening(bytes(frame[:80]))
                reason = printable(shortened(str(error), _REASON_BYTES))
                log.warning("a message was dropped: %s: %s", printable(kind) or "no kind", reason)
                self._unreadable.append((peer, Unreadable(kind, number, reason)))
        return messages

    def begin(self) -> None:
        """Forget frames that could not be decoded before."""
        if self._unreadable:
            self._unreadable = []

    def take_unreadable(self) -> list[tuple[bytes, Unreadable]]:
        """Return the frames that could not be decoded since `begin`, once."""
        if not self._unreadable:
            return []
        unreadable, self._unreadable = self._unreadable, []
        return unreadable


def _opening(begin: bytes) -> tuple[str, int | None]:
    """Read the kind of a message and its number, if it has one, whatever follows.

    A message is an array: its kind, a text, and then its fields; the number is the first.
    """
    head = begin[:1]
    rest = (
        begin[1:] if b"\x90" <= head <= b"\x9f" else begin[{b"\xdc": 3, b"\xdd": 5}.get(head, 80) :]
    )
    if not rest or not 0xA0 <= rest[0] <= 0xBF:
        return "", None
    end = 1 + (rest[0] & 0x1F)
    kind, number = rest[1:end].decode(errors="replace"), rest[end:]
    if not number:
        return kind, None
    if number[0] < 0x80:
        return kind, number[0]
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(number[0], 0)
    packed = number[1 : 1 + size]
    return kind, int.from_bytes(packed, "big") if size and len(packed) == size else None


class Server(Generic[M]):
    """A server that many peers connect to.

    Parameters
    ----------
    keys
        The site's keys.
    name
        The name that tells this server's Unix socket from others on the machine.
    message_type
        Union of the messages that may arrive.
    address
        Host name, address or network interface that other machines reach this one by; ``auto``: the
        host name; None: others do not, and there is no TCP.
    port
        TCP port; 0: any that is free.
    unsent_bytes
        A peer that has not read so much, and is sent more, is broken off; it finds out and connects
        again. None: none is, for those who bound what they send themselves.
    key
        The key of the site file that has the address, for messages.
    files
        The directory on a shared file system in which others connect over files; None: they do not.

    Raises
    ------
    SiteError
        The port cannot be bound, the address is none, or the directory is not private.
    """

    def __init__(
        self,
        keys: Keys,
        name: str,
        message_type: Any,
        address: str | None = "auto",
        port: int = 0,
        unsent_bytes: int | None = None,
        key: str = "head.address",
        files: Path | None = None,
    ) -> None:
        self._reader: _Reader[M] = _Reader(message_type)
        self._name = name
        self._remote: Router | None = None
        self._files: FileListener | None = None
        remotes: list[str] = []
        if address is not None:
            from pilot.wire import addresses
            from pilot.wire.tcp import Router

            told, bound = addresses.resolve(address, key)
            try:
                self._remote = Router(keys, bound, port, unsent_bytes)
            except OSError as error:
                raise SiteError(
                    f"port {port} of {bound} cannot be bound: {error.strerror}; set head.port to "
                    "0 (any) in site.yaml"
                ) from error
            remotes += [f"tcp://{host}:{self._remote.port}" for host in told]
        path = socket_path(name)
        remove_dead(path.parent)
        self._local = Listener(path, keys.client_secret, unsent_bytes)
        if files is not None:
            from pilot.wire.files.listener import FileListener

            try:
                self._files = FileListener(files, keys.client_secret, unsent_bytes)
            except SiteError:
                self.close(0.0)
                raise
        self._looked = time.monotonic()
        #: The addresses of the server; may change, see `look_after`.
        self.endpoints = Endpoints(
            boot_id(),
            f"{LOCAL}{path}",
            remotes[0] if remotes else "",
            tuple(remotes[1:]),
            self._files.endpoint if self._files is not None else "",
        )

    @property
    def _ways(self) -> tuple[Listener | Router | FileListener, ...]:
        ways = (self._local, self._remote, self._files)
        return tuple(way for way in ways if way is not None)

    @property
    def sources(self) -> tuple[Any, ...]:
        """The objects to register with a poller: readable when there is something to `receive`."""
        return tuple(way.source for way in self._ways)

    def receive(self) -> list[tuple[bytes, M]]:
        """Return messages that have arrived, with their senders; more may be left, so that others
        have their turn."""
        self._reader.begin()
        messages = self._reader.read(self._local.receive())
        if self._files is not None:
            messages += self._reader.read(self._files.receive())
        if self._remote is not None:
            messages += self._reader.read(self._remote.receive())
        return messages

    def take_unreadable(self) -> list[tuple[bytes, Unreadable]]:
        """Return the unreadable frames of the last `receive`, with their senders."""
        return self._reader.take_unreadable()

    def take_gone(self) -> list[bytes]:
        """Return the peers of this machine, and over files, whose connections the last `receive`
        found ended."""
        gone = self._local.take_gone()
        return gone if self._files is None else gone + self._files.take_gone()

    def is_here(self, peer: bytes) -> bool:
        """Tell whether `take_gone` reports the end of a peer: one of this machine, or over
        files."""
        return self._local.has(peer) or self.is_over_files(peer)

    def is_over_files(self, peer: bytes) -> bool:
        """Tell whether a peer is connected over files."""
        return self._files is not None and self._files.has(peer)

    @property
    def trouble(self) -> str:
        """The obstacle that keeps messages from leaving; empty: there is none."""
        return self._files.trouble if self._files is not None else ""

    def send(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send to a peer; the message is dropped if the peer is gone."""
        self.send_to_all((peer,), message)

    def send_to_all(self, peers: Iterable[bytes], message: msgspec.Struct) -> None:
        """Send one message to several peers; it is encoded once.

        What cannot be encoded is logged, and whoever waits for it is told.
        """
        try:
            frame = encode(message)
        except Exception as error:
            log.exception("a %s is not sent", type(message).__name__)
            if not isinstance(message, Reply):
                return
            frame = encode(Reply(message.request, error=f"the answer cannot be sent: {error}"))
        for peer in peers:
            if self._local.send(peer, frame):
                continue
            if self._files is not None and self._files.send(peer, frame):
                continue
            if self._remote is not None:
                self._remote.send(peer, frame)

    def unsent(self, peer: bytes) -> int:
        """Return how many bytes that were sent to a peer are still untaken."""
        return max(way.unsent(peer) for way in self._ways)

    def look_after(self) -> bool:
        """Keep the server reachable and within its limit of descriptors; call it often.

        Returns
        -------
        bool
            True if the server is reached elsewhere than before: `endpoints` has changed.
        """
        if self._remote is not None:
            self._remote.look_after()
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        return self._look_after_files() | self._look_after_socket()

    def _look_after_files(self) -> bool:
        if self._files is None or not self._files.look_after():
            return False
        self.endpoints = msgspec.structs.replace(self.endpoints, files=self._files.endpoint)
        return True

    def _look_after_socket(self) -> bool:
        if self._local.is_there:
            return False
        try:
            path = socket_path(self._name)
            self._local.move(path)
        except (OSError, SiteError) as error:
            log.error("the Unix socket has gone, and cannot be made again: %s", error)
            return False
        log.warning("the Unix socket has gone; it is made again: %s", path)
        before = self.endpoints
        self.endpoints = msgspec.structs.replace(before, local=f"{LOCAL}{path}")
        return self.endpoints != before

    def close(self, linger_s: float = 1.0) -> None:
        """Close the server; sent messages get `linger_s` seconds to leave."""
        for way in self._ways:
            way.close(linger_s)


class Client(Generic[M]):
    """A client that is connected to one server at a time.

    Parameters
    ----------
    keys
        The site's keys.
    name
        The name that tells this client from others of the server.
    message_type
        Union of the messages that may arrive.
    """

    def __init__(self, keys: Keys, name: bytes, message_type: Any) -> None:
        self._keys = keys
        self._name = name
        self._connections = 0
        self._reader: _Reader[M] = _Reader(message_type)
        self._way: Line | Dealer | FileLine | None = None
        self.endpoint = ""

    def connect(self, endpoint: str, patience_s: float = 0.0) -> None:
        """Connect to a server in place of the previous one; unsent messages to that one are
        dropped.

        Parameters
        ----------
        endpoint
            The address of the server.
        patience_s
            For so long a server on this machine is tried that is not there: it makes its socket
            again when that has gone. See `is_lost` for whether it came.
        """
        deadline = time.monotonic() + patience_s
        self._connect(endpoint)
        while self.is_lost and time.monotonic() < deadline:
            time.sleep(_TRY_S)
            self._connect(endpoint)

    def _connect(self, endpoint: str) -> None:
        self.close(0.0)
        self.endpoint = endpoint
        # Each connection has a name of its own: the one before may find its way to the new server
        # as well (at the same port), and must not be taken for this one.
        self._connections += 1
        name = b"%s#%d" % (self._name, self._connections)
        if endpoint.startswith(LOCAL):
            self._way = Line(endpoint.removeprefix(LOCAL), name, self._keys.client_secret)
        elif endpoint.startswith(FILES):
            from pilot.wire.files.line import FileLine

            self._way = FileLine(endpoint.removeprefix(FILES), name, self._keys.client_secret)
        else:
            from pilot.wire.tcp import Dealer

            self._way = Dealer(endpoint, name, self._keys)

    @property
    def way(self) -> Line | Dealer | FileLine:
        """The connection."""
        assert self._way is not None, "it is not connected"
        return self._way

    @property
    def source(self) -> Any:
        """The object to register with a poller: readable when there is something to `receive`; None
        while not connected."""
        return self._way and self._way.source

    @property
    def is_lost(self) -> bool:
        """True if the connection has ended and does not come back by itself: connect again."""
        return self._way is not None and self._way.is_lost

    @property
    def is_refused(self) -> bool:
        """True if the server holds other keys."""
        return self._way is not None and self._way.refused

    def check(self) -> None:
        """Check that the server has accepted our key and has the expected one.

        Where the keys on the disk have been changed meanwhile, they are taken, and nothing is
        raised: connect again.

        Raises
        ------
        AuthenticationError
            The keys of the two sides differ.
        SiteError
            The keys on the disk cannot be read.
        """
        if self.is_refused:
            keys = load_keys(self._keys.directory)
            if keys != self._keys:
                self._keys = keys
                return
            raise AuthenticationError(
                f"the server at {self.endpoint} and this process hold different keys; "
                f"{self._keys.directory} must be the same directory for both "
                "(or copy it again, then restart the head)"
            )

    def poll(self, timeout_s: float | None = None) -> bool:
        """Wait until something may have arrived, for up to `timeout_s` seconds; None: without a
        limit."""
        return self.way.poll(timeout_s)

    def send(self, message: msgspec.Struct) -> None:
        """Send to the server. What cannot leave at once is sent in `receive` or `drain`."""
        self.way.send(encode(message))

    def receive(self) -> list[M]:
        """Return messages that have arrived; more may be left, so that others have their turn."""
        self._reader.begin()
        frames = self.way.receive()
        return [message for _, message in self._reader.read((b"", frame) for frame in frames)]

    def take_unreadable(self) -> list[Unreadable]:
        """Return the unreadable frames of the last `receive`."""
        return [unreadable for _, unreadable in self._reader.take_unreadable()]

    def drain(self) -> None:
        """Wait until sent messages are on their way."""
        self.way.drain()

    def close(self, linger_s: float = 1.0) -> None:
        """Close the connection; sent messages get `linger_s` seconds to leave."""
        if self._way is not None:
            self._way.close(linger_s)
            self._way = None
