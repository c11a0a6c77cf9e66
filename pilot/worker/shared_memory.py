"""The words of shared memory by which an executor or rank and its node worker inform each other.

While it is in a task it hears no message, and one for the begin of each would cost too much. So
which task it is in, which of those that it was sent it is to skip, and that the task is to stop
soon, are a few words of memory.

Invariants
----------
- The notice to stop names the attempt that it is for, and is complete before it does: no later task
  in the same process takes it for its own.
- Works are numbered from 1 in the order in which they are sent. One that `begins` is never among
  those that the node worker, which writes while the process is stopped, has told to be skipped; one
  that does not begin always is.
"""

from __future__ import annotations

import mmap
import signal
import struct
from typing import Protocol

from pilot.client.stopping import ATTEMPT, ENDS, LISTENS, TASK, Stopping
from pilot.texts import encodable

#: The signal at which a rank writes into its log where in its task it is.
TELL_WHERE = signal.SIGQUIT
#: For each process: task, attempt, start of the task, start of its output, and the memory that the
#: task has asked for, in MiB.
SLOT = struct.Struct("<qqdqq")
#: And behind that: which work it has begun, and between which of them it skips what it was sent:
#: those after the first, up to the second.
ORDER = struct.Struct("=qqq")
#: And behind that: the memory of a task and all its processes, in MiB, as the node worker saw it.
_SAMPLE = struct.Struct("=qq")
#: And behind that, the words of `pilot.client.stopping`, and when and why the task is to stop.
_STOP_WORDS = struct.Struct("=qqqq")
_NOTICE = struct.Struct("=d120s")
_NOTICE_TEXT_BYTES = 120
#: And behind that, in a process that cannot begin with anything: why.
_REASON_BYTES = 512
_SAMPLE_AT = SLOT.size + ORDER.size
_STOP_AT = _SAMPLE_AT + _SAMPLE.size
_NOTICE_AT = _STOP_AT + _STOP_WORDS.size
_REASON_AT = _NOTICE_AT + _NOTICE.size
PLACE_BYTES = _REASON_AT + _REASON_BYTES
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
    return memoryview(memory)[offset + SLOT.size : offset + _SAMPLE_AT].cast("q")


def sample_of(memory: mmap.mmap, offset: int = 0) -> memoryview[int]:
    """Return the words that tell a process the memory of a task of its: which, and the most that
    was seen, in MiB."""
    return memoryview(memory)[offset + _SAMPLE_AT : offset + _STOP_AT].cast("q")


def tell_sample(memory: mmap.mmap, offset: int, task: int, mib: int) -> None:
    """Tell a process the memory that its task was seen to have; called by the node worker."""
    words = sample_of(memory, offset)
    if words[0] == task:
        words[1] = max(words[1], mib)
    else:
        words[0] = 0  # while the second word is not that of the first
        words[1] = mib
        words[0] = task


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


def stopping_of(memory: mmap.mmap, offset: int = 0) -> Stopping:
    """Return what the process whose place in the memory begins at `offset` knows of its stop."""

    def notice() -> tuple[float, str]:
        until, text = _NOTICE.unpack_from(memory, offset + _NOTICE_AT)
        return until, text.rstrip(b"\0").decode(errors="replace")

    return Stopping(_stop_words(memory, offset), notice)


def _stop_words(memory: mmap.mmap, offset: int) -> memoryview[int]:
    return memoryview(memory)[offset + _STOP_AT : offset + _NOTICE_AT].cast("q")


def tell_to_stop(
    memory: mmap.mmap, offset: int, task: int, attempt: int, until: float, reason: str
) -> None:
    """Tell an attempt in another process to stop; called by the node worker."""
    text = encodable(reason).encode()[:_NOTICE_TEXT_BYTES]
    words = _stop_words(memory, offset)
    words[TASK] = 0
    _NOTICE.pack_into(memory, offset + _NOTICE_AT, until, text)
    words[ATTEMPT] = attempt
    words[TASK] = task  # last: from now on it is told


def tell_to_end(memory: mmap.mmap, offset: int) -> None:
    """Tell a process that its next SIGTERM is meant; called by the node worker."""
    _stop_words(memory, offset)[ENDS] = 1


def listening_task(memory: mmap.mmap, offset: int = 0) -> int:
    """Return the task that a process is in, if it looks whether it is to stop; otherwise 0."""
    task: int = SLOT.unpack_from(memory, offset)[0]
    return task if _stop_words(memory, offset)[LISTENS] == task else 0


def leave_reason(memory: mmap.mmap, offset: int, error: BaseException) -> None:
    """Leave the reason why this process cannot start, for the node worker."""
    text = encodable(f"{type(error).__name__}: {error}").encode()[:_REASON_BYTES]
    memory[offset + _REASON_AT : offset + _REASON_AT + len(text)] = text


def reason_in(memory: mmap.mmap, offset: int) -> str:
    """Return the reason that a process left for not starting, as far as it was written; read by the
    node worker after its end."""
    text = memory[offset + _REASON_AT : offset + PLACE_BYTES]
    return text.rstrip(b"\0").decode(errors="replace")
