"""The GPUs of a node as its job was given them, and the variables that show them to tasks. Pure.

A batch system says in a variable which GPUs a job has: by numbers, which need not begin with 0, or
by names. Pilot counts from 0: its GPU number i is the i-th entry there. A task sees its own by the
same variable, and no task sees what it has not asked for.

Invariants
----------
- A task has one variable of one vendor. AMD's libraries read several, each as numbers among what
  the one before it has left, so two of them would hide GPUs from each other.
- Where tasks may ask for GPUs, one that has none sees none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

#: The variable that carries the pool's `gpu_vendor` to the processes of a pilot.
VENDOR = "PILOT_GPU_VENDOR"
_CUDA, _ROCR, _HIP = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
_INTEL = "ZE_AFFINITY_MASK"
#: Of each vendor, the variables in which a job's GPUs may stand: the first that does counts, and
#: without any the first is what tasks get.
_VARIABLES = {
    "nvidia": (_CUDA,),
    "amd": (_ROCR, _HIP, "GPU_DEVICE_ORDINAL", _CUDA),
    "intel": (_INTEL,),
}
#: All that choose GPUs.
_ALL = (_CUDA, _ROCR, _HIP, "GPU_DEVICE_ORDINAL", _INTEL)
#: The drivers' files, by vendor.
_DRIVERS = (("amd", "/dev/kfd"), ("nvidia", "/dev/nvidiactl"))
#: What stands for "none" in each variable: HIP and Level Zero take an empty text for all.
_NONE = {_HIP: "-1", _INTEL: "9999"}
#: How Slurm says that a job has none.
_NO_DEVICES = "NoDevFiles"


def find_vendor(environment: Mapping[str, str], is_there: Callable[[str], bool]) -> str:
    """Return the vendor of a node's GPUs: as the pool says, or by the drivers, or by the variables
    of the job.

    Parameters
    ----------
    environment
        The variables of the job.
    is_there
        Tells whether a file is there.
    """
    if (told := environment.get(VENDOR, "auto")) != "auto":
        return told
    for vendor, driver in _DRIVERS:
        if is_there(driver):
            return vendor
    # Slurm sets those of all vendors, unless it knows better.
    for vendor, variables in (("nvidia", (_CUDA,)), ("amd", (_ROCR, _HIP)), ("intel", (_INTEL,))):
        if any(variable in environment for variable in variables):
            return vendor
    return "nvidia"


def _entries(environment: Mapping[str, str], vendor: str) -> tuple[str, list[str] | None]:
    """Return the variable in which a job's GPUs stand, and them; None: all that there are."""
    for variable in _VARIABLES[vendor]:
        if (text := environment.get(variable)) is not None:
            listed = [entry.strip() for entry in text.split(",")]
            return variable, [each for each in listed if each and each != _NO_DEVICES]
    return _VARIABLES[vendor][0], None


def gpu_fault(count: int, environment: Mapping[str, str], vendor: str) -> str:
    """Return why a node cannot give tasks as many GPUs as it should; empty: it can."""
    variable, entries = _entries(environment, vendor)
    if not count or entries is None or len(entries) >= count:
        return ""
    return (
        f"the pool has gpus_per_node: {count}, and the job was given {len(entries)} "
        f"({variable}={environment[variable]!r:.200}); make gpus_per_node as many, or have the job "
        "ask for more"
    )


def gpu_variables(
    indices: Sequence[str], environment: Mapping[str, str], vendor: str, is_here: bool = True
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables by which a task sees its GPUs, and those that it must not have.

    Parameters
    ----------
    indices
        Pilot's numbers of its GPUs; empty: it has none.
    environment
        The variables of the job.
    vendor
        The vendor of its GPUs.
    is_here
        The task is on the node of this job's environment. On another one the job may have others by
        name; numbers are taken to be the same.
    """
    variable, entries = _entries(environment, vendor)
    if vendor == "amd" and variable not in (_ROCR, _HIP):
        variable = _ROCR
    if not indices:
        shown = _NONE.get(variable, "")
    elif entries is None or not (is_here or all(entry.isdecimal() for entry in entries)):
        shown = ",".join(indices)
    else:
        shown = ",".join(entries[int(index)] for index in indices)
    return {variable: shown}, tuple(name for name in _ALL if name != variable)
