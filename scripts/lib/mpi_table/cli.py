"""The command ``scripts/mpi-table``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mpi_table
from mpi_table.ways import WAYS, Row, Way, table

#: Where environments and MPIs are kept, to be there the next time.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilot" / "mpi-table"
_CHECKOUT = Path(__file__).resolve().parents[3]
#: Says that this is the Python to use.
_PYTHON = "--with-this-python"


def main(words: Sequence[str] | None = None) -> int:
    """Try the ways; return the exit status: 1 if one that can be had does not work."""
    parser = argparse.ArgumentParser(prog="scripts/mpi-table", description=mpi_table.__doc__)
    parser.add_argument("ways", nargs="*", metavar="WAY", help="as in the table; default: all")
    parser.add_argument("--nodes", type=int, default=4, help="ranks, each on a node of its own")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help=f"where MPIs are kept (default: {CACHE})"
    )
    parser.add_argument(_PYTHON, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    known = {way.name: way for way in WAYS}
    if unknown := [name for name in given.ways if name not in known]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(known)}")
    if not given.with_this_python:
        return _with_python_of_its_own(given)
    return _try([known[name] for name in given.ways or known], given)


def _with_python_of_its_own(given: argparse.Namespace) -> int:
    """Go on in an environment without an MPI: launchers look beside the Python first."""
    given.cache.mkdir(parents=True, exist_ok=True)
    python = given.cache / "python" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(_CHECKOUT), "mpi4py"], check=True)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(_CHECKOUT)], check=True)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    script = _CHECKOUT / "scripts" / "mpi-table"
    options = [_PYTHON, "--nodes", str(given.nodes), "--cache", str(given.cache)]
    command = [str(python), str(script), *options, *given.ways]
    return subprocess.run(command, env=environment, check=False).returncode


def _try(ways: Sequence[Way], given: argparse.Namespace) -> int:
    from bench.stage import find_virtual_cluster

    from mpi_table.obtaining import MissingError, obtain
    from mpi_table.trial import try_way

    slurm, why_not = find_virtual_cluster()
    if slurm is None:
        print(f"mpi-table: {why_not}", file=sys.stderr)
        return 3
    rows = []
    for way in ways:
        try:
            place = obtain(way.mpi, given.cache)
        except MissingError as error:
            rows.append(Row(way, note=f"cannot be had here: {error}"))
        else:
            rows.append(try_way(way, place, slurm, given.nodes))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}")
    return int(any(row.failed for row in rows))
