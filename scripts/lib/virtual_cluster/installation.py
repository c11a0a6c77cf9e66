"""A Slurm that somebody has built and installed into a directory of its own, of any release.

Responsible for finding out whether a cluster can be made of it, before anything is started.
"""

from pathlib import Path

from .errors import ClusterError

#: What has to be there, and what to do if it is not.
PARTS = {
    "bin/sbatch": "install Slurm into it (configure --prefix, make, make install)",
    "bin/srun": "install Slurm into it (configure --prefix, make, make install)",
    "sbin/slurmctld": "install Slurm into it (configure --prefix, make, make install)",
    "sbin/slurmd": "install Slurm into it (configure --prefix, make, make install)",
    "sbin/slurmdbd": "install Slurm into it (configure --prefix, make, make install)",
    "lib/slurm/auth_munge.so": "install libmunge-dev before you configure Slurm",
    "lib/slurm/accounting_storage_mysql.so": "install libmariadb-dev before you configure Slurm",
    "lib/slurm/mpi_pmix.so": "install libpmix-dev, and configure Slurm --with-pmix",
}


def find_installation(directory: str) -> Path:
    """Return the directory of an installed Slurm, as an absolute path.

    Raises
    ------
    ClusterError
        When it is none, or a part of it is missing; says what to do.
    """
    prefix = Path(directory).resolve()
    if Path("/tmp") in prefix.parents:
        raise ClusterError(
            f"--slurm {directory}: every node has its own /tmp; install Slurm elsewhere"
        )
    for part, advice in PARTS.items():
        if not (prefix / part).exists():
            raise ClusterError(f"--slurm {directory}: there is no {prefix / part}; {advice}")
    return prefix
