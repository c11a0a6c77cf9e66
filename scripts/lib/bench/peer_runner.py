"""The process that speaks for a peer, in the peer's own interpreter.

``python -m bench.peer_runner NAME DISTRIBUTION [WORKERS WORKLOAD]``, in a directory of its own. It
answers each line of its input (a load's name and arguments) with one of its output, in JSON: the
load's figures, null where the peer has no such thing, or an error. The first load that it has opens
the peer and warms it up, the end of its input closes it. A module ``peer_NAME`` has:

- ``NAME``: what tables call the peer.
- ``LOADS``: name of a load that the peer can do → the part of its tasks that it gets. Slow peers
  get fewer, so that they end in time; rates and latencies do not need all.
- ``opened(workers, directory, workload)``: a context with the open `System` or `Launcher`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench import loads

#: A peer gets at least so many tasks, if the load has them.
LEAST = 3


def main() -> None:
    """Serve requests for loads until the input ends."""
    name, distribution, *rest = sys.argv[1:]
    # Its output is for answers alone: what peers print goes where errors go. Their processes
    # inherit neither.
    asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    module = importlib.import_module(f"bench.peer_{name}")
    version = importlib.metadata.version(distribution)
    if not rest:
        return
    say({"name": f"{module.NAME} {version}"})
    workers, workload = int(rest[0]), rest[1]
    system: Any = None
    with contextlib.ExitStack() as stack:
        for line in asked:
            request = json.loads(line)
            part = module.LOADS.get(request["load"])
            if part is None:
                say({"found": None})
                continue
            try:
                if system is None:
                    opened = module.opened(workers, Path.cwd(), workload)
                    system = stack.enter_context(opened)
                    loads.warm(system, workers)
                say({"found": _measure(system, part, **request)})
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})


def _measure(system: Any, part: float, load: str, count: int, **others: Any) -> Any:
    return loads.LOADS[load](system, max(min(count, LEAST), round(count * part)), **others)


if __name__ == "__main__":
    main()
