"""Forked processes, and the fork server: what they are given, and how their ends are told.

A forked process leaves through the frames of its parent, so each test is a program of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PREAMBLE = """
import os, select, signal, subprocess, sys, time
from pilot.worker.forking import Forked, ForkServer

DEADLINE_S = 20.0

def ended(process):
    assert select.select([process.sentinel], [], [], DEADLINE_S)[0], "it does not end"
    return process.wait(0.0)

def is_there(pid):
    try:
        stat = open(f"/proc/{pid}/stat").read()
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or after
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"

def parent_of(pid):
    stat = open(f"/proc/{pid}/stat").read()
    return int(stat[stat.rindex(")") + 2:].split()[1])

def until(true):
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def leave_children(descriptor, stays=True):
    # One in this group, one in a session of its own, one whose parent has gone.
    if descriptor < 0:
        return
    one = subprocess.Popen(["sleep", "600"])
    two = subprocess.Popen(["sleep", "600"], start_new_session=True)
    command = "setsid sleep 600 > /dev/null & echo $!"
    three = int(subprocess.check_output(["sh", "-c", command]))
    os.write(descriptor, b"%d %d %d" % (one.pid, two.pid, three))
    if stays:
        signal.pause()

"""


def run(program: str) -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_served_process_is_given_its_bytes_however_many() -> None:
    program = """
        server = ForkServer(lambda packed: sys.exit(len(packed) % 251))
        sizes = (0, 1, 250, 3_000_000)
        served = [server.fork(bytes(size)) for size in sizes]
        assert len({process.pid for process in served}) == 4
        assert [ended(process) for process in served] == [size % 251 for size in sizes]
        server.close()
    """
    run(program)


def test_ends_are_told_as_popen_does() -> None:
    program = """
        ways = {
            b"returns": lambda: None,
            b"exits": lambda: sys.exit(3),
            b"fails": lambda: 1 / 0,
            b"is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        }
        server = ForkServer(lambda packed: ways[packed]())
        print([ended(server.fork(way)) for way in ways])
        server.close()
    """
    assert run(program) == "[0, 3, 1, -9]\n"


def test_one_that_runs_has_not_ended() -> None:
    program = """
        server = ForkServer(lambda packed: signal.pause())
        process = server.fork(b"")
        assert process.wait(0.0) is None and process.returncode is None
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(DEADLINE_S) == -signal.SIGTERM == process.returncode
        process.close()
        server.close()
    """
    run(program)


def test_what_is_served_inherits_no_sockets_and_no_signals() -> None:
    program = """
        def sockets():
            found = 0
            for one in os.listdir("/proc/self/fd"):
                try:
                    found += os.readlink(f"/proc/self/fd/{one}").startswith("socket:")
                except FileNotFoundError:
                    pass  # the one that listed them
            return found

        def look(packed):
            if packed == b"wait":
                signal.pause()
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
            assert sockets() == before
            sys.exit(7)

        before = sockets()
        server = ForkServer(look)
        waiting = [server.fork(b"wait") for _ in range(3)]
        assert ended(server.fork(b"look")) == 7
        for process in waiting:
            os.kill(process.pid, signal.SIGKILL)
        server.close()
    """
    run(program)


def test_a_dead_fork_server_is_noticed() -> None:
    program = """
        server = ForkServer(lambda packed: signal.pause())
        process = server.fork(b"")
        os.kill(server._process.pid, signal.SIGKILL)
        assert select.select([server.sentinel], [], [], DEADLINE_S)[0]
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        try:
            server.fork(b"")
        except ConnectionError:
            print("noticed")
    """
    assert run(program) == "noticed\n"


def test_a_dead_guard_is_noticed_and_what_it_kept_is_ended() -> None:
    program = """
        reader, writer = os.pipe()
        server = ForkServer(lambda packed: leave_children(int(packed)))
        process = server.fork(b"%d" % writer)
        pids = [int(pid) for pid in os.read(reader, 100).split()]
        assert len(pids) == 3 and all(map(is_there, pids))
        os.kill(parent_of(process.pid), signal.SIGKILL)
        try:
            process.wait(DEADLINE_S)
        except ConnectionError:
            print("noticed")
        until(lambda: not any(map(is_there, pids)))
        assert ended(server.fork(b"-1")) == 0
        server.close()
    """
    assert run(program) == "noticed\n"


@pytest.mark.parametrize("killed", ["process", "fork server", "nobody"])
def test_nothing_outlives_a_served_process(killed: str) -> None:
    program = f"""
        killed = {killed!r}
        reader, writer = os.pipe()
        server = ForkServer(lambda packed: leave_children(int(packed), stays=killed != "nobody"))
        process = server.fork(b"%d" % writer)
        pids = [int(pid) for pid in os.read(reader, 100).split()]
        assert len(pids) == 3
        if killed == "process":
            os.kill(process.pid, signal.SIGKILL)
        elif killed == "fork server":
            os.kill(server._process.pid, signal.SIGKILL)
        print(ended(process))
        assert not any(map(is_there, pids))
    """
    assert run(program) == ("0\n" if killed == "nobody" else "-9\n")


def test_that_there_is_no_room_for_a_process_is_told() -> None:
    program = """
        import errno
        import pilot.worker.forking as forking

        real = forking._fork

        def fails_at(wanted):
            calls = []

            def fork():
                calls.append(1)
                if len(calls) == wanted:
                    raise BlockingIOError(errno.EAGAIN, "no room")
                return real()

            return fork

        # The fork of the guard, and that of the process itself; the first is the fork server.
        for wanted in (2, 3):
            forking._fork = fails_at(wanted)
            server = ForkServer(lambda packed: sys.exit(4))
            for _ in range(2):
                try:
                    process = server.fork(b"")
                except OSError as error:
                    print(errno.errorcode[error.errno])
                else:
                    assert ended(process) == 4
                    break
            server.close()
    """
    assert run(program) in ("EAGAIN\n" * 2, "EAGAIN\n" * 3)


def test_a_fork_server_ends_with_its_maker_and_not_by_a_signal_to_all() -> None:
    program = """
        def make():
            server = ForkServer(lambda packed: None)
            assert ended(server.fork(b"")) == 0
            os.kill(server._process.pid, signal.SIGTERM)
            os.kill(server._process.pid, signal.SIGINT)
            assert ended(server.fork(b"")) == 0
            os.write(writer, b"%d" % server._process.pid)
            signal.pause()

        reader, writer = os.pipe()
        maker = Forked(make)
        os.close(writer)
        process = os.pidfd_open(int(os.read(reader, 100)))
        os.kill(maker.pid, signal.SIGKILL)
        assert maker.wait(DEADLINE_S) == -signal.SIGKILL
        assert select.select([process], [], [], DEADLINE_S)[0], "it outlives its maker"
    """
    run(program)


def test_a_forked_process_is_looked_after_as_a_popen_is() -> None:
    program = """
        process = Forked(signal.pause)
        assert process.poll() is None
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            print("it runs")
        process.terminate()
        assert process.wait(DEADLINE_S) == -signal.SIGTERM == process.poll() == process.returncode
        process.terminate()  # there is nobody any more
        assert Forked(lambda: sys.exit(5)).wait(DEADLINE_S) == 5
    """
    assert run(program) == "it runs\n"
