"""The words of shared memory by which an executor or rank and its node worker inform each other.

While it is in a task it hears no message, and one for the begin of each would cost too much. So
which task it is in, and which of those that it was sent it is to skip, are a few words of memory.

Invariants
----------
- Works are numbered from 1 in the order in which they are sent. One that `begins` is never among
  those that the node worker, which writes while the process is stopped, has told to be skipped; one
  that does not begin always is.
"""

from __future__ import annotations

import mmap
import struct
from typing import Protocol

from pilot.texts import encodable

#: For each process: task, attempt, start of the task, start of its output.
SLOT = struct.Struct("<qqdq")
#: And behind that: which work it has begun, and between which of them it skips what it was sent:
#: those after the first, up to the second.
ORDER = struct.Struct("=qqq")
#: And behind that, in a process that cannot begin with anything: why.
_REASON_BYTES = 512
PLACE_BYTES = SLOT.size + ORDER.size + _REASON_BYTES
_REASON_AT = SLOT.size + ORDER.size
#: Processes that one node may have at a time, idle ones included.
PLACES = 4096


class Words(Protocol):
    """The three words of an `ORDER`, in shared memory."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


def shared_by_fork() -> mmap.mmap:
    """Return anonymous memory that this process shares with all processes that it forks."""
    return mmap.mmap(-1, PLACE_BYTES * PLACES)


def order_of(memory: mmap.mmap, offset: int = 0) -> memoryview[int]:
    """Return the `ORDER` words of the process whose place in the memory begins at `offset`."""
    return memoryview(memory)[offset + SLOT.size : offset + _REASON_AT].cast("q")


def begins(order: Words, number: int) -> bool:
    """Begin a work, in the process itself; return False if it is to be skipped."""
    # In this order, as the process may be stopped anywhere: what the node worker writes then lies
    # behind a work that it finds begun, and a new end is not read with an old beginning.
    order[0] = number
    return not order[2] >= number > order[1]


def skip_upto(order: Words, upto: int) -> int:
    """Have a stopped process skip the works that it has not begun, up to the `upto`-th; called by
    the node worker."""
    begun = order[0]
    if not order[1] <= begun <= order[2]:
        order[1] = begun
    # Else it is on its way through what it was told to skip before: that goes on.
    order[2] = upto
    return begun


def leave_reason(memory: mmap.mmap, offset: int, error: BaseException) -> None:
    """Leave the reason why this process cannot start, for the node worker."""
    text = encodable(f"{type(error).__name__}: {error}").encode()[:_REASON_BYTES]
    memory[offset + _REASON_AT : offset + _REASON_AT + len(text)] = text


def reason_in(memory: mmap.mmap, offset: int) -> str:
    """Return the reason that a process left for not starting, as far as it was written; read by the
    node worker after its end."""
    text = memory[offset + _REASON_AT : offset + PLACE_BYTES]
    return text.rstrip(b"\0").decode(errors="replace")
