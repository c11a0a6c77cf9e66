"""The value of a task's result, as processes and the database know it."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import msgspec

from pilot.model.bounds import Checksum, Number

#: The size up to which a value travels inline, unless the site says otherwise.
INLINE_LIMIT_BYTES = 64 * 1024


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value on the wire and in the database: inline, or a reference into a sealed segment."""

    #: Bytes of data: of the pickle, or of the arrays and pickles in the segment.
    size: Number
    #: The pickle, where the value is inline.
    payload: bytes = b""
    #: The segment, relative to the site directory; empty where the value is inline.
    path: str = ""
    #: The object in the segment, from its root: ``/session/task name/task id/index``.
    name: str = ""
    #: The checksum of the data in the segment. A payload has none: its channel protects it.
    checksum: Checksum = 0
    #: True if many tasks are expected to need the value, so that a node keeps a copy. Then it is
    #: alone in its segment.
    shared: bool = False
    #: The digest of the contents in a segment, where it is known: see `pilot.head.core.memo_keys`.
    digest: bytes = b""

    @property
    def is_released(self) -> bool:
        """True if the object is nowhere any more: it was released. No pickle is empty."""
        return not (self.payload or self.path)

    @property
    def is_inline(self) -> bool:
        """True if the object itself is in the value."""
        return not self.path

    @property
    def owner(self) -> int:
        """The number of the task that wrote the value into its segment; 0 if that is unknown."""
        _, _, _, task, *_ = [*self.name.split("/"), "", "", ""]
        session, _, number = task.partition(".")
        return int(session) << 32 | int(number) if session.isdigit() and number.isdigit() else 0


#: What stands in the place of a result that was released, among those of its task.
RELEASED = Value(0)
