"""An executor: a persistent Python process that runs tasks one after the other.

It is forked from the node worker's fork server, pins itself, connects to the agent and waits on its
socket. A few words of shared memory tell the node worker which task it is in, so that a crash is
blamed on the right one, and so that what runs is seen without any message.

Tasks that are short are reported together: a message for each would cost more than they do.

While a task waits for others in its main thread, this process sleeps with it, and others have its
cores: `Lender`.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pilot import clock
from pilot.client.context import serve_tasks
from pilot.client.lending import set_lender
from pilot.errors import PilotError
from pilot.launchers import ON_ONE_NODE
from pilot.model.software import Software
from pilot.model.tasks import Completion, SessionInfo, TaskFailure
from pilot.process import (
    Pinning,
    be_no_terminals,
    die_with_parent,
    name_process,
    redirect_output,
    show_resources,
)
from pilot.site import Site, open_site
from pilot.variables import process_variables, thread_defaults
from pilot.wire.channel import REBIND_S, Client, encode
from pilot.wire.keys import load_keys
from pilot.wire.messages import worker as m
from pilot.worker.entering import become, in_software, take_file
from pilot.worker.node_cache import NodeCache
from pilot.worker.node_store import NodeStore
from pilot.worker.preloading import reseed
from pilot.worker.shared_memory import (
    PLACE_BYTES,
    SLOT,
    begins,
    leave_reason,
    order_of,
    sample_of,
    stopping_of,
)
from pilot.worker.task_runner import NODES, TaskRunner
from pilot.worker.usage import Usage

#: So long may a large result wait for others to join it in one file, in seconds.
SEAL_S = 0.02
#: So long a result stays in the memory of an executor for a task that needs it, in seconds.
LAST_S = 1.0
#: Attempts that have ended are reported together: so many, or those of so many seconds where these
#: are more, and after so many seconds at the latest, whatever the task that runs then does.
TOGETHER = 8
TOGETHER_S = 0.001
LATEST_S = 0.01


class ExecutorConfig(msgspec.Struct):
    """The configuration that an executor receives at its start."""

    number: int
    #: A name that no other process has or had on this site.
    owner: str
    pilot: str
    node: str
    agent: str
    session: SessionInfo
    cores: tuple[int, ...]
    #: By name, those of its things that are told apart, such as GPUs.
    indices: dict[str, tuple[str, ...]]
    cores_of_node: int
    gpus_of_node: int
    #: Path of the output, and its place in the shared memory.
    log: str
    slot: int
    #: The site directory.
    site: str = ""
    #: What it is started in, where it is to become a program of its own; None: it is what it is.
    software: Software | None = None
    #: The file of such a program, with the shared memory and this.
    file: str = ""

    def in_software(self, software: Software, file: str) -> bytes:
        """Return, encoded, what the program is told that runs in a software environment."""
        session = in_software(self.session, software)
        return msgspec.msgpack.encode(msgspec.structs.replace(self, session=session, file=file))


def main_of_program() -> None:
    """Run an executor that is a program of its own, and was started by `entering.become`."""
    memory, packed = take_file()
    config = msgspec.msgpack.decode(packed, type=ExecutorConfig)
    main(packed, open_site(Path(config.site)), memory)


def main(packed: bytes, site: Site, memory: mmap.mmap) -> None:
    """Run an executor of this site until told to end; `memory` is shared with the node worker."""
    config = msgspec.msgpack.decode(packed, type=ExecutorConfig)
    if config.software is not None:
        redirect_output(Path(config.log), site.directory)
        become(config.software, config.session.environment, site, config.file)
    try:
        client, worker, pinning = _come_up(config, site, memory)
    except Exception as error:
        # The executor's output need not be there yet, nor the process that would read it.
        leave_reason(memory, config.slot * PLACE_BYTES, error)
        raise
    _serve(config, site, client, worker, pinning, memory)
    client.close()


def _come_up(
    config: ExecutorConfig, site: Site, memory: mmap.mmap
) -> tuple[Client[m.ToExecutor], TaskRunner, Pinning]:
    """Make this process ready for tasks; a failure here is blamed on the node, not on a task."""
    if config.file:
        die_with_parent()  # it may be an engine's now
    else:
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    be_no_terminals()
    serve_tasks()
    name_process(f"pilot executor {config.number} {config.pilot}")
    redirect_output(Path(config.log), site.directory)
    pinning = Pinning(config.cores, config.cores_of_node)
    cores = len(config.cores)
    os.environ.update(process_variables(cores))
    show_resources(config.indices, config.gpus_of_node)
    os.environ[NODES] = config.node
    worker = TaskRunner(
        site,
        config.owner,
        config.node,
        Path(config.log),
        NodeCache(site, config.pilot),
        config.indices,
        store=NodeStore(site, config.pilot, config.node),
        stopping=stopping_of(memory, config.slot * PLACE_BYTES),
        usage=Usage(sample_of(memory, config.slot * PLACE_BYTES)),
    )
    worker.gives_back = True
    worker.enter(config.session.environment)
    # Without a core it may be anywhere: such tasks hardly compute.
    os.environ.update(thread_defaults(os.environ, max(1, cores)))
    if config.session.environment.preload:
        reseed()
    worker.environ = dict(os.environ)
    # For functions that start an mpirun; commands have it where they are no ranks.
    os.environ.update(ON_ONE_NODE | worker.environ)
    client: Client[m.ToExecutor] = Client(
        load_keys(site.keys), b"executor:%d" % config.number, m.ToExecutor
    )
    client.connect(config.agent, REBIND_S)
    if client.is_lost:
        raise ConnectionError(f"the agent does not listen at {config.agent}")
    client.send(m.ExecutorHello(config.number, os.getpid()))
    return client, worker, pinning


class Outbox:
    """The completions that are not reported yet, and the connection by which they are reported.

    The main thread reports before it waits for its socket; while it is in a task, a thread reports
    what has waited for too long. A lock sees that they never use the socket at the same time.

    Parameters
    ----------
    client
        The connection.
    report
        Makes a message of attempts that have ended.
    """

    def __init__(
        self,
        client: Client[m.ToExecutor],
        report: Callable[[list[Completion]], msgspec.Struct],
    ) -> None:
        self._client = client
        self._report = report
        self._lock = threading.Lock()
        self._waiting: list[Completion] = []
        #: What has come while the answer to a task that goes on was waited for.
        self._kept: list[m.ToExecutor] = []
        self._first = 0.0
        self._due = threading.Event()
        #: Set while there is nothing to run, and nothing to report.
        self.rests = threading.Event()
        self._pid = os.getpid()
        threading.Thread(target=self._send_late, name="outbox", daemon=True).start()

    def begin(self) -> None:
        """Note that a task begins: what waits is reported in time, however long the task takes."""
        if self._waiting and not self._due.is_set():
            self._due.set()

    def add(self, completions: list[Completion]) -> None:
        """Add completions, to be reported soon."""
        with self._lock:
            self._waiting += completions
            ended = completions[-1].ended
            if len(self._waiting) == len(completions):
                self._first = ended
            elif ended - self._first > TOGETHER_S and len(self._waiting) >= TOGETHER:
                self._send()

    def receive(self) -> list[m.ToExecutor]:
        """Return the messages that have arrived; if there are none, report everything and wait for
        one."""
        with self._lock:
            if self._kept:
                kept, self._kept = self._kept, []
                return kept
            if self._client.poll(0):
                return self._receive()
            self._send()
        self.rests.set()
        self._client.poll()  # nothing is left that the thread would send
        self.rests.clear()
        with self._lock:
            return self._receive()

    def receive_go_on(self, task: int) -> m.GoOn:
        """Wait for cores for a task that goes on, and keep what else comes."""
        while True:
            with self._lock:
                answers = []
                for message in self._receive() if self._client.poll(0) else ():
                    if isinstance(message, m.GoOn) and message.task == task:
                        answers.append(message)
                    else:
                        self._kept.append(message)
            if answers:
                return answers[0]
            self._client.poll()  # nothing is left that the thread would send

    def _receive(self) -> list[m.ToExecutor]:
        received = self._client.receive()
        if unreadable := self._client.take_unreadable():
            # It may have been work, which the agent believes to be here.
            raise PilotError(f"the agent sent an unreadable message: {unreadable[0].reason}")
        if not received and self._client.is_lost:
            # What is not reported is done again: nobody would hear of it, and all would wait.
            raise ConnectionError("the connection to the agent has ended; has a task closed it?")
        return received

    def send(self, message: msgspec.Struct | None = None) -> None:
        """Report what is left, and then send `message`."""
        with self._lock:
            self._send()
            if message is not None:
                self._client.send(message)
                self._client.drain()

    def tell(
        self, completion: Completion, report: Callable[[list[Completion]], msgspec.Struct]
    ) -> None:
        """Report what is left, and then this completion in a message of its own."""
        with self._lock:
            self._send()
            send_report(self._client, report, [completion])
            self._client.drain()

    def _send(self) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that a task has forked, and that came here unseen
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            send_report(self._client, self._report, waiting)
            self._client.drain()

    def _send_late(self) -> None:
        while self._due.wait():
            time.sleep(LATEST_S)
            self._due.clear()
            self.send()


class Lender:
    """The lender of the cores of this executor, while a task in it waits for others.

    Parameters
    ----------
    number
        The executor's number.
    outbox
        The connection to the agent.
    move
        Has the process run on other cores.
    """

    def __init__(
        self, number: int, outbox: Outbox, move: Callable[[tuple[int, ...]], object]
    ) -> None:
        #: The task that runs; 0: none.
        self.task = 0
        self._number = number
        self._outbox = outbox
        self._move = move
        self._has_lent = False
        self._pid = os.getpid()

    def lend(self) -> bool:
        """Give the cores back to the pilot; return False if there are none to be lent now."""
        if not self.task or self._has_lent or os.getpid() != self._pid:
            return False
        self._has_lent = True
        self._outbox.send(m.Waits(self._number, self.task))
        return True

    def take_again(self) -> None:
        """Wait until the pilot has cores for the task again."""
        try:
            self._outbox.send(m.GoesOn(self._number, self.task))
            self._move(self._outbox.receive_go_on(self.task).cores)
        finally:
            self._has_lent = False


def send_report(
    client: Client[m.ToExecutor],
    report: Callable[[list[Completion]], msgspec.Struct],
    completions: list[Completion],
) -> None:
    """Report attempts that have ended; report an attempt that cannot be encoded as failed.

    Parameters
    ----------
    client
        The connection.
    report
        Makes a message of the completions.
    completions
        The ends to report.
    """
    try:
        client.send(report(completions))
    except OSError:
        raise
    except Exception:
        client.send(report([_sendable(completion) for completion in completions]))


def _sendable(completion: Completion) -> Completion:
    try:
        encode(completion)
    except Exception as error:
        failure = TaskFailure(
            type=type(error).__name__,
            message=f"its end cannot be sent: {error!a:.1000}",
            node=completion.node,
            attempt=completion.attempt,
        )
        return Completion(
            task=completion.task,
            attempt=completion.attempt,
            outcome="error",
            failure=failure,
            node=completion.node,
            started=completion.started,
            ended=completion.ended,
            logs=completion.logs,
        )
    return completion


class Sealer(threading.Thread):
    """A thread that seals results a moment after their task, so that several share a file; at once
    where no other task follows that could.

    A thread with a connection of its own, since the next task may run for hours.

    Parameters
    ----------
    config, site
        Whose executor this is.
    worker
        Runs the tasks.
    rests
        Set while there is nothing to run.
    """

    def __init__(
        self, config: ExecutorConfig, site: Site, worker: TaskRunner, rests: threading.Event
    ) -> None:
        super().__init__(name="sealer", daemon=True)
        self._config = config
        self._worker = worker
        self._rests = rests
        #: Set when there is something to be sealed.
        self.due = threading.Event()
        #: Held while something is sealed and reported.
        self._busy = threading.Lock()
        self._client: Client[m.ToExecutor] = Client(
            load_keys(site.keys), b"sealer:%d" % config.number, m.ToExecutor
        )
        self._client.connect(config.agent, REBIND_S)

    def run(self) -> None:
        """Seal results whenever that is due."""
        while True:
            if not self.due.wait(LAST_S if self._worker.has_last else None):
                self._worker.forget_last()
                continue
            self.due.clear()
            self._rests.wait(SEAL_S)
            self.seal()

    def seal(self) -> None:
        """Seal what there is, and report it."""
        with self._busy:
            completions, paths = self._worker.seal()
            if completions:
                send_report(self._client, lambda c: self._report(c, paths), completions)
                self._client.drain()

    def _report(self, completions: list[Completion], paths: list[str]) -> m.Done | m.Kept:
        if paths:
            return m.Kept(self._config.number, completions, paths)
        return m.Done(self._config.number, completions)


def _serve(
    config: ExecutorConfig,
    site: Site,
    client: Client[m.ToExecutor],
    worker: TaskRunner,
    pinning: Pinning,
    memory: mmap.mmap,
) -> None:
    def move(cores: tuple[int, ...]) -> None:
        if real := pinning.move(cores):
            worker.moved(real)

    offset = config.slot * PLACE_BYTES
    pack = SLOT.pack_into
    order = order_of(memory, offset)
    number = 0
    sealer: Sealer | None = None
    outbox = Outbox(client, lambda completions: m.Done(config.number, completions))
    lender = Lender(config.number, outbox, move)
    set_lender(lender)
    while True:
        for message in outbox.receive():
            if isinstance(message, m.Exit):
                return
            if isinstance(message, m.GoOn):
                continue  # for a task that has ended meanwhile
            worker.learn(message.functions, message.templates)
            worker.keeps = message.keeps
            if message.nodes:
                worker.have_nodes(message.nodes, message.cores)
            for work in message.work:
                number += 1
                if not begins(order, number):
                    continue
                begin = worker.log_position()
                asked = worker.memory_mib(work.template)
                pack(memory, offset, work.task, work.attempt, clock.now(), begin, asked)
                outbox.begin()
                lender.task = work.task
                completions = worker.run(work, begin, message.plan)
                lender.task = 0
                pack(memory, offset, 0, 0, 0.0, 0, 0)
                if completions:
                    outbox.add(completions)
                else:
                    outbox.send(m.Ran(config.number, [work.task]))
                    if sealer is None:
                        sealer = Sealer(config, site, worker, outbox.rests)
                        sealer.start()
                    sealer.due.set()
                if worker.spent:
                    _end_spent(config.number, worker, outbox, sealer)
                    return


def _end_spent(number: int, worker: TaskRunner, outbox: Outbox, sealer: Sealer | None) -> None:
    """Report what has ended, and that this process takes no more work; then wait to be told to
    end."""
    if sealer is not None:
        sealer.seal()
    outbox.send(m.Spent(number, worker.spent))
    while not any(isinstance(message, m.Exit) for message in outbox.receive()):
        pass
