"""The agent of a pilot: on the first node of its job, between the head and the executors.

The shell around `rules` and `service`: it turns frames, signals, exits of processes and time into
calls, finds the next head through the site directory, and carries the actions out.

Invariants
----------
- A head with a lower epoch than a known one is not listened to.
- No message ends it, whatever is wrong with it.
- It knows nothing of SQLite or of the queue of jobs: its job's end comes as a time and as signals.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilot import clock
from pilot.agent.fetching import Fetching
from pilot.agent.head_search import HeadSearch
from pilot.agent.mpi_launcher import MpiLauncher
from pilot.agent.processes import child_of_agent, kill_group
from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.agent.rules.worlds import World
from pilot.agent.sent import Sent
from pilot.agent.service import LEAVE_S, STATUS_S, Identity, Notice, Service
from pilot.agent.world_launching import WorldLaunching
from pilot.data.pickling_by_value import INTERPRETER
from pilot.gpus import VENDOR
from pilot.installed import installed
from pilot.interpreter import pilot_command
from pilot.launchers import (
    leave_identity,
    node_worker,
)
from pilot.model.installation import Installation
from pilot.model.tasks import LogSpan
from pilot.process import (
    missing_gpus,
    name_process,
    raise_file_limit,
    start_log,
)
from pilot.scheduler.amounts import MEMORY
from pilot.scheduler.resources import NodeShape
from pilot.site import Site, open_site, rank_log
from pilot.site_configs import PoolConfig
from pilot.variables import ENFORCES_MEMORY
from pilot.wire.channel import Client, Server
from pilot.wire.discovery import HeadAddress, read_address
from pilot.wire.keys import load_keys
from pilot.wire.messages import worker as m
from pilot.wire.messages.pilot import NodeInfo, RunningTask, ToPilot
from pilot.wire.polling import Poller, poller_of
from pilot.worker.mpi_program import plan_ranks
from pilot.worker.node import UNREACHED, ForkedNode

log = logging.getLogger("pilot.agent")

#: How often timers are looked at, in seconds.
TICK_S = 0.1
#: The site directory is looked at for a new head so often, in seconds.
LOOK_S = 0.5
#: A pilot that its head refuses for so long, since the keys were changed, ends, in seconds.
REFUSED_S = 5.0
#: A node worker that is silent for so long is gone, in seconds.
NODE_SILENT_S = 20.0
#: A tick that is so late means that this process itself stood still, in seconds: its job was
#: suspended, or its machine.
SLEPT_S = 5.0
#: So long it is waited whether a process that somebody has ended was ended with the whole job, in
#: seconds. MPI ranks do not tell how they ended.
VERDICT_S = 2.0


class Agent:
    """The agent of one pilot; `run` returns when the pilot ends.

    Parameters
    ----------
    site
        The site.
    pilot, pool
        Names of the pilot and of its pool.
    own
        The node worker of this node, if it was forked already.
    """

    def __init__(self, site: Site, pilot: str, pool: str, own: ForkedNode | None) -> None:
        self._site = site
        self._pilot = pilot
        self._pool = site.config.pools[pool]
        self._kind = site.config.kind
        nodelist = os.environ.get("PILOT_NODELIST")
        self._hosts = self._kind.node_names(nodelist) if nodelist else [socket.gethostname()]
        self._shape = shape_of_nodes(self._pool, os.environ)
        durable_every_s = site.config.data.durable_every_s
        self._rules = Rules(self._hosts, self._shape, clock.now(), durable_every_s)
        self._nodes: dict[str, bytes] = {}
        self._node_heard: dict[str, float] = {}
        self._node_running: dict[str, list[RunningTask]] = {}
        #: The node worker of this node, if it was forked from this process.
        self._own = own
        self._steps: dict[str, subprocess.Popen[bytes] | ForkedNode] = {}
        #: Nodes that have not reached this one.
        self._unreached_from: set[str] = set()
        #: Nodes where nothing can run, and why.
        self._given_up: dict[str, str] = {}
        #: The nodes that go back to the batch system, and when what is left there is killed.
        self._leaving: dict[str, float] = {}
        self._executors: dict[int, tuple[bytes, Sent]] = {}
        #: Executors that somebody has ended, and when that counts as their own crash.
        self._doubtful: deque[tuple[float, m.ExecutorExited]] = deque()
        self._head: HeadAddress | None = None
        self._search = HeadSearch(site.unreached(pilot), site.config.head.transport == "files")
        #: True if the site directory said at the last look where the head is.
        self._in_sight = False
        #: Since when the head refuses the keys; 0 while it does not.
        self._refused_since = 0.0
        self._looked = self._nodes_told = 0.0
        self._ticked = clock.now()
        self._signals: list[int] = []
        self._launcher = MpiLauncher(site, self._hosts[0])
        keys = load_keys(site.keys)
        # The processes of a pilot of this one node find each other without the network; where
        # `salloc` runs the program on the login node, the node is another one.
        address = None if _is_here(self._hosts) else self._pool.address
        self._server: Server[Any] = Server(
            keys, f"{site.directory}/{pilot}", m.ToAgent, address, key=f"pools.{pool}.address"
        )
        self._fetching = Fetching(address, self._nodes, self._send_to_node, self._fail_to_fetch)
        environ = os.environ
        job = environ.get("PILOT_JOB_ID", str(os.getpid()))
        life = int(environ.get("PILOT_RESTART_COUNT") or 0)
        # The name has the life in it: an earlier one, whose node is cut off, may come back.
        self._client: Client[Any] = Client(keys, f"pilot:{pilot}:{life}".encode(), ToPilot)
        self._service = Service(
            Identity(pilot, job, life, pool),
            self._rules,
            self._client.send,
            self._node_infos,
            self._running,
            self._judge,
            self._leave_nodes,
            self._keep_nodes,
            _end_of_walltime(environ.get("PILOT_JOB_ENDS_AT") or "0"),
            self._pool.warning_s,
            Notice(self._pool.notice_s, self._pool.stop_grace_s),
            installation=Installation(INTERPRETER, installed()),
        )
        self._worlds = WorldLaunching(
            site,
            pilot,
            self._shape,
            self._rules,
            self._launcher,
            self._server,
            self._service.sessions.__getitem__,
            self._service.functions,
            self._send_to_node,
        )

    # --- the loop

    def run(self) -> None:
        """Serve until the pilot ends."""
        wake = self._listen_to_signals()
        for host in self._hosts:
            self._start_node(host)
        poller = self._poller(wake)
        while True:
            now = clock.now()
            if self._look_for_head(now):
                poller = self._poller(wake)
            wait_s = min(TICK_S, self._service.wait_s(now))
            ready = dict(poller.poll(math.ceil(wait_s * 1000)))
            now = clock.now()
            if wake.fileno() in ready:
                self._take_signals(wake, now)
            for peer, message in self._server.receive():
                with _survives(message):
                    self._take(peer, message, now)
            for peer, unreadable in self._server.take_unreadable():
                with _survives(unreadable):
                    self._end_babbler(peer)
            if self._client.source in ready:
                for message in self._client.receive():
                    with _survives(message):
                        self._service.take(message, now)
                if self._client.take_unreadable():
                    self._service.unreadable(now)
            if now - self._ticked >= TICK_S:
                self._tick(now)
            self._carry_out()
            for node in self._given_up.keys() & self._nodes:
                self._lose_node(node, self._given_up[node], now)
            self._service.report(now)
            if self._service.is_over(now):
                break
        self._close()

    def _poller(self, wake: socket.socket) -> Poller:
        sources = [*self._server.sources, wake.fileno()]
        if self._client.source is not None:
            sources.append(self._client.source)
        return poller_of(*sources)

    def _listen_to_signals(self) -> socket.socket:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))
        self._writer = writer
        return reader

    def _take_signals(self, wake: socket.socket, now: float) -> None:
        try:
            wake.recv(4096)
        except BlockingIOError:
            return
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGUSR1:
                self._service.warned(now)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._service.interrupt("its job was cancelled or preempted", now)
        self._reap(now)

    def _end_babbler(self, peer: bytes) -> None:
        """End an executor or rank that sent an unreadable message, which may have been a result."""
        kind, _, number = peer.partition(b":")
        number = number.partition(b"#")[0]
        if kind in (b"executor", b"sealer"):
            for node in self._nodes:
                self._send_to_node(node, m.StopExecutor(int(number), 0.0))
        elif kind == b"rank":
            world, _, rank = number.partition(b".")
            self._worlds.kill_rank(int(world), int(rank))

    def _tick(self, now: float) -> None:
        if (slept_s := now - self._ticked) > SLEPT_S:
            self._wake_up(slept_s, now)
        self._ticked = now
        self._server.look_after()
        self._rules.tick(now)
        self._judge(now)
        self._launch_what_waits(now)
        self._reap(now)
        if self._leaving:
            self._look_after_leaving(now)
        self._worlds.kill_late(now)
        for node, heard in list(self._node_heard.items()):
            if now - heard > NODE_SILENT_S:
                self._lose_node(node, f"node {node} was silent for {NODE_SILENT_S:.0f} s", now)
        if now - self._nodes_told >= STATUS_S:
            self._nodes_told = now
            for address in self._nodes.values():
                self._server.send(address, m.AgentStatus(self._server.endpoints.local))
        self._service.tick(now)

    def _wake_up(self, slept_s: float, now: float) -> None:
        """Restart the timers for others' silence and for time limits after this process stood
        still."""
        log.warning("stood still for %.0f s: its job or its machine was suspended", slept_s)
        self._node_heard = dict.fromkeys(self._node_heard, now)
        self._service.slept(slept_s, now)

    def _running(self, now: float) -> list[RunningTask]:
        """List the tasks that have run for a while, on executors and in worlds."""
        running = [self._with_logs(world, task) for world, task in self._rules.running(now)]
        for tasks in self._node_running.values():
            running.extend(tasks)
        return running

    def _with_logs(self, world: World, running: RunningTask) -> RunningTask:
        logs = tuple(
            LogSpan(rank_log(self._pilot, world.id, rank), 0, -1)
            for rank in range(world.need.ranks)
        )
        return msgspec.structs.replace(running, logs=logs)

    # --- the head

    def _look_for_head(self, now: float) -> bool:
        """Connect to the head, or to its successor; return True if the connection is new."""
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        known = self._head
        address = read_address(self._site.address_file, known)
        if address is None or address.is_dead():
            # The head may come back: its address was removed, or hidden, by somebody else.
            self._service.lost_head()
            self._in_sight = False
            return False
        # The head has broken this connection off, or its socket or its address was away.
        again = self._client.is_lost or not self._in_sight
        least = 0 if known is None else known.epoch + (not again)
        if address.epoch < least:
            if endpoint := self._search.look(self._service.hears_head(now), now):
                self._client.connect(endpoint)
                self._service.greet()
            return bool(endpoint)
        self._refused_since = (self._refused_since or now) if self._client.is_refused else 0.0
        if self._refused_since and now - self._refused_since > REFUSED_S:
            # The pilot's next executors, which read the keys anew, would be refused here.
            self._service.end("the head holds other keys than this pilot", now, at_once=True)
            return False
        log.info("head of epoch %d on %s", address.epoch, address.host)
        self._head = address
        self._in_sight = True
        self._client.connect(self._search.begin(address, now))
        self._service.greet()
        return True

    def _node_infos(self) -> list[NodeInfo]:
        """List the pilot's nodes, including those whose worker has not reported yet."""
        return [NodeInfo(name, self._shape) for name in self._rules.hosts]

    # --- node workers, executors, ranks

    def _take(self, peer: bytes, message: Any, now: float) -> None:
        if isinstance(message, m.Done):
            self._rules.executor_done(message.executor, message.completions, now)
        elif isinstance(message, m.Kept):
            self._rules.executor_kept(message.executor, message.completions, message.paths, now)
        elif isinstance(message, m.Persisted):
            self._rules.wrote(message.size, message.seconds)
            self._rules.persisted(message.paths, message.failed, now, message.lost, message.in_vain)
        elif isinstance(message, m.Fetched):
            self._rules.fetched(
                message.path, message.node, now, message.problem, message.size, message.seconds
            )
        elif isinstance(message, m.StoreOpened):
            self._fetching.opened(message)
        elif isinstance(message, m.Ran):
            self._rules.executor_ran(message.executor, message.tasks, now)
        elif isinstance(message, m.Waits):
            self._rules.executor_waits(message.executor, message.task, now)
        elif isinstance(message, m.GoesOn):
            self._rules.executor_goes_on(message.executor, message.task, now)
        elif isinstance(message, m.Spent):
            log.info("executor %d takes no more work: %s", message.executor, message.reason)
            self._rules.executor_spent(message.executor)
        elif isinstance(message, m.WorldDone):
            self._rules.world_done(message.world, message.completions, now)
        elif isinstance(message, m.RankDone):
            self._rules.rank_done(message.world, message.rank, message.completion, now)
        elif isinstance(message, m.Unsent):
            self._rules.unsent(message.number, message.begun, message.upto, now)
        elif isinstance(message, m.ExecutorHello):
            self._executors[message.executor] = peer, Sent()
            self._rules.executor_ready(message.executor, message.pid, now)
        elif isinstance(message, m.RankHello):
            if self._worlds.rank_begins(message, peer, self._node_of(message.node)):
                self._rules.rank_ready(message.world, message.rank, now)
        elif isinstance(message, m.NotPreloaded):
            self._not_preloaded(message)
        elif isinstance(message, m.RankExited):
            self._worlds.rank_ends(message.world, message.rank)
            self._rules.rank_exited(
                message.world,
                message.task,
                message.started,
                message.rank,
                message.log,
                message.over,
                message.tail,
            )
        elif isinstance(message, m.NodeStatus) and message.node in self._nodes:
            self._node_heard[message.node] = now
            self._node_running[message.node] = message.running
            self._rules.note_listening(message.node, message.listening)
        elif isinstance(message, m.ExecutorExited):
            self._executors.pop(message.executor, None)
            executor = self._rules.executors.get(message.executor)
            busy = executor is not None and bool(executor.pipeline) and not executor.stopping
            if message.status == -signal.SIGTERM and busy and self._is_doubtful():
                self._doubtful.append((now + VERDICT_S, message))
            else:
                self._executor_exited(message, now)
        elif isinstance(message, m.NodeHello):
            position = self._hosts.index(message.node)  # first: it may be none of this pilot
            if message.node in self._leaving:
                return  # it was told to end before it had begun
            self._nodes[message.node] = peer
            self._node_heard[message.node] = now
            self._rules.add_node(message.node, message.shape, now, position)

    def _is_doubtful(self) -> bool:
        """Tell whether the end of a process may be the first sign of the end of the whole job.

        Some batch systems signal all processes of a job, one after the other and node by node.
        """
        return self._kind.ends_processes_singly and not self._service.ending

    def _executor_exited(self, message: m.ExecutorExited, now: float) -> None:
        self._rules.executor_exited(
            message.executor,
            message.status,
            message.task,
            message.started,
            message.logs,
            message.tail,
            now,
            message.over,
            message.peak_mib,
        )

    def _judge(self, now: float) -> None:
        """Take in the exits of executors that the end of the job has not explained in time."""
        while self._doubtful and (self._service.ending or now >= self._doubtful[0][0]):
            self._executor_exited(self._doubtful.popleft()[1], now)

    def _start_node(self, host: str) -> None:
        shape = self._shape
        endpoint = self._server.endpoints
        if self._own is not None and host == self._own.node:
            self._own.tell(endpoint.choose())
            self._steps[host] = self._own
            return
        command = pilot_command(
            "node",
            str(self._site.directory),
            self._pilot,
            host,
            msgspec.json.encode(endpoint).decode(),
            msgspec.json.encode(shape).decode(),
        )
        launch = node_worker(self._kind.node_launcher, host, command)
        self._steps[host] = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **launch.env},
            preexec_fn=child_of_agent,
        )

    def _reap(self, now: float) -> None:
        """Notice launchers that have ended."""
        for host, process in list(self._steps.items()):
            if (status := process.poll()) is not None:
                del self._steps[host]
                if status == UNREACHED:
                    self._note_unreached(host, now)
                if host in self._leaving:
                    continue  # as it was told to
                self._lose_node(host, f"the node worker on {host} ended with {status}", now)
        self._worlds.reap(VERDICT_S if self._is_doubtful() else 0.0, now)

    def _note_unreached(self, host: str, now: float) -> None:
        """End the pilot if none of its other nodes reaches this one: that is no fault of theirs."""
        self._unreached_from.add(host)
        others = {each for each in self._hosts if self._own is None or each != self._own.node}
        if self._unreached_from >= others:
            told = ", ".join(self._server.endpoints.ways_for_others)
            self._service.end(
                f"its other nodes do not reach its first node at {told}; set the key 'address' of "
                "the pool in site.yaml to the network interface that faces them (ib0)",
                now,
                at_once=True,
            )

    def _lose_node(self, node: str, reason: str, now: float) -> None:
        self._nodes.pop(node, None)
        self._node_heard.pop(node, None)
        self._node_running.pop(node, None)
        self._fetching.lose_node(node)
        lost = self._rules.lose_node(node, reason, now)
        self._service.tell_status(now)
        for executor in lost:
            self._executors.pop(executor.id, None)
            if executor.pid and self._own is not None and node == self._own.node:
                # The node worker was killed, and was no step that the batch system would end.
                kill_group(executor.pid)
        if self._service.ending:
            return
        log.warning("%s", reason)
        if not self._steps and not self._nodes:
            why = "".join(f": {reason}" for reason in self._given_up.values())
            self._service.end(f"it has no nodes left{why}", now, at_once=True)
        elif node in self._steps:
            self._steps[node].terminate()

    # --- nodes that go back

    def _leave_nodes(self, names: list[str]) -> None:
        """End the node workers of nodes that the pilot gives back; executors end with them."""
        for node in names:
            self._send_to_node(node, m.Exit())
            self._nodes.pop(node, None)
            self._node_heard.pop(node, None)
            self._node_running.pop(node, None)
            self._fetching.lose_node(node)
            self._leaving[node] = clock.now() + LEAVE_S
        known = self._rules.executors
        self._executors = {one: its for one, its in self._executors.items() if one in known}

    def _look_after_leaving(self, now: float) -> None:
        """Tell the head of the nodes where nothing of the pilot is left any more."""
        ranks = self._worlds.nodes()
        for node, deadline in list(self._leaving.items()):
            if node not in self._steps and node not in ranks:
                del self._leaving[node]
                self._service.left(node, now)
            elif now > deadline and node in self._steps:
                self._steps[node].terminate()

    def _keep_nodes(self, names: list[str]) -> None:
        for node in names:
            self._start_node(node)

    def _carry_out(self) -> None:
        for action in self._rules.take_actions():
            if isinstance(action, a.RunOnExecutor):
                self._run_on_executor(action)
            elif isinstance(action, a.RunOnWorld):
                self._worlds.run(action)
            elif isinstance(action, a.StartExecutor):
                self._start_executor(action)
            elif isinstance(action, a.StopExecutor):
                self._send_to_node(action.node, m.StopExecutor(action.executor, action.grace_s))
            elif isinstance(action, a.UnsendFromExecutor):
                self._send_to_node(action.node, m.Unsend(action.executor, action.upto))
            elif isinstance(action, a.UnsendFromWorld):
                self._worlds.unsend(action)
            elif isinstance(action, a.GoOnExecutor):
                if action.executor in self._executors:
                    peer, _ = self._executors[action.executor]
                    self._server.send(peer, m.GoOn(action.task, action.cores))
            elif isinstance(action, a.TellExecutor):
                self._tell_to_stop(action, action.executor, (action.node,))
            elif isinstance(action, a.TellWorld):
                self._tell_to_stop(action, action.world, action.nodes)
            elif isinstance(action, a.StartWorld):
                self._worlds.start(action)
            elif isinstance(action, a.GiveUpNode):
                log.error("%s is given up: %s", action.node, action.reason)
                self._given_up[action.node] = action.reason
            elif isinstance(action, a.Persist):
                self._send_to_node(action.node, m.Persist(list(action.paths)))
            elif isinstance(action, a.Fetch):
                self._fetching.fetch(action)
            elif isinstance(action, a.DropKept):
                self._send_to_node(action.node, m.DropKept(list(action.paths)))
            elif isinstance(action, a.ForgetSession):
                self._forget_session(action.session)
            else:
                self._worlds.stop(action.world, action.tells)

    def _forget_session(self, number: int) -> None:
        session = self._service.sessions.get(number)
        if session is not None and session.environment.preload:
            for node in self._nodes:
                self._send_to_node(node, m.EndTemplates(number))
        for node in self._nodes:
            self._send_to_node(node, m.DropKept(sessions=[number]))
        self._service.forget_session(number)

    def _not_preloaded(self, message: m.NotPreloaded) -> None:
        text = (
            f"module {message.module!r} is not preloaded on {message.node}: {message.reason}; "
            "tasks import it by themselves"
        )
        log.warning("session %d: %s", message.session, text)
        self._service.notice(message.session, f"preload {message.module}", text)

    def _tell_to_stop(
        self, action: a.TellExecutor | a.TellWorld, number: int, nodes: tuple[str, ...]
    ) -> None:
        tell = m.TellStop(number, action.task, action.attempt, action.until, action.reason)
        for node in nodes:
            self._send_to_node(node, tell)

    def _node_of(self, host: str) -> str:
        """Return the pilot's name for a node from the host name of a process, with or without its
        domain."""
        short = host.split(".")[0]
        return next((node for node in self._nodes if node.split(".")[0] == short), host)

    def _send_to_node(self, node: str, message: msgspec.Struct) -> None:
        address = self._nodes.get(node)
        if address is not None:
            self._server.send(address, message)

    def _fail_to_fetch(self, action: a.Fetch, problem: str) -> None:
        self._rules.fetched(action.path, action.node, clock.now(), problem)

    def _start_executor(self, action: a.StartExecutor) -> None:
        indices = {portion.name: portion.indices for portion in action.indexed}
        if indices:
            had = ", ".join(map(str, action.indexed))
            log.info("executor %d on %s has %s", action.executor, action.node, had)
        session = self._service.sessions[action.session]
        start = m.StartExecutor(action.executor, session, action.cores, indices, action.software)
        self._send_to_node(action.node, start)

    def _run_on_executor(self, action: a.RunOnExecutor) -> None:
        executor = self._executors.get(action.executor)
        if executor is None:
            return
        peer, sent = executor
        templates, functions = self._rules.templates, self._service.functions
        plan = None
        nodes: tuple[str, ...] = ()
        cores: tuple[tuple[int, ...], ...] = ()
        if action.shares and templates[action.work[0].template].resources.one_process:
            nodes = tuple(share.node for share in action.shares)
            cores = tuple(share.cores for share in action.shares)
        elif action.shares:
            if not self._launcher.is_known(action):
                return
            plan = self._launch_plan(action)
        message = sent.message(action.work, templates, functions, plan, nodes, action.keeps, cores)
        self._server.send(peer, message)

    def _launch_plan(self, action: a.RunOnExecutor) -> m.LaunchPlan:
        """Return how an executor starts an MPI program on the shares of its work."""
        need = self._rules.templates[action.work[0].template].resources
        planned = plan_ranks(action.shares, need, self._shape.cores)
        launch = self._launcher.launch((m.PROGRAM,), action.shares, planned)
        return m.LaunchPlan(launch.argv, launch.env)

    def _launch_what_waits(self, now: float) -> None:
        """Launch what has waited for the trials of launchers, if they have ended."""
        self._worlds.are_awaited(now)
        for action in self._launcher.take_waiting():
            if isinstance(action, a.RunOnExecutor):
                self._run_on_executor(action)
            else:
                self._worlds.start(action)

    # --- the end

    def _close(self) -> None:
        self._service.bye()
        for address in self._nodes.values():
            self._server.send(address, m.Exit())
        processes = [*self._steps.values(), *self._worlds.end()]
        deadline = time.monotonic() + LEAVE_S / 2
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
        self._worlds.kill()
        if self._head is not None:
            self._client.close()
        self._server.close()


def _is_here(hosts: list[str]) -> bool:
    """Tell whether a pilot has this node and no other."""
    here = socket.gethostname().partition(".")[0]
    return [host.partition(".")[0] for host in hosts] == [here]


def _end_of_walltime(told: str) -> float:
    """Convert the end of the walltime as the job script gives it; 0 if there is none."""
    try:
        moment = float(told)
    except ValueError:
        return 0.0
    return clock.from_wall(moment) if moment else 0.0


@contextlib.contextmanager
def _survives(message: object) -> Iterator[None]:
    """Log any error in handling a message: too much depends on the agent to let it end."""
    try:
        yield
    except Exception:
        log.exception("a %s could not be taken in", type(message).__name__)


def shape_of_nodes(pool: PoolConfig, environment: Mapping[str, str]) -> NodeShape:
    """Return what tasks may use of each node: what the pool says, or what an adopted job has."""
    told = environment.get("PILOT_NODE_SHAPE")
    if not told:
        return pool.shape
    shape = msgspec.json.decode(told, type=NodeShape)
    if environment.get("PILOT_NODE"):
        # A step of its own, which the batch system may have bound to what the job has.
        cores = min(shape.cores, len(os.sched_getaffinity(0)))
        shape = msgspec.structs.replace(shape, cores=cores)
    return shape


def main(site_dir: Path, pilot: str, pool: str) -> None:
    """Run the agent of a pilot until the pilot ends."""
    start_log()
    leave_identity(os.environ)
    name_process(f"pilot agent {pilot}")
    raise_file_limit()
    site = open_site(site_dir)
    its = site.config.pools[pool]
    shape = shape_of_nodes(its, os.environ)
    os.environ[VENDOR] = its.gpu_vendor
    counts_memory = shape.supply(MEMORY) is not None
    os.environ[ENFORCES_MEMORY] = "1" if counts_memory and its.enforce_memory else ""
    own = None
    if here := os.environ.get("PILOT_NODE"):
        if fault := missing_gpus(shape.gpus):
            sys.exit(f"pilot {pilot} cannot use {here}: {fault}")
        # Before there are threads, and while this process makes itself ready.
        own = ForkedNode(site, pilot, here, shape)
    Agent(site, pilot, pool, own).run()
