"""The TCP ports before the key is known: what a stranger can have kept, and for how long."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fuzz.ports import CURVE
from support.waiting import wait_until

from pilot.errors import SiteError
from pilot.wire import addresses, listening, tcp
from pilot.wire.addresses import ANY, Address, resolve
from pilot.wire.keys import Keys, load_keys, make_keys
from pilot.wire.tcp import Dealer, Router


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    make_keys(tmp_path / "keys")
    return load_keys(tmp_path / "keys")


@pytest.fixture
def router(keys: Keys) -> Iterator[Router]:
    router = Router(keys, "127.0.0.1", 0)
    yield router
    router.close(0.0)


def connect(router: Router) -> socket.socket:
    return socket.create_connection(("127.0.0.1", router.port), timeout=20.0)


def heard(router: Router, dealer: Dealer, frame: bytes) -> bool:
    """Whether what a peer with the key says is heard."""
    dealer.send(frame)
    arrived: list[bytes] = []

    def is_here() -> bool:
        arrived.extend(got for _, got in router.receive())
        return bool(arrived)

    wait_until(is_here, 60.0)
    return arrived == [frame]


def is_cut_off(stranger: socket.socket) -> bool:
    """Whether the server has ended the connection; what it says before is read."""
    try:
        while stranger.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("size", [2 << 20, (1 << 31) - 1, (1 << 63) - 1])
def test_a_stranger_cannot_have_a_large_frame_kept(router: Router, size: int) -> None:
    with connect(router) as stranger:
        stranger.sendall(CURVE + b"\x06" + struct.pack(">Q", size))
        assert is_cut_off(stranger)
    assert not router.receive()


def test_a_stranger_has_its_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_GREETING_MS", 300)
    router = Router(keys, "127.0.0.1", 0)
    try:
        with connect(router) as silent, connect(router) as slow:
            slow.sendall(CURVE)
            assert is_cut_off(silent) and is_cut_off(slow)
    finally:
        router.close(0.0)


def test_descriptors_are_left_for_files(
    router: Router, keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "_COUNT_S", 0.0)
    dealer = Dealer(f"tcp://127.0.0.1:{router.port}", b"peer", keys)
    assert heard(router, dealer, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * used + 100, hard))
    strangers: list[socket.socket] = []
    try:
        with pytest.raises(OSError):
            while True:
                strangers.append(connect(router))
        router.look_after()
        assert "too many open connections" in caplog.text
        with open(os.devnull):
            pass  # there is one for it, though the strangers are still there
        assert heard(router, dealer, b"meanwhile")
        router.look_after()
        while strangers:
            strangers.pop().close()

        def listens_again() -> bool:
            router.look_after()
            return router._port._is_open

        wait_until(listens_again)
        connect(router).close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for stranger in strangers:
            stranger.close()
        dealer.close(0.0)


def test_a_router_listens_at_the_address_that_it_was_given(keys: Keys) -> None:
    router = Router(keys, "127.0.0.2", 0)
    try:
        with pytest.raises(ConnectionRefusedError):
            connect(router)
        socket.create_connection(("127.0.0.2", router.port), timeout=20.0).close()
    finally:
        router.close(0.0)


def test_an_address_of_another_machine_is_listened_for_at_all(keys: Keys) -> None:
    """A port may be forwarded from there."""
    router = Router(keys, "192.0.2.1", 0)
    try:
        connect(router).close()
    finally:
        router.close(0.0)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "outward_addresses", lambda: ["192.0.2.5"])
    assert resolve("auto") == Address((socket.gethostname(), "192.0.2.5"), ANY)
    assert resolve("lo") == Address(("127.0.0.1",), "127.0.0.1")
    assert resolve("localhost") == Address(("localhost",), "127.0.0.1")
    assert resolve("192.0.2.7") == Address(("192.0.2.7",), "192.0.2.7")
    answers = {"login": ["192.0.2.9"], "debian": ["127.0.1.1"], "two": ["192.0.2.9", "192.0.2.8"]}
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *_: [(0, 0, 0, "", (found, 0)) for found in answers[name]],
    )
    assert resolve("login") == Address(("login", "192.0.2.9"), "192.0.2.9")
    # The name of this machine, which it has for itself alone; or of several interfaces.
    assert resolve("debian") == Address(("debian", "192.0.2.5"), ANY)
    assert resolve("two") == Address(("two", "192.0.2.8", "192.0.2.9"), ANY)


def test_addresses_that_others_may_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    its = {"lo": "127.0.0.1", "eth0": "10.0.0.1", "docker0": "172.17.0.1", "ib0": "10.1.0.1"}
    its["usb0"] = "169.254.3.4"
    monkeypatch.setattr(socket, "if_nameindex", lambda: [*enumerate(its)])
    monkeypatch.setattr(addresses, "_of_interface", lambda name, _: its[name])
    assert addresses.outward_addresses() == ["10.0.0.1", "10.1.0.1"]


@pytest.mark.parametrize("address", ["ib9", "login.invalid", "::1", "", "a b", "x" * 300])
def test_addresses_that_are_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SiteError, match=r"head\.address: .* a network interface .*\(lo") as caught:
        resolve(address)
    assert repr(address) in str(caught.value) and "auto" in str(caught.value)


def test_an_interface_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (7, "ib0")])
    with pytest.raises(SiteError, match="the network interface ib0 has no IPv4 address"):
        resolve("ib0")


def test_a_peer_whose_part_was_lost_does_not_wait_for_ever(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is under way when a connection breaks is never taken: nothing more would be sent."""
    monkeypatch.setattr(tcp, "_STALLED_S", 0.0)
    router = Router(keys, "127.0.0.1", 0, unsent_bytes=100 << 20)
    dealer = Dealer(f"tcp://127.0.0.1:{router.port}", b"peer", keys)
    try:
        assert heard(router, dealer, b"hello")
        router.send(b"peer", bytes(3 << 20))
        wait_until(lambda: dealer.receive(), 60.0)
        router.look_after()
        router.look_after()
        assert "broken off" not in caplog.text  # little is no reason
        router._peers[b"peer"].untaken += 10 << 20  # as if it had been lost
        assert router.unsent(b"peer") >= 9 << 20
        wait_until(lambda: router.look_after() or "broken off" in caplog.text)
        router.send(b"peer", b"not sent")
        assert router.unsent(b"peer") == 0
        wait_until(lambda: dealer.receive() or dealer.is_lost, 60.0)
        # One that did not hear it, as its connection was broken, is told when it says something.
        dealer.is_lost = False
        assert heard(router, dealer, b"are you there?")
        wait_until(lambda: dealer.receive() or dealer.is_lost, 60.0)
    finally:
        dealer.close(0.0)
        router.close(0.0)


@pytest.mark.parametrize("endpoint", ["elsewhere:///", "tcp://", ""])
def test_where_nothing_can_be_connected_to_a_dealer_is_lost_and_waits_for_nobody(
    keys: Keys, endpoint: str
) -> None:
    dealer = Dealer(endpoint, b"peer", keys)
    try:
        assert dealer.is_lost
        dealer.send(b"a word")
        assert not dealer.poll(0.0) and dealer.receive() == [] and not dealer.refused
        dealer.drain()
    finally:
        dealer.close(0.0)


def test_a_router_forgets_those_with_which_nothing_is_exchanged(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_STALLED_S", -1.0)
    router = Router(keys, "127.0.0.1", 0, unsent_bytes=1 << 20)
    try:
        for number in range(1000):
            router.send(b"peer %d" % number, b"a word")
        for _ in range(tcp._QUIET_LOOKS + 1):
            router.send(b"lives", b"a word")
            router.look_after()
        assert list(router._peers) == [b"lives"]
    finally:
        router.close(0.0)
