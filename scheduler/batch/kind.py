"""The properties of a batch system that are known without asking it: its jobs, and its words.

`BatchKind` is the half of the interface that is pure; `BatchSystem`, which `BatchKind.open` gives,
is the half that speaks. Whoever adds a batch system writes a class of each; all that is not
abstract here has a default that suits a system without specialities.

Invariants:

- Nothing here asks the batch system, nor needs it to be there: command line, head and agents load
  it, on login nodes and compute nodes.
- Loading it is cheap: what only the speaking half needs is imported by `BatchKind.open`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilot.scheduler.batch.base import Allocation

if TYPE_CHECKING:
    from pilot.findings import AnyCheck
    from pilot.scheduler.batch.base import BatchSystem


class MpiWay(NamedTuple):
    """A way to start MPI ranks: a launcher, by its name in a site file, and options for it."""

    launcher: str
    options: tuple[str, ...] = ()


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of a site file that a batch system adds; a subclass has an attribute for each.

    The ``#:`` comment above an attribute is its documentation.
    """


class BatchKind(abc.ABC):
    """A kind of batch system, such as Slurm. It has no state, and is made without arguments."""

    # --- in a site file

    #: The name: the value of the key ``batch``, and the key of the batch system's own section.
    name: str
    #: The keys of that section beside those that are the same for all.
    manners_keys: type[Keys] = Keys
    #: The keys that pools have beside those that each pool has.
    pool_keys: type[Keys] = Keys
    #: Those of them that jobs of the head have from a pool, unless the site file gives them others.
    head_keys: tuple[str, ...] = ()
    #: True if jobs are processes of this machine: each has this one node and may use all its cores;
    #: nobody else is asked, and nobody on other machines need reach the head.
    is_local: bool = False
    #: The place where a person finds the number of cores of a node, as a half-sentence; or empty.
    cores_hint: str = ""

    def manners_faults(self, manners: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: ARG002
        """Return the faults in the batch system's section: the place of each, and what is wrong."""
        yield from ()

    def pool_faults(self, pool: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: ARG002
        """Return the faults in the keys of a pool: the place of each, and what is wrong."""
        yield from ()

    # --- jobs

    @abc.abstractmethod
    def open(self, manners: Any, directory: Path) -> BatchSystem:
        """Return a `BatchSystem` for this kind. Nothing is asked yet.

        Parameters
        ----------
        manners
            The batch system's section of the site file: the `manners_keys`, and
            ``command_limit_s``, the time after which a command is given up, in seconds.
        directory
            The directory of the site for records of jobs, which is made when needed.
        """

    def node_names(self, nodelist: str) -> list[str]:
        """Return the nodes of a job, as the batch system writes them in ``PILOT_NODELIST``.

        Raises
        ------
        ValueError
            The text is not a list of nodes.
        """
        return nodelist.replace(",", " ").split()

    def step_options(self, job_id: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return the options by which the node launcher starts something in a job from outside."""
        return ()

    def own_allocation(self, environment: Mapping[str, str]) -> Allocation | None:  # noqa: ARG002
        """Return the job that a process with this environment runs in; None if there is none."""
        return None

    #: True if a job can be asked for that starts when another one has ended (`JobRequest.after`).
    has_successors: bool = False
    #: True if the batch system says when a job would start (`Predicts`), and takes jobs
    #: that leave it a choice of nodes and walltime (`JobRequest.least_nodes`).
    has_forecasts: bool = False
    #: True if a job is ended by a signal to one process after the other, node by node; so
    #: the end of one of them may be the first sign of the end of all.
    ends_processes_singly: bool = False

    # --- launchers, by their names in a site file or as "module:name"

    #: The launcher of MPI programs and worlds where the site file leaves it open.
    launcher: str = "auto"
    #: The way to start node workers: ``local`` if a job has only its first node.
    node_launcher: str = "local"
    #: The command that lists the ways in which the batch system starts MPI ranks; empty: one way.
    mpi_listing: tuple[str, ...] = ()

    def mpi_ways(self, listed: str) -> list[MpiWay]:  # noqa: ARG002
        """Return the ways to start MPI ranks that are worth a trial, the best one first.

        Parameters
        ----------
        listed
            The output of `mpi_listing`.
        """
        return [MpiWay(self.launcher)]

    # --- checks of a site

    def checks(
        self,
        manners: Any,  # noqa: ARG002
        pools: Mapping[str, Any],  # noqa: ARG002
        directory: Path,  # noqa: ARG002
    ) -> Sequence[AnyCheck]:
        """Return the checks of ``pilot doctor`` that are of this batch system alone.

        Parameters
        ----------
        manners, directory
            As for `open`.
        pools
            The pools of the site file, by name.
        """
        return ()

    # --- what users read

    #: The batch system's name in texts.
    title: str = "the batch system"
    #: The reason given for a pilot that is no longer listed, and whose end is unknown.
    unlisted: str = "the batch system does not know its job any more"
    #: The keys of a pool to check when the batch system refuses its jobs.
    asking_keys: str = "the keys"
    #: The keys to check if jobs end or vanish before they have run a task, beside the setup.
    losing_keys: str = ""
    #: Advice for when the ranks of an MPI world do not find each other.
    mpi_advice: str = "Set the own launcher of the library in site.yaml (mpi: {launcher: mpiexec})"

    def meaning(self, reason: str, job_id: str) -> str:  # noqa: ARG002
        """Return the meaning of the reason why a job waits; empty if the reason is plain."""
        return ""

    def release_advice(self, reason: str, job_id: str) -> str:  # noqa: ARG002
        """Return how to release a job that is held for this reason; empty if it is not held."""
        return ""

    def end_advice(self, job_id: str) -> str:  # noqa: ARG002
        """Return how to end an allocation that its user has made."""
        return "whoever has made the allocation can end it"

    def resume_advice(self, job_id: str) -> str:  # noqa: ARG002
        """Return how to resume a suspended job."""
        return "whoever has suspended it can let it go on"
