"""The schema of site files, the same for all sites.

A site file is YAML. Each struct here is one mapping of it and each attribute one key; where the
attribute carries its unit in its name (``walltime_s``), the key is the name without it
(``walltime``) and takes a text such as ``1h`` or ``4G``. The comment above an attribute is its
documentation, also in the JSON schema that editors use.

What batch systems add to it is theirs (`scheduler.batch`): `site_type` puts both together.

Invariants: a `SiteConfig` that was loaded is complete and consistent, nothing in it is checked
again; unknown keys are errors; no path of code is for one site, or for one batch system.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import Meta, MsgspecError, Struct, convert, defstruct, field
from msgspec.structs import fields, replace

from pilot.scheduler.amounts import UNIT, Amounts, check_name, parse_amount
from pilot.scheduler.batch import BatchKind, find_kind
from pilot.scheduler.features import required
from pilot.scheduler.resources import NodeShape, Supply, indexed, node_shape
from pilot.site_configs.parsed_cache import keep_parsed, read_parsed
from pilot.site_configs.units import (
    AutoMebibytes,
    AutoSeconds,
    Bytes,
    Compression,
    Count,
    EnvironmentText,
    Mebibytes,
    NodeHours,
    Seconds,
    convert_custom,
    with_mappings,
)
from pilot.site_configs.yaml_text import SiteFileError, read_yaml_text

if TYPE_CHECKING:
    from pilot.site_configs.yamlfile import YamlPath

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
#: A row of the database takes many such values.
_MOST_INLINE_BYTES = 16 << 20
#: Each of them is a process.
MOST_CORELESS = 10_000
_NAME_RULE = "use letters, digits, '_', '.' and '-', at most 64"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
#: As it may stand in a list of a variable of the environment.
_INDEX = r"[A-Za-z0-9_./:-]{1,64}"


class _Mapping(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of a site file."""


M = TypeVar("M", bound=_Mapping)


class HeadJobConfig(_Mapping, frozen=True, kw_only=True):
    """The jobs that the head runs in; each batch system adds its keys of pools."""

    #: The pool that the batch system's keys are taken from where they are not given here; empty:
    #: the first one. Of slurm these are partition, account, qos, reservation and memory_request.
    pool: str = ""
    #: Cores that the job asks for, on one node.
    cores: Annotated[int, Meta(ge=1)] = 1
    #: Memory that the job asks for.
    memory_mib: Mebibytes = field(default=2048, name="memory")
    #: The walltime of the job.
    walltime_s: Seconds = field(default=43200.0, name="walltime")
    #: Whether another job takes over when the walltime ends and tasks are left; this is also for a
    #: head that pilot run has started in a job of yours.
    successors: bool = True


class HeadConfig(_Mapping, frozen=True, kw_only=True):
    """The head: the process that keeps the tasks."""

    #: Where heads are started: here (on the machine of the program that needs one) or job (in a
    #: job of their own, where the login nodes allow no process that stays).
    place: Literal["here", "job"] = "here"
    #: The jobs that heads run in, with place job or pilot run --as-job.
    job: HeadJobConfig = HeadJobConfig()

    #: The head ends after this time without work and without a word from a client.
    idle_timeout_s: Seconds = field(default=1800.0, name="idle_timeout")
    #: After this time a session ends whose clients have gone, and whose tasks have all ended.
    session_idle_s: Seconds = field(default=60.0, name="session_idle")
    #: No more tasks are taken while so many are unfinished: each takes some 1 kB of the head's
    #: memory.
    max_unfinished: Annotated[int, Meta(ge=1)] = 4_000_000
    #: The machine of the head as compute nodes reach it: a host name, an IPv4 address, the name of
    #: a network interface (ib0), or auto: its host name. Of a name they also try the addresses that
    #: it stands for. With batch local and auto, the head listens to no network: nobody on other
    #: machines needs it.
    address: str = "auto"
    #: The TCP port that pilots and remote clients connect to; 0: any free one.
    port: int = 0
    #: How others reach the head: network; files: over files in the site directory, pilots of its
    #: own machine too; auto: over the network, and over files where it does not lead there. Clients
    #: on its machine always use a Unix socket.
    transport: Literal["auto", "network", "files"] = "auto"


class StoreConfig(_Mapping, frozen=True, kw_only=True):
    """The database."""

    #: SQLite's journal: wal or truncate; auto tries what the file system can.
    journal: Literal["auto", "wal", "truncate"] = "auto"


class LeaseConfig(_Mapping, frozen=True, kw_only=True):
    """The lease: who may be the head."""

    #: How often the head renews its lease.
    renew_s: Seconds = field(default=2.0, name="renew")
    #: After this time without a renewal another head may take over.
    expire_s: Seconds = field(default=15.0, name="expire")


class DataConfig(_Mapping, frozen=True, kw_only=True):
    """Values of tasks."""

    #: Values up to this size travel inline; larger ones go through files. At most 16M.
    inline_limit_bytes: Bytes = field(default=65536, name="inline_limit")
    #: What each pilot may use of a node's local disk, to keep values there that many tasks share;
    #: 0: nothing is kept.
    node_cache_mib: Mebibytes = field(default=4096, name="node_cache")
    #: What each pilot may use of a node's memory, for results that are not on the disk yet; auto:
    #: an eighth of it, and half of what is free in /dev/shm; 0: they go to the disk first.
    node_store_mib: AutoMebibytes = field(default=None, name="node_store")
    #: Of results that were released, and that tasks of one pilot alone still need, those that go on
    #: from there are written after so long: no more than that has to be done again.
    durable_every_s: Seconds = field(default=30.0, name="durable_every")
    #: Results and checkpoints of a session are deleted so long after its end, as by pilot session
    #: purge; auto: never.
    keep_s: AutoSeconds = field(default=None, name="keep")
    #: When results and checkpoints of all sessions take more than this, those of the sessions that
    #: ended first are deleted; 0: never.
    keep_size_mib: Mebibytes = field(default=0, name="keep_size")
    #: How long a file that is missing is looked for again: network file systems show files late.
    patience_s: Seconds = field(default=5.0, name="patience")
    #: Compression of large results: none, or gzip:1 (fast) to gzip:9 (small). Tasks may say
    #: otherwise.
    compression: Compression = 0


class MpiConfig(_Mapping, frozen=True, kw_only=True):
    """The start of MPI programs and worlds."""

    #: The launcher: srun, mpirun, mpiexec-hydra…; auto takes the first that the site has.
    launcher: str = "auto"
    #: More options for the launcher's command line, each as one text.
    options: tuple[str, ...] = ()
    #: Environment variables for the ranks.
    variables: dict[str, EnvironmentText] = {}


class EnvironmentConfig(_Mapping, frozen=True, kw_only=True):
    """The environment of the agent and the tasks on compute nodes."""

    #: Shell lines that the job script runs before the agent starts, as "module load".
    setup: str = ""
    #: Environment variables of the agent and the tasks.
    variables: dict[str, EnvironmentText] = {}
    #: Tasks see the variables of the program that has opened their session; false: those of the
    #: program that has started the head.
    inherit: bool = True
    #: The Python interpreter on compute nodes; auto is the one that runs the head.
    python: str = "auto"


class HttpConfig(_Mapping, frozen=True, kw_only=True):
    """The HTTP tasks."""

    #: How many requests to a host are under way at a time, of all pilots together, by the host's
    #: name: api.example.org: 8.
    per_host: dict[str, Annotated[int, Meta(ge=1)]] = {}

    @property
    def amounts(self) -> Amounts:
        """The requests that may be under way, by the names that they are counted by."""
        return tuple(
            sorted((counted_name(host), most * UNIT) for host, most in self.per_host.items())
        )

    def amounts_of(self, host: str) -> Amounts:
        """Return what one request to a host takes of `amounts`."""
        return ((counted_name(host), UNIT),) if host in self.per_host else ()


def counted_name(host: str) -> str:
    """Return the name by which requests to a host are counted, as of any resource of the site."""
    return "http_" + re.sub(r"[^a-z0-9]+", "_", host)


class Manners(_Mapping, frozen=True, kw_only=True):
    """The manners towards the batch system; each batch system adds keys of its own."""

    #: Time between two queries of the queue.
    poll_interval_s: Seconds = field(default=2.0, name="poll_interval")
    #: The least time between two submissions; auto: twice as long as the last one took, from 0.2 to
    #: 10 s.
    submit_interval_s: AutoSeconds = field(default=None, name="submit_interval")
    #: Each command of the batch system is given up after this time.
    command_limit_s: Seconds = field(default=30.0, name="command_limit")
    #: Job names begin with this word.
    job_name_prefix: str = "pilot"


class PoolConfig(_Mapping, frozen=True, kw_only=True):
    """A pool: pilots of one kind; each batch system adds keys of its own."""

    #: Cores that Pilot uses on each node; auto (all of this machine) on a local site only.
    cores_per_node: Count = 0
    #: Memory that Pilot uses on each node; 0: memory is not counted.
    memory_per_node_mib: Mebibytes = field(default=0, name="memory_per_node")
    #: Tasks that use more memory than they asked for are ended, where memory is counted; false:
    #: they go on.
    enforce_memory: bool = True
    #: GPUs that Pilot uses on each node.
    gpus_per_node: Annotated[int, Meta(ge=0)] = 0
    #: Who has made the GPUs: nvidia, amd, intel, or auto: by the drivers that a node has.
    gpu_vendor: Literal["auto", "nvidia", "amd", "intel"] = "auto"
    #: Tasks without a core (cores=0), which only wait or move data, that run on each node at most.
    coreless_per_node: Annotated[int, Meta(ge=0, le=MOST_CORELESS)] = 32
    #: What else tasks may ask for on each node, by name: an amount (scratch_gib: 400), or a list of
    #: what each one is called, where they are told apart (fpga: [0, 1]).
    resources: dict[str, int | float | list[int | str]] = {}
    #: What tasks may ask of its nodes by constraint, by name: [a100, nvme]. Each has all of these.
    features: list[str] = []
    #: Nodes that are kept even when there is no work.
    min_nodes: Annotated[int, Meta(ge=0)] = 0
    #: Nodes that the pool has at most; auto is 4 (1 on a local site), or what min_nodes and
    #: nodes_per_pilot need.
    max_nodes: Count = 0
    #: Nodes that one pilot has at most; on a local site always 1.
    nodes_per_pilot: Annotated[int, Meta(ge=1)] = 1
    #: Pilots that wait in the queue at most.
    max_pilots_queued: Annotated[int, Meta(ge=1)] = 2
    #: The walltime of a pilot.
    walltime_s: Seconds = field(default=3600.0, name="walltime")
    #: Pilots may have fewer nodes, or a shorter walltime, where the batch system says that they
    #: start sooner so, and the work allows it.
    flexible: bool = True
    #: This long before the end of its walltime the batch system warns a pilot, which learns so of
    #: an end that was moved.
    warning_s: Seconds = field(default=60.0, name="warning")
    #: This long before they are interrupted, near the end of the walltime, tasks are told to save
    #: their state and stop (in a short walltime a quarter of it); auto: as warning.
    stop_notice_s: AutoSeconds = field(default=None, name="stop_notice")
    #: When its job is cancelled or preempted, tasks that look whether they are to stop have so long
    #: to save their state: some seconds less than the batch system has between SIGTERM and SIGKILL.
    stop_grace_s: Seconds = field(default=15.0, name="stop_grace")
    #: The first node of a pilot as its other nodes reach it: auto (its host name), a network
    #: interface (ib0), or a name in which {node} stands for the host name without its domain
    #: ({node}-ib).
    address: str = "auto"
    #: Nodes without work are given back after this time; auto: after about the time that it takes
    #: to get them again, learned from the pilots that came. Where their pilot ends too soon for
    #: what waits, after a second.
    idle_time_s: AutoSeconds = field(default=None, name="idle_time")
    #: What its pilots may use: 500 node-hours, or 20 node-hours per day (or week). When it is used
    #: up no more pilots are asked for, and those that run end with their tasks.
    budget: NodeHours = None

    @property
    def notice_s(self) -> float:
        """The time that tasks have near the end of the walltime, in seconds."""
        return self.warning_s if self.stop_notice_s is None else self.stop_notice_s

    @property
    def shape(self) -> NodeShape:
        """The resources that each node of the pool offers to tasks."""
        others = [
            indexed(name, offered)
            if isinstance(offered, list)
            else Supply(name, parse_amount(offered))
            for name, offered in self.resources.items()
        ]
        return node_shape(
            self.cores_per_node,
            self.memory_per_node_mib,
            self.gpus_per_node,
            [supply for supply in others if supply.amount],
            self.coreless_per_node,
            [*self.features, *required(getattr(self, "constraint", ""))],
        )


class SiteConfig(_Mapping, frozen=True, kw_only=True):
    """A site."""

    #: The site's name; if left out, its file's name (of a site.yaml: its directory's name).
    name: str = ""
    #: The batch system: local (pilots are processes of this machine), slurm, or module:Class of one
    #: that is kept elsewhere.
    batch: str
    #: The pools by name; the first one is the default.
    pools: dict[str, PoolConfig]
    #: What the site has only once, for the tasks of all pilots together, by name: matlab: 20.
    resources: dict[str, int | float] = {}
    #: The endpoints that PymoniK programs name, and that this site is to stand for:
    #: ["http://armonik:5001"].
    endpoints: tuple[str, ...] = ()
    #: The head: the process that keeps the tasks.
    head: HeadConfig = HeadConfig()
    #: The database.
    store: StoreConfig = StoreConfig()
    #: The lease: who may be the head.
    lease: LeaseConfig = LeaseConfig()
    #: Values of tasks.
    data: DataConfig = DataConfig()
    #: How MPI programs and worlds start.
    mpi: MpiConfig = MpiConfig()
    #: What is around the agent and the tasks on compute nodes.
    environment: EnvironmentConfig = EnvironmentConfig()
    #: The HTTP tasks.
    http: HttpConfig = HttpConfig()
    #: Manners towards the batch system.
    manners: Manners = Manners()

    @property
    def kind(self) -> BatchKind:
        """The known facts about the batch system, without asking it."""
        return find_kind(self.batch)

    @property
    def amounts(self) -> Amounts:
        """The amounts of resources that exist once per site; 0 where one is declared as absent."""
        named = {name: parse_amount(amount) for name, amount in self.resources.items()}
        return tuple(sorted([*named.items(), *self.http.amounts]))

    @property
    def once(self) -> frozenset[str]:
        """The names of what exists once per site."""
        return frozenset(name for name, _ in self.amounts)


class _Named(Struct):
    """A site file of which only the batch system is read."""

    batch: str


#: The keys that site files of all batch systems have.
_SECTIONS = {*SiteConfig.__struct_encode_fields__} - {"manners"}


@cache
def site_type(batch: str) -> type[SiteConfig]:
    """Make the type of the site files of a batch system: the common keys and its own.

    The section with the manners has the name of the batch system.

    Raises
    ------
    ValueError
        There is no such batch system.
    """
    kind = find_kind(batch)
    if kind.name in _SECTIONS:
        raise ValueError(f"{batch!r} calls itself {kind.name!r}, which is a key of all site files")
    manners = _with_keys(Manners, kind.manners_keys)
    pools: Any = dict.__class_getitem__((str, pool_type(batch)))
    # Where the batch system has keys without a default, its section has none.
    default = {} if any(each.required for each in fields(manners)) else {"default": manners()}
    head: Any = _extended(HeadConfig, [("job", job_type(batch), job_type(batch)())], HeadConfig)
    own: list[Any] = [
        ("pools", pools),
        ("head", head, head()),
        ("manners", manners, field(**default, name=kind.name)),
    ]
    return _extended(SiteConfig, own, SiteConfig)


@cache
def pool_type(batch: str) -> type[PoolConfig]:
    """Make the type of the pools of a batch system."""
    return _with_keys(PoolConfig, find_kind(batch).pool_keys)


@cache
def job_type(batch: str) -> type[HeadJobConfig]:
    """Make the type of the section about the head's jobs of a batch system."""
    return _with_keys(HeadJobConfig, find_kind(batch).pool_keys)


def _with_keys(base: type[M], keys: type[Struct]) -> type[M]:
    """Make the subclass of a mapping that also has the keys of another struct."""
    more: list[Any] = [
        (each.name, each.type, field(default=each.default, name=each.encode_name))
        for each in fields(keys)
    ]
    return _extended(base, more, keys)


def _extended(base: type[M], more: list[Any], documented_by: type[Struct]) -> type[M]:
    """Make a subclass with more fields, which the source of another class documents."""
    made: Any = defstruct(
        base.__name__,
        more,
        bases=(base,),
        module=__name__,
        namespace={"documented_by": documented_by},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    its_type: type[M] = made
    return its_type


def load_site_file(path: Path) -> SiteConfig:
    """Read and check a site file.

    Raises
    ------
    SiteFileError
        The file is wrong; the message says where (``file:line:``), what, and what to do.
    """
    text = read_yaml_text(path, str(path), error_type=SiteFileError)
    data = read_parsed(path, text)
    if data is not None and (config := _of_plain_data(data, path)):
        return config
    # Late, for the time that each start of a process takes: PyYAML alone is a third of it.
    from pilot.site_configs import yamlfile

    parsed = yamlfile.parse(text, str(path), error_type=SiteFileError)
    named = yamlfile.load(parsed, _Named)
    try:
        its_type = site_type(named.value.batch)
    except ValueError as error:
        raise named.error("batch", message=f"{error}") from None
    file = yamlfile.load(parsed, its_type)
    config = _completed(file.value, path)
    for place, message in _faults(config):
        raise file.error(*place, message=message)
    keep_parsed(path, text, with_mappings(parsed.data, its_type))
    return config


def _of_plain_data(data: Any, path: Path) -> SiteConfig | None:
    """Return the config of a file's plain data; None: it is wrong, and YAML's lines tell where."""
    try:
        its_type = site_type(convert(data, _Named).batch)
        config = _completed(convert(data, its_type, dec_hook=convert_custom), path)
    except (ValueError, MsgspecError):
        return None
    return None if any(_faults(config)) else config


def site_file_schema(batch: str) -> dict[str, Any]:
    """Return the JSON schema of the site files of a batch system, for editors.

    Raises
    ------
    ValueError
        There is no such batch system.
    """
    from pilot.site_configs import yamlfile  # late, as in `load_site_file`

    return yamlfile.json_schema(site_type(batch))


def _completed(config: SiteConfig, path: Path) -> SiteConfig:
    """Return the config with every ``auto`` replaced by its value."""
    local = config.kind.is_local
    pools = {
        name: replace(
            pool,
            cores_per_node=pool.cores_per_node or (len(os.sched_getaffinity(0)) if local else 0),
            max_nodes=pool.max_nodes
            or max(pool.min_nodes, pool.nodes_per_pilot, 1 if local else 4),
        )
        for name, pool in config.pools.items()
    }
    name = config.name or (path.resolve().parent.name if path.stem == "site" else path.stem)
    return replace(config, name=name, pools=pools)


def _faults(config: SiteConfig) -> "Iterator[tuple[YamlPath, str]]":
    """Give the faults that types alone cannot express, each with its path and a message."""
    if not re.fullmatch(_NAME, config.name):
        yield ("name",), f"{config.name!r} is not a valid name; {_NAME_RULE}"
    if not config.pools:
        yield ("pools",), "there is no pool; add one, such as 'main: {}'"
    if config.data.inline_limit_bytes > _MOST_INLINE_BYTES:
        yield (
            ("data", "inline_limit"),
            "it is more than 16M: larger values belong into files, since what travels inline is in "
            "the head's memory and in rows of its database",
        )
    if not 0 <= config.head.port <= 65535:
        yield (
            ("head", "port"),
            f"{config.head.port} is not a TCP port; use 1024 to 65535, or 0 for any",
        )
    for key in ("address", "port"):
        if config.head.transport == "files" and getattr(config.head, key) not in ("auto", 0):
            yield (
                ("head", key),
                "has no meaning with transport: files, with which the head listens to no network; "
                "remove one of the two keys",
            )
    yield from _head_job_faults(config)
    if config.lease.renew_s <= 0 or config.lease.expire_s < 3 * config.lease.renew_s:
        yield (
            ("lease", "expire"),
            f"is {config.lease.expire_s:g} s; make it at least three times 'renew' "
            f"({config.lease.renew_s:g} s), which must be longer than 0 s",
        )
    for key in ("poll_interval", "command_limit"):
        if getattr(config.manners, f"{key}_s") <= 0:
            yield (config.kind.name, key), "must be longer than 0 s"
    if not re.fullmatch(_NAME, config.manners.job_name_prefix):
        yield (
            (config.kind.name, "job_name_prefix"),
            f"{config.manners.job_name_prefix!r} cannot begin a job name; {_NAME_RULE}",
        )
    for place, message in config.kind.manners_faults(config.manners):
        yield (config.kind.name, *place), message
    for section, variables in (
        ("mpi", config.mpi.variables),
        ("environment", config.environment.variables),
    ):
        for variable in variables:
            if not re.fullmatch(_VARIABLE, variable):
                yield (
                    (section, "variables", variable),
                    "is not a valid name of an environment variable; use letters, digits and '_'",
                )
    for name, amount in config.resources.items():
        if reason := _wrong_resource(name, amount):
            yield ("resources", name), reason
    yield from _http_faults(config)
    for name, pool in config.pools.items():
        for place, message in _pool_faults(name, pool, config.kind):
            yield ("pools", name, *place), message
        for resource in pool.resources:
            if resource in config.resources:
                yield (
                    ("pools", name, "resources", resource),
                    f"{resource!r} is a resource of the whole site, too; give one of them another "
                    "name",
                )


def _http_faults(config: SiteConfig) -> "Iterator[tuple[YamlPath, str]]":
    known: dict[str, str] = dict.fromkeys(config.resources, "a resource of the site")
    for host in config.http.per_host:
        name, where = counted_name(host), ("http", "per_host", host)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.:-]{0,56}[a-z0-9])?", host):
            yield where, f"{host!r} is no host; write its name in small letters, without http://"
        elif name in known:
            yield where, f"its requests are counted as {name}, as those of {known[name]} are"
        known[name] = host


def _wrong_resource(name: str, offered: int | float | list[int | str]) -> str:
    """Return the reason why a resource is invalid; empty if it is valid."""
    try:
        check_name(name)
        if not isinstance(offered, list):
            parse_amount(offered)
            return ""
    except ValueError as error:
        return str(error)
    indices = [str(index) for index in offered]
    for index in indices:
        if not re.fullmatch(_INDEX, index):
            return (
                f"{index!r} is not a valid index; use letters, digits and '_', '-', '.', ':', '/'"
            )
        if indices.count(index) > 1:
            return f"the index {index!r} is there twice"
    return "" if indices else "the list is empty; name each one, as in [0, 1], or remove the key"


def _head_job_faults(config: SiteConfig) -> "Iterator[tuple[YamlPath, str]]":
    job = config.head.job
    if job.pool and job.pool not in config.pools:
        yield (
            ("head", "job", "pool"),
            f"there is no pool {job.pool!r}; there are {', '.join(config.pools)}",
        )
    if job.walltime_s <= 0:
        yield ("head", "job", "walltime"), "must be longer than 0 s"
    for place, message in config.kind.pool_faults(job):
        yield ("head", "job", *place), message


def _pool_faults(name: str, pool: PoolConfig, kind: BatchKind) -> "Iterator[tuple[YamlPath, str]]":
    if not re.fullmatch(_NAME, name):
        yield (), f"{name!r} is not a valid name of a pool; {_NAME_RULE}"
    if not pool.cores_per_node:
        hint = f"; {kind.cores_hint}" if kind.cores_hint else ""
        yield ("cores_per_node",), f"must be a number, other than on a local site{hint}"
    for resource, offered in pool.resources.items():
        if reason := _wrong_resource(resource, offered):
            yield ("resources", resource), reason
    for index, feature in enumerate(pool.features):
        if required(feature) != (feature,):
            yield ("features", index), f"{feature!r} is not the name of a feature, such as a100"
    if pool.min_nodes > pool.max_nodes:
        yield ("min_nodes",), f"{pool.min_nodes} is more than max_nodes ({pool.max_nodes})"
    if kind.is_local and pool.nodes_per_pilot != 1:
        yield ("nodes_per_pilot",), "a pilot of a local site has one node; remove this key"
    if pool.nodes_per_pilot > pool.max_nodes:
        yield (
            ("nodes_per_pilot",),
            f"{pool.nodes_per_pilot} is more than max_nodes ({pool.max_nodes})",
        )
    if pool.walltime_s <= pool.warning_s:
        yield (
            ("walltime",),
            f"is {pool.walltime_s:g} s, so a pilot would be warned of its end "
            f"({pool.warning_s:g} s before) at once; make it longer, or the key 'warning' shorter",
        )
    yield from kind.pool_faults(pool)
