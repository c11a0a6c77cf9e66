"""The plan of the cluster: paths, names and addresses. Pure; touches nothing.

Invariants:

- Everything on disk is under one state directory.
- Everything in the kernel that has a name (bridge, links) is named after the state directory, so
  clusters of different state directories do not meet, and ``down`` finds what belongs to its own.
- The plan of a running cluster is in ``cluster.json``, which is written before anything is started.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from .errors import ClusterError

#: The process which is no node: it keeps the cluster's daemons (Slurm's controller, ...).
SERVICES = "services"

MEMORY_PER_NODE_MIB = 4000
SLURMD_PORT = 6818
MAX_NODES = 64
MAX_CPUS_PER_NODE = 256

# One /24 of this range is taken. It is in nobody's default (Docker, libvirt, LXD, Kubernetes).
_RANGE = IPv4Network("10.203.0.0/16")
_LOGIN_HOST_NUMBER = 1
_FIRST_NODE_HOST_NUMBER = 11


@dataclass(frozen=True)
class Shape:
    """The size of the cluster."""

    #: Number of nodes.
    nodes: int
    #: Cores that each node says it has; the machine may have fewer.
    cpus: int

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise ClusterError(f"--nodes must be 1 to {MAX_NODES}, not {self.nodes}")
        if not 1 <= self.cpus <= MAX_CPUS_PER_NODE:
            raise ClusterError(f"--cpus must be 1 to {MAX_CPUS_PER_NODE}, not {self.cpus}")

    def __str__(self) -> str:
        return f"{self.nodes} nodes x {self.cpus} cpus"


@dataclass(frozen=True)
class Layout:
    """The layout of the state directory."""

    #: The state directory.
    root: Path

    @property
    def plan_file(self) -> Path:
        return self.root / "cluster.json"

    @property
    def shared(self) -> Path:
        """The directory that plays the parallel file system."""
        return self.root / "shared"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def slurm(self) -> Path:
        """The link to the Slurm that the cluster is made of; there is none if it is the
        distribution's."""
        return self.root / "slurm"

    @property
    def hosts(self) -> Path:
        return self.etc / "hosts"

    @property
    def cgroups(self) -> Path:
        """The directory in which Slurm looks for cgroup hierarchies; each node mounts its own part
        there."""
        return self.root / "cgroup"

    @property
    def freezer(self) -> Path:
        return self.cgroups / "freezer"

    @property
    def mariadb_conf(self) -> Path:
        return self.etc / "mariadb.cnf"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def controller_state(self) -> Path:
        return self.root / "controller"

    @property
    def munge(self) -> Path:
        """Munge's own directory: key, socket, seed."""
        return self.root / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.munge / "socket"

    @property
    def database(self) -> Path:
        """MariaDB's own directory: data, socket."""
        return self.root / "database"

    @property
    def database_socket(self) -> Path:
        return self.database / "socket"

    def node_disk(self, name: str) -> Path:
        """Return the directory of a node's private files, lost when its power is cut: tmp,
        spool."""
        return self.root / "nodes" / name

    @property
    def tag(self) -> str:
        """The prefix of the names of this cluster's links."""
        return "pvc" + hashlib.sha256(str(self.root).encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Node:
    """A node and its end of the network."""

    name: str
    address: IPv4Address
    #: Fixed, so that a node which was rebooted is not searched for under its former one.
    mac: str
    #: The bridge's end of the node's link (the node's own end is called eth0).
    link: str


@dataclass(frozen=True)
class Plan:
    """The plan of a cluster, by which it is started, found and ended."""

    layout: Layout
    shape: Shape
    subnet: IPv4Network
    #: This machine's short host name: it is the login node.
    login: str
    #: Slurm's way to keep track of processes: ``cgroup``, or ``pgid`` where it can't have that.
    proctrack: str

    @property
    def login_address(self) -> IPv4Address:
        return self.subnet[_LOGIN_HOST_NUMBER]

    @property
    def bridge(self) -> str:
        return self.layout.tag

    @property
    def dbd_port(self) -> int:
        """The port of slurmdbd, which listens on every address: clusters need different ports."""
        return 21000 + self.subnet.network_address.packed[2]

    @property
    def nodes(self) -> tuple[Node, ...]:
        third = self.subnet.network_address.packed[2]
        return tuple(
            Node(
                name=f"n{number}",
                address=self.subnet[_FIRST_NODE_HOST_NUMBER + number - 1],
                mac=f"02:70:76:63:{third:02x}:{number:02x}",
                link=f"{self.layout.tag}-n{number}",
            )
            for number in range(1, self.shape.nodes + 1)
        )

    def node(self, name: str) -> Node:
        """Return the node called `name`.

        Raises
        ------
        ClusterError
            When the cluster has no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"no node {name!r}; the nodes are n1 to n{self.shape.nodes}")

    def to_json(self) -> str:
        content = {
            "nodes": self.shape.nodes,
            "cpus": self.shape.cpus,
            "subnet": str(self.subnet),
            "login": self.login,
            "proctrack": self.proctrack,
        }
        return json.dumps(content, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, layout: Layout) -> "Plan":
        content = json.loads(text)
        return Plan(
            layout=layout,
            shape=Shape(nodes=content["nodes"], cpus=content["cpus"]),
            subnet=IPv4Network(content["subnet"]),
            login=content["login"],
            proctrack=content.get("proctrack", "cgroup"),
        )


def choose_subnet(taken: Iterable[IPv4Network], layout: Layout) -> IPv4Network:
    """Choose a /24 that overlaps none of the `taken` networks.

    The search begins at a place given by the state directory, so a cluster gets the same addresses
    each time.

    Raises
    ------
    ClusterError
        When every candidate is taken.
    """
    taken = list(taken)
    candidates = list(_RANGE.subnets(new_prefix=24))
    start = int(layout.tag[-2:], 16)
    for subnet in candidates[start:] + candidates[:start]:
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise ClusterError(f"this machine has routes into every part of {_RANGE}; no subnet is free")
