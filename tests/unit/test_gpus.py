"""The GPUs of a job, and what tasks see of them."""

from __future__ import annotations

import pytest

from pilot.gpus import find_vendor, gpu_fault, gpu_variables

UUIDS = ("GPU-aaaa", "GPU-bbbb")
MIGS = ("MIG-GPU-aaaa/1/0", "MIG-GPU-aaaa/2/0")


def shown(indices: tuple[str, ...], environment: dict[str, str], vendor: str) -> dict[str, str]:
    """What is left of the variables of the job, and what comes to them, for a task."""
    variables, hidden = gpu_variables(indices, environment, vendor)
    assert not variables.keys() & set(hidden)
    assert len(variables) == 1
    left = {name: text for name, text in environment.items() if name not in hidden}
    return {**left, **variables}


@pytest.mark.parametrize("vendor", ["nvidia", "amd", "intel"])
@pytest.mark.parametrize("listed", [("2", "3"), UUIDS, MIGS])
def test_the_ith_gpu_is_the_ith_that_the_job_was_given(
    vendor: str, listed: tuple[str, ...]
) -> None:
    name = {
        "nvidia": "CUDA_VISIBLE_DEVICES",
        "amd": "ROCR_VISIBLE_DEVICES",
        "intel": "ZE_AFFINITY_MASK",
    }[vendor]
    job = {name: ", ".join(listed), "HOME": "/"}
    assert shown(("0",), job, vendor) == {name: listed[0], "HOME": "/"}
    assert shown(("1",), job, vendor) == {name: listed[1], "HOME": "/"}
    assert shown(("0", "1"), job, vendor) == {name: ",".join(listed), "HOME": "/"}
    assert shown((), job, vendor)[name] not in {*listed, *job.values()}
    assert shown(("1",), {}, vendor) == {name: "1"}  # a job that may use all


def test_a_task_has_the_variable_of_one_vendor_alone() -> None:
    """As Slurm sets them where it does not know the vendor."""
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
    job = dict.fromkeys((*names, "ZE_AFFINITY_MASK"), "2,3")
    assert shown(("1",), job, "nvidia") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert shown(("1",), job, "amd") == {"ROCR_VISIBLE_DEVICES": "3"}
    assert shown(("1",), job, "intel") == {"ZE_AFFINITY_MASK": "3"}
    assert shown((), job, "nvidia") == {"CUDA_VISIBLE_DEVICES": ""}
    assert shown((), job, "amd") == {"ROCR_VISIBLE_DEVICES": ""}


def test_amds_two_masks_are_never_there_both() -> None:
    assert shown(("1",), {"HIP_VISIBLE_DEVICES": "2,3"}, "amd") == {"HIP_VISIBLE_DEVICES": "3"}
    assert shown((), {"HIP_VISIBLE_DEVICES": "2,3"}, "amd") == {"HIP_VISIBLE_DEVICES": "-1"}
    both = {"HIP_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "2,3"}
    assert shown(("1",), both, "amd") == {"ROCR_VISIBLE_DEVICES": "3"}
    # Where a job has nothing but the other vendor's words.
    assert shown(("1",), {"CUDA_VISIBLE_DEVICES": "4,5"}, "amd") == {"ROCR_VISIBLE_DEVICES": "5"}


@pytest.mark.parametrize(
    ("text", "count"), [("3", 1), ("", 0), ("NoDevFiles", 0), ("GPU-aaaa,", 1)]
)
def test_fewer_than_the_pool_says_is_an_error_with_both_numbers(text: str, count: int) -> None:
    job = {"CUDA_VISIBLE_DEVICES": text}
    fault = gpu_fault(2, job, "nvidia")
    assert f"gpus_per_node: 2, and the job was given {count} (CUDA_VISIBLE_DEVICES=" in fault
    assert gpu_fault(count, job, "nvidia") == ""


def test_enough_gpus_are_no_fault() -> None:
    assert gpu_fault(2, {"CUDA_VISIBLE_DEVICES": "0,1,2"}, "nvidia") == ""
    assert gpu_fault(2, {}, "nvidia") == ""
    assert gpu_fault(0, {"CUDA_VISIBLE_DEVICES": ""}, "nvidia") == ""
    assert gpu_fault(2, {"CUDA_VISIBLE_DEVICES": "0"}, "amd") != ""


@pytest.mark.parametrize(
    ("environment", "files", "vendor"),
    [
        ({"PILOT_GPU_VENDOR": "intel"}, ["/dev/kfd"], "intel"),
        ({"PILOT_GPU_VENDOR": "auto"}, ["/dev/kfd"], "amd"),
        ({"ROCR_VISIBLE_DEVICES": "0"}, ["/dev/nvidiactl"], "nvidia"),
        ({"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0"}, ["/dev/kfd"], "amd"),
        ({"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0"}, [], "nvidia"),
        ({"ROCR_VISIBLE_DEVICES": "0"}, [], "amd"),
        ({"HIP_VISIBLE_DEVICES": "0"}, [], "amd"),
        ({"ZE_AFFINITY_MASK": "0"}, [], "intel"),
        ({}, [], "nvidia"),
    ],
)
def test_the_vendor_is_told_or_seen(
    environment: dict[str, str], files: list[str], vendor: str
) -> None:
    assert find_vendor(environment, files.__contains__) == vendor
