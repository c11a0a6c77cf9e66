"""MPI worlds as processes: their launchers, started and ended, and what is known of their ranks.

`rules.worlds` decides which worlds there are; this module carries it out.

Invariants
----------
- Each world that was to be started is told of once as ended, also if it could not be started.
- What a launcher has started ends with it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilot import clock
from pilot.agent.mpi_launcher import MpiLauncher
from pilot.agent.processes import child_of_agent, kill_group, tail
from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.agent.sent import Sent
from pilot.data.directories import make_private
from pilot.interpreter import pilot_command
from pilot.model.tasks import Function, SessionInfo
from pilot.scheduler.resources import NodeShape
from pilot.site import Site
from pilot.wire.channel import Server
from pilot.wire.endpoints import temporary_dir
from pilot.wire.messages import worker as m
from pilot.worker.entering import RANK, in_software, program
from pilot.worker.mpi_rank import VARIABLE, HostCores, WorldConfig, why_no_mpi

log = logging.getLogger("pilot.agent")

#: At the end of a world, between asking it and killing it, in seconds.
WORLD_GRACE_S = 5.0
#: So long after the end of its launcher, the agent waits to hear of the ends of its ranks.
RANKS_END_S = 1.0
#: The exit statuses of a launcher that was ended by SIGTERM, by itself or through a shell.
_BY_SIGTERM = (-signal.SIGTERM, 128 + signal.SIGTERM)


class LaunchedWorld:
    """The launcher process of an MPI world, and its ranks."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log = log_path
        #: Node and process id of each rank that lives.
        self.ranks: dict[int, tuple[str, int]] = {}
        #: The ranks' connections, and what all of them have been sent already.
        self.peers: dict[int, bytes] = {}
        self.sent = Sent()
        self.kill_at = 0.0
        #: Why it is of no use; empty: it is.
        self.reason = ""
        #: When the launcher was found to have ended; 0 while it has not.
        self.ended_at = 0.0


class WorldLaunching:
    """The MPI worlds of a pilot.

    Parameters
    ----------
    site
        The site.
    pilot
        The name of the pilot.
    shape
        What tasks may use of each node.
    rules
        The rules, which are told of ends.
    launcher
        The launcher of ranks.
    server
        The server that ranks find.
    session
        Gives a session by its number.
    functions
        Gives the functions of each session.
    send_to_node
        Sends a node worker a message.
    """

    def __init__(
        self,
        site: Site,
        pilot: str,
        shape: NodeShape,
        rules: Rules,
        launcher: MpiLauncher,
        server: Server[Any],
        session: Callable[[int], SessionInfo],
        functions: Mapping[int, Mapping[bytes, Function]],
        send_to_node: Callable[[str, msgspec.Struct], None],
    ) -> None:
        self._site = site
        self._pilot = pilot
        self._shape = shape
        self._rules = rules
        self._launcher = launcher
        self._server = server
        self._session = session
        self._functions = functions
        self._send_to_node = send_to_node
        self._worlds: dict[int, LaunchedWorld] = {}

    # --- starting

    def start(self, action: a.StartWorld) -> None:
        """Start a world, now or once its launcher is known."""
        importlib.invalidate_caches()
        software = action.software
        if software is None and importlib.util.find_spec("mpi4py") is None:
            # Ranks would all say so, each time anew, among what their launcher says of it.
            reason = (
                f"the Python of the pilots, {sys.executable}, has no mpi4py, which MPI functions "
                "need (MPI programs do not); pip install mpi4py there"
            )
            self._rules.world_exited(action.world, 1, "", clock.now(), reason, hopeless=True)
            return
        if not self._launcher.is_known(action):
            return
        config = WorldConfig(
            world=action.world,
            pilot=self._pilot,
            site=str(self._site.directory),
            agent=self._server.endpoints,
            session=in_software(self._session(action.session), software),
            cores_per_rank=action.need.cores,
            cores_of_node=self._shape.cores,
            gpus_of_node=self._shape.gpus,
            hosts={s.node: HostCores(s.cores, s.indexed) for s in action.shares},
        )
        if any(share.indexed for share in action.shares):
            log.info("world %d has %s", action.world, ", ".join(map(str, action.shares)))
        path = self._site.logs / self._pilot / f"world-{action.world}.out"
        try:
            make_private(path.parent, self._site.directory)
            command: list[str] = pilot_command("rank")
            variables: dict[str, str] = {}
            if software is not None:
                session = config.session.environment
                command, variables = program(
                    software, session, self._site, [RANK], str(temporary_dir())
                )
            variables = {**variables, VARIABLE: msgspec.json.encode(config).decode()}
            launch = self._launcher.launch(command, action.shares, variables)
            with path.open("ab") as output:
                process = subprocess.Popen(
                    launch.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **launch.env},
                    preexec_fn=child_of_agent,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            log.error("an MPI world cannot be started: %s", error)
            reason = f"{error}; set mpi.launcher and mpi.options in site.yaml"
            self._rules.world_exited(action.world, 127, "", clock.now(), reason)
            return
        self._worlds[action.world] = LaunchedWorld(process, path)

    def are_awaited(self, now: float) -> None:
        """Note that worlds whose launcher is not known yet have not been starting that long."""
        for action in self._launcher.waiting:
            if isinstance(action, a.StartWorld) and action.world in self._rules.worlds:
                self._rules.worlds[action.world].started_at = now

    # --- running

    def rank_begins(self, hello: m.RankHello, peer: bytes, node: str) -> bool:
        """Take a rank in; return False if its world has not formed, which ends it."""
        its = self._rules.worlds.get(hello.world)
        if its is not None and hello.size != its.need.ranks:
            self._refuse(hello, its.need.ranks)
            return False
        if world := self._worlds.get(hello.world):
            world.peers[hello.rank] = peer
            world.ranks[hello.rank] = (node, hello.pid)
            watch = m.WatchRank(hello.world, hello.rank, hello.pid, hello.memory)
            self._send_to_node(node, watch)
        return True

    def _refuse(self, hello: m.RankHello, ranks: int) -> None:
        """End a world whose ranks have not found each other, and tell the user what to do."""
        world = self._worlds.get(hello.world)
        if world is None or world.reason:
            return
        world.reason = (
            f"{self._launcher} started {ranks} ranks, and they are MPI worlds of {hello.size}: it "
            f"and the MPI library ({hello.library}) do not know the same way to find each other. "
            f"{self._launcher.advice}"
        )
        log.error("%s", world.reason)
        self._launcher.doubt()
        self._rules.world_not_formed(hello.world)

    def run(self, action: a.RunOnWorld) -> None:
        """Send a world work."""
        if world := self._worlds.get(action.world):
            message = world.sent.message(action.work, self._rules.templates, self._functions)
            self._server.send_to_all(world.peers.values(), message)

    def unsend(self, action: a.UnsendFromWorld) -> None:
        """Ask for work back that a world has not begun."""
        world = self._worlds.get(action.world)
        if world is not None and 0 in world.ranks:
            node, _ = world.ranks[0]
            self._send_to_node(node, m.Unsend(action.world, action.upto))

    def kill_rank(self, number: int, rank: int) -> None:
        """Kill a rank, and so its world."""
        if world := self._worlds.get(number):
            node, pid = world.ranks.get(rank, ("", 0))
            self._send_to_node(node, m.KillRank(pid))

    def nodes(self) -> set[str]:
        """Return the nodes on which ranks live."""
        return {node for world in self._worlds.values() for node, _ in world.ranks.values()}

    # --- ending

    def stop(self, number: int, tells: bool = False) -> None:
        """End a world; with `tells` its ranks say where they are."""
        world = self._worlds.get(number)
        if world is None:
            if self._launcher.drop(number):
                self._rules.world_exited(number, 0, "", clock.now())
            return
        busy = self._rules.worlds.get(number)
        if busy is not None and busy.pipeline:
            # Ranks that hang in MPI hear nothing, and launchers take seconds to end them.
            for node, pid in world.ranks.values():
                self._send_to_node(node, m.KillRank(pid, tells))
            if not world.ranks:
                # Not before: it would kill them, and leave what they have started.
                kill_group(world.process.pid, signal.SIGTERM)
        else:
            self._server.send_to_all(world.peers.values(), m.Exit())
        world.kill_at = clock.now() + WORLD_GRACE_S

    def rank_ends(self, number: int, rank: int) -> None:
        """Note the end of a rank; the launcher goes with the last one of a world that ends."""
        if world := self._worlds.get(number):
            world.ranks.pop(rank, None)
            if world.kill_at and not world.ranks:
                kill_group(world.process.pid, signal.SIGTERM)

    def kill_late(self, now: float) -> None:
        """Kill the launchers of worlds that do not end."""
        for number, world in self._worlds.items():
            if world.kill_at and now >= world.kill_at:
                log.warning("world %d does not end; its launcher is killed", number)
                kill_group(world.process.pid)
                world.kill_at = now + 5.0

    def reap(self, verdict_s: float, now: float) -> None:
        """Notice launchers that have ended.

        Parameters
        ----------
        verdict_s
            How long a world that somebody has ended may have been ended with the whole job.
        now
            The time.
        """
        for number, world in list(self._worlds.items()):
            if world.process.poll() is None:
                continue
            if not world.ended_at:
                # Ranks that outlive their launcher would keep its cores.
                kill_group(world.process.pid)
                world.ended_at = now
            waited_s = now - world.ended_at
            if world.ranks and waited_s < RANKS_END_S:
                continue  # they tell which task they were in
            its = self._rules.worlds.get(number)
            unexplained = (
                its is not None
                and its.pipeline
                and not its.told
                # What keeps a world from starting ends it otherwise.
                and (its.ready or world.process.returncode in _BY_SIGTERM)
            )
            if unexplained and waited_s < verdict_s:
                continue
            del self._worlds[number]
            self._exited(number, world, now)

    def _exited(self, number: int, world: LaunchedWorld, now: float) -> None:
        reason, hopeless = world.reason, False
        if not reason and not world.ranks and (why := why_no_mpi(tail(world.log, 1 << 16))):
            reason, hopeless = (
                f"mpi4py of the pilots' Python, {sys.executable}, cannot load MPI ({why}); the MPI "
                "library that it was built with has to be found there: see environment.setup and "
                "mpi.variables in site.yaml, or install mpi4py anew with that library",
                True,
            )
        self._rules.world_exited(
            number, world.process.returncode, tail(world.log), now, reason, hopeless
        )

    def end(self) -> list[subprocess.Popen[bytes]]:
        """End all worlds; return their launchers, for who waits for them."""
        for number in list(self._worlds):
            self.stop(number)
        return [world.process for world in self._worlds.values()]

    def kill(self) -> None:
        """Kill what is left."""
        for world in self._worlds.values():
            kill_group(world.process.pid)
