"""Job scripts that users have for a batch system, and what these ask for in Pilot's words. Pure.

A `Dialect` is how scripts of one batch system are written: it reads their directives, and knows
what a script finds where it runs. It has nothing to do with the batch system of the site: a script
for one runs on any site. Each dialect is at home in the package of its batch system.

Invariants
----------
- Reading needs no batch system, no file and no clock.
- What a dialect reads and does not honour is in `ScriptWork.ignored`, line by line: nothing that a
  user has written goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

#: The module of each dialect, by its name.
_DIALECTS = {"slurm": "pilot.scheduler.batch.slurm.job_scripts:DIALECT"}


class ScriptError(ValueError):
    """A job script, or an option beside it, means nothing; the message says where."""


class Earlier(msgspec.Struct, frozen=True):
    """Earlier tasks that a script waits for."""

    #: ``end``: however they end; ``ok``: only if all have ended well; ``each``: as ``ok``, each
    #: task of an array for the one with the same index.
    how: str
    #: Ids: of a task (``3.17``), of a session and so all of its tasks (``3``), of one task of an
    #: array (``3_5``: the one with index 5).
    ids: tuple[str, ...]


class ScriptWork(msgspec.Struct, frozen=True, kw_only=True):
    """The work that a script asks for."""

    #: Empty: the name of its file.
    name: str = ""
    nodes: int = 1
    #: On each node, as all that follows.
    cores: int = 1
    memory_mib: int = 0
    gpus: int = 0
    #: Other resources of the site, by name.
    resources: dict[str, int] = {}
    #: 0: none.
    time_limit_s: float = 0.0
    #: Empty: any pool that fits.
    pool: str = ""
    #: The indices of an array; empty: it is none.
    array: tuple[int, ...] = ()
    #: So many tasks of the array run at once; 0: as many as fit.
    at_once: int = 0
    #: Where it runs; empty: where it was submitted.
    cwd: str = ""
    #: Names of files, in which the dialect fills in its patterns.
    stdin: str = ""
    stdout: str = ""
    #: Empty: as `stdout`.
    stderr: str = ""
    appends: bool = False
    earlier: tuple[Earlier, ...] = ()
    #: True if it waits for all unfinished tasks of the same name.
    is_single: bool = False
    #: True if it gets the whole environment of the program that submits it.
    inherits: bool = True
    #: Names of variables that it gets of that environment besides, and variables of its own.
    passed: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    #: The signal that it gets so many seconds before its time limit; 0: none.
    signal: int = 0
    signal_s: float = 0.0
    #: True if only the script's own shell gets it.
    signal_shell: bool = False
    #: What the dialect wants to know again where the script runs.
    asked: dict[str, str] = {}
    #: The directives that are not honoured, each as ``line 7: --mail-user=me``.
    ignored: tuple[str, ...] = ()


class Surface(msgspec.Struct, frozen=True):
    """The facts about a site by which a script's wishes become needs."""

    #: The nodes of each pool: cores, and memory in MiB (0: not counted).
    pools: dict[str, tuple[int, int]]
    #: The pools by the other names that scripts may have for them, such as partitions.
    aliases: dict[str, str] = {}
    #: The names of resources that tasks may ask for.
    resources: tuple[str, ...] = ()


class ScriptPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The place where a script runs, and which try of which task it is."""

    task: int
    session: int
    #: Its number in the session, from 1.
    number: int
    attempt: int
    name: str
    pool: str = ""
    #: Its index in an array; empty: it is in none.
    index: str = ""
    nodes: tuple[str, ...]
    #: The number of cores that it has on each node.
    cores: int
    gpus: tuple[str, ...] = ()
    #: When it starts, and when its time is over (0: never), in seconds since the epoch.
    started: float = 0.0
    ends: float = 0.0
    user: str = ""


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """The programs that stand in for those of the batch system where a script runs.

    Each is a file of Python that needs the standard library alone, and reads ``steps.json`` in the
    directory that `PROGRAMS_PLACE` names.
    """

    #: The file behind each name.
    files: dict[str, str]
    #: The content of ``steps.json``.
    facts: dict[str, Any]


#: The variable with the directory of a script's own files.
SCRIPT_PLACE = "PILOT_SCRIPT"


class StepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts by which processes are started in a script."""

    python: str
    #: The cores of each node: of the first as the system numbers them, of the others by their
    #: places among those that a process finds there. Empty: not pinned.
    cores: tuple[tuple[int, ...], ...]
    #: The variables of the job that the pilot is, which the batch system's own programs need.
    job: dict[str, str]
    #: How node workers are started on other nodes: the name of a launcher.
    launcher: str
    #: The site's options for that launcher.
    launcher_options: tuple[str, ...] = ()
    #: The words that start MPI ranks on this node, before their number; empty: there is no MPI.
    mpirun: tuple[str, ...] = ()
    #: Variables for these.
    mpi_variables: dict[str, str] = {}


class Dialect(Protocol):
    """A way to write job scripts."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def is_script(self, text: str) -> bool:
        """Tell whether a text is a job script with directives of this dialect."""
        ...

    def has_steps(self, text: str) -> bool:
        """Tell whether a script may start processes by a program of the batch system."""
        ...

    def read(self, text: str, more: Sequence[str], surface: Surface) -> ScriptWork:
        """Read a script; directives of `more` stand above those in it.

        Raises
        ------
        ScriptError
            The script is none, a directive means nothing, or it asks for what Pilot cannot do.
        """
        ...

    def variables(self, work_asked: Mapping[str, str], place: ScriptPlace) -> dict[str, str]:
        """Return the variables that a script finds."""
        ...

    def is_of_job(self, variable: str) -> bool:
        """Tell whether a variable tells of a job, and so is not to be inherited from another."""
        ...

    def file_name(self, pattern: str, place: ScriptPlace) -> str:
        """Return the name of a file, with its patterns filled in."""
        ...

    def programs(
        self, work_asked: Mapping[str, str], place: ScriptPlace, facts: StepFacts
    ) -> Programs:
        """Return the programs that a script finds in place of those of the batch system."""
        ...


def find_dialect(name: str) -> Dialect:
    """Return the dialect of this name."""
    from pkgutil import resolve_name  # few processes need it

    found: Dialect = resolve_name(_DIALECTS[name])
    return found


def dialect_of(text: str) -> str:
    """Return the name of the dialect that a text has directives of; empty: of none."""
    return next((name for name in _DIALECTS if find_dialect(name).is_script(text)), "")
