"""Ranks tell of themselves."""

import socket

from mpi4py import MPI

world = MPI.COMM_WORLD
hosts = world.gather(socket.gethostname())
if world.rank == 0 and hosts is not None:
    blocks = [host for host in dict.fromkeys(hosts) for _ in range(hosts.count(host))]
    print(world.size, "ranks on", len(set(hosts)), "nodes:", hosts == blocks)
