"""The judgement of facts: what is ok, what may not work, and what to do about it. Pure.

Each function takes the facts of one check, and what it must know of the site, and gives findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pilot.doctor import facts as f
from pilot.findings import Finding, ok, problem, warning
from pilot.formatting import duration
from pilot.model.installation import differing_packages

#: Types of file systems that several machines share, as the kernel calls them.
_SHARED = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "9p", "pvfs2"),
    *("wekafs", "panfs", "gfs2", "ocfs2", "glusterfs", "dvs", "virtiofs", "orangefs", "quobyte"),
}
#: Those that are in memory.
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_GIB = 1 << 30
#: Below so much free space, or so many files, there is a warning; a tenth of it is a problem.
_LEAST_BYTES, _LEAST_FILES = 2 * _GIB, 20_000
#: A quota that is used up to this part is warned of.
_FULL = 0.95
#: A disk that takes longer for a small file slows tasks down, in seconds.
_SLOW_SYNC_S = 0.25
#: Clocks that differ by more are told, in seconds.
_CLOCK_S = 2.0
#: A batch system that takes longer for an answer is slow, in seconds.
_SLOW_S = 2.0
#: A message over files that takes longer there and back is seen late, in seconds.
_TRIP_S = 1.5
_MEND_CLOCK = (
    "tell the administrators (is NTP or chrony running?); Pilot itself bears it, times of files "
    "and programs like make do not"
)
#: So many open files and processes a head or an agent may need.
_LEAST_OPEN, _LEAST_PROCESSES = 4096, 512
#: What libraries of fast networks want to lock of memory, in bytes.
_LEAST_LOCKED = 64 << 20
#: What some ranks of MPI and a few large results want of shared memory, in bytes.
_LEAST_SHARED = 256 << 20


# --- file systems --------------------------------------------------------------------------------


def file_system(its: f.FileSystem, is_local: bool, by_job: bool = False) -> Iterator[Finding]:
    """Judge the type and the options of the site's file system.

    Parameters
    ----------
    its
        The file system.
    is_local
        Whether all pilots are on this machine.
    by_job
        Whether a job of the same run tells what nodes see.
    """
    mount = its.mount
    if mount is None:
        yield warning(
            f"the file system of {its.directory} is not known (no /proc/self/mountinfo)",
            "see that login and compute nodes share it",
        )
        return
    where = f"{its.directory} is on {mount.kind} ({mount.point})"
    move = "make the site elsewhere, as in `pilot init /shared/me/mysite`"
    if "ro" in mount.options:
        yield problem(f"{where}, which is mounted read-only", move)
        return
    if mount.kind in _IN_MEMORY:
        if is_local:
            yield warning(
                f"{where}, which is gone when the machine is started again",
                "make the site in a directory on a disk, or set $PILOT_HOME to one",
            )
        else:
            yield problem(f"{where}, in the memory of this machine: no other node sees it", move)
        return
    if not (is_local or by_job or _is_shared(mount.kind)):
        yield warning(
            f"{where}, which is mostly a disk of one machine",
            "`pilot doctor --job` tells whether compute nodes see it; if not, " + move,
        )
    elif weakness := _weakness(its, mount):
        yield weakness
    else:
        yield ok(where)


def _is_shared(kind: str) -> bool:
    return kind in _SHARED or kind.startswith("fuse")


def _weakness(its: f.FileSystem, mount: f.Mount) -> Finding | None:
    """Return what the options of a mount say of its locks, if that is not good."""
    values = dict(option.partition("=")[::2] for option in mount.options)
    where = f"{its.directory} is on {mount.kind} ({mount.point})"
    here_only = (
        "the lease keeps heads apart without locks; run heads on one login node all the same"
    )
    if mount.kind == "lustre" and "noflock" in values:
        return problem(
            f"{where}, mounted without locks (noflock), which the database needs",
            "ask for the mount option flock, or make the site on another file system",
        )
    if mount.kind == "lustre" and "localflock" in values:
        return warning(f"{where}, whose locks hold on one machine only (localflock)", here_only)
    local = "nolock" in values or values.get("local_lock", "none") != "none"
    if mount.kind.startswith("nfs") and local:
        return warning(f"{where}, whose locks hold on one machine only (nolock)", here_only)
    if mount.kind.startswith("nfs") and "soft" in values:
        return warning(
            f"{where}, mounted soft: calls fail while its server is slow",
            "ask for the mount option hard; Pilot tries again, programs in tasks may not",
        )
    if mount.kind == "beegfs" and its.global_locks is False:
        return warning(
            f"{where}, whose locks hold on one machine only (tuneUseGlobalFileLocks=false)",
            here_only,
        )
    return None


def space(its: f.Space) -> Iterator[Finding]:
    """Judge the room that is left."""
    room = "delete what is no longer needed: `pilot session purge`, `pilot session delete`"
    bad = False
    counts = bool(its.total_files)
    for free, least, text in (
        (its.free_bytes, _LEAST_BYTES, f"{size(its.free_bytes)} are free"),
        *([(its.free_files, _LEAST_FILES, f"{its.free_files} more files fit")] if counts else []),
    ):
        if free < least:
            bad = True
            kind = problem if free < least / 10 else warning
            yield kind(f"only {text}", room)
    for quota in its.quotas:
        if quota.used >= _FULL * quota.limit:
            bad = True
            kind = problem if quota.used >= quota.limit else warning
            yield kind(f"your quota: {quota.used} of {quota.limit} {quota.unit} are used", room)
    if not bad:
        files = f", and room for {its.free_files} files" if counts else ""
        quotas = "".join(
            f"; quota: {quota.used} of {quota.limit} {quota.unit} used" for quota in its.quotas
        )
        yield ok(f"{size(its.free_bytes)} are free{files}{quotas}")


def operations(its: f.Operations) -> Iterator[Finding]:
    """Judge what the file system can do, and how fast it is."""
    for name, error in its.errors.items():
        yield problem(
            f"{name} does not work in the site directory: {error}"
            if not name.endswith("s")
            else f"{name} do not work in the site directory: {error}",
            "make the site on another file system; Pilot's lease and files rely on that",
        )
    if its.errors:
        return
    told = (
        f"writing, links and renaming work; a small file is on the disk in {duration(its.sync_s)}"
    )
    if its.sync_s > _SLOW_SYNC_S:
        yield warning(
            told,
            "short tasks wait for that: submit many at once, or make the site on a faster disk",
        )
    else:
        yield ok(told)


def locks(its: f.Locks, between: str, across: bool = False) -> Iterator[Finding]:
    """Judge a test of locks.

    Parameters
    ----------
    its
        The result.
    between
        Who held them and who tried, in words.
    across
        Whether these are two machines: then nothing depends on it.
    """
    if its.flock == its.fcntl == "held":
        yield ok(f"locks hold between {between}")
        return
    told = ", ".join(
        f"{kind}: {_lock_words(result)}"
        for kind, result in (("flock", its.flock), ("fcntl", its.fcntl))
    )
    if across:
        yield warning(
            f"locks do not hold between {between} ({told})",
            "the lease keeps heads apart without them; open the database with no other program "
            "from another machine, and expect none of your own programs' locks to hold there",
        )
    elif its.fcntl == "held":
        yield warning(
            f"not all locks hold between {between} ({told})", "Pilot itself does not need flock"
        )
    else:
        yield problem(
            f"locks do not hold between {between} ({told}); the database needs them",
            "NFS: is rpc.statd or lockd running? Lustre: ask for the mount option flock; or make "
            "the site on another file system",
        )


def _lock_words(result: str) -> str:
    return {"held": "hold", "not seen": "are not seen"}.get(result, result)


def clock(its: f.Clock) -> Iterator[Finding]:
    """Judge the clock of the file system."""
    if abs(its.ahead_s) <= _CLOCK_S:
        yield ok(f"file system and this machine agree within {_CLOCK_S:g} s")
        return
    way = "ahead of" if its.ahead_s > 0 else "behind"
    yield warning(
        f"the clock of the file system is {duration(abs(its.ahead_s))} {way} this machine's",
        _MEND_CLOCK,
    )


# --- machines ------------------------------------------------------------------------------------


def limits(its: f.Limits) -> Iterator[Finding]:
    """Judge the limits of processes on this machine."""
    found = [*_limits(its)]
    yield from found or [
        ok(
            f"open files {_pair(its.files)}, processes {_pair(its.processes)}, locked memory "
            f"{_bytes(its.locked_bytes[0])} (soft/hard)"
        )
    ]


def _limits(its: f.Limits) -> Iterator[Finding]:
    raise_it = "in /etc/security/limits.conf, by your administrators"
    hard = its.files[1]
    if 0 <= hard < _LEAST_OPEN:
        yield warning(
            f"at most {hard} open files (ulimit -n): each executor of a pilot and each client of "
            "the head is a connection",
            f"have the hard limit raised to {_LEAST_OPEN} or more {raise_it}",
        )
    soft = its.processes[0]
    if 0 <= soft < _LEAST_PROCESSES:
        yield warning(
            f"at most {soft} processes (ulimit -u), which count all of yours on a machine",
            f"`ulimit -u {_LEAST_PROCESSES}` where the hard limit allows it, or have it raised "
            f"{raise_it}",
        )
    if its.memory_bytes[0] >= 0:
        yield warning(
            f"a process may have {_bytes(its.memory_bytes[0])} of address space (ulimit -v), which "
            "libraries for GPUs and large arrays exceed",
            "`ulimit -v unlimited` before the head starts: pilots inherit it",
        )
    if its.cpu_s[0] >= 0:
        yield warning(
            f"a process may use {duration(its.cpu_s[0])} of processor time (ulimit -t)",
            "`ulimit -t unlimited`; where that is not allowed, run the head in a job: "
            "docs/how-to/inside-a-job.md",
        )


def node_limits(its: f.Limits, here: f.Limits) -> Iterator[Finding]:
    """Judge the limits on a node, and whether those of this machine went along with the job."""
    found = [*_limits(its)]
    if its.locks_memory and 0 <= its.locked_bytes[0] < _LEAST_LOCKED:
        found.append(
            warning(
                f"at most {_bytes(its.locked_bytes[0])} of memory can be locked (ulimit -l), which "
                "MPI over InfiniBand needs",
                "`ulimit -l unlimited` before the head starts, or have it set on the nodes",
            )
        )
    yield from found
    names = ("files", "processes", "locked_bytes", "memory_bytes")
    same = all(getattr(its, name)[0] == getattr(here, name)[0] for name in names)
    if not found:
        whose = "as here" if same else "its own, not those of this machine"
        yield ok(
            f"limits are {whose}: open files {_pair(its.files)}, processes "
            f"{_pair(its.processes)}, locked memory {_bytes(its.locked_bytes[0])}"
        )


def resident(its: f.Resident) -> Iterator[Finding]:
    """Judge the signs that long processes are ended here."""
    instead = "run the head inside a job: docs/how-to/inside-a-job.md"
    bad = False
    if its.ends_at_logout:
        bad = True
        yield warning(
            "processes end here when you log out (KillUserProcesses), and so does the head",
            f"`loginctl enable-linger`, if you may; or {instead}",
        )
    if its.cpu_s >= 0:
        bad = True
        yield warning(
            f"processes end here after {duration(its.cpu_s)} of processor time; an idle head uses "
            "some 10 s a day",
            instead,
        )
    if 0 < its.memory_bytes < _GIB:
        bad = True
        yield warning(
            f"all your processes here may have {size(its.memory_bytes)} of memory together; a head "
            "takes 50 MB, and 1 kB for each unfinished task",
            instead,
        )
    if not bad:
        yield ok(
            "no sign that long processes are ended here; that there is no such rule, only your "
            "administrators know"
        )


def python(its: f.Python, is_local: bool, by_job: bool = False) -> Iterator[Finding]:
    """Judge this Python; the parameters are those of `file_system`."""
    packages = ", ".join(f"{name} {version}" for name, version in its.packages.items())
    told = f"Python {its.version}, {packages} ({its.executable})"
    kind = its.mount.kind if its.mount is not None else ""
    if is_local or by_job or not kind or _is_shared(kind):
        yield ok(told)
    else:
        yield warning(
            f"{told}; it is on {kind}, which is mostly a disk of one machine",
            "`pilot doctor --job` tells whether nodes have it; if not, install Pilot on the shared "
            "file system, or set environment.python",
        )


def same_python(its: f.Python, here: f.Python) -> Iterator[Finding]:
    """Judge the Python of a node, or of the job script, against that of this process."""
    minor, minor_here = (text.rsplit(".", 1)[0] for text in (its.version, here.version))
    install = "install the same in both, or set environment.python to the interpreter of the head"
    differing = [
        f"{name} {its.packages.get(name, 'missing')} (here: {here.packages.get(name, 'missing')})"
        for name in sorted({*its.packages, *here.packages})
        if its.packages.get(name) != here.packages.get(name)
    ]
    if minor != minor_here:
        yield problem(
            f"Python {its.version} ({its.executable}), and {here.version} here: code of one minor "
            "version is run by no other",
            install,
        )
    elif any(text.startswith(("pilot ", "msgspec ", "cloudpickle ")) for text in differing):
        yield problem(f"{', '.join(differing)} in {its.executable}", install)
    elif differing:
        yield warning(f"{', '.join(differing)} in {its.executable}", install)
    elif others := differing_packages(its.others, here.others):
        yield warning(
            f"{its.executable} has other versions than here (in parentheses): {others}; what is "
            "pickled by one may not be understood by the other",
            install,
        )
    else:
        yield ok(f"Python {its.version} and packages are the same as here ({its.executable})")


def temporary_directory(its: f.TemporaryDirectory) -> Iterator[Finding]:
    """Judge the directory for temporary files."""
    set_it = "set TMPDIR (environment.variables in site.yaml) to a directory on a local disk"
    asked = its.variable
    if its.error:
        yield problem(f"no socket can be made in {its.directory}: {its.error}", set_it)
    elif asked and asked.rstrip("/") != its.directory:
        yield warning(
            f"TMPDIR is {asked}, which cannot be used; {its.directory} is used instead", set_it
        )
    elif its.free_bytes < _GIB:
        yield warning(
            f"{size(its.free_bytes)} are free in {its.directory}, where values that tasks share "
            "are kept (data.node_cache)",
            set_it,
        )
    else:
        yield ok(f"{its.directory}, {size(its.free_bytes)} free")


def shared_memory(its: f.SharedMemory) -> Iterator[Finding]:
    """Judge the memory that processes of one machine share."""
    what = "MPI ranks do not start without it, and large results go to the disk first"
    todo = f"remove what programs that have ended have left in {its.directory}"
    if 0 < its.total_bytes < _GIB:
        todo = f"have it mounted larger (docker run --shm-size=…, size= in fstab), or {todo}"
    if its.error:
        yield problem(f"nothing can be written to {its.directory}: {its.error}; {what}", todo)
    elif its.free_bytes < _LEAST_SHARED:
        kind = problem if its.free_bytes < _LEAST_SHARED / 10 else warning
        room = f"{size(its.free_bytes)} of {size(its.total_bytes)} are free"
        yield kind(f"{room} in {its.directory}; {what}", todo)
    else:
        yield ok(f"{its.directory}, {size(its.free_bytes)} free")


def setup(its: f.Setup, here: f.Python) -> Iterator[Finding]:
    """Judge a run of the job script's lines on this machine."""
    check = "check environment.setup, variables and python in site.yaml"
    told = f": {last_line(its.output)}" if its.output else ""
    if its.python is None:
        yield problem(
            f"the lines of the job script end with status {its.status} here, before the pilot "
            f"could start{told}",
            check,
        )
        return
    findings = [*same_python(its.python, here)]
    yield from (finding for finding in findings if finding.level != "ok")
    if all(finding.level == "ok" for finding in findings):
        yield ok(f"the job script's lines run here, in {duration(its.took_s)}, with this Python")
    if its.took_s > 20.0:
        yield warning(
            f"the lines of environment.setup take {duration(its.took_s)}, for each pilot",
            "load fewer modules there",
        )


# --- MPI -----------------------------------------------------------------------------------------


def mpi(its: f.Mpi, advice: str) -> Iterator[Finding]:
    """Judge the launcher of MPI programs, and the trials with it."""
    without = "" if its.mpi4py else "; only if you want MPI functions"
    if its.error:
        yield warning(f"no MPI program can be started: {its.error}", f"set mpi.launcher{without}")
        return
    if not its.mpi4py:
        yield warning(
            "mpi4py is not installed: MPI functions do not work, commands do",
            "`pip install mpi4py`, if you want them",
        )
    if not its.worlds:
        yield ok(f"ranks are started by {its.way or 'what forms a world, tried in the first job'}")
    for world in its.worlds:
        where = " and ".join(dict.fromkeys(world.hosts))
        if not world.error:
            yield ok(
                f"two ranks on {where} find each other by {world.way}, in {duration(world.took_s)}"
            )
        elif its.mpi4py:
            yield problem(
                f"two ranks on {where} do not find each other by {world.way}: {world.error}", advice
            )


# --- the network ---------------------------------------------------------------------------------


def head_address(its: f.HeadAddress, by_job: bool = False) -> Iterator[Finding]:
    """Judge the addresses of a head as this machine sees them; `by_job` as for `file_system`."""
    if its.error:
        yield problem(its.error, "set head.address and head.port in site.yaml")
        return
    if its.takes_files:
        hint = "" if by_job else "; `pilot doctor --job` tries it from a node"
        yield ok(f"the head listens to no network: others reach it over files{hint}")
        return
    if not its.listens:
        yield ok("the head listens to no network: all its pilots are on this machine")
        return
    good = [one for one in its.tries if not one.error]
    if not good:
        told = "; ".join(f"{one.host}: {_reach_words(one)}" for one in its.tries)
        yield problem(
            f"this machine does not reach a head with head.address {its.setting} itself: {told}",
            "set head.address to the name, address or interface that faces the nodes",
        )
        return
    told = ", ".join(
        one.host if (one.host,) == one.resolved else f"{one.host} ({', '.join(one.resolved)})"
        for one in good
    )
    inward = all(each.startswith("127.") for one in good for each in one.resolved)
    if inward and not by_job:
        yield warning(
            f"nodes are told {told}, which leads to this machine on itself only",
            "set head.address to an address, or an interface, that faces the nodes",
        )
    else:
        hint = "" if by_job else "; `pilot doctor --job` tries it from there"
        yield ok(f"nodes are told {told}{hint}")


def reach(its: Sequence[f.Reach], whom: str, key: str) -> Iterator[Finding]:
    """Judge tries from a node to reach another machine: one address is enough.

    Parameters
    ----------
    its
        A try for each address, in the order in which pilots try them.
    whom
        The machine there, in words.
    key
        The key of the site file that names the addresses.
    """
    first = next((one for one in its if not one.error), None)
    before = its if first is None else its[: its.index(first)]
    told = "; ".join(f"{one.host}:{one.port}: {_reach_words(one)}" for one in before)
    if first is None:
        unknown = all("not known" in one.error for one in before)
        firewall = "" if unknown else "; is there a firewall? (head.port names one fixed port)"
        yield problem(
            f"{whom} is not reached: {told or 'it has no address'}",
            f"set {key} to a name, address or interface that nodes reach{firewall}",
        )
        return
    text = f"{whom} is reached at {first.host}:{first.port} ({', '.join(first.resolved)})"
    if before:
        yield warning(
            f"{text}, but not at {told}: pilots lose some seconds with it",
            f"set {key} to {first.host}",
        )
    else:
        yield ok(text)


def over_files(its: f.OverFiles) -> Iterator[Finding]:
    """Judge a try from a node to speak over files with the machine on which heads run."""
    if its.error:
        yield problem(
            f"this machine is not reached over files: {its.error}",
            "is the site directory on a file system that both share, with the same path and user? "
            "(head.transport: network does without)",
        )
        return
    trips = sorted(its.trips_s)
    typical = duration(max(trips[len(trips) // 2], 0.001))
    text = f"this machine is reached over files: there and back takes {typical}"
    if trips[-1] > _TRIP_S:
        yield warning(
            f"{text}, and {duration(trips[-1])} at most",
            "the file system shows late what others have written: tasks start as late, where the "
            "network does not lead to the head",
        )
    else:
        yield ok(text)


def reach_or_files(its: Sequence[f.Reach], transport: str) -> Iterator[Finding]:
    """Judge tries from a node to reach the machine on which heads run, where files are the other
    way, if `transport` says so."""
    if transport == "network" or not its or not all(one.error for one in its):
        yield from reach(its, "this machine", "head.address")
        return
    told = "; ".join(f"{one.host}:{one.port}: {_reach_words(one)}" for one in its)
    yield warning(
        f"this machine is not reached over the network: {told}; pilots will speak with the head "
        "over files, after some seconds of trying",
        "set head.address to a name, address or interface that nodes reach; or, if there is none, "
        "head.transport to files, and no time is lost",
    )


def _reach_words(one: f.Reach) -> str:
    return f"{one.error} ({', '.join(one.resolved)})" if one.resolved else one.error


def node_clock(its: Sequence[f.Reach]) -> Iterator[Finding]:
    """Judge the clock of a node against this machine's, as the node was told it."""
    told = [one for one in its if one.ahead_s is not None]
    if not told:
        yield warning("not compared: the node does not reach this machine", "see above")
        return
    best = min(told, key=lambda one: one.within_s)
    ahead = -(best.ahead_s or 0.0)
    within = duration(max(best.within_s, 0.001))
    if abs(ahead) <= _CLOCK_S:
        text = f"{duration(abs(ahead))} {_way(ahead)} this machine's"
        yield ok(f"the clock is {text}, give or take {within}")
    else:
        yield warning(
            f"the clock is {duration(abs(ahead))} {_way(ahead)} this machine's",
            _MEND_CLOCK,
        )


def _way(ahead: float) -> str:
    return "ahead of" if ahead > 0 else "behind"


# --- the batch system, nodes and jobs ------------------------------------------------------------


def answer(its: f.Answer, title: str, name: str) -> Iterator[Finding]:
    """Judge the answer of the batch system about the pools.

    Parameters
    ----------
    its
        The answer.
    title, name
        The batch system in texts, and in the site file.
    """
    took = duration(its.took_s)
    if its.silence:
        yield problem(its.silence, f"see that {title} can be used from this machine")
    elif its.trouble:
        yield problem(its.trouble, "mend the pools in site.yaml")
    elif its.took_s > _SLOW_S:
        yield warning(f"{title} answers after {took}", f"set {name}.poll_interval to 30s or more")
    else:
        yield ok(f"{title} answers in {took}, and has what the pools name")


def node(its: f.Node, cores: int, memory_mib: int) -> Iterator[Finding]:
    """Judge a node against what its pool says of it."""
    if its.cores < cores:
        yield warning(
            f"the job may use {its.cores} cores there, and the pool says {cores}: ranks and tasks "
            "would share them",
            "set cores_per_node to what a job gets (hyper-threads: docs/reference/site-file.md)",
        )
    elif memory_mib > its.memory_mib:
        yield problem(
            f"the node has {its.memory_mib} MiB, and the pool says {memory_mib}",
            "set memory_per_node to a little less than a node has",
        )
    else:
        yield ok(f"{its.cores} cores, {size(its.memory_mib << 20)} of memory")


def steps(its: f.Steps) -> Iterator[Finding]:
    """Judge the starts of processes on other nodes."""
    for step in its.steps:
        if step.error:
            yield problem(
                f"no process can be started on {step.host} from the first node: {step.error}",
                "ask your administrators; or set nodes_per_pilot to 1",
            )
        else:
            yield ok(f"a process on {step.host} is started in {duration(step.took_s)}")


def shrink(its: f.Shrink) -> Iterator[Finding]:
    """Judge a try to give a node back."""
    whole = "`nodes_per_pilot: 1`, if nodes should come and go singly; nothing else depends on it"
    if its.error:
        yield warning(f"a running job keeps its nodes: {its.error}", whole)
    elif its.nodes != 1:
        yield warning(f"a job of 2 nodes gave one back, and still has {its.nodes}", whole)
    else:
        yield ok("a running job gave one of its 2 nodes back")


# --- words ---------------------------------------------------------------------------------------


def size(count: int) -> str:
    """Return a number of bytes in words."""
    for unit, least in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= least:
            return (
                f"{count / least:.3g} {unit}"
                if count < 1000 * least
                else f"{count // least} {unit}"
            )
    return f"{count} bytes"


def _bytes(count: int) -> str:
    return "unlimited" if count < 0 else size(count)


def _pair(limit: tuple[int, int]) -> str:
    return "/".join("unlimited" if each < 0 else str(each) for each in limit)


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def merged(by_node: Mapping[str, Iterable[Finding]]) -> Iterator[tuple[tuple[str, ...], Finding]]:
    """Join the same findings of several nodes; give each with its nodes."""
    nodes: dict[Finding, list[str]] = {}
    for name, findings in by_node.items():
        for finding in findings:
            nodes.setdefault(finding, []).append(name)
    for finding, names in nodes.items():
        yield tuple(names), finding
