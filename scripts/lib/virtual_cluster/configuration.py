"""The text of every configuration file of the cluster. Pure functions of the plan.

Invariant: nothing here refers to a file outside the state directory, so a Slurm, Munge or MariaDB
which the machine already runs is neither used nor touched.
"""

from .plan import MEMORY_PER_NODE_MIB, SLURMD_PORT, Plan


def slurm_conf(plan: Plan) -> str:
    """Return slurm.conf: fast to notice lost nodes, fast to schedule, faithful in the rest."""
    layout = plan.layout
    nodes = f"n[1-{plan.shape.nodes}]" if plan.shape.nodes > 1 else "n1"
    node_lines = "\n".join(
        f"NodeName={node.name} NodeAddr={node.address} Sockets=1 CoresPerSocket={plan.shape.cpus}"
        f" ThreadsPerCore=1 RealMemory={MEMORY_PER_NODE_MIB} State=UNKNOWN"
        for node in plan.nodes
    )
    return f"""\
# Written by virtual-cluster.
ClusterName=pilot
SlurmctldHost={plan.login}({plan.login_address})
SlurmUser=root
SlurmdUser=root
SlurmdPort={SLURMD_PORT}
# The controller listens on the cluster's own network only. (srun must not: it would listen at the
# address that the login node's own name has there, which is often a loopback one.)
CommunicationParameters=NoCtldInAddrAny

AuthType=auth/munge
# A requeued job starts again only after its credential has expired: cred_expire seconds.
AuthInfo=socket={layout.munge_socket},cred_expire=10

# Nodes say they have what is written here, whatever the machine has.
SlurmdParameters=config_overrides
ProctrackType=proctrack/{plan.proctrack}
TaskPlugin=task/none
MpiDefault=pmix
ReturnToService=2
# Of four digits, so that an id is no other number of a test.
FirstJobId=1001

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={MEMORY_PER_NODE_MIB // plan.shape.cpus}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

# A node that does not answer is DOWN after 15 to 20 s. Most of that goes into trying to connect,
# which the two other values bound; with their defaults it would be 30 s.
SlurmdTimeout=10
TCPTimeout=1
MessageTimeout=5
SlurmctldTimeout=30
# From SIGTERM to SIGKILL, for preempted jobs too. (The partitions have no GraceTime: its end is
# looked at every 30 s only, and a job whose script ends within it has failed and isn't requeued.)
KillWait=5
InactiveLimit=0
MinJobAge=300

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={plan.login_address}
AccountingStoragePort={plan.dbd_port}
AccountingStoragePass={layout.munge_socket}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5

StateSaveLocation={layout.controller_state}
SlurmctldPidFile={layout.root}/slurmctld.pid
SlurmctldLogFile={layout.logs}/slurmctld.log
SlurmdSpoolDir={layout.node_disk("%n")}/spool
SlurmdPidFile={layout.node_disk("%n")}/slurmd.pid
SlurmdLogFile={layout.logs}/slurmd-%n.log

{node_lines}
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP \
PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={nodes} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


def slurmdbd_conf(plan: Plan) -> str:
    """Return slurmdbd.conf. MariaDB knows root by its Unix socket; so there is no password."""
    layout = plan.layout
    return f"""\
# Written by virtual-cluster.
DbdHost={plan.login}
DbdAddr={plan.login_address}
DbdPort={plan.dbd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={layout.root}/slurmdbd.pid
LogFile={layout.logs}/slurmdbd.log
"""


def cgroup_conf(plan: Plan) -> str:
    """Return cgroup.conf: cgroups are used to find a job's processes, and confine nothing."""
    return f"""\
# Written by virtual-cluster.
# Named, so that it does not depend on what this machine has.
CgroupPlugin=cgroup/v1
CgroupMountpoint={plan.layout.cgroups}
ConstrainCores=no
ConstrainRAMSpace=no
"""


def mariadb_conf(plan: Plan) -> str:
    """Return the configuration of MariaDB: reachable by its Unix socket only; not durable."""
    layout = plan.layout
    return f"""\
# Written by virtual-cluster.
[mariadbd]
user=mysql
datadir={layout.database}/data
socket={layout.database_socket}
pid-file={layout.database}/pid
log-error={layout.logs}/mariadb.log
skip-networking
skip-name-resolve
# Slurmdbd asks for these.
innodb_buffer_pool_size=128M
innodb_log_file_size=64M
innodb_lock_wait_timeout=900
max_allowed_packet=16M
# The database ends with the cluster: it need not survive a power cut.
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
"""


def hosts(plan: Plan) -> str:
    """Return the nodes' /etc/hosts."""
    lines = [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        f"{plan.login_address} {plan.login}",
        *(f"{node.address} {node.name}" for node in plan.nodes),
    ]
    return "\n".join(lines) + "\n"
