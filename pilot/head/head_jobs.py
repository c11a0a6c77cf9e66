"""The records of the jobs that a site's head runs in, one for each.

A record ``head.job.NUMBER`` in the site directory says that a job is to be the site's head; the one
of the highest number counts. It is made whole, by a hard link, before the job is submitted: of
several processes that want the next head to run in a job, one makes the record, and submits. The
last record may also say that no job is to be head any more, and why.

Invariants
----------
- A record never changes. What becomes known later is in files beside it, which say the same whoever
  writes them: ``.id`` (the job's id), ``.here`` (the job has begun).
- A job whose record is not the last one does not become head: so one that was given up, and comes
  late, does no harm.
- Numbers only grow, and none is given twice.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import contextlib
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pilot.model.bounds import UNREADABLE, Number
from pilot.regular_files import NotRegularError, read_regular
from pilot.scheduler.batch import JobRequest
from pilot.site import Site
from pilot.site_configs import pool_type
from pilot.wire.discovery import is_same_place

#: The variable by which ``pilot run`` tells its programs of the `Host`, as JSON.
HOST_VARIABLE = "PILOT_RUN_JOB"
#: More than any record takes.
_MOST_BYTES = 1 << 14
_NAME = re.compile(r"head\.job\.([0-9]{1,18})")


class HeadJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is to be the head of a site, or the word that none is."""

    number: Number
    #: The job's name; empty: no job is to be head.
    name: str = ""
    #: The id of the job, where it was there before the record; see `job_of` for others.
    job: str = ""
    #: The id of the job whose head it succeeds.
    after: str = ""
    #: The walltime of the job, in seconds, and the pool whose keys it has; for its successors.
    walltime_s: float = 0.0
    pool: str = ""
    #: True if it ends soon after the last task: nobody has asked for a head but for these.
    ends_with_work: bool = False
    #: The reason why no job is to be head.
    words: str = ""
    #: True if that is because somebody has cancelled the job of the last head: whoever had that
    #: head asks for no other.
    cancelled: bool = False
    #: When the record was made, in seconds since 1970.
    created: float = 0.0
    #: Path and inode of the site directory: the record of a copy of it is the original's.
    directory: str = ""
    inode: int = 0

    @property
    def is_open(self) -> bool:
        """True if a job is to be head."""
        return bool(self.name)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A job in which ``pilot run`` has heads started, as the run's processes have it."""

    #: The id of the job.
    job: str
    #: Its name; empty: it is not known.
    name: str = ""
    #: True if the job's nodes are to be the first pilot.
    adopts: bool = True
    #: As in `HeadJob`, for the jobs that take over.
    walltime_s: float = 0.0
    pool: str = ""


def host_here(site: Site) -> Host | None:
    """Return the job of this process if heads are to be started in it; None elsewhere."""
    try:
        host = msgspec.json.decode(os.environ.get(HOST_VARIABLE, ""), type=Host)
    except UNREADABLE:
        return None
    # Jobs that are submitted from inside of it get the variable, too.
    return host if host.job == own_job(site) else None


def own_job(site: Site) -> str:
    """Return the id of the batch job that this process runs in; empty: it is in none."""
    own = site.config.kind.own_allocation(os.environ)
    return own.job_id if own is not None else os.environ.get("PILOT_JOB_ID", "")


def host(site: Site, host: Host) -> HeadJob | None:
    """Return the record of a job that is to host a head; None if another process was faster.

    Raises
    ------
    OSError
        It cannot be written.
    """
    record = newest(site)
    if record is not None and record.is_open and job_of(site, record) == host.job:
        return record  # a head has died there
    wanted = HeadJob(
        number=0,
        name=host.name or f"job-{host.job}",
        job=host.job,
        walltime_s=host.walltime_s,
        pool=host.pool,
        ends_with_work=True,
    )
    return add(site, record, wanted)


def newest(site: Site) -> HeadJob | None:
    """Return the record that counts; None where there is none.

    Raises
    ------
    OSError
        It cannot be read now.
    """
    try:
        names = [path.name for path in site.directory.iterdir()]
    except FileNotFoundError:
        return None
    number = max((int(match[1]) for match in map(_NAME.fullmatch, names) if match), default=0)
    if not number:
        return None
    try:
        record = msgspec.json.decode(read_regular(_path(site, number), _MOST_BYTES), type=HeadJob)
    except NotRegularError:
        return HeadJob(number=number, words="its record is no regular file")
    except UNREADABLE:
        return HeadJob(number=number, words="its record cannot be read")
    if record.number != number or not is_same_place(site.directory, record.directory, record.inode):
        return HeadJob(number=number, words="its record is of another site")
    return record


def wanted(site: Site) -> HeadJob | None:
    """Return the record of the job that is to be head; None where none is."""
    record = newest(site)
    return record if record is not None and record.is_open else None


def add(site: Site, before: HeadJob | None, record: HeadJob) -> HeadJob | None:
    """Make a record the next one; return it as it was made, or None if another process was faster.

    Parameters
    ----------
    site
        The site.
    before
        The record that it follows, as `newest` has returned it.
    record
        What it says; its number, time and directory are filled in.

    Raises
    ------
    OSError
        It cannot be written.
    """
    number = 1 if before is None else before.number + 1
    made = msgspec.structs.replace(
        record,
        number=number,
        created=time.time(),
        directory=str(site.directory),
        inode=site.directory.stat().st_ino,
    )
    path = _path(site, number)
    partial = _partial(path)
    try:
        partial.write_bytes(msgspec.json.encode(made))
        partial.chmod(0o600)
        try:
            os.link(partial, path)
        except FileExistsError:
            # Over a network the answer to a link that was made may have been lost.
            if not os.path.samestat(partial.stat(), path.lstat()):
                return None
    finally:
        partial.unlink(missing_ok=True)
    _tidy(site, number)
    return made


def close(site: Site, number: int, words: str, *, cancelled: bool = False) -> bool:
    """Record that no job is to be head any more; return False if there is a later record.

    Parameters
    ----------
    site
        The site.
    number
        The number of the last record.
    words, cancelled
        As in `HeadJob`.

    Raises
    ------
    OSError
        It cannot be written.
    """
    record = newest(site)
    if record is None or record.number != number:
        return False
    closed = HeadJob(number=0, words=words, cancelled=cancelled)
    return not record.is_open or add(site, record, closed) is not None


def note_job(site: Site, number: int, job: str) -> None:
    """Record the id of a job."""
    _write(_path(site, number, ".id"), job)


def job_of(site: Site, record: HeadJob) -> str:
    """Return the id of the job of a record; empty: nobody has recorded it."""
    return record.job or _read(_path(site, record.number, ".id"))


def note_here(site: Site, number: int, job: str) -> None:
    """Record that a job has begun, and that its head waits for its turn."""
    _write(_path(site, number, ".here"), job)


def is_here(site: Site, number: int) -> bool:
    """Tell whether the job of a record has begun."""
    return _path(site, number, ".here").exists()


def new_name(site: Site, role: str = "head") -> str:
    """Return a name for a job that no other has, and that says what it is for."""
    return f"{site.config.manners.job_name_prefix}-{site.name}-{os.urandom(3).hex()}-{role}"


def request(
    site: Site,
    name: str,
    command: Sequence[str],
    walltime_s: float = 0.0,
    pool: str = "",
    *,
    restarts: bool = True,
) -> JobRequest:
    """Return the request for a job of the head.

    Parameters
    ----------
    site
        The site.
    name
        The job's name.
    command
        What it runs.
    walltime_s
        Its walltime in seconds; 0: that of the site file.
    pool
        The pool whose keys it has where the section ``head.job`` has none; empty: that of the site
        file.
    restarts
        True if the job may be requeued: then it runs the command again.
    """
    config = site.config
    job, kind = config.head.job, config.kind
    pools = config.pools
    of = pools[pool or job.pool or next(iter(pools))]
    of_batch = {key: getattr(job, key) for key in kind.pool_keys.__struct_fields__}
    default = kind.pool_keys()
    for key in kind.head_keys:
        if of_batch[key] == getattr(default, key) or pool:
            of_batch[key] = getattr(of, key)
    walltime_s = walltime_s or job.walltime_s
    return JobRequest(
        name=name,
        command=command,
        nodes=1,
        walltime_s=walltime_s,
        directory=site.jobs,
        directives=pool_type(config.batch)(
            cores_per_node=job.cores, memory_per_node_mib=job.memory_mib, **of_batch
        ),
        setup=config.environment.setup,
        variables=config.environment.variables,
        warning_s=0.0,  # the head knows the end
        restarts=restarts,
    )


def _path(site: Site, number: int, suffix: str = "") -> Path:
    return site.directory / f"head.job.{number}{suffix}"


def _partial(path: Path) -> Path:
    """Return the name of a file while it is written, which no other thread anywhere has."""
    host = os.uname().nodename
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{threading.get_ident()}")


def _write(path: Path, text: str) -> None:
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8")
    partial.chmod(0o600)
    partial.replace(path)


def _read(path: Path) -> str:
    try:
        return read_regular(path, _MOST_BYTES).decode(errors="replace").strip()
    except (OSError, NotRegularError):
        return ""


def _tidy(site: Site, number: int) -> None:
    """Remove what is left of records before the last two; ignore failures."""
    for path in site.directory.glob("head.job.*"):
        known = path.name.split(".")[2]
        if known.isdecimal() and int(known) < number - 1:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
