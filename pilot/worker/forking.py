"""Forked processes, which start in a millisecond with everything imported.

A Python that starts and imports Pilot takes a fraction of a second. So the agent forks the node
worker of its own node, each node worker a fork server, and that one the executors: each through a
guard, a process that does nothing but wait for it, and ends what it has left behind. A fork server
also forks others of its kind, which prepare themselves before they fork anything.

Invariants
----------
- A process that forks has one thread and no ZeroMQ context, as has its child; and nothing of the
  user's, but for a fork server that was derived to have that.
- A forked process leaves by `SystemExit`, through its parent's frames: none of them catches it. A
  guard leaves at once.
- A fork server ends with the process that made it, and what it has forked ends with it.
- The end of a served process is told only when none of its descendants is left, whatever session
  they moved to and whoever started them. This holds also where the fork server is killed.
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
from typing import TypeAlias

from pilot.process import adopt_orphans, children, die_with_parent, end_children, name_process

#: A process id or an exit status, on its way to whoever asked for the process.
_NUMBER = struct.Struct("=i")
_HELD_BACK = (signal.SIGINT, signal.SIGTERM)
#: Tells a guard that its fork server is dead. None that anybody sends to all processes of a job.
_ORPHANED = signal.SIGRTMAX
#: In place of a process id: these less than the number of the error for which there is none.
_NO_PROCESS = -1000
#: So long a fork server waits at its end for what was told to end already, in seconds.
_LAST_S = 2.0


#: Prepares a fork server that was derived.
Prepare: TypeAlias = Callable[[bytes, Callable[[bytes], None]], bool]


class Forked:
    """A child that this process has forked, with the interface of a `Popen`.

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
        """Return the exit code of the process; None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the process.

        Raises
        ------
        subprocess.TimeoutExpired
            The process has not ended in that time.
        """
        deadline = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s)
            time.sleep(0.005)
        return status

    def terminate(self) -> None:
        """Ask the process to end, unless it has."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Served:
    """A process that a fork server has forked for this one.

    Raises
    ------
    OSError
        The process could not be forked, or the fork server is dead.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = self._number()
        if self.pid < 0:
            channel.close()
            number = _NO_PROCESS - self.pid
            raise OSError(number, os.strerror(number))
        #: How it ended, as in `subprocess.Popen`; None: it has not, as far as was looked.
        self.returncode: int | None = None

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._channel.fileno()

    def wait(self, timeout_s: float) -> int | None:
        """Wait up to `timeout_s` seconds for the end of the process; return its exit code, or None.

        Raises
        ------
        ConnectionError
            The guard of the process is dead, and so is the process.
        """
        if self.returncode is None and select.select([self._channel], [], [], timeout_s)[0]:
            self.returncode = self._number()
        return self.returncode

    def close(self) -> None:
        """Stop watching the process."""
        self._channel.close()

    def _number(self) -> int:
        packed = self._channel.recv(_NUMBER.size, socket.MSG_WAITALL)
        if len(packed) < _NUMBER.size:
            raise ConnectionError("the fork server has ended")
        (number,) = _NUMBER.unpack(packed)
        return int(number)


class Derived:
    """A fork server that another one has forked for this process, and that prepares itself.

    Raises
    ------
    OSError
        The process could not be forked, or the fork server is dead.
    """

    def __init__(self, channel: socket.socket, control: socket.socket) -> None:
        self._control = control
        try:
            self._first = Served(channel)
        except OSError:
            control.close()
            raise
        channel.setblocking(False)
        self._channel = channel

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when it has told something, or has ended before it was
        prepared."""
        return self._channel.fileno()

    def hear(self) -> bytes | None:
        """Return what it has told since the last call, while it prepares itself; None: it will tell
        nothing more."""
        try:
            return self._channel.recv(1 << 16) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def fork(self, packed: bytes) -> Served:
        """Request a process, as `ForkServer.fork` does."""
        return _request(self._control, packed)

    def is_dead(self) -> bool:
        """Tell whether the fork server has ended."""
        return bool(select.select([self._control], [], [], 0.0)[0])

    def close(self, kill: bool = False) -> None:
        """Have it end when what it has forked has ended; or at once."""
        if kill and not self.is_dead():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first.pid, signal.SIGKILL)
        self._control.close()
        self._channel.close()


def _ask(control: socket.socket, packed: bytes, *more: socket.socket) -> socket.socket:
    """Request a process of a fork server, which gets these bytes, and maybe another descriptor;
    return the way to the process."""
    channel, theirs = socket.socketpair()
    with theirs:
        descriptors = [theirs.fileno(), *(each.fileno() for each in more)]
        socket.send_fds(control, [b"\0"], descriptors)
    with contextlib.suppress(OSError):  # why it does not take them stands in its answer
        channel.sendall(packed)
        channel.shutdown(socket.SHUT_WR)
    return channel


def _request(control: socket.socket, packed: bytes) -> Served:
    return Served(_ask(control, packed))


class ForkServer:
    """A process that forks others, made before this one has threads.

    Parameters
    ----------
    run
        The function that each process runs with the bytes that are given to it.
    name
        The name of the guards in lists of processes.
    prepare
        The function by which a fork server that is derived prepares itself, with the bytes that are
        given to it and what sends bytes back; it returns False where nothing is to be forked then.
    """

    def __init__(
        self, run: Callable[[bytes], object], name: str = "", prepare: Prepare | None = None
    ) -> None:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            ours.close()
            _serve(theirs, run, name, prepare)

        self._process = Forked(serve)
        theirs.close()
        self._control = ours

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the fork server has ended."""
        return self._control.fileno()

    def fork(self, packed: bytes) -> Served:
        """Request a process that gets these bytes.

        Raises
        ------
        ConnectionError
            The fork server is dead.
        OSError
            The system has no room for another process.
        """
        return _request(self._control, packed)

    def derive(self, packed: bytes) -> Derived:
        """Request another fork server, which prepares itself by these bytes.

        Raises
        ------
        ConnectionError
            This fork server is dead.
        OSError
            The system has no room for another process.
        """
        control, theirs = socket.socketpair()
        with theirs:
            return Derived(_ask(self._control, packed, theirs), control)

    def close(self) -> None:
        """End the fork server."""
        self._control.close()
        self._process.wait(5.0)


def _fork() -> int:
    """Fork with `os.fork`, after flushing buffered output so that it is written once."""
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _serve(
    control: socket.socket,
    run: Callable[[bytes], object],
    name: str,
    prepare: Prepare | None = None,
) -> None:
    """Fork a guard, or another fork server, for each request, until nobody can send any more."""
    die_with_parent()
    # A guard that was killed leaves its executor behind.
    adopt_orphans()
    # The node worker ends this process; a signal to all processes of a job must not be faster. It
    # is held back and not ignored, so that forked processes miss none.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(awake, select.POLLIN)
    guards: set[int] = set()
    server = os.getpid()
    while True:
        ready = [descriptor for descriptor, _ in poller.poll()]
        if awake.fileno() in ready:
            awake.recv(4096)
            _collect(guards)
        if control.fileno() in ready:
            asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not asked:
                break
            channel, *more = (socket.socket(fileno=each) for each in descriptors)
            pid = _fork_for(channel)
            if pid == 0:
                if more:
                    die_with_parent()
                else:
                    # First, so that it misses no death of the fork server.
                    signal.pthread_sigmask(signal.SIG_BLOCK, (_ORPHANED, signal.SIGCHLD))
                    die_with_parent(_ORPHANED)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (control, awake, wake):
                    inherited.close()
                if os.getppid() == server:  # else it died before it could be told
                    if more and prepare is not None:
                        _become_server(channel, more[0], run, name, prepare)
                    else:
                        _guard(channel, run, name)
                # A guard has nothing to write or to close, and taking down a whole Python would
                # cost more than the fork of the next process, which waits for its cores.
                os._exit(0)
            for each in (channel, *more):
                each.close()
            if pid > 0:
                guards.add(pid)
    deadline = time.monotonic() + _LAST_S
    while guards and time.monotonic() < deadline:
        _collect(guards)
        time.sleep(0.005)
    end_children()


def _fork_for(channel: socket.socket) -> int:
    """Fork; if the system has no room for a process, tell the requester and return -1."""
    try:
        return _fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            channel.send(_NUMBER.pack(_NO_PROCESS - (error.errno or 0)))
        return -1


def _collect(guards: set[int]) -> None:
    """Collect the guards that have ended, and end orphans that belong to nobody."""
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            guards.discard(pid)
        for stranger in set(children()) - guards:
            with contextlib.suppress(OSError):
                os.kill(stranger, signal.SIGKILL)


def _become_server(
    channel: socket.socket,
    control: socket.socket,
    run: Callable[[bytes], object],
    name: str,
    prepare: Prepare,
) -> None:
    """Prepare this process, which was forked for it, and serve as the one before does."""
    try:
        channel.send(_NUMBER.pack(os.getpid()))
        with channel.makefile("rb") as given:
            packed = given.read()
        is_ready = prepare(packed, channel.sendall)
        channel.close()
        if is_ready:
            _serve(control, run, name)
    except BaseException:
        # Not up through the frames of the fork server, which are this process's too.
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _guard(channel: socket.socket, run: Callable[[bytes], object], name: str) -> None:
    """Fork a process, wait for its end, and leave nothing that it has started."""
    with channel.makefile("rb") as given:
        packed = given.read()
    adopt_orphans()
    guard = os.getpid()
    pid = _fork_for(channel)
    if pid < 0:
        return
    if pid == 0:
        die_with_parent()
        channel.close()
        if os.getppid() != guard:  # it died before the line above
            sys.exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_HELD_BACK, _ORPHANED, signal.SIGCHLD))
        run(packed)
        sys.exit()
    if name:
        name_process(f"pilot guard {pid} {name}")
    with contextlib.suppress(OSError):  # whoever asked may be gone
        channel.send(_NUMBER.pack(pid))
    status = _wait_for(pid)
    end_children()
    with contextlib.suppress(OSError):
        channel.send(_NUMBER.pack(status))


def _wait_for(pid: int) -> int:
    """Wait for the end of a process, and collect the orphans that end meanwhile."""
    while True:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == pid:
                return os.waitstatus_to_exitcode(ended[1])
        if signal.sigwait((signal.SIGCHLD, _ORPHANED)) == _ORPHANED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
