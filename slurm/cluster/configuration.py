"""The text of slurm.conf, slurmdbd.conf and the database's first statements."""

from __future__ import annotations

import os
import pwd
import socket

from settings import Description, Layout

CLUSTER_NAME = "rehearsal"
DATABASE_USER = "slurm"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"
"""Nothing uses cgroups, but slurmd loads a plugin: v2's wants systemd, and choosing one a mount."""


def slurm_conf(description: Description, layout: Layout) -> str:
    """Return slurm.conf: quick to schedule, requeue and give up, and nothing outside the folder."""
    settings, ports, user = description.settings, description.ports, _user()
    plain = settings.flavour == "plain"
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={socket.gethostname().split('.')[0]}(127.0.0.1)",
        f"SlurmctldPort={ports['slurmctld']}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # A requeued job doesn't start before its old credential has expired.
        f"AuthInfo=socket={layout.munge_socket},cred_expire=10",
        f"StateSaveLocation={layout.state}",
        f"SlurmdSpoolDir={layout.spool}/%n",
        f"SlurmctldPidFile={layout.folder}/slurmctld.pid",
        f"SlurmdPidFile={layout.folder}/%n.pid",
        f"SlurmdLogFile={layout.logs}/%n.log",
        "MailProg=/bin/true",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        # So that a job's MaxRSS is known to sacct.
        f"JobAcctGatherType=jobacct_gather/{'none' if plain else 'linux'}",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        f"DefMemPerCPU={max(1, settings.memory_per_node_mb // settings.cpus_per_node)}",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "SlurmctldTimeout=30",
        "SlurmdTimeout=20",
        "KillWait=5",
        "CompleteWait=0",
        f"MinJobAge={2 if plain else 300}",
        f"MaxArraySize={settings.max_array_size}",
        f"JobRequeue={0 if plain else 1}",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,"
        "bf_interval=2",
        "PriorityType=priority/basic",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",
        *_accounting(description, layout),
        *_nodes(description),
        f"PartitionName=low Nodes=ALL Default=YES State=UP MaxTime=INFINITE PriorityTier=1 "
        f"PreemptMode=REQUEUE GraceTime={settings.grace_s}",
        "PartitionName=high Nodes=ALL State=UP MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _accounting(description: Description, layout: Layout) -> list[str]:
    if description.settings.flavour == "plain":
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={description.ports['slurmdbd']}",
        f"AccountingStoragePass={layout.munge_socket}",
    ]


def _nodes(description: Description) -> list[str]:
    """All nodes are this machine: their names needn't resolve, since NodeAddr is given."""
    settings = description.settings
    return [
        f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={description.ports[name]} "
        f"CPUs={settings.cpus_per_node} RealMemory={settings.memory_per_node_mb} State=UNKNOWN"
        for name in settings.node_names
    ]


def slurmdbd_conf(description: Description, layout: Layout) -> str:
    """Return slurmdbd.conf; it holds the database's password."""
    lines = [
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={description.ports['slurmdbd']}",
        f"SlurmUser={_user()}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.munge_socket}",
        f"PidFile={layout.folder}/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={description.ports['mariadbd']}",
        f"StorageUser={DATABASE_USER}",
        f"StoragePass={description.password}",
        "StorageLoc=slurm_acct_db",
    ]
    return "\n".join(lines) + "\n"


def first_statements(description: Description) -> str:
    """Return the SQL that lets slurmdbd in; the server runs it at each start."""
    account = f"'{DATABASE_USER}'@'127.0.0.1'"
    return (
        f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{description.password}';\n"
        f"GRANT ALL PRIVILEGES ON *.* TO {account};\n"
    )
