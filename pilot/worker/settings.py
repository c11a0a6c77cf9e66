"""Settings of this process that tasks change by Python functions, restored after each task.

To look after each task for what it may have changed would be a system call for each setting. So the
functions that change one are wrapped: the first call in a task notes what the setting was, and a
task that calls none costs nothing.

Invariants
----------
- A setting that a module makes on import stays, as the module does. A task's settings end with it.
- A process in which something cannot be put back is known as such: no other task is to run there.
- Settings made in another way (by a library in C, say) are not noticed.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # as `signal`, without its enumerations
import _socket
import faulthandler
import functools
import gc
import os
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
# The functions as they are before they are wrapped.
_set_umask, _set_timer = os.umask, _signal.setitimer
_get_limit, _set_limit = resource.getrlimit, resource.setrlimit
_enable, _disable, _set_threshold = gc.enable, gc.disable, gc.set_threshold


class Setting(NamedTuple):
    """A setting of a process that tasks may change."""

    #: In messages.
    name: str
    #: The functions that change the setting, and the modules that may have them.
    functions: tuple[str, ...]
    modules: tuple[str, ...]
    #: Returns what it is.
    read: Callable[[], Any]
    #: Has it be that again.
    write: Callable[[Any], object]
    #: True if each thread has its own; that of the thread that runs tasks counts.
    is_of_thread: bool = False


def _umask() -> int:
    mask = _set_umask(0o077)
    _set_umask(mask)
    return mask


def _limits() -> list[tuple[int, int]]:
    return [_get_limit(number) for number in _LIMITS]


def _set_limits(wanted: list[tuple[int, int]]) -> None:
    refused: Exception | None = None
    for number, limits in zip(_LIMITS, wanted, strict=True):
        try:
            if _get_limit(number) != limits:
                _set_limit(number, limits)
        except (OSError, ValueError) as error:
            refused = error
    if refused is not None:
        raise refused


def _stop_timers(_: object) -> None:
    for timer in _TIMERS:
        _set_timer(timer, 0.0)


def _collection() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _set_collection(wanted: tuple[bool, tuple[int, int, int]]) -> None:
    is_enabled, threshold = wanted
    (_enable if is_enabled else _disable)()
    _set_threshold(*threshold)


def _nothing() -> None:
    """Return None, the value of a setting that is always unset between tasks."""


_OS = ("os", "posix")
#: The name of the setting of the cores that the process may run on.
CORES = "the cores"
_SETTINGS = (
    Setting("the umask", ("umask",), _OS, _umask, os.umask),
    Setting("resource limits", ("setrlimit", "prlimit"), ("resource",), _limits, _set_limits),
    Setting(
        "the priority (nice)",
        ("nice", "setpriority"),
        _OS,
        partial(os.getpriority, os.PRIO_PROCESS, 0),
        partial(os.setpriority, os.PRIO_PROCESS, 0),
        is_of_thread=True,
    ),
    Setting(
        CORES,
        ("sched_setaffinity",),
        _OS,
        partial(os.sched_getaffinity, 0),
        partial(os.sched_setaffinity, 0),
        is_of_thread=True,
    ),
    Setting(
        "blocked signals",
        ("pthread_sigmask",),
        ("_signal",),
        partial(_signal.pthread_sigmask, _signal.SIG_BLOCK, ()),
        partial(_signal.pthread_sigmask, _signal.SIG_SETMASK),
        is_of_thread=True,
    ),
    Setting("timers", ("setitimer",), ("signal", "_signal"), _nothing, _stop_timers),
    Setting(
        "tracebacks to be dumped later",
        ("dump_traceback_later",),
        ("faulthandler",),
        _nothing,
        lambda _: faulthandler.cancel_dump_traceback_later(),
    ),
    Setting(
        "the recursion limit",
        ("setrecursionlimit",),
        ("sys",),
        sys.getrecursionlimit,
        sys.setrecursionlimit,
    ),
    Setting(
        "the switch interval",
        ("setswitchinterval",),
        ("sys",),
        sys.getswitchinterval,
        sys.setswitchinterval,
    ),
    Setting(
        "garbage collection",
        ("enable", "disable", "set_threshold"),
        ("gc",),
        _collection,
        _set_collection,
    ),
    Setting(
        "the locale",
        ("setlocale",),
        ("locale", "_locale"),
        partial(_locale.setlocale, _locale.LC_ALL, None),
        partial(_locale.setlocale, _locale.LC_ALL),
    ),
    Setting(
        "the time-out of sockets",
        ("setdefaulttimeout",),
        ("socket", "_socket"),
        _socket.getdefaulttimeout,
        _socket.setdefaulttimeout,
    ),
)
_BY_NAME = {setting.name: setting for setting in _SETTINGS}


class Settings:
    """The settings of this process. An instance wraps the functions that change them, for good."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        #: The former values of the settings that a task has changed, by name.
        self.changed: dict[str, Any] = {}
        for setting in _SETTINGS:
            wrapped: dict[int, Any] = {}
            for module in filter(None, map(sys.modules.get, setting.modules)):
                for name in setting.functions:
                    original = getattr(module, name, None)
                    if original is not None:
                        wrapper = wrapped.setdefault(id(original), self._noting(setting, original))
                        setattr(module, name, wrapper)

    def _noting(self, setting: Setting, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self._note(setting)
            return original(*args, **kwargs)

        return noting

    def _note(self, setting: Setting) -> None:
        if setting.is_of_thread and threading.get_ident() != self._thread:
            return
        if setting.name not in self.changed and not _imports():
            self.changed[setting.name] = setting.read()

    def put_back(self) -> str:
        """Restore all settings that the task has changed.

        Returns
        -------
        str
            The settings that could not be put back, and why; empty: none.
        """
        changed, self.changed = self.changed, {}
        left = ""
        for name, before in changed.items():
            try:
                _BY_NAME[name].write(before)
            except Exception as error:
                left = f"{name}: {error}"
        return left


def _imports() -> bool:
    """Tell whether this thread is importing a module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
