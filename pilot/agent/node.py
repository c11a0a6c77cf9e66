"""A node worker: starts, watches and ends the executors of one node.

It is a Slurm step of its own, so that a pilot can give single nodes back. Tasks do not pass through
it: executors speak to the agent themselves.

Invariants
----------
- Executors end with it, and whatever they have started: each is the leader of a process group.
- Without a sign of life from the agent for `SILENT_S` it ends.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import zmq

from pilot.agent.executor import SLOT, ExecutorConfig
from pilot.agent.executor import main as executor_main
from pilot.agent.node_cache import CacheHolder
from pilot.process import die_with_parent, name_process
from pilot.site import open_site
from pilot.wire import messages as m
from pilot.wire.channel import Client, load_keys, runtime_dir
from scheduler.resources import NodeShape

log = logging.getLogger("pilot.node")

#: Signs of life are sent so often, in seconds.
STATUS_S = 1.0
#: Without one from the agent for so long, the node worker ends.
SILENT_S = 30.0
#: What has run for so long is told, in seconds.
TOLD_S = 0.5
#: The last so many bytes of a crashed task's output are told.
TAIL_BYTES = 4096
#: Executors that one node may have at a time, idle ones included.
SLOTS = 4096


class _Running:
    """An executor of this node."""

    def __init__(self, process: BaseProcess, slot: int, log_path: Path, owner: str) -> None:
        self.process = process
        #: What its segments are named by.
        self.owner = owner
        self.slot = slot
        self.log = log_path
        self.kill_at = 0.0


class NodeWorker:
    """The node worker of one node.

    Parameters
    ----------
    site_dir
        The site directory.
    pilot, node
        Names of the pilot and of this node.
    agent
        The agent's endpoint.
    shape
        What the pool says that this node has.
    """

    def __init__(self, site_dir: Path, pilot: str, node: str, agent: str, shape: NodeShape) -> None:
        self._site = open_site(site_dir)
        self._pilot = pilot
        self._node = node
        self._agent = agent
        self._shape = shape
        self._spawner = multiprocessing.get_context("forkserver")
        self._cache = CacheHolder(self._site, pilot)
        self._memory_path = runtime_dir() / f"node-{os.getpid()}"
        self._memory_path.write_bytes(b"\0" * (SLOT.size * SLOTS))
        with self._memory_path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._free_slots = list(range(SLOTS - 1, -1, -1))
        self._executors: dict[int, _Running] = {}
        #: Ranks of MPI worlds on this node, by the descriptor that tells their end; and whether
        #: they lead a process group, as they do under most launchers.
        self._ranks: dict[int, tuple[m.WatchRank, bool]] = {}
        self._poller = zmq.Poller()
        self._ending = False
        self._client: Client[Any] = Client(
            load_keys(self._site.keys), f"node:{node}".encode(), m.ToNode
        )

    def run(self) -> None:
        """Serve until told to end, or until the agent is gone."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._client.connect(self._agent)
        self._client.send(m.NodeHello(self._node, self._shape, os.getpid()))
        self._poller.register(self._client.socket, zmq.POLLIN)
        heard = told = time.monotonic()
        try:
            while not self._ending:
                ready = dict(self._poller.poll(self._timeout_ms()))
                for message in self._client.receive():
                    heard = time.monotonic()
                    self._take(message)
                self._reap(ready)
                self._reap_ranks(ready)
                now = time.monotonic()
                self._kill_overdue(now)
                if now - told >= STATUS_S:
                    told = now
                    self._client.send(m.NodeStatus(self._node, self._running()))
                if now - heard > SILENT_S:
                    log.error("the agent has been silent for %.0f s", now - heard)
                    self._ending = True
        finally:
            self._end_all()
            self._cache.close()
            self._memory_path.unlink(missing_ok=True)
            self._client.close()

    def _on_signal(self, *_: object) -> None:
        self._ending = True

    def _timeout_ms(self) -> int:
        waiting = [e.kill_at for e in self._executors.values() if e.kill_at]
        until = min(waiting, default=time.monotonic() + STATUS_S) - time.monotonic()
        return int(1000 * max(0.0, min(until, STATUS_S / 2)))

    def _take(self, message: Any) -> None:
        if isinstance(message, m.StartExecutor):
            self._start(message)
        elif isinstance(message, m.StopExecutor):
            self._stop(message.executor, message.grace_s)
        elif isinstance(message, m.WatchRank):
            self._watch_rank(message)
        elif isinstance(message, m.KillRank):
            with contextlib.suppress(ProcessLookupError):
                os.kill(message.pid, signal.SIGKILL)
        elif isinstance(message, m.Exit):
            self._ending = True

    def _watch_rank(self, message: m.WatchRank) -> None:
        try:
            leads = os.getpgid(message.pid) == message.pid
            process = os.pidfd_open(message.pid)
        except ProcessLookupError:
            self._client.send(m.RankExited(message.world, message.rank))
        except OSError:
            return  # an old kernel: the launcher will tell, later
        else:
            self._ranks[process] = message, leads
            self._poller.register(process, zmq.POLLIN)

    def _reap_ranks(self, ready: dict[Any, int]) -> None:
        for process in [process for process in self._ranks if process in ready]:
            message, leads = self._ranks.pop(process)
            self._poller.unregister(process)
            os.close(process)
            if leads:
                # What it had started goes with it, whatever the launcher does.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(message.pid, signal.SIGKILL)
            self._client.send(m.RankExited(message.world, message.rank))

    def _start(self, message: m.StartExecutor) -> None:
        slot = self._free_slots.pop()
        path = self._site.logs / self._pilot / f"{self._node}-{message.executor}.out"
        owner = f"{self._pilot}-{self._node}-{message.executor}-{os.getpid()}"
        config = ExecutorConfig(
            owner=owner,
            number=message.executor,
            pilot=self._pilot,
            node=self._node,
            site=str(self._site.directory),
            agent=self._agent,
            session=message.session,
            cores=message.cores,
            gpus=message.gpus,
            cores_of_node=self._shape.cores,
            log=str(path),
            memory=str(self._memory_path),
            slot=slot,
            stream=message.stream,
        )
        process = self._spawner.Process(
            target=executor_main, args=(msgspec.msgpack.encode(config),), daemon=False
        )
        process.start()
        self._executors[message.executor] = _Running(process, slot, path, owner)
        self._poller.register(process.sentinel, zmq.POLLIN)

    def _stop(self, number: int, grace_s: float) -> None:
        executor = self._executors.get(number)
        if executor is not None:
            _signal_group(executor.process, signal.SIGTERM if grace_s else signal.SIGKILL)
            executor.kill_at = time.monotonic() + grace_s

    def _kill_overdue(self, now: float) -> None:
        for executor in self._executors.values():
            if executor.kill_at and now >= executor.kill_at:
                _signal_group(executor.process, signal.SIGKILL)
                executor.kill_at = now + 1.0

    def _reap(self, ready: dict[Any, int]) -> None:
        for number, executor in list(self._executors.items()):
            if executor.process.sentinel not in ready:
                continue
            self._poller.unregister(executor.process.sentinel)
            executor.process.join()
            # What the task had started goes with it.
            _signal_group(executor.process, signal.SIGKILL)
            del self._executors[number]
            task, _, started, begin = SLOT.unpack_from(self._memory, executor.slot * SLOT.size)
            SLOT.pack_into(self._memory, executor.slot * SLOT.size, 0, 0, 0.0, 0)
            self._free_slots.append(executor.slot)
            logs, tail = self._output(executor.log, begin) if task else ((), "")
            if executor.process.exitcode:
                self._remove_unsealed(executor.owner)
            self._client.send(
                m.ExecutorExited(number, executor.process.exitcode or 0, task, started, logs, tail)
            )
            executor.process.close()

    def _remove_unsealed(self, owner: str) -> None:
        """Remove the unfinished segments of an executor that died."""
        from pilot.data.segments import remove_unsealed  # it loads HDF5: only when it is needed

        try:
            remove_unsealed(self._site.directory, owner)
        except OSError as error:
            log.warning("unfinished segments of %s stay behind: %s", owner, error)

    def _output(self, path: Path, begin: int) -> tuple[tuple[m.LogSpan, ...], str]:
        try:
            with path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(begin, end - TAIL_BYTES))
                tail = file.read().decode(errors="replace")
        except OSError:
            return (), ""
        name = path.relative_to(self._site.directory).as_posix()
        return (m.LogSpan(name, begin, end),) if end > begin else (), tail

    def _running(self) -> list[m.RunningTask]:
        """What has run for a while, read from the executors' shared memory."""
        running = []
        now = time.time()
        for executor in self._executors.values():
            task, attempt, started, begin = SLOT.unpack_from(
                self._memory, executor.slot * SLOT.size
            )
            if task and now - started > TOLD_S:
                name = executor.log.relative_to(self._site.directory).as_posix()
                running.append(
                    m.RunningTask(task, attempt, self._node, started, (m.LogSpan(name, begin, -1),))
                )
        return running

    def _end_all(self) -> None:
        for executor in self._executors.values():
            _signal_group(executor.process, signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        for executor in self._executors.values():
            executor.process.join(max(0.0, deadline - time.monotonic()))
            _signal_group(executor.process, signal.SIGKILL)
            executor.process.join()


def _signal_group(process: BaseProcess, number: int) -> None:
    """Signal an executor and all that it has started; if it just started, itself alone."""
    pid = process.pid
    if pid is None:
        return
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        if process.exitcode is None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return


def main(
    site_dir: Path, pilot: str, node: str, agent: str, cores: int, memory_mib: int, gpus: int
) -> None:
    """Be a node worker."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    name_process(f"pilot node {node} {pilot}")
    die_with_parent(signal.SIGTERM)
    NodeWorker(site_dir, pilot, node, agent, NodeShape(cores, memory_mib, gpus)).run()
