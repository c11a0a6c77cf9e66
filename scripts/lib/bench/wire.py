"""WIRE, the channel between processes alone: completions per second, and round-trip time.

Two processes on one machine that speak as an agent and the head do: over a Unix socket, with their
encoding and decoding, over TCP, with CURVE and ZeroMQ too, and over files. Beside them ZeroMQ over
a Unix socket with bytes that mean nothing, neither encrypted nor encoded.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from bench import measure
from bench.stage import Stage
from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.channel import Client, Server
from pilot.wire.keys import load_keys
from pilot.wire.messages import pilot as m
from pilot.wire.messages.head import ToHead
from pilot.wire.polling import poller_of

ROUNDS = 5
#: So many completions are in a message.
TOGETHER = 64
#: The other side must come within so many milliseconds.
PATIENCE_MS = 30_000


def run(stage: Stage) -> None:
    """Measure."""
    messages, turns = stage.count(20_000, 5_000), stage.count(5_000, 500)
    rates: dict[str, list[float]] = {name: [] for name in ("local", "remote", "files", "pyzmq")}
    waits: dict[str, list[float]] = {name: [] for name in rates}
    with stage.site() as site:
        site.prepare()
        ways = {
            "local": _channel(site, "local"),
            "remote": _channel(site, "remote"),
            "files": _channel(site, "files"),
            "pyzmq": _bare(stage.directory),
        }
        for _ in range(stage.count(ROUNDS, 1)):
            for name, measured in ways.items():
                # Over files each takes some milliseconds.
                rate, wait = measured(messages, turns // 10 if name == "files" else turns)
                rates[name].append(rate)
                waits[name].append(wait)
    many = f"completions, {TOGETHER} in a message of {len(_packed()):,} bytes"
    for case, unit, samples, more_is_better in (
        (many, "tasks/s", rates, True),
        ("one message there and one back", "ms", waits, False),
    ):
        theirs = {"pyzmq, plain bytes": measure.median(samples["pyzmq"])}
        for way, title in (("local", "Unix socket"), ("remote", "TCP"), ("files", "files")):
            ours = measure.median(samples[way])
            beside = theirs
            if way == "files":
                beside = {**theirs, "TCP": measure.median(samples["remote"])}
            stage.findings.add(
                "WIRE", f"{title}: {case}", unit, ours, beside, more_is_better=more_is_better
            )
    stage.findings.data["WIRE"] = {"rates": rates, "waits": waits}


def completions() -> m.Completions:
    """Return an agent's report of some short tasks."""
    now = time.time()
    each = [
        Completion(number, 1, "ok", (Value(5, b"hello"),), started=now, ended=now, node="node1")
        for number in range(1, TOGETHER + 1)
    ]
    return m.Completions("pilot-bench-1", 1, each)


def _packed() -> bytes:
    return msgspec.msgpack.encode(completions())


Measured = Callable[[int, int], tuple[float, float]]


def _channel(site: Site, way: str) -> Measured:
    """Measure Pilot's channel by one of its ways: tasks per second, and round trip in
    milliseconds."""

    def measured(messages: int, turns: int) -> tuple[float, float]:
        keys = load_keys(site.keys)
        server: Server[Any] = Server(
            keys, f"{site.directory}/bench", ToHead, "127.0.0.1", files=site.wire
        )
        poller = poller_of(*server.sources)

        def other() -> None:
            client: Client[Any] = Client(keys, b"bench", m.ToPilot)
            client.connect(getattr(server.endpoints, way))
            message = completions()
            for _ in range(messages):
                client.send(message)
            client.drain()
            for _ in range(turns):
                while not client.receive():
                    client.poll(PATIENCE_MS / 1e3)
                client.send(message)
            client.close()

        def receive() -> tuple[bytes, int]:
            # What wakes the poller may be a greeting alone.
            while not (received := server.receive()):
                if not poller.poll(PATIENCE_MS):
                    raise TimeoutError("the other process says nothing")
            return received[-1][0], sum(len(message.completions) for _, message in received)

        try:
            return _measured(
                other, receive, lambda peer: server.send(peer, m.Committed(1)), messages, turns
            )
        finally:
            server.close()

    return measured


def _bare(directory: Path) -> Measured:
    """Measure ZeroMQ alone, as `_channel` measures Pilot's channel."""

    def measured(messages: int, turns: int) -> tuple[float, float]:
        endpoint = f"ipc://{directory}/bench"
        payload = _packed()
        context = zmq.Context()
        server = context.socket(zmq.ROUTER)
        server.rcvhwm = 0
        server.bind(endpoint)

        def other() -> None:
            context = zmq.Context()
            client = context.socket(zmq.DEALER)
            client.sndhwm = 0
            client.connect(endpoint)
            for _ in range(messages):
                client.send(payload)
            for _ in range(turns):
                client.recv()
                client.send(payload)
            client.close(linger=1000)
            context.term()

        def receive() -> tuple[bytes, int]:
            if not server.poll(PATIENCE_MS):
                raise TimeoutError("the other process says nothing")
            peer, _ = server.recv_multipart()
            return peer, TOGETHER

        try:
            return _measured(
                other, receive, lambda peer: server.send_multipart((peer, b"go")), messages, turns
            )
        finally:
            server.close()
            context.term()

    return measured


def _measured(
    other: Callable[[], None],
    receive: Callable[[], tuple[bytes, int]],
    answer: Callable[[bytes], object],
    messages: int,
    turns: int,
) -> tuple[float, float]:
    process = multiprocessing.get_context("fork").Process(target=other, daemon=True)
    process.start()
    try:
        peer, count = receive()
        begin = time.perf_counter()
        first = count
        while count < messages * TOGETHER:
            count += receive()[1]
        rate = (count - first) / (time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(turns):
            answer(peer)
            receive()
        wait_ms = (time.perf_counter() - begin) / turns * 1e3
        process.join(PATIENCE_MS / 1e3)
        return rate, wait_ms
    finally:
        process.kill()
        process.join()
