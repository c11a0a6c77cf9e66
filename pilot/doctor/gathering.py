"""The gathering of facts: looks at this machine, its file systems and the network; judges nothing.

Whatever is written into the site directory is removed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from pilot.doctor import facts as f
from pilot.errors import SiteError
from pilot.installed import installed
from pilot.interpreter import command_of_site
from pilot.scheduler.batch import BatchError, JobRequest, open_batch
from pilot.scheduler.batch.script import JobFacts, render
from pilot.site import Site
from pilot.version import __version__
from pilot.wire import addresses
from pilot.wire.endpoints import temporary_dir

#: The packages whose versions have to be the same everywhere.
PACKAGES = ("msgspec", "pyzmq", "h5py", "numpy", "cloudpickle", "mpi4py")
#: So long a connection is waited for, in seconds.
CONNECT_S = 5.0
#: The tries of a connection to tell the time; the quickest counts.
_TIMES = 3
#: How much of an output is told, in bytes.
_OUTPUT_BYTES = 1500
_SHARED_MEMORY = Path("/dev/shm")


# --- file systems --------------------------------------------------------------------------------


def mount_of(path: Path) -> f.Mount | None:
    """Return the mount that a path is in."""
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return None
    return find_mount(text, os.path.realpath(path))


def find_mount(mountinfo: str, path: str) -> f.Mount | None:
    """Find the mount of a path in the text of ``/proc/self/mountinfo``. Pure."""
    found = None
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, its = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(its) < 2:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later one of the same place hides the earlier one.
        if inside and (found is None or len(point) >= len(found.point)):
            options = dict.fromkeys([*fields[5].split(","), *"".join(its[2:3]).split(",")])
            found = f.Mount(point=point, kind=its[0], options=tuple(filter(None, options)))
    return found


def file_system(directory: Path) -> f.FileSystem:
    """Return the file system of a directory."""
    mount = mount_of(directory)
    global_locks = None
    if mount is not None and mount.kind == "beegfs":
        texts = (path.read_text() for path in Path("/proc/fs/beegfs").glob("*/config"))
        found = [re.search(r"tuneUseGlobalFileLocks\s*=\s*(\w+)", text) for text in texts]
        told = {match[1].lower() for match in found if match}
        global_locks = told <= {"1", "true"} if told else None
    return f.FileSystem(directory=str(directory), mount=mount, global_locks=global_locks)


def space(directory: Path) -> f.Space:
    """Return the room that is left in a directory."""
    its = os.statvfs(directory)
    mount = mount_of(directory)
    return f.Space(
        free_bytes=its.f_bavail * its.f_frsize,
        free_files=its.f_favail,
        total_files=its.f_files,
        quotas=tuple(_quotas(directory, mount)) if mount is not None else (),
    )


def _quotas(directory: Path, mount: f.Mount) -> list[f.Quota]:
    """Return the user's quotas there, as the file system's own command tells them."""
    user = str(os.getuid())
    if mount.kind == "lustre":
        command = ["lfs", "quota", "-q", "-u", user, str(directory)]
    else:
        command = ["quota", "-w", "-p", "-u", "-f", mount.point]
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5.0
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_quota(done.stdout)


def parse_quota(output: str) -> list[f.Quota]:
    """Read the output of ``quota -wp`` or ``lfs quota -q``: KiB, then files. Pure."""
    for line in output.splitlines():
        numbers = [re.sub(r"[*\[\]]", "", word) for word in line.split()[1:]]
        # Used, soft and hard limit, time of grace; the same for files.
        if len(numbers) < 7 or not all(map(str.isdecimal, [*numbers[:3], *numbers[4:7]])):
            continue
        kib, files = [int(n) for n in numbers[:3]], [int(n) for n in numbers[4:7]]
        found = []
        if limit := _limit(kib):
            found.append(f.Quota(unit="MiB", used=kib[0] >> 10, limit=limit >> 10))
        if limit := _limit(files):
            found.append(f.Quota(unit="files", used=files[0], limit=limit))
        return found
    return []


def _limit(numbers: Sequence[int]) -> int:
    """Return the lower one of the soft and the hard limit that is set; 0: none is."""
    return min((number for number in numbers[1:3] if number), default=0)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=directory) as made:
        yield Path(made)


def operations(directory: Path) -> f.Operations:
    """Try in a directory what Pilot does with its files there."""
    errors: dict[str, str] = {}
    sync_s = 0.0
    with _scratch(directory) as scratch:
        path = scratch / "file"

        def write() -> None:
            nonlocal sync_s
            with path.open("wb") as file:
                begun = time.monotonic()
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
                sync_s = time.monotonic() - begun

        def link() -> None:
            os.link(path, scratch / "link")
            if path.stat().st_nlink != 2:
                raise OSError(errno.ENOTSUP, "the link is another file")

        for name, call in (
            ("writing", write),
            ("hard links", link),
            ("renaming", lambda: path.replace(scratch / "renamed")),
            ("private modes", lambda: _check_mode(scratch)),
        ):
            try:
                call()
            except OSError as error:
                errors[name] = error.strerror or str(error)
    return f.Operations(sync_s=sync_s, errors=errors)


def _check_mode(directory: Path) -> None:
    if directory.stat().st_mode & 0o077:
        raise OSError(errno.EPERM, "others may enter a directory that was made for its owner alone")


# --- locks ---------------------------------------------------------------------------------------


class HeldLocks:
    """Locks of both kinds that this process holds on a new file, until it is closed.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.errors = {"flock": "", "fcntl": ""}
        # Two files: on some file systems both kinds are one.
        self._files = []
        for kind, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
            file = lock_path(path, kind).open("wb")
            self._files.append(file)
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.errors[kind] = error.strerror or str(error)

    def close(self) -> None:
        """Give the locks up."""
        for file in self._files:
            file.close()


def lock_path(path: Path, kind: str) -> Path:
    """Return the path of the file for one kind of lock."""
    return path.with_name(f"{path.name}.{kind}")


def try_locks(path: Path) -> f.Locks:
    """Try to get the locks that another process holds, here or elsewhere."""
    return f.Locks(
        flock=_try_lock(lock_path(path, "flock"), fcntl.flock),
        fcntl=_try_lock(lock_path(path, "fcntl"), fcntl.lockf),
    )


def _try_lock(path: Path, lock: object) -> str:
    assert callable(lock)
    with path.open("r+b") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return "held"
            return error.strerror or str(error)
    return "not seen"


def locks_here(directory: Path) -> f.Locks:
    """Hold locks, and have another process of this machine try them."""
    with _scratch(directory) as scratch:
        held = HeldLocks(scratch / "lock")
        reader, writer = os.pipe()
        pid = os.fork()  # locks of the kind fcntl are a process's
        if not pid:
            try:
                os.write(writer, msgspec.json.encode(try_locks(scratch / "lock")))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            told = msgspec.json.decode(pipe.read(), type=f.Locks)
        os.waitpid(pid, 0)
        held.close()
    return f.Locks(
        flock=held.errors["flock"] or told.flock, fcntl=held.errors["fcntl"] or told.fcntl
    )


# --- the machine ---------------------------------------------------------------------------------


def clock(directory: Path) -> f.Clock:
    """Compare the time that a file system gives to a new file with that of this machine."""
    with _scratch(directory) as scratch:
        before = time.time()
        (scratch / "now").write_bytes(b"now")
        after = time.time()
        stamp = (scratch / "now").stat().st_mtime
    # Some file systems count whole seconds, others ticks of the kernel.
    ahead = max(0.0, stamp - after) + min(0.0, stamp - before + 0.02)
    return f.Clock(ahead_s=ahead if abs(ahead) >= 1.0 or stamp % 1 else 0.0)


def limits() -> f.Limits:
    """Return the limits of this process."""
    get = resource.getrlimit
    return f.Limits(
        files=get(resource.RLIMIT_NOFILE),
        processes=get(resource.RLIMIT_NPROC),
        locked_bytes=get(resource.RLIMIT_MEMLOCK),
        memory_bytes=get(resource.RLIMIT_AS),
        cpu_s=get(resource.RLIMIT_CPU),
        locks_memory=any(Path("/sys/class/infiniband").glob("*")),
    )


def python() -> f.Python:
    """Return this Python."""
    packages = {"pilot": __version__}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return f.Python(
        executable=sys.executable,
        version=".".join(map(str, sys.version_info[:3])),
        packages=packages,
        mount=mount_of(Path(sys.prefix)),
        others={name: v for name, v in installed().items() if name not in packages},
    )


def temporary_directory() -> f.TemporaryDirectory:
    """Return the directory for temporary files, and try a socket in it."""
    directory = temporary_dir()
    error = ""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pilot-doctor-", dir=directory) as scratch,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            listener.bind(f"{scratch}/socket")
    except OSError as why:
        error = why.strerror or str(why)
    its = os.statvfs(directory)
    return f.TemporaryDirectory(
        variable=os.environ.get("TMPDIR", ""),
        directory=str(directory),
        free_bytes=its.f_bavail * its.f_frsize,
        error=error,
    )


def shared_memory(directory: Path = _SHARED_MEMORY) -> f.SharedMemory:
    """Return the room in the memory that processes here share, and try to write there."""
    error, free, total = "", 0, 0
    try:
        its = os.statvfs(directory)
        free, total = its.f_bavail * its.f_frsize, its.f_blocks * its.f_frsize
        with tempfile.TemporaryFile(prefix="pilot-doctor-", dir=directory, buffering=0) as file:
            file.write(bytes(os.sysconf("SC_PAGE_SIZE")))
    except OSError as why:
        error = why.strerror or str(why)
    return f.SharedMemory(directory=str(directory), free_bytes=free, total_bytes=total, error=error)


def node() -> f.Node:
    """Return this node."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f.Node(
        host=socket.gethostname(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=memory >> 20,
    )


def resident() -> f.Resident:
    """Look for signs that this machine ends long processes."""
    texts = []
    for path in (
        Path("/etc/systemd/logind.conf"),
        *sorted(Path("/etc/systemd/logind.conf.d").glob("*.conf")),
    ):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(errors="replace"))
    told = re.findall(r"^\s*KillUserProcesses\s*=\s*(\w+)", "\n".join(texts), re.MULTILINE)
    ends = bool(told) and told[-1].lower() in ("yes", "true", "1", "on")
    with contextlib.suppress(OSError, KeyError):
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
        ends = ends and not Path(f"/var/lib/systemd/linger/{name}").exists()
    return f.Resident(
        memory_bytes=_group_memory(),
        ends_at_logout=ends,
        cpu_s=resource.getrlimit(resource.RLIMIT_CPU)[0],
    )


def _group_memory() -> int:
    """Return the least limit of memory of the control groups of this process; 0: none is set."""
    try:
        text = Path("/proc/self/cgroup").read_text()
    except OSError:
        return 0
    match = re.search(r"^0::(/.*)$", text, re.MULTILINE)
    found = []
    group = Path(match[1]) if match else Path("/")
    for path in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text()))
    return min(found, default=0)


def setup(site: Site, pool: str) -> f.Setup:
    """Run the lines of a job script here, with a Python that tells of itself as the command."""
    environment = site.config.environment
    request = JobRequest(
        name="doctor",
        command=command_of_site(environment.python, "examine", "python"),
        nodes=1,
        walltime_s=60.0,
        directory=site.jobs,
        directives=site.config.pools[pool],
        setup=environment.setup,
        variables=environment.variables,
    )
    here = JobFacts(job_id="doctor", nodelist=socket.gethostname(), ends_at="0")
    begun = time.monotonic()
    done = subprocess.run(
        ["/bin/bash"],
        input=render(request, here),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd=site.jobs,
    )
    told = None
    with contextlib.suppress(msgspec.DecodeError, IndexError):
        told = msgspec.json.decode(done.stdout.splitlines()[-1], type=f.Python)
    return f.Setup(
        status=done.returncode,
        took_s=time.monotonic() - begun,
        output=(done.stderr.strip() or done.stdout.strip())[-_OUTPUT_BYTES:],
        python=told,
    )


def answer(site: Site) -> f.Answer:
    """Ask the batch system about the pools."""
    batch = open_batch(site.config, site.jobs)
    begun = time.monotonic()
    silence = trouble = ""
    try:
        trouble = batch.check(site.config.pools)
    except BatchError as error:
        silence = str(error)
    finally:
        batch.close()
    return f.Answer(took_s=time.monotonic() - begun, silence=silence, trouble=trouble)


# --- the network ---------------------------------------------------------------------------------


class TimeServer:
    """A process that tells everybody the time who connects to it.

    Parameters
    ----------
    address
        The address to listen at; ``*``: all.
    port
        The port; 0: any.

    Raises
    ------
    OSError
        It cannot listen there.
    """

    def __init__(self, address: str, port: int = 0) -> None:
        listener = socket.create_server(("" if address == "*" else address, port))
        self.port: int = listener.getsockname()[1]
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._serve(listener, parent)
            finally:
                os._exit(0)
        listener.close()

    @staticmethod
    def _serve(listener: socket.socket, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        listener.settimeout(1.0)
        while os.getppid() == parent:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(1.0)
                    connection.sendall(f"{time.time():.6f}\n".encode())

    def close(self) -> None:
        """End the process."""
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)


def reach(host: str, port: int, tells_time: bool = True) -> f.Reach:
    """Try to connect to an address, and ask for the time there."""
    begun = time.monotonic()
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"the name is not known ({getattr(error, 'strerror', None) or error})"
        return f.Reach(host=host, port=port, took_s=time.monotonic() - begun, error=text)
    resolved = tuple(sorted({str(entry[4][0]) for entry in found}))
    error_text, ahead, within = "", None, 0.0
    for _ in range(_TIMES if tells_time else 1):
        asked = time.time()
        try:
            with socket.create_connection((host, port), CONNECT_S) as connection:
                told = connection.recv(64) if tells_time else b""
        except OSError as error:
            error_text = error.strerror or str(error)
            break
        answered = time.time()
        with contextlib.suppress(ValueError):
            its = (answered - asked) / 2
            if tells_time and (ahead is None or its < within):
                ahead, within = float(told) - (asked + answered) / 2, its
    return f.Reach(
        host=host,
        port=port,
        resolved=resolved,
        took_s=time.monotonic() - begun,
        error=error_text,
        ahead_s=ahead,
        within_s=within,
    )


def reaches(addresses: Iterable[tuple[str, int]], tells_time: bool) -> f.Reaches:
    """Try to connect to each of these addresses."""
    return f.Reaches(tries=_tries(addresses, tells_time))


def _tries(addresses: Iterable[tuple[str, int]], tells_time: bool) -> tuple[f.Reach, ...]:
    return tuple(reach(host, port, tells_time) for host, port in addresses)


def head_address(site: Site) -> f.HeadAddress:
    """Listen as a head would, and connect to each of its addresses from here."""
    head = site.config.head
    is_local = site.config.kind.is_local and head.address == "auto" and not head.port
    if is_local or head.transport == "files":
        return f.HeadAddress(
            setting=head.address, listens=False, takes_files=head.transport == "files"
        )
    try:
        told, bound = addresses.resolve(head.address)
    except SiteError as error:
        return f.HeadAddress(setting=head.address, error=str(error))
    try:
        server = TimeServer(bound, head.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # a head of this site, mostly
            return f.HeadAddress(
                setting=head.address, tries=_tries([(name, head.port) for name in told], False)
            )
        return f.HeadAddress(
            setting=head.address,
            error=f"nothing can listen at {bound}, port {head.port}: {error.strerror}",
        )
    try:
        return f.HeadAddress(
            setting=head.address, tries=_tries([(name, server.port) for name in told], True)
        )
    finally:
        server.close()
