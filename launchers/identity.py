"""The variables by which a process knows that it is a rank, the task of a step, or one of Pilot's.

It is not to be handed on by processes that live longer than that. A head is started by whoever
needs one first, which may be a rank of an MPI program; a node worker is the task of a step. What
they start later is no part of that program: an MPI library that finds the identity of a rank
believes it, and waits for the others, or ends the process.

What a job has (``SLURM_JOB_*``, ``SLURM_NODELIST`` and the like) stays, and so do settings
(``OMPI_MCA_btl``, ``I_MPI_FABRICS``, ``HYDRA_LAUNCHER``), unless the process is a rank: launchers
tell ranks settings of their own, which cannot be told from the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from pilot.launchers.mpirun import ON_ONE_NODE

#: Names of variables begin so that say which rank, or which task of a step, a process is.
_IDENTITY = (
    "PMI_",
    "PMI2_",
    "PMIX_",
    "HYDI_",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "MPIR_CVAR_CH3_INTERFACE_HOSTNAME",
    "OMPI_COMM_WORLD_",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_APP_CTX_NUM_PROCS",
    "OMPI_NUM_APP_CTX",
    "OMPI_FIRST_RANKS",
    "OMPI_MCA_orte_",
    "OMPI_MCA_ess_",
    "OMPI_MCA_pmix",
    "MV2_COMM_WORLD_",
    "I_MPI_RANK_CMD",
    "PALS_",
    "FLUX_TASK_",
    "SLURM_STEP",
    "SLURM_SRUN_COMM_",
    "SLURM_PMI",
    "SLURM_LAUNCH_NODE_IPADDR",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    # How the step was bound. An srun takes these for options that it was given.
    "SLURM_CPU_BIND",
    "SLURM_MEM_BIND",
)
#: Variables of a job begin so: they are its own, and mean nothing elsewhere.
JOB_VARIABLES = ("SLURM_", "PBS_", "LSB_", "FLUX_", "COBALT_", "OAR_", "SGE_")
#: Settings that are taken for identity although they begin like it.
_SETTINGS = ("PMIX_MCA_",)
#: In a rank, these as well: what launchers tell their ranks.
_TOLD_TO_RANKS = ("PMIX_", "OMPI_", "PRTE_", "HYDRA_", "MPIEXEC_")
#: The variables by which launchers tell a rank its number, the first that is there counts. Slurm's
#: is the last: daemons of other launchers are tasks of its steps, and hand theirs on.
RANK_NUMBERS = (
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PALS_RANKID",
    "FLUX_TASK_RANK",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
#: Any of these makes a process a rank.
_RANK = (
    "PMI_RANK",
    "PMI_FD",
    "PMI_PORT",
    "PMIX_RANK",
    "HYDI_CONTROL_FD",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
)


def identity_in(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that must not be inherited."""
    foreign = _TOLD_TO_RANKS if any(name in environment for name in _RANK) else ()
    # All of them: one alone is a setting of the user's.
    is_task = ON_ONE_NODE.items() <= environment.items()
    return [
        name
        for name in environment
        if name.startswith(foreign)
        or (name.startswith(_IDENTITY) and not name.startswith(_SETTINGS))
        or (is_task and name in ON_ONE_NODE)
    ]


def leave_identity(environment: MutableMapping[str, str]) -> None:
    """Remove from an environment the variables that must not be inherited."""
    for name in identity_in(environment):
        del environment[name]
