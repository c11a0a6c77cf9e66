"""A rank of an MPI world: like an executor, but all ranks of a world run each task together.

The world is started once by the site's launcher and kept. Between tasks every rank sleeps on its
own socket: MPI is for the tasks' own traffic, and an idle world costs nothing. ``MPI.COMM_WORLD``
in a task is exactly the task's ranks, since a world has exactly as many.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from pilot.agent.node_cache import NodeCache
from pilot.agent.work import Worker
from pilot.process import (
    die_with_parent,
    enter_environment,
    gpu_variables,
    name_process,
    pin,
    redirect_output,
    thread_variables,
)
from pilot.site import open_site
from pilot.wire import messages as m
from pilot.wire.channel import Client, Endpoints, load_keys

#: The variable that carries `WorldConfig` to the ranks.
VARIABLE = "PILOT_WORLD"


class HostCores(msgspec.Struct):
    """What the ranks on one host may use together."""

    cores: tuple[int, ...]
    gpus: tuple[int, ...]


class WorldConfig(msgspec.Struct):
    """What the ranks of a world are told at their start."""

    world: int
    pilot: str
    site: str
    agent: Endpoints
    session: m.SessionInfo
    cores_per_rank: int
    gpus_per_rank: int
    cores_of_node: int
    hosts: dict[str, HostCores]
    #: For the ids of tasks that rank 0 submits.
    stream: int


def main() -> None:
    """Be a rank until told to end."""
    config = msgspec.json.decode(os.environ.pop(VARIABLE), type=WorldConfig)
    die_with_parent(signal.SIGTERM)
    os.environ.update(thread_variables(config.cores_per_rank))

    # MPI_THREAD_MULTIPLE is not asked for: tasks that need it can see what they have.
    from mpi4py import MPI

    _make_abort_final(MPI.Comm)
    world = MPI.COMM_WORLD
    rank, size = world.rank, world.size
    node = os.uname().nodename
    here = [number for number, host in enumerate(world.allgather(node)) if host == node]
    _take_share(config, node, here.index(rank))
    name_process(f"pilot rank {rank}/{size} world {config.world} {config.pilot}")
    site = open_site(Path(config.site))
    log = site.logs / config.pilot / f"world-{config.world}-rank-{rank}.out"
    redirect_output(log)
    worker = Worker(
        site,
        f"{config.pilot}-world-{config.world}-{rank}-{os.getpid()}",
        node,
        log,
        config.stream,
        NodeCache(site, config.pilot),
        rank,
        size,
    )
    environment = config.session.environment
    worker.broken = enter_environment(
        environment.working_dir, environment.sys_path, environment.variables
    )
    client: Client[m.Run | m.Exit] = Client(
        load_keys(site.keys), b"rank:%d.%d" % (config.world, rank), m.ToExecutor
    )
    client.connect(config.agent.choose())
    client.send(m.RankHello(config.world, rank, size, os.getpid(), node))
    _watch_parent()
    _serve(config.world, rank, client, worker)
    client.close()


def _take_share(config: WorldConfig, node: str, local_rank: int) -> None:
    """Pin this rank to its part of what the host gives to the world."""
    host = config.hosts.get(node) or next(
        (share for name, share in config.hosts.items() if name.split(".")[0] == node.split(".")[0]),
        None,
    )
    if host is None:
        return
    first = local_rank * config.cores_per_rank
    pin(host.cores[first : first + config.cores_per_rank], config.cores_of_node)
    first = local_rank * config.gpus_per_rank
    os.environ.update(gpu_variables(host.gpus[first : first + config.gpus_per_rank]))


def _make_abort_final(kind: Any) -> None:
    """Let no rank go on after ``MPI_Abort``.

    MPICH's asks the launcher to end all ranks, and returns: until that comes, the task could go on
    and even end well. The method is replaced for all communicators, in the class itself: it is
    compiled, so that it can be reached through its dictionary only.
    """
    original = kind.Abort

    def abort(self: Any, errorcode: int = 0) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        original(self, errorcode)
        os._exit(errorcode % 256 or 1)

    (members,) = gc.get_referents(kind.__dict__)
    members["Abort"] = abort
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _watch_parent() -> None:
    """End when the launcher's process on this host is gone, in a task or not."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _serve(world: int, rank: int, client: Client[m.Run | m.Exit], worker: Worker) -> None:
    while True:
        client.socket.poll()
        for message in client.receive():
            if isinstance(message, m.Exit):
                return
            worker.learn(message.functions, message.templates)
            for work in message.work:
                for completion in [*worker.run(work), *worker.seal()]:
                    client.send(m.RankDone(world, rank, completion))
