"""Requests to the running Slurm, and its answers; where its programs are.

Responsible for calling Slurm's commands and reading their answers; decides nothing.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ClusterError
from .plan import Layout

_USABLE = frozenset({"idle", "planned", "mixed", "allocated", "completing"})
_DRAINED = frozenset({"drained", "draining", "fail", "failing"})
_SIGNS = "*$~#!%@^-+"
_CALL_DEADLINE_S = 30.0


@dataclass(frozen=True)
class NodeReport:
    """Slurm's report of one node."""

    #: Slurm's word: ``idle``, ``allocated``, ``down``...
    state: str
    #: Whether the node answers the controller.
    responding: bool
    partitions: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """True if jobs can run on the node."""
        return self.responding and self.state in _USABLE

    @property
    def drained(self) -> bool:
        """True if the node was withdrawn from use; unlike a DOWN node it does not come back by
        itself."""
        return self.responding and self.state in _DRAINED


def search_path(layout: Layout, others: str) -> str:
    """Return the PATH that finds the cluster's Slurm before those in the directories `others`."""
    own = [str(layout.slurm / part) for part in ("bin", "sbin") if layout.slurm.is_symlink()]
    return ":".join([*own, others])


def environment(layout: Layout) -> dict[str, str]:
    """Return the variables by which commands find this cluster, and its Slurm.

    As the cluster is root's, Open MPI is told that being started by root is meant.
    """
    variables = {
        "SLURM_CONF": str(layout.slurm_conf),
        "PILOT_VIRTUAL_CLUSTER": str(layout.root),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    if layout.slurm.is_symlink():
        variables["PATH"] = search_path(layout, os.environ.get("PATH", os.defpath))
    return variables


def nodes(layout: Layout) -> dict[str, NodeReport]:
    """Return Slurm's report of each node, by name.

    Raises
    ------
    ClusterError
        When the controller does not answer.
    """
    columns = "NodeList:64,StateLong:64,Partition:64"
    return parse_nodes(call(layout, ["sinfo", "--Node", "--noheader", f"--Format={columns}"]))


def parse_nodes(text: str) -> dict[str, NodeReport]:
    """Read the lines ``NODE STATE PARTITION`` of sinfo: one per node and partition, in any order.

    A star after the state means that the node does not respond, other signs what Slurm is about to
    do with it; a star after the partition, that it is the default.
    """
    reports: dict[str, NodeReport] = {}
    for line in text.splitlines():
        name, state, partition = line.split()
        others = reports[name].partitions if name in reports else ()
        reports[name] = NodeReport(
            state=state.rstrip(_SIGNS),
            responding="*" not in state,
            partitions=tuple(sorted((*others, partition.rstrip("*")))),
        )
    return reports


def set_down(layout: Layout, node: str, reason: str) -> None:
    """Tell the controller that a node is lost, and its jobs with it."""
    call(layout, ["scontrol", "update", f"NodeName={node}", "State=DOWN", f"Reason={reason}"])


def resume(layout: Layout, node: str) -> None:
    """Let a node that was drained take jobs again."""
    call(layout, ["scontrol", "update", f"NodeName={node}", "State=RESUME"])


def version(layout: Layout) -> str:
    """Return the version of the controller, such as ``25.11.7``.

    Raises
    ------
    ClusterError
        When the controller does not answer.
    """
    for line in call(layout, ["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "SLURM_VERSION":
            return value.strip()
    return "unknown"


def controller_answers(layout: Layout) -> bool:
    """Tell whether slurmctld answers."""
    return _succeeds(layout, ["scontrol", "--quiet", "ping"]) and _succeeds(layout, ["sinfo"])


def register_account(layout: Layout) -> None:
    """Make the cluster known to slurmdbd, with an account `pilot` that root is a user of."""
    for entity in (
        ["cluster", "pilot"],
        ["account", "pilot", "cluster=pilot", "description=pilot", "organization=pilot"],
        ["user", "root", "account=pilot", "cluster=pilot", "adminlevel=admin"],
    ):
        call(layout, ["sacctmgr", "--immediate", "--quiet", "add", *entity])


def database_daemon_answers(layout: Layout) -> bool:
    """Tell whether slurmdbd answers."""
    return _succeeds(layout, ["sacctmgr", "--noheader", "list", "cluster"])


def call(layout: Layout, command: Sequence[str]) -> str:
    """Run one of Slurm's commands and return what it prints.

    Raises
    ------
    ClusterError
        When it fails, or takes too long.
    """
    answer = _run(layout, command)
    if answer.returncode != 0:
        raise ClusterError(
            f"{' '.join(command)} failed: {(answer.stderr or answer.stdout).strip()}"
        )
    return answer.stdout


def _succeeds(layout: Layout, command: Sequence[str]) -> bool:
    try:
        return _run(layout, command).returncode == 0
    except ClusterError:  # it took too long
        return False


def _run(layout: Layout, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        variables = {**os.environ, **environment(layout)}
        return subprocess.run(
            # Python itself looks in its own PATH.
            [shutil.which(command[0], path=variables.get("PATH")) or command[0], *command[1:]],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CALL_DEADLINE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{' '.join(command)} did not answer in {_CALL_DEADLINE_S:g} s"
        ) from error
