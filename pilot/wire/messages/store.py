"""The messages between node workers of a pilot, about segments in the stores of their nodes."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

from pilot.model.bounds import Number, SegmentPath, Signed
from pilot.wire.messages.common import Message

#: A segment is given away in parts of so many bytes: a message of one is a frame of TCP, or less.
PART_BYTES = (1 << 20) - (1 << 12)


class GetPart(Message):
    """A request for the part of a segment that begins at this offset."""

    path: SegmentPath
    offset: Number


class Part(Message):
    """A part of a segment: the answer to `GetPart`."""

    path: SegmentPath
    offset: Number
    #: The size of the segment in bytes; negative: it is not in the store.
    size: Signed
    data: bytes
