"""What tasks of a process take: measured in the process, and looked at from outside."""

from __future__ import annotations

import contextlib
import mmap
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.waiting import wait_until

from pilot.worker.memory_watch import (
    ALLOWANCE_MIB,
    end_in_task,
    exact_mib,
    look,
    memory_below,
    over_memory,
)
from pilot.worker.shared_memory import PLACE_BYTES, SLOT, sample_of, tell_sample
from pilot.worker.usage import Usage

MIB = 1 << 20


@contextlib.contextmanager
def filled(mib: int) -> Iterator[None]:
    """Have so much memory for a while: not by `malloc`, which may have it from before."""
    with mmap.mmap(-1, mib * MIB) as memory:
        for place in range(0, len(memory), mmap.PAGESIZE):
            memory[place] = 1
        yield


def test_the_peak_of_a_task_is_not_that_of_the_one_before() -> None:
    usage = Usage()
    now = time.time()
    _, small = usage.take(1, now, now + 1.0)
    with filled(200):
        _, large = usage.take(2, now + 1.0, now + 2.0)
    _, began_large = usage.take(3, now + 2.0, now + 3.0)
    _, after = usage.take(4, now + 3.0, now + 4.0)
    assert large >= small + 195
    assert began_large <= large
    assert after < small + 100


def test_a_peak_that_was_given_back_is_forgotten_with_the_time() -> None:
    """Where it rose in a task that began with it, nothing tells when it has gone."""
    usage = Usage()
    now = time.time()
    with filled(50):
        _, large = usage.take(1, now, now + 0.001)
    usage.take(2, now + 0.1, now + 0.1)  # a short one, a while later
    _, after = usage.take(3, now + 0.1, now + 0.1)
    assert after <= large - 40
    with filled(50):
        assert usage.take(4, now + 0.1, now + 0.2)[1] >= after + 45


def test_time_is_that_of_the_task_and_of_its_children() -> None:
    usage = Usage()
    begin = time.time()
    spin = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    used_s, _ = usage.take(1, begin, time.time())
    assert used_s > 0.2
    used_s, _ = usage.take(2, begin, time.time())
    assert used_s < 0.1


def test_short_tasks_cost_no_call_and_nothing_of_theirs_is_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []
    spent_s = [10.0]

    def spent() -> float:
        looked.append(spent_s[0])
        return spent_s[0]

    monkeypatch.setattr("pilot.worker.usage.process_time", spent)
    now = 1000.0
    usage = Usage()
    usage.take(1, now, now + 1.0)
    looked.clear()
    told_s = 0.0
    for number in range(20):
        spent_s[0] += 0.0006  # the task, and what is around it
        told_s += usage.take(number, now + 1.0, now + 1.0005)[0]
    assert not looked and told_s == pytest.approx(20 * 0.0005)
    spent_s[0] += 0.5
    # The children of this process are none of these tasks'.
    assert usage.take(30, now + 1.0, now + 1.5)[0] == pytest.approx(0.5 + 20 * 0.0001)
    assert len(looked) == 1
    # One that has waited was taken to compute: the next one does not take it back from others.
    usage.take(31, now + 1.5, now + 1.5009)
    assert usage.take(32, now + 1.6, now + 1.7)[0] == 0.0


def test_the_memory_of_a_child_is_the_tasks() -> None:
    usage = Usage()
    begin = time.time()
    # This process, and one that it has started for another test, may be large by now.
    known = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    size_mib = max(resource.getrusage(who).ru_maxrss for who in known) // 1024 + 100
    subprocess.run([sys.executable, "-c", f"x = b'x' * {size_mib * MIB}"], check=True)
    _, peak = usage.take(1, begin, time.time())
    assert peak >= size_mib
    assert usage.take(2, begin, time.time())[1] < size_mib
    assert usage.take(3, begin, time.time(), program_kib=77 * 1024)[1] == 77


def test_what_the_node_worker_saw_counts_once_and_for_its_task_alone() -> None:
    memory = mmap.mmap(-1, 2 * PLACE_BYTES)
    usage = Usage(sample_of(memory, PLACE_BYTES))
    tell_sample(memory, PLACE_BYTES, 7, 5000)
    tell_sample(memory, PLACE_BYTES, 7, 4000)
    now = time.time()
    assert usage.take(6, now, now + 1.0)[1] < 4000
    assert usage.take(7, now, now)[1] == 5000
    assert usage.take(7, now, now)[1] < 4000
    assert list(sample_of(memory)) == [0, 0]


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A process with 100 MiB, with a copy of it that shares these, and has 50 MiB more."""
    text = (
        f"import os, time\nshared = os.urandom({MIB}) * 100\n"
        f"if (pid := os.fork()) == 0:\n    own = os.urandom({MIB}) * 50\n    os.setsid()\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
        pids = memory_below(process.pid).pids
        yield process
        for pid in pids:
            subprocess.run(["kill", "-9", str(pid)], stderr=subprocess.DEVNULL, check=False)


def test_memory_is_that_of_all_below_and_shared_pages_count_once(
    family: subprocess.Popen[str],
) -> None:
    found = memory_below(family.pid)
    assert len(found.pids) == 2
    assert 250 <= found.own_mib < 300 and found.mib >= found.own_mib
    assert 150 <= exact_mib(found.pids) < 200


def test_a_task_is_ended_only_for_what_it_really_has(family: subprocess.Popen[str]) -> None:
    memory = mmap.mmap(-1, 2 * PLACE_BYTES)

    def has_asked_for(mib: int, task: int = 9) -> tuple[int, str]:
        SLOT.pack_into(memory, PLACE_BYTES, task, 1, 0.0, 0, mib)
        return look(family.pid, memory, PLACE_BYTES, is_kept=True)

    assert has_asked_for(200 - ALLOWANCE_MIB) == (0, "")  # the quick look alone says 250
    assert has_asked_for(0) == has_asked_for(50, task=0) == (0, "")
    assert sample_of(memory, PLACE_BYTES)[0] == 9
    assert sample_of(memory, PLACE_BYTES)[1] >= 250
    task, why = has_asked_for(50)
    assert task == 9 and "and had asked for 50M; ask for more" in why
    assert look(family.pid, memory, PLACE_BYTES, is_kept=False) == (0, "")
    pids = memory_below(family.pid).pids
    SLOT.pack_into(memory, PLACE_BYTES, 10, 1, 0.0, 0, 50)  # it has begun with another task
    assert not end_in_task(family.pid, memory, PLACE_BYTES, 9)
    assert family.poll() is None and memory_below(family.pid).pids == pids
    assert end_in_task(family.pid, memory, PLACE_BYTES, 10)
    assert family.wait(10) == -signal.SIGKILL
    wait_until(lambda: exact_mib(pids) == 0)
    assert not end_in_task(family.pid, memory, PLACE_BYTES, 10)
    assert look(family.pid, memory, PLACE_BYTES, is_kept=True) == (0, "")


def test_words_say_how_much_and_what_to_ask_for() -> None:
    assert over_memory(5325, 4096) == (
        'it used 5.2G of memory, and had asked for 4G; ask for more, as memory="7G"'
    )
    assert over_memory(300, 100) == (
        'it used 300M of memory, and had asked for 100M; ask for more, as memory="375M"'
    )
