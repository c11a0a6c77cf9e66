"""The memory of the tasks of a node, looked at from outside: what they have, and what is too much.

A task has the memory of its process and of all that this has started. That of its Python counts up
to `ALLOWANCE_MIB` for nothing, and what processes share is counted once.

Invariants
----------
- A process is ended for the task that it is in, never for the one before: it is stopped first.
- What is mapped from files can be given back by the kernel, and is not counted against a limit.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import signal
from pathlib import Path
from typing import NamedTuple

from pilot.process import children, has_stopped, kill_with_descendants
from pilot.worker.shared_memory import SLOT, tell_sample

#: So much memory of a task is taken to be its Python's, in MiB.
ALLOWANCE_MIB = 64
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class Memory(NamedTuple):
    """The memory of a process and its descendants."""

    pids: tuple[int, ...]
    #: What is theirs alone, as far as a quick look tells, in MiB.
    own_mib: int
    #: The same with what is mapped, in MiB.
    mib: int


def memory_below(pid: int) -> Memory:
    """Return the memory of a process and its descendants, by a quick look."""
    pids, own, shared = [pid], 0, 0
    for each in pids:  # it grows meanwhile
        try:
            with open(f"/proc/{each}/statm", "rb") as file:
                _, resident, mapped, *_ = map(int, file.read().split())
        except OSError:
            continue  # it has ended
        own += resident - mapped
        shared = max(shared, mapped)
        pids += children(each)
    own_mib = own * _PAGE_BYTES // _MIB
    return Memory(tuple(pids), own_mib, own_mib + shared * _PAGE_BYTES // _MIB)


def exact_mib(pids: tuple[int, ...]) -> int:
    """Return the memory of processes that the kernel cannot take back, each page once, in MiB."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    kib += int(line.split()[1])
    return kib // 1024


def over_memory(used_mib: int, asked_mib: int) -> str:
    """Return the words for a task that has used more memory than it asked for."""
    more = math.ceil(used_mib * 1.25 / 1024) if used_mib >= 1024 else used_mib * 5 // 4
    return (
        f"it used {_written(used_mib)} of memory, and had asked for {_written(asked_mib)}; ask for "
        f'more, as memory="{more}{"G" if used_mib >= 1024 else "M"}"'
    )


def _written(mib: int) -> str:
    return f"{mib / 1024:.3g}G" if mib >= 1024 else f"{mib}M"


def look(pid: int, memory: mmap.mmap, offset: int, is_kept: bool) -> tuple[int, str]:
    """Look at the memory of the task that a process is in, and tell the process what it has.

    Parameters
    ----------
    pid
        The process, an executor or a rank.
    memory, offset
        Where it says which task it is in.
    is_kept
        Whether tasks are kept to what they have asked for.

    Returns
    -------
    tuple
        The task that is to be ended for it, and why; 0: none.
    """
    task, _, _, _, asked_mib = SLOT.unpack_from(memory, offset)
    if not task:
        return 0, ""
    found = memory_below(pid)
    tell_sample(memory, offset, task, found.mib)
    if is_kept and asked_mib and found.own_mib > asked_mib + ALLOWANCE_MIB:
        # Forked processes share pages, which the quick look has counted for each.
        used_mib = exact_mib(found.pids) - ALLOWANCE_MIB
        if used_mib > asked_mib:
            return task, over_memory(used_mib, asked_mib)
    return 0, ""


def end_in_task(pid: int, memory: mmap.mmap, offset: int, task: int) -> bool:
    """Kill a process and all that it has started if it is still in this task; return False if it
    is not."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, signal.SIGSTOP)
        if has_stopped(pid) and SLOT.unpack_from(memory, offset)[0] == task:
            kill_with_descendants(pid)
            return True
        os.kill(pid, signal.SIGCONT)
    return False
