"""The commands: up, down, status, cut, join, kill, controller.

Responsible for the order of things. Invariants:

- A command that changes the cluster holds a lock; no two of them work at the same time.
- ``up`` either ends with a cluster in which every node takes jobs, or removes what it has made.
- ``down`` works from any state, also one that an interrupted ``up`` or a kill left.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import cgroups, configuration, machines, network, packages, slurm
from .errors import ClusterDownError, ClusterError, UnfitMachineError, wait_until
from .machines import Machine
from .plan import SERVICES, SLURMD_PORT, Layout, Node, Plan, Shape, choose_subnet

STATE_VARIABLE = "PILOT_VIRTUAL_CLUSTER"
_DEFAULT_STATE = "/var/lib/pilot-virtual-cluster"
_DAEMON_DEADLINE_S = 60.0
_NODE_DEADLINE_S = 60.0
_DAEMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


#: The actions on the controller that are signals.
CONTROLLER_SIGNALS = {
    "stop": signal.SIGSTOP,
    "continue": signal.SIGCONT,
    "kill": signal.SIGKILL,
}


@dataclass(frozen=True)
class NodeStatus:
    """The status of one node."""

    name: str
    address: str
    #: Whether its link to the network is up.
    link: bool
    slurmd_pid: int | None
    #: Slurm's word for its state, or ``unknown``.
    state: str
    partitions: tuple[str, ...]
    #: Whether Slurm can run jobs on it.
    usable: bool


@dataclass(frozen=True)
class Status:
    """The status of the cluster."""

    up: bool
    #: What is not as it should be; none for a healthy cluster.
    problems: tuple[str, ...]
    state_directory: str
    shape: Shape | None = None
    #: The version of Slurm that answers.
    slurm_version: str | None = None
    #: Where this Slurm was installed; None for the distribution's.
    slurm_prefix: str | None = None
    slurm_conf: str | None = None
    shared_directory: str | None = None
    login: str | None = None
    login_address: str | None = None
    nodes: tuple[NodeStatus, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.up and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"healthy": self.healthy, **asdict(self)}


def layout_from_environment() -> Layout:
    """Return the layout of the state directory that the environment names, or of the default.

    Raises
    ------
    ClusterError
        When the state directory is in a place that the nodes don't share.
    """
    root = Path(os.environ.get(STATE_VARIABLE) or _DEFAULT_STATE).resolve()
    for private in (Path("/tmp"), Path("/dev/shm"), Path("/proc"), Path("/etc/slurm")):
        if root == private or private in root.parents:
            raise ClusterError(
                f"{STATE_VARIABLE} is {root}, but every node has its own {private}: choose a "
                "directory elsewhere"
            )
    return Layout(root)


def up(layout: Layout, shape: Shape, prefix: Path | None = None) -> None:
    """Bring up a cluster of `shape`; return when every node takes jobs.

    Does nothing when it is up already.

    Parameters
    ----------
    layout, shape
        Where it is, and how large.
    prefix
        Where the Slurm is installed that it is made of; None for the distribution's.

    Raises
    ------
    UnfitMachineError
        When this machine can't have a virtual cluster.
    ClusterError
        When a cluster of another shape or with faults is up, or this one does not come up.
    """
    _require_root()
    with _lock(layout):
        if _is_up_already(layout, shape, prefix):
            _say(f"already up: {shape}")
            return
        _require_packages(with_slurm=prefix is None)
        _require_namespaces()
        _remove(layout)  # what a crash of this machine may have left
        plan = Plan(
            layout=layout,
            shape=shape,
            subnet=choose_subnet(network.taken_networks(), layout),
            login=socket.gethostname().split(".")[0],
            proctrack="cgroup" if cgroups.available() else "pgid",
        )
        try:
            _create(plan, prefix)
        except BaseException as error:
            logs = _ends_of_logs(layout)
            _remove(layout)
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}\nEverything was removed again.{logs}") from error
            raise


def down(layout: Layout) -> None:
    """End every process of the cluster and remove all of it. Do nothing if it isn't up."""
    _require_root()
    with _lock(layout):
        _remove(layout)
        _say(f"down: {layout.root}")


def status(layout: Layout) -> Status:
    """Look at the cluster without changing anything."""
    _require_root()
    running = machines.find(layout)
    if not (running and layout.plan_file.exists()):
        return Status(up=False, problems=(), state_directory=str(layout.root))
    plan = _plan(layout)
    problems = []
    reports: dict[str, slurm.NodeReport] = {}
    version = None
    if SERVICES not in running:
        problems.append("the daemons of the login node are dead")
    else:
        try:
            reports = slurm.nodes(layout)
            version = slurm.version(layout)
        except ClusterError as error:
            problems.append(f"slurmctld does not answer: {error}")
        if not slurm.database_daemon_answers(layout):
            problems.append("slurmdbd does not answer")
    nodes = tuple(_node_status(node, running.get(node.name), reports) for node in plan.nodes)
    problems += [problem for node in nodes for problem in _node_problems(node)]
    return Status(
        up=True,
        problems=tuple(problems),
        state_directory=str(layout.root),
        shape=plan.shape,
        slurm_version=version,
        slurm_prefix=_prefix(layout),
        slurm_conf=str(layout.slurm_conf),
        shared_directory=str(layout.shared),
        login=plan.login,
        login_address=str(plan.login_address),
        nodes=nodes,
    )


def cut(layout: Layout, name: str) -> None:
    """Cut `name` off the network. Its processes live on."""
    with _changing(layout) as plan:
        node = plan.node(name)
        _machine(layout, node)
        network.set_link(node, "down")


def kill(layout: Layout, name: str) -> None:
    """Cut the power of `name`: all its processes end at once, and nobody is told."""
    with _changing(layout) as plan:
        node = plan.node(name)
        machine = _machine(layout, node)
        # First the link: no connection of a dying process may say goodbye.
        network.set_link(node, "down")
        machine.kill()
        network.remove_link(node)


def join(layout: Layout, name: str) -> None:
    """Bring `name` back, whatever was done to it; return when Slurm can run jobs on it."""
    with _changing(layout) as plan:
        node = plan.node(name)
        machine = machines.find(layout).get(name)
        if machine is None:
            if slurm.nodes(layout)[name].usable:
                # It comes back sooner than Slurm misses it: its jobs would be believed to go on.
                slurm.set_down(layout, name, "power cut")
            network.remove_link(node)
            _boot(plan, node)
        else:
            network.set_link(node, "up")
            slurmd_pid = machine.pid_of("slurmd")
            if slurmd_pid is None:
                _start_slurmd(plan, node, machine)
            else:
                # Makes slurmd register now; else the controller finds it when it next looks for it.
                os.kill(slurmd_pid, signal.SIGHUP)
        _wait_until_usable(plan, (node,))


def controller(layout: Layout, action: str) -> None:
    """Do something to ``slurmctld``: ``stop`` (it hangs), ``continue``, ``kill``, or ``start``.

    After ``start`` it answers; one that lives is left alone.

    Raises
    ------
    ClusterError
        When none is there for the action.
    """
    with _changing(layout):
        services = machines.find(layout).get(SERVICES)
        if services is None:
            raise ClusterError("the daemons of the login node are dead")
        pid = services.pid_of("slurmctld")
        if action == "start":
            if pid is None:
                # One that was killed young has not written all of its state yet; from 25.11 on it
                # does not start without that, unless it is told to (-i).
                service = _start_service(services, layout, ["slurmctld", "-D", "-i"])
                _wait_for(service, lambda: slurm.controller_answers(layout))
            return
        if pid is None:
            raise ClusterError("slurmctld does not run")
        os.kill(pid, CONTROLLER_SIGNALS[action])


def environment(layout: Layout) -> dict[str, str]:
    """Return the variables by which commands find the running cluster.

    Raises
    ------
    ClusterDownError
        When none is up.
    """
    _require_up(layout)
    return slurm.environment(layout)


def command_on(layout: Layout, name: str, command: list[str]) -> list[str]:
    """Return the command line that runs `command` on the node `name`, in the present directory."""
    _require_root()
    return _machine(layout, _require_up(layout).node(name)).inside(command, str(Path.cwd()))


# Bringing up


def _create(plan: Plan, prefix: Path | None) -> None:
    layout = plan.layout
    _make_directories(plan)
    if prefix:
        layout.slurm.symlink_to(prefix)
    _write_configuration(plan)
    network.create_bridge(plan)
    services = machines.start(layout, SERVICES, is_node=False)

    _say("starting munge and the database")
    _create_munge_key(layout)
    munged = _start_service(services, layout, _munged(layout), user="munge")
    _create_database(services, layout)
    mariadbd = _start_service(services, layout, _mariadbd(layout), user="mysql")
    _wait_for(munged, layout.munge_socket.exists)
    _wait_for(mariadbd, layout.database_socket.exists)

    _say("starting Slurm")
    slurmdbd = _start_service(services, layout, ["slurmdbd", "-D"])
    _wait_for(slurmdbd, lambda: slurm.database_daemon_answers(layout))
    slurm.register_account(layout)
    slurmctld = _start_service(services, layout, ["slurmctld", "-D"])
    for node in plan.nodes:
        _boot(plan, node)
    _wait_for(slurmctld, lambda: slurm.controller_answers(layout))
    _wait_until_usable(plan, plan.nodes)
    _say(f"up: {plan.shape}, Slurm {slurm.version(layout)}")


def _make_directories(plan: Plan) -> None:
    layout = plan.layout
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.plan_file.write_text(plan.to_json())
    for directory in (layout.etc, layout.logs, layout.controller_state, layout.shared):
        directory.mkdir()
    if plan.proctrack == "cgroup":
        layout.freezer.mkdir(parents=True)
    layout.shared.chmod(0o1777)
    layout.logs.chmod(0o1777)  # each daemon writes there under its own user
    for directory, user in ((layout.munge, "munge"), (layout.database, "mysql")):
        directory.mkdir()
        shutil.chown(directory, user, user)


def _write_configuration(plan: Plan) -> None:
    layout = plan.layout
    layout.slurm_conf.write_text(configuration.slurm_conf(plan))
    layout.hosts.write_text(configuration.hosts(plan))
    layout.mariadb_conf.write_text(configuration.mariadb_conf(plan))
    (layout.etc / "cgroup.conf").write_text(configuration.cgroup_conf(plan))
    slurmdbd_conf = layout.etc / "slurmdbd.conf"
    slurmdbd_conf.write_text(configuration.slurmdbd_conf(plan))
    slurmdbd_conf.chmod(0o600)  # slurmdbd refuses any other


def _create_munge_key(layout: Layout) -> None:
    key = layout.munge / "key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(128))
    shutil.chown(key, "munge", "munge")


def _create_database(services: Machine, layout: Layout) -> None:
    command = [
        "mariadb-install-db",
        f"--defaults-file={layout.mariadb_conf}",
        "--skip-test-db",
        "--auth-root-authentication-method=socket",
    ]
    answer = subprocess.run(
        services.inside(command),
        env=_daemon_environment(layout),  # not the caller's, whose TMPDIR may be closed to mysql
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise ClusterError(f"{' '.join(command)} failed: {answer.stdout}{answer.stderr}")


def _munged(layout: Layout) -> list[str]:
    return [
        "munged",
        "--foreground",
        f"--socket={layout.munge_socket}",
        f"--key-file={layout.munge}/key",
        f"--seed-file={layout.munge}/seed",
        f"--pid-file={layout.munge}/pid",
    ]


def _mariadbd(layout: Layout) -> list[str]:
    return ["mariadbd", f"--defaults-file={layout.mariadb_conf}"]


@dataclass(frozen=True)
class _Service:
    name: str
    machine: Machine
    inner_pid: int

    def lives(self) -> bool:
        return self.machine.runs(self.inner_pid)


def _start_service(
    machine: Machine, layout: Layout, command: list[str], user: str = "root"
) -> _Service:
    name = command[0]
    log = layout.logs / f"{name}.out"
    inner_pid = machine.start_daemon(command, log, _daemon_environment(layout), user)
    return _Service(name, machine, inner_pid)


def _daemon_environment(layout: Layout) -> dict[str, str]:
    return {
        "PATH": slurm.search_path(layout, _DAEMON_PATH),
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(layout.slurm_conf),
        # How slurmdbd finds MariaDB: its configuration has no word for the socket.
        "MYSQL_UNIX_PORT": str(layout.database_socket),
    }


def _boot(plan: Plan, node: Node) -> None:
    """Start `node` as after a power cut: with empty private disks."""
    disk = plan.layout.node_disk(node.name)
    shutil.rmtree(disk, ignore_errors=True)
    for directory in ("tmp", "spool"):
        (disk / directory).mkdir(parents=True)
    (disk / "tmp").chmod(0o1777)
    machine = machines.start(plan.layout, node.name, is_node=True)
    network.attach(plan, node, machine)
    _start_slurmd(plan, node, machine, "-b")  # tell the controller that the node was rebooted


def _start_slurmd(plan: Plan, node: Node, machine: Machine, *options: str) -> None:
    machine.start_daemon(
        ["slurmd", "-D", "-N", node.name, *options],
        plan.layout.logs / f"slurmd-{node.name}.out",
        _daemon_environment(plan.layout),
    )


# Waiting


def _wait_for(service: _Service, answers: Callable[[], bool]) -> None:
    what = f"{service.name} answers"
    wait_until(lambda: answers() or not service.lives(), _DAEMON_DEADLINE_S, what)
    if not service.lives():
        raise ClusterError(f"{service.name} did not stay up")


def _wait_until_usable(plan: Plan, nodes: tuple[Node, ...]) -> None:
    resumed = set()

    def all_usable() -> bool:
        reports = slurm.nodes(plan.layout)
        for node in nodes:
            report = reports[node.name]
            if report.drained and node.name not in resumed:
                slurm.resume(plan.layout, node.name)
                resumed.add(node.name)
        return all(reports[node.name].usable and _slurmd_listens(node) for node in nodes)

    names = ", ".join(node.name for node in nodes)
    wait_until(all_usable, _NODE_DEADLINE_S, f"Slurm can run jobs on {names}")


def _slurmd_listens(node: Node) -> bool:
    try:
        with socket.create_connection((str(node.address), SLURMD_PORT), timeout=1.0):
            return True
    except OSError:
        return False


# Looking


def _is_up_already(layout: Layout, shape: Shape, prefix: Path | None) -> bool:
    """Tell whether a healthy cluster of `shape`, made of the Slurm in `prefix`, is up.

    Raises
    ------
    ClusterError
        When one is up that is not so.
    """
    found = status(layout)
    if not found.up:
        return False
    if found.shape != shape:
        raise ClusterError(
            f"a cluster of {found.shape} is up, which is not {shape}: take it down first"
        )
    if found.slurm_prefix != (prefix and str(prefix)):
        raise ClusterError(
            f"the cluster that is up has Slurm {found.slurm_version}, of "
            f"{found.slurm_prefix or 'the distribution'}: take it down first"
        )
    if found.problems:
        raise ClusterError(
            "the cluster is up, but not as it should be: "
            + "; ".join(found.problems)
            + ". Join the nodes again, or take it down and up."
        )
    return True


def _prefix(layout: Layout) -> str | None:
    return str(layout.slurm.readlink()) if layout.slurm.is_symlink() else None


def _node_status(
    node: Node, machine: Machine | None, reports: dict[str, slurm.NodeReport]
) -> NodeStatus:
    report = reports.get(node.name)
    return NodeStatus(
        name=node.name,
        address=str(node.address),
        link=network.link_is_up(node),
        slurmd_pid=machine.pid_of("slurmd") if machine else None,
        state=report.state if report else "unknown",
        partitions=report.partitions if report else (),
        usable=report.usable if report else False,
    )


def _node_problems(node: NodeStatus) -> Iterator[str]:
    if node.slurmd_pid is None:
        yield f"{node.name} has no slurmd"
    if not node.link:
        yield f"the link of {node.name} is down"
    if not node.usable:
        yield f"Slurm can't use {node.name}: it is {node.state}"


def _ends_of_logs(layout: Layout, lines: int = 8) -> str:
    text = ""
    for log in sorted(layout.logs.glob("*")):
        end = log.read_text(errors="replace").splitlines()[-lines:]
        if end:
            text += f"\n--- end of {log.name}\n" + "\n".join(end)
    return text


# Taking down


def _remove(layout: Layout) -> None:
    for machine in machines.find(layout).values():
        machine.kill()
    cgroups.remove_all(layout)
    if shutil.which("ip"):
        network.remove_all(layout)
    if not layout.root.exists():
        return
    content = set(layout.root.iterdir())
    if content and layout.plan_file not in content:
        raise ClusterError(
            f"{layout.root} is not empty and holds no virtual cluster: it is left as it is"
        )
    # The plan goes last: as long as it is there, an interrupted removal can be taken up again.
    try:
        for entry in content - {layout.plan_file}:
            is_link = entry.is_symlink()  # to a Slurm, which stays
            shutil.rmtree(entry) if entry.is_dir() and not is_link else entry.unlink()
        layout.plan_file.unlink(missing_ok=True)
        layout.root.rmdir()
    except OSError as error:
        raise ClusterError(
            f"could not remove {layout.root}, perhaps as somebody writes there: {error}"
        ) from error


# Conditions


def _require_root() -> None:
    if os.geteuid() != 0:
        raise UnfitMachineError(
            "the virtual cluster needs root (for namespaces, addresses, daemons)"
        )


def _require_packages(*, with_slurm: bool) -> None:
    missing = packages.missing_packages(with_slurm=with_slurm)
    if missing:
        _say(f"installing {', '.join(missing)}")
        packages.install(missing)


def _require_namespaces() -> None:
    attempt = subprocess.run(
        [
            "unshare",
            "--net",
            "--uts",
            "--ipc",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "true",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if attempt.returncode != 0:
        raise UnfitMachineError(
            "this machine does not let root make network, mount and process namespaces (an "
            f"unprivileged container?): {attempt.stderr.strip()}"
        )


def _require_up(layout: Layout) -> Plan:
    if not (machines.find(layout) and layout.plan_file.exists()):
        raise ClusterDownError("no virtual cluster is up; `scripts/virtual-cluster up` starts one")
    return _plan(layout)


def _plan(layout: Layout) -> Plan:
    return Plan.from_json(layout.plan_file.read_text(), layout)


def _machine(layout: Layout, node: Node) -> Machine:
    machine = machines.find(layout).get(node.name)
    if machine is None:
        raise ClusterError(f"{node.name} is dead; `scripts/virtual-cluster join` brings it back")
    return machine


@contextlib.contextmanager
def _changing(layout: Layout) -> Iterator[Plan]:
    _require_root()
    with _lock(layout):
        yield _require_up(layout)


@contextlib.contextmanager
def _lock(layout: Layout) -> Iterator[None]:
    """Hold the lock of the cluster; wait for whoever has it.

    What is locked is the parent of the state directory: the state directory comes and goes, and a
    lock file of its own would be left behind.
    """
    parent = layout.root.parent
    parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another virtual-cluster command to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
