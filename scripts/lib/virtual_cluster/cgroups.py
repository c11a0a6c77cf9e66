"""The cgroups by which Slurm tracks a job's processes: one subtree of the freezer hierarchy per
node.

By their cgroup it finds all of them, whatever their parent, session or name is.
(proctrack/linuxproc follows parents and reads names: it misses orphans, and names with spaces, for
which it then drains the node.)

Invariant: the subtrees are named after the state directory (`Layout.tag`), so that clusters don't
meet in the one hierarchy that the kernel has, and only subtrees so named are ever removed.
"""

import subprocess

from .errors import ClusterError
from .plan import Layout

_MOUNT = "mount -t cgroup -o freezer freezer"


def available() -> bool:
    """Tell whether this kernel lets us have the freezer hierarchy."""
    # Mounted over /tmp, but in a mount namespace of its own, which ends with the command.
    return _in_private_mounts(f"{_MOUNT} /tmp", "").returncode == 0


def enter(layout: Layout, node: str) -> None:
    """Mount the subtree of `node` where Slurm looks for the hierarchy. For the node's process 1."""
    mount = layout.freezer
    subtree = mount / f"{layout.tag}-{node}"
    subprocess.run([*_MOUNT.split(), mount], check=True)
    subtree.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", subtree, mount], check=True)


def remove_all(layout: Layout) -> None:
    """Remove the subtrees of this state directory, in which no process may be left.

    Raises
    ------
    ClusterError
        When one can't be removed.
    """
    if not available():
        return
    script = f'{_MOUNT} /tmp && find /tmp -depth -type d -path "/tmp/$0-*" -exec rmdir {{}} +'
    answer = _in_private_mounts(script, layout.tag)
    if answer.returncode != 0:
        raise ClusterError(f"could not remove cgroups {layout.tag}-*: {answer.stderr.strip()}")


def _in_private_mounts(script: str, argument: str) -> "subprocess.CompletedProcess[str]":
    command = ["unshare", "--mount", "sh", "-c", script, argument]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
