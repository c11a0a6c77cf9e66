"""A command's program, which an executor starts without copying itself, and waits for.

Invariants
----------
- The executor, which is told to end with the program, waits for it: the program has the time that
  is left.
- No signal goes to a process of another program: none is sent once the program has ended.
- Where all processes of a job are signalled, the program may have ended before the executor hears
  why. So an end by SIGTERM that the executor got as well is told after a moment only.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as `signal`, without its enumerations
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pilot.client.command import cannot_start
from pilot.client.stopping import ENDS, Stopping
from pilot.process import descendants

#: So long an end by SIGTERM is not told if nothing explains it, in seconds.
VERDICT_S = 2.0
_LOOK_S = 0.02
_set_handler, _TERM = _signal.signal, int(signal.SIGTERM)
#: The statuses of a program that SIGTERM has ended, and of a shell whose last one it has ended.
_BY_TERM = (-_TERM, 128 + _TERM)
#: Signals that commands find as they are by default, though Python ignores some, and so may the
#: program that started the head (a shell in the background, nohup).
_TO_DEFAULT = tuple(
    int(each)
    for each in _signal.valid_signals()
    if each == signal.SIGINT or _signal.getsignal(each) is _signal.SIG_IGN
)


class Program:
    """A program to be started, that runs, or that has ended."""

    def __init__(self) -> None:
        #: The process, until it is collected; 0 before and after.
        self._pid = 0
        #: The peak of its memory, and of what it has waited for, in KiB, once it has ended.
        self.peak_kib = 0
        #: True if signals may be sent to it, so that it must not be collected by the way.
        self.is_signalled = False
        #: Held while the process is started and collected.
        self._lock = threading.Lock()
        self._lock.acquire()
        #: True if this process was told to end meanwhile.
        self._is_terminated = False
        #: True if 0 is no good end where this process was told to end.
        self.is_indirect = False
        self._before: Any = None

    def start(
        self,
        argv: list[str],
        env: Mapping[str, str],
        stdin: str | None,
        stdout: str | None,
        stderr: str | None,
        appends: bool = False,
    ) -> None:
        """Start the program; it writes its files anew, or behind what is in them.

        Raises
        ------
        CommandFailed
            The program cannot be started.
        PilotError
            The file of its standard input is not there.
        """
        create = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if appends else os.O_TRUNC)
        null = stdin or os.devnull
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0)]
        if stdout:
            actions.append((os.POSIX_SPAWN_OPEN, 1, stdout, create, 0o666))
        if stderr and stderr == stdout:
            actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
        elif stderr:
            actions.append((os.POSIX_SPAWN_OPEN, 2, stderr, create, 0o666))
        self._before = _set_handler(_TERM, self._on_sigterm)
        try:
            self._pid = os.posix_spawnp(
                argv[0], argv, env, file_actions=actions, setsigdef=_TO_DEFAULT
            )
        except OSError as error:
            _set_handler(_TERM, self._before)
            raise cannot_start(argv, error, stdin) from error
        finally:
            self._lock.release()

    def _on_sigterm(self, *_: object) -> None:
        self._is_terminated = True

    def wait(self, stopping: Stopping, is_told: Callable[[], bool]) -> int:
        """Wait for the end of the program; return its exit status, -N for signal N.

        Parameters
        ----------
        stopping
            The words by which this process is told to end.
        is_told
            Tells whether the task is told to stop.
        """
        try:
            if self.is_signalled:
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
                with self._lock:
                    status = self._collect()
            else:
                status = self._collect()
            if self._is_terminated and self.is_indirect and status == 0:
                status = -_TERM
            if self._is_terminated and status in _BY_TERM:
                deadline = time.monotonic() + VERDICT_S
                while not (stopping.words[ENDS] or is_told()) and time.monotonic() < deadline:
                    time.sleep(_LOOK_S)
            return status
        finally:
            _set_handler(_TERM, self._before)

    def _collect(self) -> int:
        _, status, used = os.wait4(self._pid, 0)
        self.peak_kib = used.ru_maxrss
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def send(self, number: int, is_shell: bool) -> None:
        """Send a signal to the program, from another thread, once it has started and unless it has
        ended.

        Parameters
        ----------
        number
            The signal.
        is_shell
            The program is a shell, which would end without what it waits for: the signal goes to
            all that it has started, and to itself only where that is nothing.
        """
        with self._lock:
            if not self._pid:
                return
            below = descendants(self._pid) if is_shell else []
            for pid in below or [self._pid]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
