"""The surroundings of a task in its process, restored after each task: streams, directory, signal
handlers, alarm, settings.

Put back is what would change another task's result or its place of output: descriptors 0, 1 and 2,
`sys.stdin`, `sys.stdout` and `sys.stderr`, the working directory, Python's signal handlers, and the
alarm; and what `settings` knows of. All else that a task changes in its process stays there, as
modules do.

Invariants
----------
- Where a task closed or replaced a descriptor, what it had printed before goes where it sent it,
  and what could go nowhere goes to the log.
- Putting back costs some system calls on descriptors that are there anyway: it needs no look at
  what was changed, and so misses nothing that was changed without Python.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as `signal`, without its enumerations
import contextlib
import fcntl
import os
import resource
import signal
import sys
from typing import Any

from pilot.worker.settings import CORES, Settings

#: The signals that a program may have handlers for, without those that tell of its own faults.
_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGXCPU,
    signal.SIGXFSZ,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGWINCH,
    signal.SIGIO,
)
_NUMBERS = tuple(map(int, _SIGNALS))
_alarm, _getsignal = _signal.alarm, _signal.getsignal
_dup2, _fchdir = os.dup2, os.fchdir
_lseek, _CURRENT = os.lseek, os.SEEK_CUR
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Kept descriptors have numbers from here on, where nobody closes them by the way.
_HIGH = 1000


class Surroundings:
    """The streams, directory and handlers of this process at the time when the object is made."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        high = max(3, min(_HIGH, soft - 8))
        self._stdin, self._stdout, self._stderr = (
            fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, high) for descriptor in (0, 1, 2)
        )
        self._streams: tuple[Any, Any, Any] = sys.stdin, sys.stdout, sys.stderr
        self._codecs = [(stream.encoding, stream.errors) for stream in self._streams]
        self._directory = -1
        with contextlib.suppress(OSError):  # it is gone, which the tasks are told
            self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._handlers = self._current_handlers()
        self._settings = Settings()
        #: The things that could not be put back, and why; empty: none.
        self.left = ""

    def output_position(self) -> int:
        """Return the position up to which this process has written its output, in bytes."""
        return _lseek(self._stdout, 0, _CURRENT)

    def moved(self, cores: set[int]) -> None:
        """Have a task that has changed its cores leave these behind."""
        if CORES in self._settings.changed:
            self._settings.changed[CORES] = cores

    def put_back(self) -> None:
        """Restore the surroundings after a task."""
        if self._settings.changed:
            self.left = self._settings.put_back()
        if not self._put_back_quickly():
            try:
                self._put_back()
            except BaseException:  # what a handler raised on the way, whose alarm is off by now
                self._put_back()

    def _put_back_quickly(self) -> bool:
        """Restore what the kernel holds; return False if that is not enough."""
        # After each task, so by as few steps as there can be.
        try:
            _alarm(0)
            stdin, stdout, stderr = self._streams
            stdout.flush()
            stderr.flush()
            if sys.stdout is not stdout or sys.stderr is not stderr:
                return False
            if sys.stdin is not stdin or stdin.closed:
                return False
            _dup2(self._stdin, 0)
            _dup2(self._stdout, 1)
            _dup2(self._stderr, 2)
            if self._directory >= 0:
                _fchdir(self._directory)
            return tuple(map(_getsignal, _NUMBERS)) == self._handlers
        except BaseException:
            return False

    def _put_back(self) -> None:
        _alarm(0)
        flushed = _flush(sys.stdout) & _flush(sys.stderr)
        streams = self._streams
        if sys.stdout is not streams[1] or sys.stderr is not streams[2]:
            # First, as one that is dropped may close its descriptor.
            sys.stdout, sys.stderr = streams[1:]
            flushed = False
        if sys.stdin is not streams[0] or _is_closed(streams[0]):
            self._streams = (self._opened(0, "r"), *streams[1:])
            sys.stdin = sys.__stdin__ = self._streams[0]  # type: ignore[misc, unused-ignore]  # it is final on paper
        os.dup2(self._stdin, 0)
        os.dup2(self._stdout, 1)
        os.dup2(self._stderr, 2)
        if not flushed:
            self._mend_streams()
        if self._directory >= 0:
            os.fchdir(self._directory)
        if self._current_handlers() != self._handlers:
            self._put_back_handlers()

    def _mend_streams(self) -> None:
        """Write pending output where it was to go, and renew the streams that were closed."""
        stdin, stdout, stderr = self._streams
        if not _flush(stdout):
            stdout = sys.__stdout__ = self._opened(1, "w")  # type: ignore[misc, unused-ignore]  # it is final on paper
        if not _flush(stderr):
            stderr = sys.__stderr__ = self._opened(2, "w", 1)  # type: ignore[misc, unused-ignore]  # it is final on paper
        self._streams = stdin, stdout, stderr
        sys.stdout, sys.stderr = stdout, stderr

    def _opened(self, descriptor: int, mode: str, buffering: int = -1) -> Any:
        encoding, errors = self._codecs[descriptor]
        return open(descriptor, mode, buffering, encoding=encoding, errors=errors, closefd=False)

    def _current_handlers(self) -> tuple[object, ...]:
        # Not by `signal`, which makes an enumeration of each.
        return tuple(map(_getsignal, _NUMBERS))

    def _put_back_handlers(self) -> None:
        for timer in _TIMERS:
            signal.setitimer(timer, 0.0)
        for number, now, before in zip(
            _NUMBERS, self._current_handlers(), self._handlers, strict=True
        ):
            if now is not before:
                # None is one that was not set by Python, and cannot be set by it.
                _signal.signal(number, signal.SIG_DFL if before is None else before)


def _flush(stream: Any) -> bool:
    """Flush a stream, which may be a user's object; return False if that fails."""
    try:
        stream.flush()
    except BaseException:
        return False
    return True


def _is_closed(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except ValueError:  # its buffer was taken from it
        return True
