"""The launcher of Slurm: one job step per command, inside the pilot's allocation.

Facts that its options rest on (Slurm 20.11 and later):

- ``--overlap`` lets steps share cores and memory, which they must: the agent, not Slurm, divides
  the nodes of a pilot among tasks, and a node worker's step already covers its whole node.
  ``--mem=0`` says the same of memory to releases in which ``--overlap`` did not.
- Without ``--cpus-per-task`` a step may use all cores that the job has on a node. With it, it is
  ``--exact``: confined to cores that Slurm picks, which need not be those that the agent picked.
  So the option is left out.
- srun takes many variables of the surrounding job for options of the step, and refuses some beside
  ours (a job's ``SLURM_MEM_PER_CPU`` beside ``--mem``). So they are unset, by ``env`` before srun,
  since a `Launch` can only add variables.
- Different numbers of ranks per host need ``--distribution=arbitrary``: each host named once per
  rank, in the order of ranks, and no ``--nodes``, which Slurm 24.05 refuses beside it. A list of
  many thousand ranks would be longer than an argument may be, so equal shares, as all large worlds
  have them, are laid out in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pilot.launchers.base import Launch, Placement

#: Options of every step that Pilot starts, whether it holds ranks or a node worker.
STEP_OPTIONS = (
    "--overlap",
    "--mem=0",
    "--cpu-bind=none",
    "--export=ALL",
    "--input=none",
)

#: Variables that sbatch's options leave in a job, and srun would take as options of each step.
_INHERITED = (
    "SLURM_CPUS_PER_TASK",
    "SRUN_CPUS_PER_TASK",
    "SLURM_TRES_PER_TASK",
    "SLURM_NNODES",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_MEM_PER_CPU",
    "SLURM_MEM_PER_GPU",
    "SLURM_MEM_PER_NODE",
    "SLURM_EXACT",
    "SLURM_EXCLUSIVE",
    "SLURM_HOSTFILE",
)

#: Runs what follows free of the options that the surrounding job would hand down to srun.
_FREED = ("env", *(f"--unset={name}" for name in _INHERITED))

#: How srun is called.
SRUN = (*_FREED, "srun")

#: Runs what follows so that steps which it starts by srun, with options of its own, share their
#: nodes as ours do: `STEP_OPTIONS` as variables. What such a step holds are daemons, no ranks, so
#: the ranks that these start must not take the step for their world.
SHARING_STEPS = (
    *_FREED,
    "SLURM_OVERLAP=1",
    "SLURM_MEM_PER_NODE=0",
    "SLURM_CPU_BIND=none",
    "SLURM_MPI_TYPE=none",
)


#: The options by which hydra, of MPICH and Intel MPI, starts its daemons as steps.
HYDRA_OPTIONS = ("-launcher", "slurm")


class SrunLauncher(msgspec.Struct, frozen=True):
    """A launcher that starts the ranks as one Slurm step; the option ``--mpi=pmix`` chooses PMIx or
    PMI2."""

    #: The site's options for srun; the last word is theirs.
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The launcher's name, ``srun``."""
        return "srun"

    def launch(
        self, command: Sequence[str], placement: Placement, *, env: Mapping[str, str]
    ) -> Launch:
        """Return a step with exactly the ranks of `placement`; a failing step ends no other."""
        argv = (
            *SRUN,
            *STEP_OPTIONS,
            "--kill-on-bad-exit=1",
            f"--ntasks={placement.ranks}",
            *_layout(placement),
            *(("--overcommit",) if placement.overcommitted else ()),
            *self.options,
            *command,
        )
        return Launch(argv, dict(env))


def step_on_node(command: Sequence[str], host: str, options: Sequence[str]) -> Launch:
    """Return the launch of a node worker as a step that may use the whole job's share of the host.

    It is a step of its own: Slurm kills every step that has a part on a node that leaves the job,
    so a step over all nodes would end with the first node released.
    """
    step = ("--nodes=1", "--ntasks=1", f"--nodelist={host}", "--mpi=none")
    return Launch((*SRUN, *STEP_OPTIONS, *step, *options, *command), {})


def _layout(placement: Placement) -> tuple[str, ...]:
    """Return the options that put the ranks on their hosts."""
    counts = {share.ranks for share in placement.hosts}
    if len(counts) == 1:
        return (
            f"--nodes={len(placement.hosts)}",
            f"--ntasks-per-node={counts.pop()}",
            f"--nodelist={','.join(placement.names)}",
            "--distribution=block",
        )
    repeated = (name for s in placement.hosts for name in (s.host,) * s.ranks)
    return (f"--nodelist={','.join(repeated)}", "--distribution=arbitrary")
