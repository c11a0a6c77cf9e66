"""The command line of ``scripts/virtual-cluster``, which reads arguments and prints answers.

Exit status: 0 done (``status``: healthy), 1 it failed (``status``: up with faults), 2 wrong usage,
3 no cluster is up, 4 this machine can't have one. ``run`` has the exit status of its command.
"""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from . import cluster
from .errors import ClusterDownError, ClusterError
from .installation import find_installation
from .plan import Layout, Shape

_UNHEALTHY = ClusterError.exit_status
_DOWN = ClusterDownError.exit_status
_INTERRUPTED = 128 + signal.SIGINT

_DESCRIPTION = """\
A real Slurm cluster on this machine, for tests and demonstrations. Needs root on Debian or Ubuntu.
Everything is under /var/lib/pilot-virtual-cluster, or where $PILOT_VIRTUAL_CLUSTER says.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command given by `arguments` and return the exit status."""
    options = _parser().parse_args(arguments)
    # A terminated `up` must clean up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command: Callable[[Layout, argparse.Namespace], int] = options.carry_out
    try:
        return command(cluster.layout_from_environment(), options)
    except ClusterError as error:
        print(f"virtual-cluster: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("virtual-cluster: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="virtual-cluster", description=_DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    up = commands.add_parser("up", help="bring the cluster up; installs what is missing")
    up.add_argument("--nodes", type=int, default=4, help="number of nodes (default: 4)")
    up.add_argument("--cpus", type=int, default=4, help="cores of each node (default: 4)")
    up.add_argument(
        "--slurm",
        metavar="PREFIX",
        help="a Slurm that was built and installed there (default: the distribution's)",
    )
    up.set_defaults(carry_out=_up)

    down = commands.add_parser("down", help="take the cluster down, leaving nothing behind")
    down.set_defaults(carry_out=_down)

    status = commands.add_parser("status", help="say how the cluster is")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(carry_out=_status)

    env = commands.add_parser("env", help='print exports: eval "$(virtual-cluster env)"')
    env.set_defaults(carry_out=_env)

    run = commands.add_parser("run", help="run a command with the cluster's environment")
    run.add_argument("--on", metavar="NODE", help="run it on this node, not on the login node")
    run.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    run.set_defaults(carry_out=_run)

    for name, change, text in (
        ("cut", cluster.cut, "cut a node off the network; its processes live on"),
        ("join", cluster.join, "bring a node back that was cut off or killed"),
        ("kill", cluster.kill, "cut a node's power: all its processes end at once"),
    ):
        subparser = commands.add_parser(name, help=text)
        subparser.add_argument("node", metavar="NODE", help="n1, n2, ...")
        subparser.set_defaults(carry_out=_changing_one_node(change))

    controller = commands.add_parser("controller", help="stop, kill or start slurmctld")
    controller.add_argument("action", choices=(*cluster.CONTROLLER_SIGNALS, "start"))
    controller.set_defaults(carry_out=_controller)
    return parser


def _up(layout: Layout, options: argparse.Namespace) -> int:
    prefix = find_installation(options.slurm) if options.slurm else None
    cluster.up(layout, Shape(nodes=options.nodes, cpus=options.cpus), prefix)
    _print_exports(cluster.environment(layout))
    return 0


def _down(layout: Layout, _options: argparse.Namespace) -> int:
    cluster.down(layout)
    return 0


def _status(layout: Layout, options: argparse.Namespace) -> int:
    found = cluster.status(layout)
    print(json.dumps(found.to_dict(), indent=2) if options.json else _describe(found))
    if not found.up:
        return _DOWN
    return 0 if found.healthy else _UNHEALTHY


def _env(layout: Layout, _options: argparse.Namespace) -> int:
    _print_exports(cluster.environment(layout))
    return 0


def _run(layout: Layout, options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ClusterError("run what? Give a command: `virtual-cluster run sinfo`")
    environment = {**os.environ, **cluster.environment(layout)}
    if options.on:
        command = cluster.command_on(layout, options.on, command)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f"virtual-cluster: {command[0]}: {error.strerror}", file=sys.stderr)
        return 126 if isinstance(error, PermissionError) else 127


def _changing_one_node(
    change: Callable[[Layout, str], None],
) -> Callable[[Layout, argparse.Namespace], int]:
    def carry_out(layout: Layout, options: argparse.Namespace) -> int:
        change(layout, options.node)
        return 0

    return carry_out


def _controller(layout: Layout, options: argparse.Namespace) -> int:
    cluster.controller(layout, options.action)
    return 0


def _print_exports(environment: dict[str, str]) -> None:
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")


def _describe(found: cluster.Status) -> str:
    if not found.up:
        return f"down ({found.state_directory})"
    lines = [
        f"{'up' if found.healthy else 'up, with faults'}: {found.shape}",
        f"Slurm       {found.slurm_version or 'unknown'}"
        + (f" in {found.slurm_prefix}" if found.slurm_prefix else ""),
        f"slurm.conf  {found.slurm_conf}",
        f"shared      {found.shared_directory}",
        f"login       {found.login} {found.login_address}",
        "",
        f"{'node':6} {'address':15} {'state':12} {'link':5} {'slurmd':>8}  partitions",
    ]
    lines += [
        f"{node.name:6} {node.address:15} {node.state:12} {'up' if node.link else 'down':5}"
        f" {node.slurmd_pid or '-':>8}  {','.join(node.partitions)}"
        for node in found.nodes
    ]
    lines += [f"fault: {problem}" for problem in found.problems]
    return "\n".join(lines)
