"""The distribution packages which the cluster is made of.

Responsible for finding out what is missing and installing it. Invariant: installing starts no
service, and a ``policy-rc.d`` which was there before stays as it was.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import ClusterError, UnfitMachineError

_SLURM = ("slurmctld", "slurmd", "slurmdbd", "slurm-client")
_OTHERS = (
    "munge",
    "mariadb-server",
    "openmpi-bin",
    # Slurm's PMIx plugin loads "libpmix.so"; only the development package has this name.
    "libpmix-dev",
    "iproute2",
)

POLICY = Path("/usr/sbin/policy-rc.d")
_START_NOTHING = "#!/bin/sh\n# Packages are being installed by virtual-cluster.\nexit 101\n"


def missing_packages(*, with_slurm: bool) -> tuple[str, ...]:
    """Return the packages that are needed and not installed.

    Parameters
    ----------
    with_slurm
        Whether Slurm is to be the distribution's.

    Raises
    ------
    UnfitMachineError
        When this is no Debian or Ubuntu.
    """
    needed = (*_SLURM, *_OTHERS) if with_slurm else _OTHERS
    if not (shutil.which("dpkg-query") and shutil.which("apt-get")):
        raise UnfitMachineError(
            "the virtual cluster is made of Debian or Ubuntu packages, and this machine has no "
            f"apt-get to install them: {', '.join(needed)}"
        )
    answer = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Status}\n", *needed],
        capture_output=True,
        text=True,
        check=False,  # it fails whenever one of them is unknown
    )
    installed = {
        line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")
    }
    return tuple(package for package in needed if package not in installed)


def install(packages: tuple[str, ...]) -> None:
    """Install `packages`, starting none of the services that are in them.

    Raises
    ------
    ClusterError
        When apt-get fails; holds the last lines of what it said.
    """
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    patiently = ["-o", "DPkg::Lock::Timeout=300"]
    with services_held_back():
        _apt_get([*patiently, "update"], environment)
        _apt_get([*patiently, "install", "-y", "--no-install-recommends", *packages], environment)


def _apt_get(arguments: list[str], environment: Mapping[str, str]) -> None:
    answer = subprocess.run(
        ["apt-get", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        end = "\n".join(answer.stdout.splitlines()[-20:])
        raise ClusterError(f"apt-get {' '.join(arguments)} failed; its last lines:\n{end}")


@contextlib.contextmanager
def services_held_back() -> Iterator[None]:
    """Tell package scripts to start no service while the block runs."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(_START_NOTHING)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
