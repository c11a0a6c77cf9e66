"""The format of the files of a connection: a state at the beginning, and records after it.

The state is overwritten in place: so it can be told also where the disk is full that its writer
lives. Records are appended. Both have a keyed hash, so that nothing counts that the other end has
not written, and nothing that is there in part.

Invariants
----------
- A file system may show a length before the data, zeros in place of data, or data in any part: what
  is not valid is not there yet.
- A record is valid at its place in its connection and direction only: its number is in the hash,
  and the key is of this direction alone.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from typing import NamedTuple

#: The bytes at the beginning of each file that are the state's; records follow.
STATE_BYTES = 128
#: The most bytes of a record's payload: a larger frame goes in parts.
PART_BYTES = 1 << 20
_MAC_BYTES = 16
_MAGIC = b"PILOT-F1"
#: The kinds of records: a frame or the last part of one, a part that others follow, the name of who
#: connects, and the word that the next file follows.
LAST, PART, NAME, NEXT = 1, 2, 3, 4
#: The states of a direction.
OPEN, CLOSED, REFUSED = 1, 2, 3

_STATE = struct.Struct("<8sB7xQQQ")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct(f"<IBQ{_MAC_BYTES}s")
_HASHED = struct.Struct("<IBQ")
#: The bytes of a record beside its payload.
RECORD_BYTES = _RECORD.size


class ForeignKeyError(Exception):
    """An error: a state is whole, and whoever wrote it holds another key."""


def direction_key(secret: bytes, listener: str, connection: str, direction: str) -> bytes:
    """Return the key for one direction of one connection."""
    words = f"{listener}\0{connection}\0{direction}".encode()
    return hashlib.blake2b(words, key=secret, digest_size=32).digest()


def _mac(key: bytes, *pieces: bytes | memoryview) -> bytes:
    keyed = hashlib.blake2b(key=key, digest_size=_MAC_BYTES)
    for piece in pieces:
        keyed.update(piece)
    return keyed.digest()


class State(NamedTuple):
    """The state of a direction, as its writer tells it."""

    #: `OPEN`, `CLOSED` or `REFUSED`.
    kind: int
    #: A number that grows with each state that is written.
    beat: int
    #: The bytes of all records of this direction, in all of its files.
    written: int
    #: The bytes of records that the writer has taken of the other direction.
    taken: int


def pack_state(state: State, key: bytes) -> bytes:
    """Return the bytes of a state, as long as its place."""
    packed = _STATE.pack(_MAGIC, *state)
    packed += _CRC.pack(zlib.crc32(packed))
    return (packed + _mac(key, b"state", packed)).ljust(STATE_BYTES, b"\0")


def unpack_state(found: bytes, key: bytes) -> State | None:
    """Read a state; None: it is not there, or only in part.

    Raises
    ------
    ForeignKeyError
        It was written with another key.
    """
    end = _STATE.size + _CRC.size
    if len(found) < end + _MAC_BYTES or not found.startswith(_MAGIC):
        return None
    if zlib.crc32(found[: _STATE.size]) != _CRC.unpack_from(found, _STATE.size)[0]:
        return None
    if not hmac.compare_digest(_mac(key, b"state", found[:end]), found[end : end + _MAC_BYTES]):
        # The sum says that all of the first part is there; of the hash there may be only a part.
        if found[end + _MAC_BYTES - 1 : end + _MAC_BYTES] == b"\0":
            return None
        raise ForeignKeyError
    _, kind, beat, written, taken = _STATE.unpack_from(found)
    return State(kind, beat, written, taken)


def pack_record(kind: int, number: int, payload: bytes | memoryview, key: bytes) -> bytes:
    """Return the bytes of the record of this number."""
    hashed = _HASHED.pack(len(payload), kind, number)
    return hashed + _mac(key, hashed, payload) + payload


def parts_of(frame: bytes) -> list[tuple[int, memoryview]]:
    """Return a frame as the kinds and payloads of its records."""
    whole = memoryview(frame)
    last = max(0, len(whole) - 1) // PART_BYTES * PART_BYTES
    parts = [(PART, whole[at : at + PART_BYTES]) for at in range(0, last, PART_BYTES)]
    return [*parts, (LAST, whole[last:])]


class Record(NamedTuple):
    """A record that was read."""

    kind: int
    payload: memoryview


class Records:
    """A reader of the records of one direction, in whatever pieces they are seen.

    Parameters
    ----------
    key
        The key of the direction.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        #: The number of the next record.
        self.number = 0

    def read(self, seen: bytes) -> tuple[list[Record], int]:
        """Return the valid records at the beginning of `seen`, and how many bytes they take.

        After a record that says that the next file follows nothing is read.
        """
        records: list[Record] = []
        view, begin = memoryview(seen), 0
        while len(view) - begin >= RECORD_BYTES:
            length, kind, number, mac = _RECORD.unpack_from(view, begin)
            end = begin + RECORD_BYTES + length
            if number != self.number or length > PART_BYTES or end > len(view):
                break
            payload = view[begin + RECORD_BYTES : end]
            hashed = view[begin : begin + _HASHED.size]
            if not hmac.compare_digest(_mac(self._key, hashed, payload), mac):
                break
            records.append(Record(kind, payload))
            self.number += 1
            begin = end
            if kind == NEXT:
                break
        return records, begin


class Frames:
    """A joiner of records to the frames that they are parts of."""

    def __init__(self) -> None:
        self._parts: list[memoryview] = []

    def join(self, record: Record) -> bytes | memoryview | None:
        """Return the frame that a record completes; None: there is more to come."""
        if record.kind == PART:
            self._parts.append(record.payload)
        if record.kind != LAST:
            return None
        if not self._parts:
            return record.payload
        parts, self._parts = self._parts, []
        return b"".join([*parts, record.payload])
