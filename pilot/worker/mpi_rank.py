"""A rank of an MPI world: like an executor, but all ranks of a world run each task together.

The world is started once by the site's launcher and kept. While it has no task every rank sleeps on
its own socket: an idle world costs nothing. ``MPI.COMM_WORLD`` in a task is exactly the task's
ranks, since a world has exactly as many.

Tasks are sent ahead to all ranks. After each the ranks meet, and only then begin the next: a
message of a rank that is ahead would be taken by one that still receives from any source in the
task before. So one rank, the first, can report what all have left; where one has failed, each
reports for itself, the one that failed before it waits for the others. And what is taken back
(see `shared_memory`) the first rank skips, and tells the others where they meet: all skip the same.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import itertools
import mmap
import os
import signal
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from pilot import clock
from pilot.client.context import serve_tasks
from pilot.limits import LAST_WORD_BYTES, LOGS_MOST
from pilot.model.tasks import Completion, LogSpan, SessionInfo
from pilot.process import (
    Pinning,
    adopt_orphans,
    die_with_parent,
    end_children,
    name_process,
    redirect_output,
    show_resources,
)
from pilot.scheduler.placement import Portion
from pilot.site import open_site, rank_log
from pilot.texts import shortened
from pilot.variables import process_variables, thread_defaults
from pilot.wire.channel import REBIND_S, Client
from pilot.wire.endpoints import Endpoints, runtime_dir
from pilot.wire.keys import load_keys
from pilot.wire.messages import worker as m
from pilot.wire.reaching import find_way
from pilot.worker.entering import forget_start
from pilot.worker.executor import Outbox
from pilot.worker.node_cache import NodeCache
from pilot.worker.shared_memory import (
    PLACE_BYTES,
    SLOT,
    TELL_WHERE,
    begins,
    order_of,
    sample_of,
    stopping_of,
)
from pilot.worker.task_runner import TaskRunner
from pilot.worker.usage import Usage

#: The variable that carries `WorldConfig` to the ranks.
VARIABLE = "PILOT_WORLD"
#: The beginning of the line that a rank writes that cannot import MPI.
NO_MPI = "pilot: mpi4py.MPI cannot be imported: "
#: A rank that waits for others gives its core away between looks; after so many seconds it sleeps,
#: each time for this share of the time that it has waited, and not longer than this.
YIELD_S = 0.002
#: Of a task that took so long, the first rank tells what all have taken, in seconds.
LONG_S = 0.1
SLEEP_SHARE = 0.1
SLEEP_MOST_S = 0.01


class HostCores(msgspec.Struct):
    """The resources that the ranks on one host share."""

    cores: tuple[int, ...]
    #: The rank's portions of things that are told apart.
    indexed: tuple[Portion, ...]


class WorldConfig(msgspec.Struct):
    """The configuration that the ranks of a world receive at their start."""

    world: int
    pilot: str
    site: str
    agent: Endpoints
    session: SessionInfo
    cores_per_rank: int
    cores_of_node: int
    gpus_of_node: int
    hosts: dict[str, HostCores]


def main() -> None:
    """Run a rank of an MPI world until told to end."""
    config = msgspec.json.decode(os.environ.pop(VARIABLE), type=WorldConfig)
    forget_start()
    die_with_parent(signal.SIGTERM)
    adopt_orphans()

    mpi = _import_mpi()
    _make_abort_final(mpi.Comm)
    world = mpi.COMM_WORLD
    rank, size = world.rank, world.size
    node = os.uname().nodename
    here = [number for number, host in enumerate(world.allgather(node)) if host == node]
    indices = _take_share(config, node, here.index(rank))
    serve_tasks()
    name_process(f"pilot rank {rank}/{size} world {config.world} {config.pilot}")
    site = open_site(Path(config.site))
    logs = [rank_log(config.pilot, config.world, number) for number in range(size)]
    log = site.directory / logs[rank]
    redirect_output(log, site.directory)
    path, memory = _shared_memory()
    worker = TaskRunner(
        site,
        f"{config.pilot}-world-{config.world}-{rank}-{os.getpid()}",
        node,
        log,
        NodeCache(site, config.pilot, is_shared=len(here) > 1),
        indices,
        rank,
        size,
        stopping_of(memory),
        usage=Usage(sample_of(memory)),
    )
    os.environ.update(process_variables(config.cores_per_rank, rank, size))
    worker.enter(config.session.environment)
    os.environ.update(thread_defaults(os.environ, config.cores_per_rank))
    _tell_where()
    client: Client[m.ToExecutor] = Client(
        load_keys(site.keys), b"rank:%d.%d" % (config.world, rank), m.ToExecutor
    )
    client.connect(find_way(config.agent).endpoint, REBIND_S)
    # The agent knows how many ranks were asked for: it ends a world of another size.
    library = mpi.Get_library_version().partition("\n")[0][:200]
    client.send(m.RankHello(config.world, rank, size, os.getpid(), node, path, library))
    _watch_parent()
    _serve(config.world, rank, client, worker, Meeting(world), memory, logs)
    client.close()
    end_children()


def _import_mpi() -> Any:
    """Import mpi4py's MPI; if that fails, write the reason where the agent reads it, and exit."""
    try:
        # MPI_THREAD_MULTIPLE is not asked for: tasks that need it can see what they have.
        from mpi4py import MPI
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        # In one write: lines of several ranks must not mix.
        os.write(2, f"\n{NO_MPI}{shortened(said, LAST_WORD_BYTES)}\n".encode(errors="replace"))
        raise SystemExit(1) from None
    return MPI


def why_no_mpi(output: str) -> str:
    """Return the reason why ranks could not import MPI, found in their output and their launcher's;
    empty if that was not the fault."""
    _, found, rest = output.partition(NO_MPI)
    return rest.partition("\n")[0].strip() if found else ""


def _take_share(config: WorldConfig, node: str, local_rank: int) -> dict[str, tuple[str, ...]]:
    """Pin this rank to its part of the cores that the host gives to the world.

    Returns
    -------
        By name, those things that are told apart which are this rank's own, such as GPUs.
    """
    host = config.hosts.get(node) or next(
        (share for name, share in config.hosts.items() if name.split(".")[0] == node.split(".")[0]),
        None,
    )
    if host is None:
        return {}
    first = local_rank * config.cores_per_rank
    Pinning(host.cores[first : first + config.cores_per_rank], config.cores_of_node)
    indices = {portion.name: portion.of_rank(local_rank).indices for portion in host.indexed}
    show_resources(indices, config.gpus_of_node)
    return indices


def _make_abort_final(kind: Any) -> None:
    """Make ``MPI_Abort`` end every rank.

    MPICH's asks the launcher to end all ranks, and returns: until that comes, the task could go on
    and even end well. The method is replaced for all communicators, in the class itself: it is
    compiled, so that it can be reached through its dictionary only.
    """
    original = kind.Abort

    def abort(self: Any, errorcode: int = 0) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        original(self, errorcode)
        os._exit(errorcode % 256 or 1)

    (members,) = gc.get_referents(kind.__dict__)
    members["Abort"] = abort
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _tell_where() -> None:
    """Have the rank write into its log where it is, when it crashes or is asked by a signal."""
    # Once: what a task does to descriptor 2 does not matter.
    log = os.dup(2)
    faulthandler.enable(log, all_threads=False)
    faulthandler.register(TELL_WHERE, log, all_threads=False)


def _watch_parent() -> None:
    """End when the launcher's process on this host is gone, in a task or not."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


class Meeting:
    """The barrier at which the ranks of a world meet after each task, apart from the tasks'
    traffic.

    In each round a rank tells the one that is so far ahead of it, and hears of the one that is so
    far behind, twice as far as before. Between looks it gives its core away: MPI's own ways to wait
    keep it busy, and its collectives that do not wait take several looks for each round.

    Parameters
    ----------
    world
        The ranks, a communicator of mpi4py.
    """

    def __init__(self, world: Any) -> None:
        ranks = self._ranks = world.Dup()
        rank, size = ranks.rank, ranks.size
        self._rounds: list[tuple[array[int], array[int], Any, Any]] = []
        distance = 1
        while distance < size:
            said, heard = array("q", [0]), array("q", [0])
            tag = len(self._rounds)
            receive = ranks.Recv_init(heard, (rank - distance) % size, tag)
            send = ranks.Send_init(said, (rank + distance) % size, tag)
            self._rounds.append((said, heard, receive, send))
            distance *= 2

    def meet(self, failed: bool, has_more: bool, following: int) -> tuple[bool, bool, int]:
        """Wait until all ranks are here.

        Parameters
        ----------
        failed
            True if this rank has failed.
        has_more
            True if this rank has something to tell besides: output, or what a long task has taken.
        following
            The work that all go on with, from the first rank; 0 from the others.

        Returns
        -------
        tuple
            True if any has failed, True if any has more to tell, and the work that all go on with.
        """
        # One word for all: of what is in its upper bits, the others have nothing but zeros.
        word = following << 2 | has_more << 1 | failed
        for said, heard, receive, send in self._rounds:
            said[0] = word
            receive.Start()
            send.Start()
            _wait(receive)
            _wait(send)
            word |= heard[0]
        return bool(word & 1), bool(word & 2), word >> 2

    def gather(self, own: Completion) -> list[tuple[int, int, int, int]]:
        """Gather what each rank has to tell of a task on the first rank: the begin and end of its
        output, microseconds of processors, MiB of memory. Every rank has to call it."""
        logs = own.logs
        span = [logs[0].start, logs[0].end] if logs else [0, 0]
        told = array("q", [*span, round(own.cpu_s * 1e6), own.peak_mib])
        all_told = array("q", [0] * (4 * self._ranks.size if self._ranks.rank == 0 else 0))
        self._ranks.Gather([told, 4], [all_told, 4] if self._ranks.rank == 0 else None)
        return list(zip(*(all_told[first::4] for first in range(4)), strict=True))


def _wait(request: Any) -> None:
    if request.Test():
        return
    begin = time.perf_counter()
    while not request.Test():
        waited_s = time.perf_counter() - begin
        if waited_s < YIELD_S:
            os.sched_yield()
        else:
            time.sleep(min(SLEEP_SHARE * waited_s, SLEEP_MOST_S))


def _serve(
    world: int,
    rank: int,
    client: Client[m.ToExecutor],
    worker: TaskRunner,
    meeting: Meeting,
    memory: mmap.mmap,
    logs: Sequence[str],
) -> None:
    outbox = Outbox(client, lambda completions: m.WorldDone(world, completions))
    pack = SLOT.pack_into
    order = order_of(memory)
    number, following = 0, 1
    while True:
        for message in outbox.receive():
            if not isinstance(message, m.Run):
                return  # told to end
            worker.learn(message.functions, message.templates)
            for work in message.work:
                number += 1
                if number < following:
                    continue
                begin = worker.log_position()
                asked = worker.memory_mib(work.template)
                pack(memory, 0, work.task, work.attempt, clock.now(), begin, asked)
                outbox.begin()
                (completion,) = worker.run(work, begin) or worker.seal()[0]
                failed = completion.outcome != "ok"
                if failed:
                    outbox.tell(completion, lambda own: m.RankDone(world, rank, *own))
                following = 0 if rank else _begin_next(order, number)
                has_more = bool(completion.logs) or completion.ended - completion.started > LONG_S
                any_failed, any_more, following = meeting.meet(failed, has_more, following)
                if not any_failed:
                    told = meeting.gather(completion) if any_more else []
                    if rank == 0:
                        if told:
                            completion = _of_all(completion, logs, told)
                        outbox.add([completion])
                elif not failed:
                    outbox.tell(completion, lambda own: m.RankDone(world, rank, *own))
                pack(memory, 0, 0, 0, 0.0, 0, 0)


def _of_all(
    completion: Completion, paths: Sequence[str], told: Sequence[tuple[int, int, int, int]]
) -> Completion:
    """Return the completion with the log spans of all ranks, up to `LOGS_MOST`, the time that all
    have taken, and the memory of the one that had the most."""
    written = (
        LogSpan(path, begin, end)
        for path, (begin, end, _, _) in zip(paths, told, strict=True)
        if end > begin
    )
    return msgspec.structs.replace(
        completion,
        logs=tuple(itertools.islice(written, LOGS_MOST)),
        cpu_s=sum(microseconds for _, _, microseconds, _ in told) / 1e6,
        peak_mib=max(mib for _, _, _, mib in told),
    )


def _begin_next(order: memoryview[int], number: int) -> int:
    """Return the number of the work that all ranks run after `number`: the next that is not
    skipped."""
    number += 1
    while not begins(order, number):
        number += 1
    return number


def _shared_memory() -> tuple[str, mmap.mmap]:
    """Return the memory by which this rank informs its node worker, and the path where the node
    worker finds it. The memory has no name: ranks are killed as often as they end."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("pilot-rank")
        path = f"/proc/{os.getpid()}/fd/{file}"
        os.ftruncate(file, PLACE_BYTES)
        memory = mmap.mmap(file, PLACE_BYTES)
    else:  # a Python that was built for an old system; the node worker removes the file
        file, path = tempfile.mkstemp(prefix="rank-", dir=runtime_dir())
        os.ftruncate(file, PLACE_BYTES)
        memory = mmap.mmap(file, PLACE_BYTES)
        os.close(file)
    begins(order_of(memory), 1)  # the ranks have no meeting before the first work
    return path, memory
