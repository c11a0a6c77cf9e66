"""The modules that the processes of a session find imported: loaded once, in a template of them.

A template is a process that the fork server has forked, and that forks the executors of one session
with one number of cores: numeric libraries fix their number of threads when they are imported.
`run` is the template's side; `Preloads` is the node worker's, which waits for nothing.

Invariants
----------
- Whatever a module does, executors start: where it fails, hangs, ends its process, or leaves
  threads behind that no fork keeps, it is left out, and tasks import it by themselves.
- An executor waits for its template for `WAIT_S` at most, which is less than an agent waits.
- What one session has imported is in no process of another.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from pilot.client.context import serve_tasks
from pilot.model.tasks import Environment
from pilot.process import enter_environment, name_process
from pilot.variables import thread_defaults
from pilot.wire.messages.worker import StartExecutor
from pilot.worker.forking import Derived, ForkServer, Served

#: An executor waits so long for the modules of its session, in seconds.
WAIT_S = 30.0
#: A template that has not loaded its modules by then is ended, in seconds.
LOAD_S = 300.0

#: A session, and the cores of an executor.
Key: TypeAlias = tuple[int, int]
#: Tells of a module that is not preloaded: the session, the module, and why.
Tell: TypeAlias = Callable[[int, str, str], None]


class TemplateConfig(msgspec.Struct, array_like=True):
    """The configuration that a template receives at its start."""

    name: str
    environment: Environment
    cores: int
    modules: tuple[str, ...]


class Step(msgspec.Struct, array_like=True):
    """A step of a template, told to the node worker on a line of its own."""

    #: ``begins`` with a module, ``failed`` to import it, ``spoiled`` by it, or ``ready``.
    kind: str
    module: str = ""
    reason: str = ""


# --- in the template ------------------------------------------------------------------------------


def run(packed: bytes, tell: Callable[[bytes], None]) -> bool:
    """Load the modules of a session in this process; return False if none may be forked from it."""

    def say(kind: str, module: str = "", reason: str = "") -> None:
        tell(msgspec.json.encode(Step(kind, module, reason)) + b"\n")

    config = msgspec.msgpack.decode(packed, type=TemplateConfig)
    name_process(config.name)
    serve_tasks()
    environment = config.environment
    broken = enter_environment(
        environment.working_dir,
        environment.sys_path,
        environment.variables,
        environment.named,
        environment.inherited,
    )
    os.environ.update(thread_defaults(os.environ, max(1, config.cores)))
    for module in config.modules:
        say("begins", module)
        try:
            if broken is not None:
                raise broken
            importlib.import_module(module)
        except BaseException as error:
            say("failed", module, f"{type(error).__name__}: {error}")
        if left := _threads():
            say("spoiled", module, left)
            return False
    # What is here is never garbage: no collection in an executor is to touch, and copy, its pages.
    gc.collect()
    gc.freeze()
    say("ready")
    return True


def _threads() -> str:
    """Return what a fork of this process would not have, in words; empty if there is nothing."""
    running = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if running:
        names = ", ".join(thread.name for thread in running[:3])
        return f"it has started threads ({names}), which no fork keeps"
    if _count_threads() > 1:
        # Libraries for linear algebra end theirs before a fork, and start them again when needed.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (pid := os.fork()) == 0:
                os._exit(0)
        os.waitpid(pid, 0)
        if (more := _count_threads() - 1) > 0:
            return f"a library of it has started {more} threads, which no fork keeps"
    return ""


def _count_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def reseed() -> None:
    """Give this process random numbers of its own where a module that it was forked with has
    some; Python's own are, by itself."""
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()


# --- in the node worker ---------------------------------------------------------------------------


class _Template:
    """A template, or the place of one that is to be made."""

    def __init__(self, environment: Environment, name: str) -> None:
        self.environment = environment
        self.name = name
        self.modules = environment.preload
        self.process: Derived | None = None
        #: The executors that wait for it, and until when.
        self.waiting: list[tuple[float, StartExecutor]] = []
        self.is_ready = False
        #: The module that it is at, since when it loads, and what it has told of its next step.
        self.module = ""
        self.since = 0.0
        self.said = b""
        self.is_late = False


class Preloads:
    """The templates of a node.

    Parameters
    ----------
    server
        Forks the templates.
    name
        Of the node and the pilot, for lists of processes.
    tell
        Told of each module that is not preloaded.
    """

    def __init__(self, server: ForkServer, name: str, tell: Tell) -> None:
        self._server = server
        self._name = name
        self._tell = tell
        self._templates: dict[Key, _Template] = {}

    def holds_back(self, message: StartExecutor) -> bool:
        """Take a request whose executor has to wait for the modules of its session; return False if
        it may start."""
        environment = message.session.environment
        if not environment.preload or _is_program(message):
            return False
        key = message.session.id, len(message.cores)
        template = self._templates.get(key)
        if template is None:
            template = _Template(environment, f"pilot template {key[0]} {self._name}")
            self._templates[key] = template
            self._load(key, template)
        if template.is_ready or template.process is None or template.is_late:
            return False
        template.waiting.append((time.monotonic() + WAIT_S, message))
        return True

    def fork(self, message: StartExecutor, packed: bytes) -> Served:
        """Fork an executor: from its session's template, where that is ready.

        Raises
        ------
        OSError
            It could not be forked.
        """
        template = self._templates.get((message.session.id, len(message.cores)))
        if _is_program(message):
            template = None
        if template is not None and template.is_ready and template.process is not None:
            try:
                return template.process.fork(packed)
            except OSError as error:
                if not template.process.is_dead():
                    raise
                self._give_up(message.session.id, template, f"its process has died ({error})")
        return self._server.fork(packed)

    def cancel(self, executor: int) -> bool:
        """Drop the request for an executor that waits; return False if there is none."""
        for template in self._templates.values():
            for item in template.waiting:
                if item[1].executor == executor:
                    template.waiting.remove(item)
                    return True
        return False

    def forget(self, session: int) -> None:
        """End the templates of a session, none of whose executors is there any more."""
        for key in [key for key in self._templates if key[0] == session]:
            template = self._templates.pop(key)
            if template.process is not None:
                template.process.close()

    def close(self) -> None:
        """End all templates."""
        for session in {session for session, _ in self._templates}:
            self.forget(session)

    @property
    def sentinels(self) -> list[int]:
        """The descriptors of templates that load: readable when one has told something."""
        return [
            template.process.sentinel
            for template in self._templates.values()
            if template.process is not None and not template.is_ready
        ]

    def look(self) -> list[StartExecutor]:
        """Take in what templates tell; return the requests whose executors can start now."""
        now = time.monotonic()
        free: list[StartExecutor] = []
        for key, template in self._templates.items():
            if template.process is not None and not template.is_ready:
                self._listen(key, template, now)
            if template.is_ready or template.process is None:
                free += [message for _, message in template.waiting]
                template.waiting.clear()
            while template.waiting and now >= template.waiting[0][0]:
                free.append(template.waiting.pop(0)[1])
                if not template.is_late:
                    template.is_late = True
                    why = f"it has not been imported within {WAIT_S:g} s"
                    self._tell(key[0], template.module, why)
        return free

    def _load(self, key: Key, template: _Template) -> None:
        """Make a template that loads the modules that are left, if there are any."""
        template.process, template.said, template.module = None, b"", ""
        if not template.modules:
            return
        config = TemplateConfig(template.name, template.environment, key[1], template.modules)
        template.since = time.monotonic()
        try:
            template.process = self._server.derive(msgspec.msgpack.encode(config))
        except OSError as error:
            self._give_up(key[0], template, f"no process could be forked: {error}")

    def _give_up(self, session: int, template: _Template, why: str) -> None:
        if template.process is not None:
            template.process.close()
        template.process, template.is_ready = None, False
        self._tell(session, ", ".join(template.modules), why)

    def _listen(self, key: Key, template: _Template, now: float) -> None:
        """Take in what a template that loads has told, or that it is dead, or hangs."""
        assert template.process is not None
        said = template.process.hear()
        template.said += said or b""
        *lines, template.said = template.said.split(b"\n")
        for line in lines:
            step = msgspec.json.decode(line, type=Step)
            template.module = step.module or template.module
            if step.kind == "failed":
                self._leave_out(template, step.module)
                self._tell(key[0], step.module, step.reason)
            elif step.kind == "spoiled":
                self._without(key, template, step.module, step.reason)
                return
            elif step.kind == "ready":
                template.is_ready = True
                return
        if said is None:
            self._without(key, template, template.module, "the process in it has ended")
        elif now - template.since > LOAD_S:
            self._without(key, template, template.module, f"it was not there after {LOAD_S:g} s")

    def _without(self, key: Key, template: _Template, module: str, why: str) -> None:
        """Begin again without a module."""
        if template.process is not None:
            template.process.close(kill=True)
        if not module:
            self._give_up(key[0], template, why)
            return
        self._leave_out(template, module)
        self._tell(key[0], module, why)
        self._load(key, template)

    @staticmethod
    def _leave_out(template: _Template, module: str) -> None:
        template.modules = tuple(name for name in template.modules if name != module)


def _is_program(message: StartExecutor) -> bool:
    """Tell whether an executor will be a program of its own, which has no use for a copy."""
    return message.software is not None and message.software.needs_start
