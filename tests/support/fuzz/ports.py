"""The processes of a site: what strangers and peers send them does no harm, and work goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pilot.client.connection import Connection
from pilot.interpreter import pilot_command
from pilot.model.tasks import Environment, SessionInfo
from pilot.scheduler.resources import NodeShape
from pilot.site import Site
from pilot.version import __version__
from pilot.wire.channel import Client, Server, _opening
from pilot.wire.discovery import HeadAddress, process_started, read_address, write_address
from pilot.wire.endpoints import LOCAL, runtime_dir
from pilot.wire.keys import load_keys
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import worker as m
from pilot.wire.messages.client import ClientHello, OpenSession, Query, Reply, ToClient
from pilot.wire.messages.common import Welcome
from pilot.wire.messages.head import ToHead
from support.fuzz.samples import Samples
from support.sites import SiteUnderTest
from support.waiting import wait_until

#: The beginning of a ZeroMQ connection, with the kind of security.
_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\x03\x01%s\0" + bytes(31)
CURVE = _GREETING % b"CURVE".ljust(20, b"\0")
NULL = _GREETING % b"NULL".ljust(20, b"\0")
#: Something new is asked of all processes after so many that were sent.
TURN = 100


class Strangers:
    """Connections to all ports of a site's head and agents, by who has no key.

    Parameters
    ----------
    seed
        Of what they send.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._held: list[socket.socket] = []

    def run(self, ports: list[str | tuple[str, int]], count: int) -> None:
        """Make so many connections, some of which stay for a while."""
        for _ in range(count):
            port = self.random.choice(ports)
            family = socket.AF_UNIX if isinstance(port, str) else socket.AF_INET
            connected = socket.socket(family)
            connected.settimeout(2.0)
            with contextlib.suppress(OSError):
                connected.connect(port)
                connected.sendall(self._unix() if isinstance(port, str) else self._tcp())
            self._held.append(connected)
            if self.random.random() < 0.7 or len(self._held) > 50:
                self._held.pop(self.random.randrange(len(self._held))).close()

    def close(self) -> None:
        """End those that are left."""
        while self._held:
            self._held.pop().close()

    def _unix(self) -> bytes:
        noise = self.random.randbytes(self.random.randrange(3000))
        length = self.random.choice((0, 31, 32, 33, 64, 288, 289, 1 << 20, 2**32 - 1))
        proper = struct.pack("<I", 40) + self.random.randbytes(40)
        return self.random.choice(
            (
                noise,
                struct.pack("<I", length) + noise,
                struct.pack("<I", 0) * self.random.randrange(1, 500),
                proper,
                proper + struct.pack("<I", 32) + self.random.randbytes(32) + noise,
                proper + struct.pack("<I", 2**32 - 1) + bytes(100_000),
                proper[: self.random.randrange(len(proper))],
                b"",
            )
        )

    def _tcp(self) -> bytes:
        noise = self.random.randbytes(self.random.randrange(3000))
        hello = b"\x04\xc8\x05HELLO\x01\0" + self.random.randbytes(192)
        flipped = bytearray(CURVE)
        flipped[self.random.randrange(len(flipped))] ^= 1 << self.random.randrange(8)
        ready = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\6DEALER\x08Identity\0\0\0\0"
        return self.random.choice(
            (
                noise,
                CURVE + noise,
                CURVE + hello,
                CURVE + hello + hello + noise,
                NULL + ready,
                CURVE + b"\x06" + struct.pack(">Q", self.random.randrange(2**63)) + noise,
                CURVE + b"\x06" + struct.pack(">Q", (1 << 20) - 1) + bytes(300_000),
                CURVE[: self.random.randrange(1, 64)],
                bytes(flipped) + hello,
            )
        )


class Peers:
    """Peers that hold the key, and say anything.

    Parameters
    ----------
    seed
        Of what they say.
    site
        The site.
    pilots
        Whether pilots may join that are none: the head waits for them at its end.
    """

    def __init__(self, seed: int, site: Site, pilots: bool = False) -> None:
        self.samples = Samples(random.Random(seed))
        self.samples.pilots = pilots
        self._keys = load_keys(site.keys)
        self._count = 0

    def say(self, endpoint: str, union: Any, count: int, name: bytes = b"client:fuzz") -> None:
        """Say so much to a server, by one connection."""
        self._count += 1
        client: Client[Any] = Client(self._keys, b"%s%d" % (name, self._count), ToClient)
        client.connect(endpoint)
        if union is ToHead:
            client.send(ClientHello(PROTOCOL, "fuzz"))
            client.send(OpenSession(1, "fuzz", Environment("/tmp")))
        for _ in range(count):
            frame = self.samples.frame(union)
            if b"Command" not in frame:  # it would be right to end then
                client.way.send(frame)
        if union is ToHead:
            client.send(Query(1 << 50, "head"))
            self._await_answer(client, 1 << 50)
        client.drain()
        client.close(5.0)

    def _await_answer(self, client: Client[Any], number: int) -> None:
        """Wait until all that was said is taken in."""

        def is_here() -> bool:
            client.poll(0.1)
            return client.is_lost or any(
                isinstance(got, Reply) and got.request == number for got in client.receive()
            )

        wait_until(is_here, 60.0, "the head to answer")


class Ground:
    """A site whose processes are to live, whatever is sent to them.

    Parameters
    ----------
    site
        The site; it is to listen to TCP as well.
    """

    def __init__(self, site: SiteUnderTest) -> None:
        self.site = site
        self.check()
        self.head = site.head_pid
        (self.agent,) = site.pids_of("agent", 1)
        address = read_address(site.site.address_file)
        assert address is not None
        self.endpoints = address.endpoints
        self.agents = [
            f"{LOCAL}{path}"
            for path in runtime_dir().iterdir()
            if path.is_socket() and f"{LOCAL}{path}" != self.endpoints.local
        ]

    @property
    def ports(self) -> list[str | tuple[str, int]]:
        """Where strangers can connect to."""
        _, _, port = self.endpoints.remote.rpartition(":")
        locals_ = [self.endpoints.local, *self.agents]
        return [("127.0.0.1", int(port)), *(path.removeprefix(LOCAL) for path in locals_)]

    def check(self) -> None:
        """A new session's tasks run, by the processes that there were."""
        with self.site.session() as session:
            assert list(session.map(abs, [-1, -2, -3], timeout=60)) == [1, 2, 3]
        if hasattr(self, "agents"):
            assert self.site.head_pid == self.head, "the head has ended"
            assert self.site.pids_of("agent", 1) == [self.agent], "the agent has ended"


class Head:
    """What a client takes for its head: it answers, and says much besides."""

    def __init__(self, site: Site, seed: int) -> None:
        self._samples = Samples(random.Random(seed))
        self._ending = False
        self._server: Server[Any] = Server(
            load_keys(site.keys), f"{site.directory}/head", ToHead, None
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        pid = os.getpid()
        endpoints = self._server.endpoints
        write_address(
            site.address_file,
            HeadAddress(1, "here", pid, process_started(pid), endpoints, __version__),
        )

    def _run(self) -> None:
        while not self._ending:
            for peer, message in self._server.receive():
                if isinstance(message, ClientHello):
                    self._server.send(peer, Welcome(1, __version__))
                elif isinstance(message, Query) and message.name == "head":
                    for _ in range(TURN):
                        self._server._local.send(peer, self._sample())
                    self._server.send(peer, Reply(message.request, "here"))
            time.sleep(0.001)
        self._server.close()

    def _sample(self) -> bytes:
        """A message, with no number that is asked for: else it would be the answer."""
        while True:
            frame = self._samples.frame(ToClient)
            kind, number = _opening(frame)
            if kind != "Reply" or number is None or number > 1 << 30:
                return frame

    def end(self) -> None:
        """Be gone."""
        self._ending = True
        self._thread.join()


def tell_client(site: Site, seed: int, turns: int) -> None:
    """A client's connection lives, whatever its head says between answers."""
    head = Head(site, seed)
    try:
        connection = Connection(site, start=False)
        try:
            for _ in range(turns):
                answer = connection.request(lambda n: Query(n, "head"), 60.0)
                assert answer == "here"
        finally:
            connection.close()
    finally:
        head.end()


class Agent:
    """What a node worker and its executors take for their agent.

    Parameters
    ----------
    site
        The site.
    seed
        Of what it says.
    """

    def __init__(self, site: Site, seed: int) -> None:
        self.samples = Samples(random.Random(seed))
        self._site = site
        self._server: Server[Any] = Server(
            load_keys(site.keys), f"{site.directory}/fuzz-{seed}", m.ToAgent, None
        )
        self._node = b""
        self._heard: list[Any] = []
        self._executors: dict[int, bytes] = {}
        self._numbers = 100
        endpoint = msgspec.json.encode(self._server.endpoints).decode()
        shape = msgspec.json.encode(NodeShape(2)).decode()
        command = pilot_command("node", str(site.directory), "fuzz", "n", endpoint, shape)
        with (site.logs / "node.err").open("wb") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)

    def _listen(self) -> None:
        for peer, message in self._server.receive():
            if isinstance(message, m.NodeHello):
                self._node = peer
            elif isinstance(message, m.ExecutorHello):
                self._executors[message.executor] = peer
            elif isinstance(message, m.ExecutorExited):
                self._executors.pop(message.executor, None)
            self._heard.append(message)
        self._server.send(self._node, m.AgentStatus())

    def _until(self, there: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self._listen()
            assert self._process.poll() is None, "the node worker has ended"
            return there()

        wait_until(look, 60.0, what)

    def start_executor(self) -> int:
        """Have one more executor."""
        self._until(lambda: bool(self._node), "the node worker")
        self._numbers += 1
        number = self._numbers
        session = SessionInfo(1, "fuzz", Environment("/tmp"))
        self._server.send(self._node, m.StartExecutor(number, session, ()))
        self._until(lambda: number in self._executors, f"executor {number}")
        return number

    def tell_node(self, count: int) -> None:
        """Say anything to the node worker, but to end, and to signal processes of others."""
        for _ in range(count):
            frame = self.samples.frame(m.ToNode)
            if not any(word in frame for word in (b"Exit", b"KillRank", b"WatchRank", b"StopEx")):
                self._server._local.send(self._node, frame)
        self._listen()

    def tell_executor(self, number: int, count: int) -> None:
        """Say anything to an executor: it may end then, and its node worker tells of it."""
        for _ in range(count):
            if peer := self._executors.get(number):
                self._server._local.send(peer, self.samples.frame(m.ToExecutor))
            self._listen()

    def end(self) -> None:
        """Have the node worker end, with all that it has."""
        self._server.send(self._node, m.Exit())
        deadline = time.monotonic() + 60.0
        while self._process.poll() is None and time.monotonic() < deadline:
            self._server.receive()
            time.sleep(0.01)
        self._process.kill()
        self._process.wait()
        self._server.close()


@contextlib.contextmanager
def agent_of(site: Site, seed: int) -> Iterator[Agent]:
    """An agent with a node worker, which ends."""
    agent = Agent(site, seed)
    try:
        yield agent
    finally:
        agent.end()
