"""What an environment says of the rank or step that a process is in, and of its job."""

from __future__ import annotations

import pytest

from pilot.launchers import ON_ONE_NODE, identity_in, leave_identity

#: As they were found in ranks, with what belongs to the job or the user beside it.
HYDRA = {
    "PMI_RANK": "0",
    "PMI_FD": "9",
    "PMI_SIZE": "1",
    "HYDI_CONTROL_FD": "7",
    "MPI_LOCALRANKID": "0",
    "MPI_LOCALNRANKS": "1",
    "HYDRA_LAUNCHER": "ssh",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_UNIVERSE_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "tcp://…",
    "OMPI_MCA_ess_base_vpid": "0",
    "OMPI_COMMAND": "python",
    "OMPI_ARGV": "driver.py",
    "OMPI_FILE_LOCATION": "/tmp/ompi",
    "PMIX_RANK": "0",
    "PMIX_NAMESPACE": "1",
    "PMIX_SERVER_URI4": "…",
    "PRTE_LAUNCHED": "1",
}
STEP = {
    "SLURM_STEP_ID": "3",
    "SLURM_STEPID": "3",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_GTIDS": "0",
    "SLURM_TASK_PID": "4711",
    "SLURM_CPU_BIND": "quiet,none",
    "SLURM_CPU_BIND_TYPE": "none",
    "SLURM_SRUN_COMM_PORT": "40000",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_PMIX_MAPPING_SERV": "(vector,(0,1,2))",
}
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOBID": "17",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_CONF": "/etc/slurm.conf",
}
SETTINGS = {
    "OMPI_MCA_btl": "tcp,self",
    "PMIX_MCA_psec": "native",
    "I_MPI_FABRICS": "shm",
    "HYDRA_LAUNCHER": "ssh",
    "UCX_TLS": "tcp",
    "MPICH_ASYNC_PROGRESS": "1",
    "MPI_HOME": "/opt/mpi",
}
OTHER = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "PILOT_JOB_ID": "17", "PMIFOO": "1", "HOME": "/"}


@pytest.mark.parametrize("identity", [HYDRA, OPEN_MPI, STEP], ids=["Hydra", "Open MPI", "Slurm"])
def test_identity_goes_and_the_job_stays(identity: dict[str, str]) -> None:
    environment = {**OTHER, **JOB, **identity}
    leave_identity(environment)
    assert environment == {**OTHER, **JOB}


def test_settings_stay_where_nobody_is_a_rank() -> None:
    environment = {**OTHER, **JOB, **SETTINGS, **STEP}
    assert sorted(identity_in(environment)) == sorted(STEP)


def test_what_was_left_is_left() -> None:
    environment = {**HYDRA, **OPEN_MPI, **STEP, **JOB, **SETTINGS, **OTHER}
    leave_identity(environment)
    assert identity_in(environment) == []


def test_what_has_an_mpirun_stay_on_one_node_is_not_handed_on_unless_it_is_the_users() -> None:
    environment = {**SETTINGS, **ON_ONE_NODE}
    leave_identity(environment)
    assert environment == {name: SETTINGS[name] for name in SETTINGS if name not in ON_ONE_NODE}
    own = {**ON_ONE_NODE, "HYDRA_LAUNCHER": "ssh"}
    assert identity_in(own) == []
