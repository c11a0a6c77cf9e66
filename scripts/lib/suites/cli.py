"""The command ``scripts/suites``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.stage import end_site

from pilot.site import SITE_FILE, open_site
from pilot.site_configs import template_text
from suites import dislib, mpi4py_suite, pycompss
from suites.runs import Runs

_CORES = 4


def main(words: Sequence[str] | None = None) -> int:
    """Run a suite; return the exit status: 0 if nothing fails that should pass."""
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] == ["mpi4py"]:  # it takes options of its own
        return mpi4py_suite.main(words[1:], _site)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("snapshot", type=Path, help="the directory with the sources of the suite")
    common.add_argument("names", nargs="*", help="what to run of it; default: all")
    common.add_argument(
        "--python", default=sys.executable, help="a Python that has Pilot and what the suite needs"
    )
    common.add_argument("--site", help="a site; default: one of its own, with 4 cores")
    common.add_argument("--time", type=float, help="seconds that each run may take")
    parser = argparse.ArgumentParser(
        prog="scripts/suites",
        description=__doc__,
        epilog="scripts/suites mpi4py --help: mpi4py's own tests, as an MPI task",
    )
    suites = parser.add_subparsers(dest="suite", required=True)
    for name, module in (("dislib", dislib), ("pycompss", pycompss)):
        suites.add_parser(name, parents=[common], help=module.HELP, description=module.__doc__)
    given = parser.parse_args(words)
    module = dislib if given.suite == "dislib" else pycompss
    names = module.find(given.snapshot, given.names)
    if unknown := sorted(set(given.names) - set(names)):
        parser.error(f"there is no {unknown[0]} in {given.snapshot}")
    if not names:
        parser.error(f"{given.snapshot} has no tests of {given.suite}")
    with _site(given.site) as site:
        return int(module.run(Runs(given.snapshot, names, given.python, site, given.time)))


@contextlib.contextmanager
def _site(given: str | None) -> Iterator[str]:
    """Give the site that was given, or one of its own, whose processes end with the block."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="pilot-suites-") as directory:
        text = template_text("local").replace("cores_per_node: auto", f"cores_per_node: {_CORES}")
        (Path(directory) / SITE_FILE).write_text(text)
        site = open_site(Path(directory))
        try:
            yield directory
        finally:
            end_site(site)
