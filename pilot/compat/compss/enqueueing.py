"""Programs in jobs: what ``enqueue_compss`` asks for, as a pool, and the job that has its nodes.

A job has all the nodes that the flags ask for. The program runs in it, with the head, and the job's
nodes are the first pilot. So each job has a site of its own, in a directory beside that of the site
that all else is taken from. Jobs with checkpoints have the same one as long as flags and program
are the same: a later job finds what an earlier one has left.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pilot.compat.compss.flags import Flags, UsageError
from pilot.errors import BatchError, SiteError

if TYPE_CHECKING:
    from pilot.site import Site

#: The beginning of the names of all such jobs.
PREFIX: Final = "compss-"
#: The key of a pool for each flag that is one as it is.
_POOL_KEYS: Final = {
    "queue": "partition",
    "qos": "qos",
    "reservation": "reservation",
    "constraints": "constraint",
    "project_name": "account",
}
#: The option of the batch system for each flag that is one.
_BATCH_OPTIONS: Final = {
    "licenses": "--licenses",
    "network": "--network",
    "num_switches": "--switches",
}
#: The walltime without ``--exec_time``, in minutes, and the number of nodes; as those of COMPSs.
_MINUTES: Final = 10
_NODES: Final = 2
_NAME: Final = "COMPSs"
#: Shorter walltimes need another warning than that of the site.
_SHORT_MINUTES: Final = 4


def pool_of(flags: Flags, pool: dict[str, Any], *, is_local: bool) -> dict[str, Any]:
    """Return the pool that the flags ask for, as a site file has it.

    Parameters
    ----------
    flags
        The command line.
    pool
        The pool of the site whose other keys hold.
    is_local
        True if jobs are processes of this machine.

    Raises
    ------
    UsageError
        A flag means nothing, or nothing on a local site.
    """
    said = flags.meant
    minutes = flags.number("exec_time", _MINUTES)
    made = {**pool, "walltime": f"{minutes:g}m"}
    if minutes < _SHORT_MINUTES:  # no pilot is to be warned of its end as soon as it begins
        made["warning"] = f"{minutes * 15:g}s"
    nodes = flags.whole("num_nodes", 1 if is_local else _NODES)
    made["max_nodes"] = nodes + int(flags.number("elasticity"))
    made["nodes_per_pilot"] = 1 if is_local else nodes
    made.pop("min_nodes", None)
    if "cpus_per_node" in said:
        made["cores_per_node"] = flags.whole("cpus_per_node", 1)
    if "gpus_per_node" in said:
        made["gpus_per_node"] = int(flags.number("gpus_per_node"))
    if said.get("node_memory", "disabled") != "disabled":
        made["memory_per_node"] = flags.whole("node_memory", 1)
    for_batch: dict[str, Any] = {
        key: said[flag] for flag, key in _POOL_KEYS.items() if flag in said
    }
    if for_batch.get("partition") == "default":
        del for_batch["partition"]
    options = [f"{option}={said[flag]}" for flag, option in _BATCH_OPTIONS.items() if flag in said]
    if "extra_submit_flag" in said:
        options.append(said["extra_submit_flag"].replace("#", " "))
    if options:
        for_batch["sbatch_options"] = [*made.get("sbatch_options", ()), *options]
    if for_batch and is_local:
        raise UsageError(
            f"{', '.join(sorted(for_batch))}: a site without a batch system has no such thing; "
            "name a site of a cluster by $PILOT_SITE"
        )
    return made | for_batch


def site_text(flags: Flags, base: dict[str, Any], *, is_local: bool) -> str:
    """Return the site file with the pool that the flags ask for.

    Parameters
    ----------
    flags
        The command line.
    base
        The site file that all else is taken from.
    is_local
        True if jobs are processes of this machine.

    Raises
    ------
    UsageError
        A flag means nothing.
    """
    import yaml

    pools: dict[str, dict[str, Any]] = base["pools"]
    queue = flags.meant.get("queue", "")
    name = queue if queue in pools else ""
    fits = [n for n, pool in pools.items() if queue and (pool or {}).get("partition") == queue]
    name = name or next(iter(fits or pools))
    if name == queue:
        # It is the name of a pool, which has a partition or needs none.
        flags = flags._replace(meant={n: v for n, v in flags.meant.items() if n != "queue"})
    made = {key: value for key, value in base.items() if key != "name"}
    made["pools"] = {"compss": pool_of(flags, dict(pools[name] or {}), is_local=is_local)}
    made["head"] = {k: v for k, v in (base.get("head") or {}).items() if k not in ("place", "job")}
    # The job ends with the program, and nothing goes on behind it.
    made["head"] |= {"job": {"successors": False}, "idle_timeout": "1m"}
    if "cluster" in flags.meant and not is_local:
        made[base["batch"]] = {**(base.get(base["batch"]) or {}), "cluster": flags.meant["cluster"]}
    if "pre_env_script" in flags.meant:
        script = shlex.quote(str(Path(flags.meant["pre_env_script"]).absolute()))
        environment = dict(base.get("environment") or {})
        setup = environment.get("setup") or ""
        made["environment"] = environment | {"setup": f"{setup.rstrip()}\n. {script}\n".lstrip()}
    told = yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    return f"# Made by enqueue_compss, of its flags and {queue or 'the first pool'}.\n{told}"


def site_of(flags: Flags, base: Site) -> Site:
    """Return the site of a job; it is made where there is none.

    Raises
    ------
    UsageError
        A flag means nothing, there is no program, or the site cannot be made.
    """
    from pilot.site import SITE_FILE, place_site
    from pilot.site_configs import yamlfile

    _program(flags)
    data = yamlfile.parse(base.directory / SITE_FILE).data
    text = site_text(flags, data, is_local=base.config.kind.is_local)
    key = os.urandom(4).hex()
    if flags.has_checkpoints:
        same = [text, *flags.program_flags(), str(Path(flags.rest[0]).absolute())]
        key = hashlib.blake2b("\n".join(same).encode(), digest_size=4).hexdigest()
    directory = base.directory.with_name(f"{base.directory.name}-compss") / key
    is_new = not directory.exists()
    try:
        return place_site(directory, text, exist_ok=True)
    except SiteError as error:
        if is_new:
            shutil.rmtree(directory, ignore_errors=True)
        raise UsageError(f"these flags make no site: {error}") from error


def job_label(site: Site, job: str) -> str:
    """Return the id of a job as users have it; on a local site each directory counts for itself."""
    return f"{site.directory.name}.{job}" if site.config.kind.is_local else job


def enqueue(flags: Flags, site: Site) -> str:
    """Submit the job of a program; return the batch system's id of it.

    Parameters
    ----------
    flags
        The command line.
    site
        The site, as `site_of` returns it.

    Raises
    ------
    BatchError
        The job was not submitted.
    """
    from pilot.interpreter import command_of_site
    from pilot.scheduler.batch import base, open_batch
    from pilot.site import working_directory

    path, arguments = _program(flags), flags.rest[1:]
    where = Path(flags.meant.get("job_execution_dir") or working_directory()).absolute()
    words = ["run", "--site", str(site.directory), "--directory", str(where)]
    words += ["--compat", "pycompss"]
    for flag in flags.program_flags():
        words += ["--compat-flag", flag]
    python = site.config.environment.python
    command = command_of_site(python, *words, str(path), *arguments)
    if site.config.kind.is_local:
        # In a job of a cluster it is `pilot run` that ends the head, and its pilots.
        end = command_of_site(python, "--site", str(site.directory), "head", "stop")
        script = f'"$@"; status=$?; {shlex.join(end)} >&2; exit $status'
        command = ["bash", "-c", script, "bash", *command]
    (pool,) = site.config.pools.values()
    told = re.sub(r"[^A-Za-z0-9_.-]+", "-", flags.meant.get("job_name", _NAME))[:60]
    request = base.JobRequest(
        name=f"{PREFIX}{told}-{os.urandom(3).hex()}",
        command=command,
        nodes=pool.nodes_per_pilot,
        walltime_s=pool.walltime_s,
        directory=site.jobs,
        directives=pool,
        setup=site.config.environment.setup,
        variables=site.config.environment.variables,
        warning_s=0.0,
        after=flags.meant.get("job_dependency", ""),
        # It would submit all of its tasks once more.
        restarts=False,
    )
    batch = open_batch(site.config, site.jobs)
    try:
        return batch.submit(request)
    except base.BatchUnavailable as error:
        raise BatchError(f"{error}. The job may come: look for {request.name}") from error
    except (base.SubmitRefused, ValueError) as error:
        raise BatchError(f"the job was not submitted: {error}") from error
    finally:
        batch.close()


def _program(flags: Flags) -> Path:
    if not flags.rest:
        raise UsageError("give a program; `enqueue_compss --help` shows how")
    path = Path(flags.rest[0]).absolute()
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(f"there is no program {flags.rest[0]}; give a file that ends in .py")
    return path
