"""``python -m pilot``: the command line, and the processes that Pilot starts itself.

Those (``agent``, ``node``, ``rank``, ``executor``, ``head run``, ``examine``) are told apart before
anything of the command line is imported: there may be thousands of them, and they start often.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _head(arguments: list[str]) -> None:
    from pilot.head.run import main

    main(Path(arguments[0]), *arguments[1:])


def _agent(arguments: list[str]) -> None:
    from pilot.agent.agent import main

    site, pilot, _, pool = arguments
    main(Path(site), pilot, pool)


def _node(arguments: list[str]) -> None:
    import msgspec

    from pilot.launchers import leave_identity
    from pilot.process import raise_file_limit, start_log
    from pilot.scheduler.resources import NodeShape
    from pilot.site import open_site
    from pilot.wire.endpoints import Endpoints
    from pilot.worker.node import find_agent, main

    start_log()
    leave_identity(os.environ)
    raise_file_limit()
    site, pilot, node, agent, shape_text = arguments
    endpoints = msgspec.json.decode(agent, type=Endpoints)
    shape = msgspec.json.decode(shape_text, type=NodeShape)
    main(open_site(Path(site)), pilot, node, shape, lambda: find_agent(endpoints, node))


def _rank(_: list[str]) -> None:
    from pilot.worker.mpi_rank import main

    main()


def _executor(_: list[str]) -> None:
    from pilot.worker.executor import main_of_program

    main_of_program()


def _examine(arguments: list[str]) -> None:
    from pilot.doctor.node import main

    main(arguments)


def main() -> None:
    """Run the command or the process that the arguments name."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["head", "run"]:
        _head(arguments[2:])
    elif arguments[:1] == ["agent"]:
        _agent(arguments[1:])
    elif arguments[:1] == ["node"]:
        _node(arguments[1:])
    elif arguments[:1] == ["rank"]:
        _rank(arguments[1:])
    elif arguments[:1] == ["executor"]:
        _executor(arguments[1:])
    elif arguments[:1] == ["examine"]:
        _examine(arguments[1:])
    else:
        from pilot.cli import main as command_line

        command_line()


if __name__ == "__main__":
    main()
