"""Processes that are forked: they begin with all that is imported, in a millisecond.

A Python that starts and imports Pilot takes a fraction of a second. So the agent forks the node
worker of its own node, each node worker a fork server, and that one the executors.

Invariants
----------
- Who forks has one thread, no ZeroMQ context, and nothing of the user's: so has what it forks.
- A forked process leaves by `SystemExit`, through its parent's frames: none of them catches it.
- A fork server ends with the process that made it, and what it has forked ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from pilot.process import die_with_parent

#: A process id or an exit status, on its way to whoever asked for the process.
_NUMBER = struct.Struct("=i")
_HELD_BACK = (signal.SIGINT, signal.SIGTERM)


class Forked:
    """A child of this process that was forked from it; it is looked after as a `Popen` is.

    Parameters
    ----------
    run
        All that the child does.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        #: How it ended, as in `subprocess.Popen`; None: it has not, as far as was looked.
        self.returncode: int | None = None
        self.pid = _fork()
        if self.pid == 0:
            run()
            sys.exit()

    def poll(self) -> int | None:
        """Look whether it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended in that time.
        """
        deadline = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s)
            time.sleep(0.005)
        return status

    def terminate(self) -> None:
        """Ask it to end, unless it has."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Served:
    """A process that a fork server has forked for this one."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = self._number()
        #: How it ended, as in `subprocess.Popen`; None: it has not, as far as was looked.
        self.returncode: int | None = None

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read from when it has ended."""
        return self._channel.fileno()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end, so long at most; how it ended, or None.

        Raises
        ------
        ConnectionError
            The fork server is dead, and so is what it has forked.
        """
        if self.returncode is None and select.select([self._channel], [], [], timeout_s)[0]:
            self.returncode = self._number()
        return self.returncode

    def close(self) -> None:
        """Look after it no more."""
        self._channel.close()

    def _number(self) -> int:
        packed = self._channel.recv(_NUMBER.size, socket.MSG_WAITALL)
        if len(packed) < _NUMBER.size:
            raise ConnectionError("the fork server has ended")
        (number,) = _NUMBER.unpack(packed)
        return int(number)


class ForkServer:
    """A process that forks others, made before this one has threads.

    Parameters
    ----------
    run
        What each process does with the bytes that are given to it.
    """

    def __init__(self, run: Callable[[bytes], object]) -> None:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            ours.close()
            _serve(theirs, run)

        self._process = Forked(serve)
        theirs.close()
        self._control = ours

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read from when the fork server has ended."""
        return self._control.fileno()

    def fork(self, packed: bytes) -> Served:
        """Have a process forked, and give it these bytes.

        Raises
        ------
        OSError
            The fork server is dead.
        """
        channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
        channel.sendall(packed)
        channel.shutdown(socket.SHUT_WR)
        return Served(channel)

    def close(self) -> None:
        """End the fork server."""
        self._control.close()
        self._process.wait(5.0)


def _fork() -> int:
    """`os.fork`; what is still to be written is written once."""
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _serve(control: socket.socket, run: Callable[[bytes], object]) -> None:
    """Fork whenever that is asked for, and tell how what was forked has ended."""
    die_with_parent()
    # Whoever made it ends it; a signal to all processes of a job must not be faster. It is held
    # back and not ignored, so that what is forked misses none.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(awake, select.POLLIN)
    channels: dict[int, socket.socket] = {}
    server = os.getpid()
    while True:
        ready = [descriptor for descriptor, _ in poller.poll()]
        if awake.fileno() in ready:
            awake.recv(4096)
            _tell_ends(channels)
        if control.fileno() in ready:
            asked, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not asked:
                return
            channel = socket.socket(fileno=descriptors[0])
            pid = _fork()
            if pid == 0:
                die_with_parent()
                if os.getppid() != server:  # it died before the line above
                    sys.exit(1)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (control, awake, wake, *channels.values()):
                    inherited.close()
                with channel, channel.makefile("rb") as given:
                    packed = given.read()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
                run(packed)
                sys.exit()
            channel.send(_NUMBER.pack(pid))
            channels[pid] = channel


def _tell_ends(channels: dict[int, socket.socket]) -> None:
    while channels:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with channels.pop(pid) as channel, contextlib.suppress(OSError):
            channel.send(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
