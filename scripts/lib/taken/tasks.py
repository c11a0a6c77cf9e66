"""The tasks: they count in steps, and note each step in a file of their own."""

from __future__ import annotations

import os
import time

import pilot

STEP_S = 1.0


def _note(directory: str, name: str, step: int) -> None:
    path = f"{directory}/{name}-{pilot.context().attempt}-{os.getpid()}"
    with open(path, "a") as file:
        file.write(f"{step}\n")


def count(directory: str, name: str, steps: int, every: int) -> int:
    """Make so many steps, with a checkpoint after each `every`-th, and one when told to stop."""
    context = pilot.context()
    step, _ = context.checkpoint.load() or (0, None)
    while step < steps:
        time.sleep(STEP_S)
        _note(directory, name, step)
        step += 1
        if step < steps and (step % every == 0 or context.should_stop):
            context.checkpoint.save(step, None)
        if step < steps and context.should_stop:
            raise pilot.Stopped
    return step


def count_blindly(directory: str, name: str, steps: int) -> int:
    """Make so many steps, and look at nothing."""
    for step in range(steps):
        time.sleep(STEP_S)
        _note(directory, name, step)
    return steps


@pilot.mpi(ranks=2, cores=2)
def count_together(directory: str, name: str, steps: int) -> int:
    """Make so many steps on two ranks, with a checkpoint after each."""
    from mpi4py import MPI

    world, context = MPI.COMM_WORLD, pilot.context()
    step, _ = context.checkpoint.load() or (0, None)
    while step < steps:
        time.sleep(STEP_S)
        if world.rank == 0:
            _note(directory, name, step)
        step += 1
        context.checkpoint.save(step, None)
        if step < steps and world.allreduce(context.should_stop, MPI.LOR):
            raise pilot.Stopped
    return step


@pilot.mpi(ranks=8, ranks_per_node=4)
def wait_on_two_nodes(directory: str, name: str, steps: int) -> int:
    """Make so many steps on all cores of two nodes."""
    from mpi4py import MPI

    for step in range(steps):
        time.sleep(STEP_S)
        if MPI.COMM_WORLD.rank == 0:
            _note(directory, name, step)
        MPI.COMM_WORLD.barrier()
    return steps
