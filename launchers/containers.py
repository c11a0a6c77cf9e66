"""Containers: the command lines by which engines run a program in an image. Pure.

An engine is chosen where the program starts, among those that are there. All of them are called so
that what runs inside is like what runs beside it: the user, the processes, the network and the
memory of the node are the same ones, only the files are those of the image.

Invariants
----------
- Building a command line is pure: no file is read and no process started.
- Values of environment variables, but for ``TMPDIR``, never appear in a command line, where ``ps``
  would show them: it holds at most their names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from pilot.launchers.identity import JOB_VARIABLES

CHARLIECLOUD: Final = "charliecloud"
APPTAINER: Final = "apptainer"
SINGULARITY: Final = "singularity"
PODMAN: Final = "podman"
DOCKER: Final = "docker"
#: The engines, and the program of each.
ENGINES = {
    CHARLIECLOUD: "ch-run",
    APPTAINER: "apptainer",
    SINGULARITY: "singularity",
    PODMAN: "podman",
    DOCKER: "docker",
}
#: The programs of engines that have others run the container. When they are told to end before it
#: has begun, they may end with 0.
INDIRECT = (ENGINES[PODMAN], ENGINES[DOCKER])
#: Variables that mean the files or the login of the host, which a container does not have.
_OF_HOST = {
    *("PATH", "HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "SHELL", "USER", "LOGNAME", "HOSTNAME"),
    *("PWD", "OLDPWD", "_", "SHLVL", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "BASH_ENV", "ENV"),
}

#: The beginnings of the variables by which launchers and Pilot tell a rank what it is. They are
#: not known before it is started.
_OF_RANKS = ("PILOT_", "PMI", "OMPI_", "PRTE_", "MPI", "HYDRA_", "I_MPI_", *JOB_VARIABLES)
#: Podman hands on the descriptors from 3 on, and Hydra has its ranks' sockets anywhere.
_WITH_SOCKET = (
    'if [ -n "${PMI_FD-}" ]; then exec 3<&"$PMI_FD"; export PMI_FD=3; '
    'set -- "$1" "$2" --preserve-fds=1 "${@:3}"; fi; exec "$@"'
)


def engines_for(image: str) -> tuple[str, ...]:
    """Return the engines that can have such an image, the one to be preferred first."""
    if image.endswith((".sif", ".simg")):
        return APPTAINER, SINGULARITY
    if image.endswith((".sqfs", ".squashfs")):
        return CHARLIECLOUD, APPTAINER, SINGULARITY
    if image.startswith("/"):
        return CHARLIECLOUD, APPTAINER, SINGULARITY, PODMAN
    return PODMAN, APPTAINER, SINGULARITY, DOCKER


def choose_engine(image: str, engine: str, which: Callable[[str], str | None]) -> str:
    """Return the engine for an image on this node: the one that was named, or else the first that
    is there.

    Raises
    ------
    ValueError
        None is there.
    """
    if engine:
        program = ENGINES[engine]
        if which(program) is None:
            raise ValueError(
                f"the container engine {engine} is not here: there is no {program} on "
                "the PATH; load its module in environment.setup of site.yaml, or name another "
                "engine"
            )
        return engine
    suited = engines_for(image)
    for each in suited:
        if which(ENGINES[each]) is not None:
            return each
    raise ValueError(
        f"no container engine that can run {image} is here: none of "
        f"{', '.join(ENGINES[each] for each in suited)} is on the PATH; load the module of one "
        "in environment.setup of site.yaml"
    )


def outermost(paths: Iterable[str]) -> list[str]:
    """Return directories without those that are in another one of them."""
    kept: list[PurePosixPath] = []
    for path in sorted({PurePosixPath(os.path.normpath(path)) for path in paths}):
        if not any(above == path or above in path.parents for above in kept):
            kept.append(path)
    return [str(path) for path in kept]


def in_container(
    engine: str,
    image: str,
    command: Sequence[str],
    *,
    directory: str,
    binds: Sequence[str] = (),
    options: Sequence[str] = (),
    variables: Iterable[str] = (),
    user: tuple[int, int] = (0, 0),
    temporary: str = "",
    is_rank: bool = False,
) -> tuple[str, ...]:
    """Return the command line that runs a command in a container.

    Parameters
    ----------
    engine
        One of `ENGINES`.
    image
        A directory, a file, or a name that the engine knows.
    command
        Program and arguments, by names that the image knows.
    directory
        The working directory, inside.
    binds
        ``/host``, ``/host:/inside`` or ``/host:/inside:ro``.
    options
        More options for the engine.
    variables
        The names of the variables that the command is to see. Engines that hand on all do so.
    user
        The numbers of the user and the group.
    temporary
        What ``TMPDIR`` says here; empty: it is not set.
    is_rank
        True if a launcher of MPI programs starts it, which tells it more by variables.
    """
    program = ENGINES[engine]
    if engine == CHARLIECLOUD:
        # Read-only binds are not known to it.
        mounts = [f"--bind={bind.removesuffix(':ro').removesuffix(':rw')}" for bind in binds]
        words = ("--cd", directory, *mounts, *options, image, "--", *command)
        if not temporary:
            return (program, *words)
        # It would show that directory as /tmp, and the /tmp of the host nowhere.
        return ("env", "--unset=TMPDIR", program, f"--set-env=TMPDIR={temporary}", *words)
    if engine in (APPTAINER, SINGULARITY):
        mounts = [f"--bind={bind}" for bind in binds]
        is_file = image.startswith("/") or image.endswith((".sif", ".simg"))
        place = image if is_file or "://" in image else f"docker://{image}"
        return (program, "exec", f"--pwd={directory}", *mounts, *options, place, *command)
    shared = ["--rm", "--interactive", "--pid=host", "--network=host", "--ipc=host"]
    if engine == PODMAN:
        shared += ["--security-opt=label=disable", "--log-driver=none"]
        shared += ["--userns=keep-id"] if user[0] else []
    else:
        shared += [f"--user={user[0]}:{user[1]}"]
    shared += [f"--workdir={directory}", "--entrypoint="]
    shared += [f"--env={name}" for name in sorted({*variables} - _OF_HOST)]
    shared += [f"--volume={bind if ':' in bind else f'{bind}:{bind}'}" for bind in binds]
    if engine != PODMAN:
        return (program, "run", *shared, *options, image, *command)
    place_words = ("--rootfs", image) if image.startswith("/") else (image,)
    if not is_rank:
        return (program, "run", *shared, *options, *place_words, *command)
    shared += [f"--env={beginning}*" for beginning in _OF_RANKS]
    words = (program, "run", *shared, *options, *place_words, *command)
    return ("bash", "-c", _WITH_SOCKET, "pilot", *words)
