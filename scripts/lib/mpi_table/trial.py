"""The trial of one way: a site of its own, on which ranks run as a function and as a program."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from bench.stage import Slurm, end_site

import pilot
from mpi_table import body
from mpi_table.ways import Place, Row, Way, site_text
from pilot.errors import PilotError
from pilot.site import SITE_FILE, open_site

#: How long the first task may take, in seconds: its pilot and world start.
LIMIT_S = 120.0


def try_way(way: Way, place: Place, slurm: Slurm, nodes: int) -> Row:
    """Run the function twice, the second time on ranks that are there, and the program."""
    library = function = program = "-"
    note = ""
    with tempfile.TemporaryDirectory(prefix="mpi-table-", dir=slurm.shared) as name:
        directory = Path(name)
        (directory / SITE_FILE).write_text(site_text(slurm.site_text, way, place, nodes))
        site = open_site(directory)
        try:
            with pilot.Session(site, sys_path=[str(Path(body.__file__).parents[1])]) as session:
                library, function = _function(session, way, nodes)
                program = _program(session, nodes, directory)
        except (PilotError, TimeoutError, OSError, ValueError, AssertionError) as error:
            note = " ".join(str(error).split())[:300].replace("|", "/")
            if function == "-":
                function = "failed"
            else:
                program = "failed"
        else:
            note = _found(directory)
        finally:
            end_site(site)
    return Row(way, library, function, program, note)


def _found(directory: Path) -> str:
    """Return what a site has found where its file leaves the launcher open."""
    try:
        choice = json.loads((directory / "mpi.json").read_text())["choice"]
    except FileNotFoundError:
        return ""
    return "found: " + " ".join([choice["launcher"], *choice.get("options", ())])


def _function(session: pilot.Session, way: Way, nodes: int) -> tuple[str, str]:
    meet = pilot.mpi(ranks=nodes, ranks_per_node=1, max_crashes=0)(body.meet)
    seconds = []
    told = {}
    for _ in range(2):
        begin = time.monotonic()
        told = session.submit(meet).result(LIMIT_S)
        seconds.append(time.monotonic() - begin)
        if fault := body.fault_of(told, nodes):
            raise ValueError(fault)
    if not told["library"].startswith(way.mpi.library):
        raise ValueError(f"another library is loaded: {told['library']}")
    return told["library"], f"{seconds[0]:.1f} s, then {1e3 * seconds[1]:.0f} ms"


def _program(session: pilot.Session, nodes: int, directory: Path) -> str:
    command = f"{sys.executable} {body.__file__} {{out}}"
    run = pilot.shell(command, ranks=nodes, ranks_per_node=1, max_crashes=0)
    out = directory / "told.json"
    begin = time.monotonic()
    session.submit(run, out=out).result(LIMIT_S)
    seconds = time.monotonic() - begin
    if fault := body.fault_of(json.loads(out.read_text()), nodes):
        raise ValueError(fault)
    return f"{seconds:.1f} s"
