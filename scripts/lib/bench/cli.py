"""The command line of ``scripts/bench``: runs workloads, each in a process of its own.

So one that fails or hangs takes nothing with it, none inherits another's threads or memory, and
what it leaves behind is found and ended here. Exit status: 0 all were measured, 1 one failed,
2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compiling
import pictures

from bench import measure, peer_process, peers, plot, report, stage
from bench.report import Findings
from pilot.errors import PilotError
from pilot.site import SITE_FILE, open_site
from pilot.site_configs import template_text
from pilot.version import __version__

WORKLOADS = (
    *(f"W{number}" for number in range(1, 9)),
    "BUDGET",
    "CORE",
    "STORE",
    "WIRE",
    "FILES",
    "IDLE",
    "CURVES",
    "SCALE",
    "START",
    "CHAIN",
    "FANOUT",
    "ALLTOALL",
    "MATMUL",
    "CHOLESKY",
    "COMPAT",
)
#: These go to a Slurm where there is one.
SLURM_WORKLOADS = ("W5", "W6", "ALLTOALL")
#: A workload that takes longer is ended, in seconds; with --large much more.
LIMIT_S, LARGE_LIMIT_S = 900.0, 7200.0
#: What each peer may take has a limit of its own, and comes on top.
PEER_LIMIT_S = peer_process.LIMIT_S + 2 * peer_process.END_S

_DESCRIPTION = """\
Measure Pilot beside its references, in one run on this machine. Figures compare within one run
only. A ratio above 1 says that Pilot is better. The workloads are described in docs/performance.md.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command given by `arguments` and return the exit status."""
    options = _parser().parse_args(arguments)
    if options.child:
        _child(options)
        return 0
    if options.install_peers:
        return peers.install_all(options.install_peers)
    chosen = [name.upper() for name in options.workloads] or list(WORKLOADS)
    findings, failed = Findings(), False
    if options.peers:
        why_not = {name: peers.why_not(name) for name in peers.PEERS}
        options.with_peers = [name for name, why in why_not.items() if not why]
        for name, why in why_not.items():
            if why:
                findings.miss("", name, why)
    if options.pictures and (why := pictures.why_not()):
        findings.miss("", "pictures", why)
    compiling.compile_pilot()
    began = time.time()
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        found, error = _run(name, options)
        findings.extend(found)
        failed = failed or bool(error)
        if found.rows:
            print(report.table(found.rows), "\n", flush=True)
        for missing in found.missing:
            print(f"{missing.workload}: not measured: {missing.what}: {missing.reason}")
        if error:
            findings.miss(name, "it failed", error)
            print(f"{name}: failed: {error}")
    if len(chosen) > 1:
        print("\n" + report.table(findings.rows))
    for missing in findings.missing:
        if not missing.workload:
            print(f"not measured: {missing.what}: {missing.reason}")
    _write(options, findings, began)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=_DESCRIPTION)
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="W",
        type=_workload,
        help=f"{', '.join(WORKLOADS).lower()}; default: all",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and samples")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, one round")
    parser.add_argument("--large", action="store_true", help="W1 and W8 with 1,000,000 tasks, too")
    parser.add_argument(
        "--site",
        default="local",
        metavar="local|PATH",
        help="a site (directory or file) whose settings fresh sites get; they are made beside it",
    )
    parser.add_argument("--peers", action="store_true", help="also what is installed of the field")
    parser.add_argument(
        "--install-peers",
        type=Path,
        metavar="DIRECTORY",
        help=f"only install them there; runs find them if {peers.VARIABLE} is that directory",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIRECTORY",
        help="draw there what W2 and CURVES found, as SVG; needs matplotlib",
    )
    parser.add_argument("--markdown", action="store_true", help="also as tables for documents")
    parser.add_argument("--with-peers", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, metavar="DIRECTORY", help=argparse.SUPPRESS)
    return parser


def _workload(text: str) -> str:
    if text.upper() not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"there is no {text}; there are {', '.join(WORKLOADS)}")
    return text.upper()


def _write(options: argparse.Namespace, findings: Findings, began: float) -> None:
    if options.markdown:
        print(report.markdown(findings.rows))
    if options.pictures and not pictures.why_not():
        for path in plot.draw(findings.data, options.pictures):
            print(f"picture: {path}")
    if options.json is None:
        return
    content = {
        "pilot": __version__,
        "began": began,
        "took_s": time.time() - began,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load": os.getloadavg()[0],
        "peers": options.with_peers,
        **findings.to_dict(),
    }
    options.json.write_text(json.dumps(content, indent=1))
    print(f"figures and samples: {options.json}")


# --- a workload's process ------------------------------------------------------------------------


def _run(name: str, options: argparse.Namespace) -> tuple[Findings, str]:
    """Run a workload in its process; return its findings, and the reason if it failed."""
    parent = _site_for(name, options)[1]
    directory = Path(tempfile.mkdtemp(prefix=f"pilot-bench-{name.lower()}-", dir=parent))
    command = [sys.executable, sys.argv[0], name, "--child", str(directory)]
    command += ["--site", options.site]
    command += [f"--{flag}" for flag in ("quick", "large") if getattr(options, flag)]
    command += ["--with-peers", *options.with_peers]
    limit_s = LARGE_LIMIT_S if options.large else LIMIT_S
    limit_s += PEER_LIMIT_S * len(options.with_peers)
    process = subprocess.Popen(command, start_new_session=True)
    error = ""
    try:
        status = process.wait(limit_s)
        if status:
            error = f"its process ended with {status}, see above"
    except subprocess.TimeoutExpired:
        error = f"it was not over after {limit_s:.0f} s"
    finally:
        _end_group(process)
        _end_sites(directory)
        measure.end_processes(directory)
        results = directory / "findings.json"
        plain: Any = json.loads(results.read_text()) if results.exists() else None
        shutil.rmtree(directory, ignore_errors=True)
    return Findings.from_dict(plain) if plain else Findings(), error


def _child(options: argparse.Namespace) -> None:
    name = options.workloads[0]
    text, _, slurm, no_slurm = _site_for(name, options)
    there = stage.Stage(
        directory=options.child,
        site_text=text,
        quick=options.quick,
        large=options.large,
        slurm=slurm,
        no_slurm=no_slurm,
        peers=options.with_peers,
    )
    # Nothing is written elsewhere, by whatever else runs in this process.
    os.chdir(options.child)
    try:
        importlib.import_module(f"bench.{name.lower()}").run(there)
    finally:
        (options.child / "findings.json").write_text(json.dumps(there.findings.to_dict()))


def _site_for(
    name: str, options: argparse.Namespace
) -> tuple[str, Path | None, stage.Slurm | None, str]:
    """Return the site file for a workload, the place for its sites (None: anywhere), and its Slurm,
    or why it gets none."""
    wants_slurm, no_slurm = name in SLURM_WORKLOADS, ""
    if options.site != "local":
        file = _site_file(options.site)
        shared = file.parent.parent
        slurm = None
        if open_site(file.parent).config.batch == "slurm":
            slurm = stage.Slurm(file.parent.name, file.read_text(), shared)
        elif wants_slurm:
            no_slurm = f"{file} is not of a Slurm"
        return file.read_text(), shared, slurm, no_slurm
    if wants_slurm:
        slurm, no_slurm = stage.find_virtual_cluster()
        if slurm is not None:
            return slurm.site_text, slurm.shared, slurm, ""
    return template_text("local"), None, None, no_slurm


def _site_file(site: str) -> Path:
    path = Path(site).expanduser().absolute()
    return path / SITE_FILE if path.is_dir() else path


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the processes that a workload's process has left running, and that process if need be."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _end_sites(directory: Path) -> None:
    """End the heads and pilots that a failed workload has left."""
    for file in directory.glob(f"*/{SITE_FILE}"):
        try:
            stage.end_site(open_site(file.parent))
        except PilotError as error:
            print(f"{file.parent}: {error}", file=sys.stderr)
