"""Executors that are programs of their own: in another Python, with modules loaded, in a container.

The child of the guard does not go on as a copy of the fork server: it becomes that program. What a
forked executor inherits (its place in the shared memory, what it is to be) is in a file, which it
reads and removes.

Invariants
----------
- What runs in the end is the same Python version: code that was pickled by another one ends
  processes, or gives wrong values.
- Pilot's own modules, and what they need, are found behind all that the environment has.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from pilot.launchers.activation import activated
from pilot.launchers.containers import CHARLIECLOUD, choose_engine, in_container, outermost
from pilot.model.software import Container, Software
from pilot.model.tasks import Environment, SessionInfo
from pilot.site import Site
from pilot.wire.endpoints import temporary_dir
from pilot.worker.shared_memory import PLACE_BYTES

#: The process of Pilot's that is a rank.
RANK = "rank"
#: The variables by which such a program finds its file, Pilot, and the Python that it must be.
FILE, PATHS, PYTHON = "PILOT_EXECUTOR", "PILOT_PATHS", "PILOT_PYTHON"

_START = (
    "import os, sys; have, want = '%d.%d' % sys.version_info[:2], os.environ['PILOT_PYTHON']; "
    "have == want or sys.exit('pilot: ' + sys.executable + ' is Python ' + have + ', and the "
    "pilots have Python ' + want + ': give an environment with that'); "
    "own = os.environ['PILOT_PATHS'].split(os.pathsep); "
    "sys.path[:] = [p for p in sys.path if p] + [p for p in own if p not in sys.path]; "
    "from pilot.__main__ import main; main()"
)


def program(
    software: Software, environment: Environment, site: Site, arguments: Sequence[str], *near: str
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a process of Pilot's in a software environment, and the variables
    that it needs.

    Parameters
    ----------
    software
        The environment.
    environment
        That of the session, whose directories are to be there.
    site
        The site.
    arguments
        The process, as `pilot.__main__` has it.
    near
        More directories that are to be there.

    Raises
    ------
    ValueError
        The container engine is not here.
    """
    own = own_paths()
    env = {PATHS: os.pathsep.join(own), PYTHON: "{}.{}".format(*sys.version_info[:2])}
    # Modules and environments may go by what the session has set.
    env |= {**environment.variables, **dict(software.variables)}
    if "USER" not in os.environ:
        env["USER"] = user_name()
    python = sys.executable
    container = software.outer
    if container is not None:
        python = container.python
    elif not software.is_of_commands and (prefix := software.venv or software.conda):
        python = f"{prefix}/bin/python"
    command: Sequence[str] = [python, "-c", _START, *arguments]
    if container is not None:
        binds = [str(site.directory), environment.working_dir, *environment.sys_path, *near, *own]
        if sys.prefix != sys.base_prefix:
            binds.append(sys.prefix)  # packages may have libraries there, as MPI's has
        variables = {*os.environ, *env, FILE}
        is_rank = arguments[0] == RANK
        command = contained(container, command, "/", binds, variables, is_rank)
    return [*activated(command, *software.places)], env


def contained(
    container: Container,
    command: Sequence[str],
    directory: str,
    binds: Iterable[str],
    variables: Iterable[str],
    is_rank: bool = False,
) -> tuple[str, ...]:
    """Return the command line of a command in a container, by an engine that is here.

    Raises
    ------
    ValueError
        None is here.
    """
    engine = choose_engine(container.image, container.engine, shutil.which)
    temporary = os.environ.get("TMPDIR", "")
    binds = [*binds, temporary] if Path(temporary).is_absolute() else binds
    there = [path for path in outermost(binds) if path != "/" and Path(path).is_dir()]
    mounts = [*container.binds, *there]
    if engine == CHARLIECLOUD:
        _make_mount_points(container.image, mounts)
    return in_container(
        engine,
        container.image,
        command,
        directory=directory,
        binds=mounts,
        options=container.options,
        variables=variables,
        user=(os.geteuid(), os.getegid()),
        temporary=temporary,
        is_rank=is_rank,
    )


def user_name() -> str:
    """Return the name of the user, which Charliecloud insists on, where no variable has it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _make_mount_points(image: str, binds: Iterable[str]) -> None:
    """Make the directories of an image that something is to be seen in: Charliecloud, which mounts
    it read-only, makes none."""
    if not Path(image).is_dir():
        return
    for bind in binds:
        host, _, inside = bind.partition(":")
        place = Path(image) / (inside.partition(":")[0] or host).lstrip("/")
        # What cannot be made, or is below another mount, is the engine's to tell of.
        with contextlib.suppress(OSError):
            if Path(host).is_dir():
                place.mkdir(parents=True, exist_ok=True)


def own_paths() -> list[str]:
    """Return the directories in which Pilot, and what it needs, are found here."""
    library = Path(os.__file__).parent
    of_python = {library, library / "lib-dynload"}
    found = [str(Path(__file__).resolve().parents[2])]
    for path in sys.path:
        if path and Path(path).is_dir() and path not in found and Path(path) not in of_python:
            found.append(path)
    return found


def in_software(session: SessionInfo, software: Software | None) -> SessionInfo:
    """Return a session as processes in a software environment know it: the variables of that are
    set last."""
    if software is None:
        return session
    environment = session.environment
    variables = {**environment.variables, **dict(software.variables)}
    environment = msgspec.structs.replace(environment, variables=variables, preload=())
    return msgspec.structs.replace(session, environment=environment)


def become(software: Software, environment: Environment, site: Site, file: str) -> NoReturn:
    """Become the program of an executor in a software environment; what prevents that is told on
    its standard error.

    Parameters
    ----------
    software, environment, site
        As for `program`.
    file
        The file of the executor.
    """
    os.setsid()  # so what the engine starts is in the group that is signalled
    try:
        argv, env = program(software, environment, site, ["executor"], str(temporary_dir()))
        os.environ.update({**env, FILE: file})
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        sys.stderr.write(f"pilot: {told}\n")
        sys.stderr.flush()
    os._exit(1)


def leave_file(path: Path, packed: bytes) -> mmap.mmap:
    """Make the file of such an executor; return the memory in it that is shared with it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "r+b") as file:
        file.write(bytes(PLACE_BYTES) + packed)
        file.flush()
        return mmap.mmap(file.fileno(), PLACE_BYTES)


def take_file() -> tuple[mmap.mmap, bytes]:
    """Return the shared memory of this executor and what it is to be; remove the file."""
    path = Path(os.environ.pop(FILE))
    forget_start()
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), PLACE_BYTES)
        file.seek(PLACE_BYTES)
        packed = file.read()
    path.unlink()
    return memory, packed


def forget_start() -> None:
    """Remove the variables that are for the start of such a program alone."""
    for name in (PATHS, PYTHON):
        os.environ.pop(name, None)
