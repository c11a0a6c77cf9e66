"""The node worker, which starts, watches and ends the executors of one node.

On the agent's node it is forked from the agent. On each other one it is a Slurm step of its own, so
that a pilot can give single nodes back. Tasks do not pass through it: executors speak to the agent
themselves.

Invariants
----------
- Executors end with it, and whatever they have started: see `forking`.
- Without a sign of life from the agent for `SILENT_S` it ends.
- At the first SIGTERM, which may be for all processes of the job, it ends unless a task here may
  save its state: then the agent says when.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pilot import clock
from pilot.model.tasks import LogSpan
from pilot.process import (
    descendants,
    die_with_parent,
    frames_here,
    has_stopped,
    kill_with_descendants,
    missing_gpus,
    name_process,
)
from pilot.scheduler.resources import NodeShape
from pilot.site import Site, rank_log
from pilot.variables import ENFORCES_MEMORY
from pilot.wire.channel import REBIND_S, Client
from pilot.wire.endpoints import LOCAL, Endpoints, runtime_dir
from pilot.wire.keys import load_keys
from pilot.wire.messages import worker as m
from pilot.wire.messages.pilot import RunningTask
from pilot.wire.polling import poller_of
from pilot.wire.reaching import find_way
from pilot.worker.entering import leave_file
from pilot.worker.executor import ExecutorConfig
from pilot.worker.executor import main as executor_main
from pilot.worker.forking import Forked, ForkServer, Served
from pilot.worker.memory_watch import end_in_task, look
from pilot.worker.node_cache import CacheHolder
from pilot.worker.numa import domains
from pilot.worker.preloading import Preloads
from pilot.worker.preloading import run as run_template
from pilot.worker.shared_memory import (
    PLACE_BYTES,
    PLACES,
    SLOT,
    TELL_WHERE,
    listening_task,
    order_of,
    reason_in,
    sample_of,
    shared_by_fork,
    skip_upto,
    tell_to_end,
    tell_to_stop,
)
from pilot.worker.store_keeper import StoreKeeper

log = logging.getLogger("pilot.node")

#: Signs of life are sent so often, in seconds.
STATUS_S = 1.0
#: Without one from the agent for so long, the node worker ends.
SILENT_S = 30.0
#: SIGTERM that comes again so soon, in seconds, is the same: the batch system sends it to a step,
#: and has it sent once more by the step's launcher, which it has ended, too.
SAME_S = 5.0
#: The exit status of a node worker that does not reach its agent.
UNREACHED = 73
#: A turn of the loop that took so long means that this process itself stood still, in seconds.
SLEPT_S = 5.0
#: The time that a task has run for when that is told, in seconds.
TOLD_S = 0.5
#: The last so many bytes of a crashed task's output are told.
TAIL_BYTES = 4096
#: Of ranks more: a stack is told from its inner end, and as long as it may be.
RANK_TAIL_BYTES = 16 * 1024
#: So long a rank that is killed has to write down where it is, in seconds.
TELL_S = 0.25


class _Running:
    """An executor of this node."""

    def __init__(
        self, process: Served, memory: mmap.mmap, slot: int, log_path: Path, owner: str, file: str
    ) -> None:
        self.process = process
        #: The name that its segments bear.
        self.owner = owner
        #: The memory that is shared with it, and its place there.
        self.memory = memory
        self.slot = slot
        self.log = log_path
        #: The file with that memory, of an executor that is a program; else empty.
        self.file = file
        self.kill_at = 0.0
        #: Why it was killed, where its task had too much memory.
        self.over = ""


class NodeWorker:
    """The node worker of one node.

    Parameters
    ----------
    site
        The site.
    pilot, node
        Names of the pilot and of this node.
    agent
        The agent's endpoint.
    shape
        The resources of this node, as the pool says.
    executors
        The fork server of its executors.
    memory
        The memory that it shares with them.
    """

    def __init__(
        self,
        site: Site,
        pilot: str,
        node: str,
        agent: str,
        shape: NodeShape,
        executors: ForkServer,
        memory: mmap.mmap,
    ) -> None:
        self._site = site
        self._pilot = pilot
        self._node = node
        self._agent = agent
        self._shape = shape
        self._fork_server = executors
        self._preloads = Preloads(executors, f"{node} {pilot}", self._tell_not_preloaded)
        self._cache = CacheHolder(self._site, pilot)
        self._memory = memory
        self._free_slots = list(range(PLACES - 1, -1, -1))
        self._executors: dict[int, _Running] = {}
        #: Ranks of MPI worlds on this node, by the descriptor that tells their end; and whether
        #: they lead a process group, as they do under most launchers.
        self._ranks: dict[int, tuple[m.WatchRank, bool, mmap.mmap | None]] = {}
        #: Ranks that write down where they are, and when they are killed.
        self._telling: list[tuple[float, int]] = []
        #: Why ranks were killed whose tasks had too much memory, by process.
        self._ranks_over: dict[int, str] = {}
        self._enforces_memory = bool(os.environ.get(ENFORCES_MEMORY))
        self._poller = poller_of()
        self._ending = False
        #: How often SIGTERM has come, and when it did last; what follows at once is the same.
        self._signals = 0
        self._signalled = 0.0
        self._parent = os.getppid()
        self._client: Client[Any] = Client(
            load_keys(self._site.keys), f"node:{node}".encode(), m.ToNode
        )
        self._keeper = StoreKeeper(
            site,
            pilot,
            node,
            self._client.send,
            lambda descriptor: self._poller.register(descriptor, select.POLLIN),
        )

    def run(self) -> None:
        """Serve until told to end, or until the agent is gone."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._client.connect(self._agent, REBIND_S)
        shape = msgspec.structs.replace(self._shape, domains=domains(self._shape.cores))
        self._client.send(m.NodeHello(self._node, shape, os.getpid()))
        self._poller = poller_of(self._client.source, self._fork_server.sentinel)
        self._keeper.begin()
        heard = told = looked = time.monotonic()
        try:
            while not self._ending:
                loading = self._preloads.sentinels
                for descriptor in loading:
                    self._poller.register(descriptor, select.POLLIN)
                ready = dict(self._poller.poll(self._timeout_ms()))
                for descriptor in loading:
                    self._poller.unregister(descriptor)
                if self._fork_server.sentinel in ready:
                    log.error("the fork server has ended, and with it the executors")
                    break
                for message in self._client.receive():
                    heard = time.monotonic()
                    try:
                        self._take(message)
                    except Exception:
                        # All executors would end with this process.
                        log.exception("a %s could not be taken in", type(message).__name__)
                for request in self._preloads.look():
                    self._fork(request)
                self._keeper.look(ready)
                self._reap(ready)
                self._reap_ranks(ready)
                now = time.monotonic()
                if now - looked > SLEPT_S:
                    heard = now  # this process has stood still itself, with its job
                looked = now
                self._kill_overdue(now)
                if self._signals and not self._ending:
                    self._ending = not self._may_go_on()
                if now - told >= STATUS_S:
                    told = now
                    self._look_at_memory()
                    self._client.send(m.NodeStatus(self._node, self._running(), self._listening()))
                if now - heard > SILENT_S:
                    log.error("the agent has been silent for %.0f s", now - heard)
                    self._ending = True
        finally:
            self._end_all()
            self._cache.close()
            self._keeper.close()
            self._client.close()
            self._preloads.close()
            self._fork_server.close()

    def _on_signal(self, *_: object) -> None:
        now = time.monotonic()
        if not self._signals or now - self._signalled > SAME_S:
            self._signals += 1
            self._signalled = now

    def _may_go_on(self) -> bool:
        """Tell whether tasks here may go on for a while after SIGTERM."""
        return self._signals == 1 and os.getppid() == self._parent and bool(self._listening())

    def _timeout_ms(self) -> int:
        waiting = [e.kill_at for e in self._executors.values() if e.kill_at]
        waiting += [kill_at for kill_at, _ in self._telling]
        until = min(waiting, default=time.monotonic() + STATUS_S) - time.monotonic()
        return int(1000 * max(0.0, min(until, STATUS_S / 2)))

    def _take(self, message: Any) -> None:
        if isinstance(message, m.StartExecutor):
            self._start(message)
        elif isinstance(message, m.StopExecutor):
            self._stop(message.executor, message.grace_s)
        elif isinstance(message, m.EndTemplates):
            self._preloads.forget(message.session)
        elif isinstance(message, m.Unsend):
            self._unsend(message)
        elif isinstance(message, m.TellStop):
            self._tell_to_stop(message)
        elif isinstance(message, m.WatchRank):
            self._watch_rank(message)
        elif isinstance(message, m.KillRank):
            self._kill_rank(message)
        elif isinstance(message, m.AgentStatus):
            if message.local.startswith(LOCAL) and self._agent.startswith(LOCAL):
                self._agent = message.local
        elif isinstance(message, m.Exit):
            self._ending = True
        else:
            if isinstance(message, m.DropKept):
                self._cache.drop(message.paths, message.sessions)
            self._keeper.take(message)

    def _watch_rank(self, message: m.WatchRank) -> None:
        memory = _adopt_memory(message.memory)
        try:
            leads = os.getpgid(message.pid) == message.pid
            process = os.pidfd_open(message.pid)
        except ProcessLookupError:
            self._tell_rank_exited(message, memory)
        except OSError:
            return  # an old kernel: the launcher will tell, later
        else:
            self._ranks[process] = message, leads, memory
            self._poller.register(process, select.POLLIN)

    def _kill_rank(self, message: m.KillRank) -> None:
        """Kill a rank; one that is to tell where it is, a moment later."""
        if message.tells and any(rank.pid == message.pid for rank, _, _ in self._ranks.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(message.pid, TELL_WHERE)
            self._telling.append((time.monotonic() + TELL_S, message.pid))
        else:
            kill_with_descendants(message.pid)

    def _reap_ranks(self, ready: dict[Any, int]) -> None:
        for process in [process for process in self._ranks if process in ready]:
            message, leads, memory = self._ranks.pop(process)
            self._poller.unregister(process)
            os.close(process)
            if leads:
                # The processes that it had started go with it, whatever the launcher does.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(message.pid, signal.SIGKILL)
            self._tell_rank_exited(message, memory)

    def _tell_rank_exited(self, message: m.WatchRank, memory: mmap.mmap | None) -> None:
        task, _, started, begin, _ = SLOT.unpack_from(memory) if memory else (0, 0, 0.0, 0, 0)
        over = self._ranks_over.pop(message.pid, "")
        logs: tuple[LogSpan, ...] = ()
        tail = ""
        if task:
            path = self._site.directory / rank_log(self._pilot, message.world, message.rank)
            logs, tail = self._output(path, begin, RANK_TAIL_BYTES)
        log = logs[0] if logs else None
        self._client.send(
            m.RankExited(message.world, message.rank, task, started, log, over, tail if log else "")
        )

    def _tell_not_preloaded(self, session: int, module: str, reason: str) -> None:
        self._client.send(m.NotPreloaded(self._node, session, module, reason))

    def _start(self, message: m.StartExecutor) -> None:
        """Start an executor; one whose session's modules are still being loaded, when they are."""
        if not self._preloads.holds_back(message):
            self._fork(message)

    def _fork(self, message: m.StartExecutor) -> None:
        software = message.software
        is_program = software is not None and software.needs_start
        slot = 0 if is_program else self._free_slots.pop()
        path = self._site.logs / self._pilot / f"{self._node}-{message.executor}.out"
        owner = f"{self._pilot}-{self._node}-{message.executor}-{os.getpid()}"
        config = ExecutorConfig(
            owner=owner,
            number=message.executor,
            pilot=self._pilot,
            node=self._node,
            agent=self._agent,
            session=message.session,
            cores=message.cores,
            indices=message.indices,
            cores_of_node=self._shape.cores,
            gpus_of_node=self._shape.gpus,
            log=str(path),
            slot=slot,
            site=str(self._site.directory),
        )
        memory, file = self._memory, ""
        try:
            if is_program and software is not None:
                file = str(runtime_dir() / f"executor-{owner}")
                memory = leave_file(Path(file), config.in_software(software, file))
                config = msgspec.structs.replace(config, software=software, file=file)
            process = self._preloads.fork(message, msgspec.msgpack.encode(config))
        except OSError as error:
            if is_program:
                Path(file).unlink(missing_ok=True)
            else:
                self._free_slots.append(slot)
            said = f"it cannot be forked on {self._node}: {error.strerror or error}"
            if error.errno == errno.EAGAIN:
                said += "; is the limit of processes (ulimit -u) too low?"
            self._client.send(m.ExecutorExited(message.executor, 1, 0, 0.0, (), said))
            return
        self._executors[message.executor] = _Running(process, memory, slot, path, owner, file)
        self._poller.register(process.sentinel, select.POLLIN)

    def _stop(self, number: int, grace_s: float) -> None:
        executor = self._executors.get(number)
        if executor is not None:
            tell_to_end(executor.memory, executor.slot * PLACE_BYTES)
            if grace_s:
                _ask_to_end(executor.process)
            else:
                _signal_group(executor.process, signal.SIGKILL)
            executor.kill_at = time.monotonic() + grace_s
        elif self._preloads.cancel(number):
            self._client.send(m.ExecutorExited(number, 0, 0, 0.0, (), ""))

    def _unsend(self, message: m.Unsend) -> None:
        """Have an executor, or a world by its rank 0, skip the work that it was sent and has not
        begun."""
        number = message.number
        if executor := self._executors.get(number):
            pid = executor.process.pid
            order = order_of(executor.memory, executor.slot * PLACE_BYTES)
            begun = _skip_upto(pid, order, message.upto)
        else:
            begun = None
            for rank, _, memory in self._ranks.values():
                if rank.world == number and rank.rank == 0 and memory is not None:
                    begun = _skip_upto(rank.pid, order_of(memory), message.upto)
        if begun is not None:
            self._client.send(m.Unsent(number, begun, message.upto))

    def _tell_to_stop(self, message: m.TellStop) -> None:
        notice = (message.task, message.attempt, message.until, message.reason)
        if executor := self._executors.get(message.number):
            tell_to_stop(executor.memory, executor.slot * PLACE_BYTES, *notice)
        for rank, _, memory in self._ranks.values():
            if rank.world == message.number and memory is not None:
                tell_to_stop(memory, 0, *notice)

    def _listening(self) -> list[int]:
        """List the tasks that look whether they are to stop, read from shared memory."""
        places = [(its.memory, its.slot * PLACE_BYTES) for its in self._executors.values()]
        places += [(memory, 0) for _, _, memory in self._ranks.values() if memory is not None]
        tasks = {listening_task(memory, offset) for memory, offset in places}
        return sorted(tasks - {0})

    def _look_at_memory(self) -> None:
        """Look at the memory that tasks have, and end those that have more than they asked for."""
        for executor in self._executors.values():
            pid, offset = executor.process.pid, executor.slot * PLACE_BYTES
            task, why = look(pid, executor.memory, offset, self._enforces_memory)
            if task and end_in_task(pid, executor.memory, offset, task):
                executor.over = why
        for rank, _, memory in self._ranks.values():
            if memory is not None:
                task, why = look(rank.pid, memory, 0, self._enforces_memory)
                if task and end_in_task(rank.pid, memory, 0, task):
                    self._ranks_over[rank.pid] = f"rank {rank.rank}: {why}"

    def _kill_overdue(self, now: float) -> None:
        there = {rank.pid for rank, _, _ in self._ranks.values()} if self._telling else ()
        while self._telling and now >= self._telling[0][0]:
            _, pid = self._telling.pop(0)
            if pid in there:
                kill_with_descendants(pid)
        for executor in self._executors.values():
            if executor.kill_at and now >= executor.kill_at:
                _signal_group(executor.process, signal.SIGKILL)
                executor.kill_at = now + 1.0

    def _reap(self, ready: dict[Any, int]) -> None:
        for number, executor in list(self._executors.items()):
            if executor.process.sentinel not in ready:
                continue
            self._poller.unregister(executor.process.sentinel)
            try:
                status = executor.process.wait(0.0)
            except ConnectionError:
                status = -signal.SIGKILL  # its guard was killed
            del self._executors[number]
            memory, offset = executor.memory, executor.slot * PLACE_BYTES
            task, _, started, begin, _ = SLOT.unpack_from(memory, offset)
            its_task, peak_mib = sample_of(memory, offset)
            reason = reason_in(memory, offset)
            if executor.file:
                Path(executor.file).unlink(missing_ok=True)
            else:
                memory[offset : offset + PLACE_BYTES] = bytes(PLACE_BYTES)
                self._free_slots.append(executor.slot)
            logs, tail = self._output(executor.log, begin) if task or status else ((), "")
            tail = reason or tail
            if status:
                self._remove_unsealed(executor.owner)
            seen_mib = peak_mib if its_task == task else 0
            self._client.send(
                m.ExecutorExited(
                    number, status or 0, task, started, logs, tail, executor.over, seen_mib
                )
            )
            executor.process.close()

    def _remove_unsealed(self, owner: str) -> None:
        """Remove the unfinished segments of an executor that died."""
        from pilot.data.segments import remove_unsealed  # it loads HDF5: only when it is needed

        try:
            remove_unsealed(self._site.directory, owner)
            if self._keeper.store is not None:
                self._keeper.store.drop_unsealed(owner)
        except OSError as error:
            log.warning("unfinished segments of %s stay behind: %s", owner, error)

    def _output(
        self, path: Path, begin: int, most: int = TAIL_BYTES
    ) -> tuple[tuple[LogSpan, ...], str]:
        try:
            with path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(begin, end - most))
                tail = file.read().decode(errors="replace")
        except OSError:
            return (), ""
        name = path.relative_to(self._site.directory).as_posix()
        return (LogSpan(name, begin, end),) if end > begin else (), tail

    def _running(self) -> list[RunningTask]:
        """List the tasks that have run for a while, read from the executors' shared memory."""
        running = []
        now = clock.now()
        for executor in self._executors.values():
            task, attempt, started, begin, _ = SLOT.unpack_from(
                executor.memory, executor.slot * PLACE_BYTES
            )
            if task and now - started > TOLD_S:
                name = executor.log.relative_to(self._site.directory).as_posix()
                running.append(
                    RunningTask(task, attempt, self._node, started, (LogSpan(name, begin, -1),))
                )
        return running

    def _end_all(self) -> None:
        for executor in self._executors.values():
            tell_to_end(executor.memory, executor.slot * PLACE_BYTES)
            _signal_group(executor.process, signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        for executor in self._executors.values():
            with contextlib.suppress(ConnectionError):
                executor.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(executor.process, signal.SIGKILL)
        deadline = time.monotonic() + 2.0
        for executor in self._executors.values():
            with contextlib.suppress(ConnectionError):
                executor.process.wait(max(0.0, deadline - time.monotonic()))


def _adopt_memory(path: str) -> mmap.mmap | None:
    """Return the memory in which a rank tells its task, and remove its file if it has one; None if
    it is gone."""
    try:
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        if not path.startswith("/proc/"):
            Path(path).unlink()
    except (OSError, ValueError):
        return None
    return memory


def _skip_upto(pid: int, order: memoryview[int], upto: int) -> int | None:
    """Have a process skip the works that it has not begun, up to the `upto`-th.

    It is in a task, and hears nothing until that ends. So the word is left in its memory, while it
    is stopped: then it cannot begin with the next one at the same time.

    Returns
    -------
    int or None
        Which work it had begun; None where it has ended, or cannot be stopped now.
    """
    try:
        os.kill(pid, signal.SIGSTOP)
        try:
            # It may be in the kernel: the agent will ask again.
            return skip_upto(order, upto) if has_stopped(pid) else None
        finally:
            os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, FileNotFoundError):
        return None


def _signal_group(process: Served, number: int) -> None:
    """Signal an executor and everything that it has started; the executor alone if it just
    started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _ask_to_end(process: Served) -> None:
    """Ask an executor and everything that it has started to end, in any process session."""
    elsewhere = []
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) != process.pid:
                elsewhere.append(pid)
    _signal_group(process, signal.SIGTERM)
    for pid in elsewhere:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)


class ForkedNode(Forked):
    """The node worker of the agent's own node, forked before the agent has threads.

    Parameters
    ----------
    site, pilot, node, shape
        As for a `NodeWorker`.
    """

    def __init__(self, site: Site, pilot: str, node: str, shape: NodeShape) -> None:
        self.node = node
        reader, self._writer = os.pipe()

        def run() -> None:
            os.close(self._writer)
            with open(reader, encoding="utf-8") as told:
                main(site, pilot, node, shape, told.read)

        super().__init__(run)
        os.close(reader)

    def tell(self, agent: str) -> None:
        """Send the node worker the agent's endpoint, which it waits for."""
        with open(self._writer, "w", encoding="utf-8") as writer:
            writer.write(agent)


def find_agent(endpoints: Endpoints, node: str) -> str:
    """Search for an address of the agent that this node reaches.

    Raises
    ------
    SystemExit
        It reaches none: the exit status is `UNREACHED`.
    """
    way = find_way(endpoints)
    for failure in way.failures:
        log.warning("%s does not reach the agent at %s", node, failure)
    if way.is_reached:
        return way.endpoint
    log.error("%s reaches the agent at none of its addresses", node)
    raise SystemExit(UNREACHED)


def main(
    site: Site, pilot: str, node: str, shape: NodeShape, find_agent: Callable[[], str]
) -> None:
    """Run a node worker; `find_agent` returns the agent's endpoint, or an empty text if it has
    died."""
    if fault := missing_gpus(shape.gpus):
        log.error("node %s cannot be used: %s", node, fault)
        raise SystemExit(1)
    frames_here()  # once for all executors
    name_process(f"pilot forkserver {node} {pilot}")
    # First, while there is nothing yet that a fork must not have.
    memory = shared_by_fork()
    executors = ForkServer(
        lambda packed: executor_main(packed, site, memory), f"{node} {pilot}", run_template
    )
    name_process(f"pilot node {node} {pilot}")
    die_with_parent(signal.SIGTERM)
    if agent := find_agent():
        NodeWorker(site, pilot, node, agent, shape, executors, memory).run()
