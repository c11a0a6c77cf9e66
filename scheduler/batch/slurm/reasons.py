"""Slurm's reasons why a job waits: what they mean, and whether it will ever start. Pure."""

from __future__ import annotations

import re

from pilot.scheduler.batch.base import Stuck

#: The commonest reasons, in words; others speak for themselves.
_WORDS = {
    "Resources": "not enough free nodes",
    "Priority": "jobs of higher priority go first",
    "Dependency": "another job has to end first",
    "BeginTime": "it may not start yet; a job that was requeued is held back for a while",
    "JobHeldUser": "it is held; `scontrol release {job}` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "launch_failed_requeued_held": "its start failed on a node, and Slurm holds it",
    "job_requeued_in_held_state": "it was requeued, and is held",
    "JobHoldMaxRequeue": "it was requeued too often, and Slurm holds it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is closed",
    "PartitionTimeLimit": "its walltime is longer than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "BadConstraints": "no node is as it asks for",
    "DependencyNeverSatisfied": "the job that has to end first cannot end as it must",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its quality of service is not valid",
    "ReqNodeNotAvail": "nodes that it could have are down, drained or reserved",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation has been deleted",
    "Licenses": "no license is free",
}
_LIMIT = re.compile(r"(QOS|Assoc|Max)\w*")
#: The limits that a single job is beyond, whatever else runs.
_BEYOND = re.compile(r"(QOS|Assoc)(Max|Min)\w*(PerJob|WallDuration|TimeLimit)\w*|QOSTimeLimit")
_HELD = {
    "JobHeldUser",
    "launch_failed_requeued_held",
    "job_requeued_in_held_state",
    "JobHoldMaxRequeue",
}
_HELD_BY_ADMIN = "JobHeldAdmin"
_HELD_STATES = {"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_NEVER = {
    "AccountNotAllowed",
    "BadConstraints",
    "DeadLine",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "ReservationDeleted",
}


def stuck_by(state: str, reason: str) -> Stuck | None:
    """Return what keeps a queued job from ever starting by itself; None: it only waits."""
    word = _word(reason)
    if word == _HELD_BY_ADMIN:
        return Stuck.ADMIN
    if word in _HELD or state in _HELD_STATES:
        return Stuck.HELD
    if word in _NEVER or _BEYOND.fullmatch(word):
        return Stuck.NEVER
    return Stuck.LIMIT if _LIMIT.fullmatch(word) else None


def is_held_back(state: str, reason: str) -> bool:
    """Tell whether a queued job may only start later: Slurm holds what it has requeued back."""
    return _word(reason) == "BeginTime" and stuck_by(state, reason) is None


def meaning_of(reason: str, job_id: str) -> str:
    """Return the meaning of a reason; empty if it speaks for itself."""
    word = _word(reason)
    if word in _WORDS:
        return _WORDS[word].format(job=job_id)
    if _BEYOND.fullmatch(word):
        return "one such job is beyond a limit of your account, partition or quality of service"
    if _LIMIT.fullmatch(word):
        return "a limit of your account, partition or quality of service"
    return ""


def _word(reason: str) -> str:
    """Return the word of a reason without its details; old releases write spaces in it."""
    return re.sub(r"\s+", "_", reason.partition(",")[0].strip())
