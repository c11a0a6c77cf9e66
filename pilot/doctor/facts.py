"""The facts that checks gather of a machine and of a site. Plain values; times are in seconds."""

from __future__ import annotations

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that can be sent as JSON."""


class Mount(Facts, frozen=True, kw_only=True):
    """The mount that a directory is in."""

    #: Where it is mounted.
    point: str
    #: The type of the file system, as the kernel calls it.
    kind: str
    #: The options of the mount and of the file system.
    options: tuple[str, ...] = ()


class Quota(Facts, frozen=True, kw_only=True):
    """A limit of the user on a file system."""

    #: What is counted: ``MiB`` or ``files``.
    unit: str
    used: int
    limit: int


class FileSystem(Facts, frozen=True, kw_only=True):
    """The file system of a site."""

    directory: str
    #: None: the kernel does not tell.
    mount: Mount | None
    #: BeeGFS only: whether it keeps locks of all machines; None: not known.
    global_locks: bool | None = None


class Space(Facts, frozen=True, kw_only=True):
    """The room that is left for a site."""

    free_bytes: int
    free_files: int
    #: Zero: the file system does not count files.
    total_files: int
    quotas: tuple[Quota, ...] = ()


class Operations(Facts, frozen=True, kw_only=True):
    """The operations in the site directory that Pilot relies on, and what went wrong with them."""

    #: How long it takes to have a small file on the disk.
    sync_s: float
    #: By its name, the error of each operation.
    errors: dict[str, str] = {}


class Locks(Facts, frozen=True, kw_only=True):
    """The locks of a file: for each kind whether another process is kept off.

    ``held``: it is; ``not seen``: it got the lock as well; or an error.
    """

    flock: str
    fcntl: str


class Clock(Facts, frozen=True, kw_only=True):
    """The clock of the file system, against that of the machine."""

    #: How much the file system's is ahead.
    ahead_s: float


class Limits(Facts, frozen=True, kw_only=True):
    """The limits of processes (``ulimit``), soft and hard; -1: unlimited."""

    files: tuple[int, int]
    processes: tuple[int, int]
    locked_bytes: tuple[int, int]
    memory_bytes: tuple[int, int]
    cpu_s: tuple[int, int]
    #: True if the machine has a network whose libraries lock memory (InfiniBand and the like).
    locks_memory: bool = False


class Python(Facts, frozen=True, kw_only=True):
    """The Python that runs Pilot, and where it is."""

    executable: str
    version: str
    #: The versions of the packages, by name.
    packages: dict[str, str]
    #: The mount that the environment is in.
    mount: Mount | None = None
    #: The versions of all else that is installed there.
    others: dict[str, str] = {}


class SharedMemory(Facts, frozen=True, kw_only=True):
    """The directory in memory that processes of one machine share."""

    directory: str
    free_bytes: int
    total_bytes: int
    #: The reason why no file can be written there; empty: one can.
    error: str = ""


class Stores(Facts, frozen=True, kw_only=True):
    """The stores of pilots in the memory of a machine."""

    #: The memory that this job, or the machine, has, and what is free for files in it.
    memory_bytes: int
    free_bytes: int
    #: What the store of a pilot of this site may take here; True: the site file says so.
    budget_bytes: int
    is_set: bool
    #: How many there are, of all sites, and what they have.
    stores: int
    used_bytes: int
    #: What pilots have left that were killed, and where.
    left_bytes: int
    left: tuple[str, ...] = ()


class TemporaryDirectory(Facts, frozen=True, kw_only=True):
    """The directory for temporary files and sockets."""

    #: ``$TMPDIR`` as it is set; empty: it is not.
    variable: str
    #: What is used.
    directory: str
    free_bytes: int
    #: The reason why no Unix socket can be made there; empty: one can.
    error: str = ""


class Setup(Facts, frozen=True, kw_only=True):
    """A run of the job script's lines on this machine, with Python in the place of the agent."""

    #: The exit status.
    status: int
    took_s: float
    #: The end of the output.
    output: str
    #: What that Python told; None: it did not run.
    python: Python | None = None


class Resident(Facts, frozen=True, kw_only=True):
    """The signs that a machine ends long processes."""

    #: The memory that the user's processes may have together; 0: unlimited.
    memory_bytes: int = 0
    #: True if processes end with the user's logout.
    ends_at_logout: bool = False
    cpu_s: int = -1


class World(Facts, frozen=True, kw_only=True):
    """A trial of two MPI ranks."""

    #: The launcher and its options.
    way: str
    #: The hosts of the two ranks.
    hosts: tuple[str, ...]
    took_s: float
    #: The reason why they did not find each other; empty: they did.
    error: str = ""


class Mpi(Facts, frozen=True, kw_only=True):
    """The MPI launcher of a site, and the trials with it."""

    #: The reason why no rank can be started; empty: none.
    error: str = ""
    #: The launcher of the site; empty: it is still to be found out.
    way: str = ""
    #: The version of mpi4py; empty: it is not installed.
    mpi4py: str = ""
    worlds: tuple[World, ...] = ()


class Reach(Facts, frozen=True, kw_only=True):
    """A try to connect to an address."""

    host: str
    port: int
    #: The addresses that the name stands for; empty: it is not known.
    resolved: tuple[str, ...] = ()
    took_s: float = 0.0
    #: The reason why nobody answered; empty: somebody did.
    error: str = ""
    #: How much the clock there is ahead; None: not told.
    ahead_s: float | None = None
    #: The inaccuracy of that.
    within_s: float = 0.0


class Reaches(Facts, frozen=True, kw_only=True):
    """Tries to reach another machine, an address after the other."""

    tries: tuple[Reach, ...]


class OverFiles(Facts, frozen=True, kw_only=True):
    """A try to speak with another machine over files."""

    #: The time for one message there and one back, each.
    trips_s: tuple[float, ...] = ()
    #: The reason why there was no answer; empty: there was.
    error: str = ""


class HeadAddress(Facts, frozen=True, kw_only=True):
    """The addresses that a head here would tell the nodes."""

    #: The value of ``head.address``.
    setting: str
    #: False if the head of this site listens to no network.
    listens: bool = True
    #: True if its pilots reach it over files alone.
    takes_files: bool = False
    #: The reason why a head cannot have this address; empty: it can.
    error: str = ""
    #: Tries from the machine itself.
    tries: tuple[Reach, ...] = ()


class Node(Facts, frozen=True, kw_only=True):
    """A node of a job."""

    host: str
    #: Processor cores that the job may use there, and memory of the machine.
    cores: int
    memory_mib: int


class Step(Facts, frozen=True, kw_only=True):
    """A start of a process on another node of a job, as node workers are started."""

    host: str
    took_s: float
    #: The reason why it did not run; empty: it did.
    error: str = ""


class Steps(Facts, frozen=True, kw_only=True):
    """The starts of processes on the other nodes of a job."""

    steps: tuple[Step, ...]


class Shrink(Facts, frozen=True, kw_only=True):
    """A try to give one node of a job back."""

    #: The answer of the batch system that refused; empty: it agreed.
    error: str = ""
    #: The number of nodes afterwards.
    nodes: int = 0


class Answer(Facts, frozen=True, kw_only=True):
    """The answer of the batch system to a question about the pools."""

    took_s: float
    #: The reason why there is none.
    silence: str = ""
    #: The trouble that it tells of.
    trouble: str = ""
