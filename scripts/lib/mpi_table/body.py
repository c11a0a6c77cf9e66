"""The work of each rank, as a function and as a program: all talk to all, and tell of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

#: More than a message that MPIs send ahead of the receiver.
WORDS = 1 << 17


def meet() -> dict[str, Any]:
    """Send around a ring, exchange with all, add up; return what rank 0 has seen."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank, size = world.rank, world.size
    sent, received = np.full(WORDS, float(rank)), np.empty(WORDS)
    world.Sendrecv(sent, (rank + 1) % size, 0, received, (rank - 1) % size, 0)
    assert (received == (rank - 1) % size).all()
    assert world.alltoall([(rank, to) for to in range(size)]) == [(n, rank) for n in range(size)]
    nodes = world.gather(os.uname().nodename)
    return {
        "sum": world.allreduce(rank + 1),
        "nodes": nodes,
        "library": " ".join(MPI.Get_library_version().partition(",")[0].split("\n")[0].split()),
    }


def fault_of(told: dict[str, Any], nodes: int) -> str:
    """Return what is wrong with what rank 0 has seen on so many nodes; empty if nothing is."""
    if told["sum"] != nodes * (nodes + 1) // 2:
        return f"a sum of {told['sum']} over {nodes} ranks"
    if len(set(told["nodes"])) != nodes:
        return f"not on {nodes} nodes, but on {', '.join(told['nodes'])}"
    return ""


if __name__ == "__main__":
    seen = meet()
    if seen["nodes"] is not None:
        Path(sys.argv[1]).write_text(json.dumps(seen))
