"""A process that has no descriptors left: how that is seen, and what is told of it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from collections.abc import Iterator

import pytest

from pilot.errors import EncodingError
from pilot.worker.descriptors import FEW, MOST_ATTEMPTS, Descriptors, is_of_earlier, is_of_want
from pilot.worker.usage import Usage


@pytest.fixture
def few() -> Iterator[None]:
    """Have a limit soon above what is open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3 * FEW, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def left_open(but: int = 0) -> Iterator[None]:
    """Leave files open until no more can be, and then close some."""
    kept = []
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    closed = [kept.pop() for _ in range(but)]
    for descriptor in closed:
        os.close(descriptor)
    try:
        yield
    finally:
        for descriptor in kept:
            os.close(descriptor)


@pytest.mark.parametrize(("but", "are_few"), [(0, True), (FEW - 2, True), (FEW + 2, False)])
def test_files_that_are_left_open_are_seen(few: None, but: int, are_few: bool) -> None:
    descriptors, usage = Descriptors(), Usage()
    now = time.time()
    usage.take(1, now, now)
    assert not descriptors.are_few(usage.lowest_free) and usage.looked_at == now
    with left_open(but):
        usage.take(2, now, now + 1.0)
        assert descriptors.are_few(usage.lowest_free) == are_few
        assert descriptors.is_worn_now()
    assert not descriptors.is_worn_now()


def test_a_process_that_begins_with_few_is_no_worse_than_the_next_one(few: None) -> None:
    with left_open():
        descriptors = Descriptors()
        assert not descriptors.are_few(-1) and not descriptors.is_worn_now()


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def during(error: Exception, other: Exception) -> Exception:
    error.__context__ = other
    return error


FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, True),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), True),
        (because(EncodingError("cannot unpickle"), FULL), True),
        (during(KeyError("x"), because(ValueError(), FULL)), True),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), True),
        (OSError("unable to open file (error message = 'Too many open files')"), True),
        (ValueError("Too many open files"), False),
        (OSError(errno.ENOENT, "x"), False),
        (ImportError(), False),
    ],
)
def test_errors_of_want_are_known(error: Exception, told: bool) -> None:
    assert is_of_want(error) == told


def test_errors_that_led_to_each_other_are_gone_through_once() -> None:
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    assert not is_of_want(first)


def test_a_task_is_at_fault_where_enough_were_left_or_it_was_so_each_time() -> None:
    assert is_of_earlier(1, was_known=False) and is_of_earlier(MOST_ATTEMPTS, was_known=False)
    assert not is_of_earlier(1, was_known=True)
    assert not is_of_earlier(MOST_ATTEMPTS + 1, was_known=False)
