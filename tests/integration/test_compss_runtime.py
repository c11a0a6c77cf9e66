"""Programs for PyCOMPSs, on a local site: streams."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compss import environment_on, run_text
from support.sites import SiteUnderTest

STREAMS = """
import os
import time
from pycompss.api.api import compss_barrier, compss_wait_on
from pycompss.api.parameter import *
from pycompss.api.task import task
from pycompss.streams.distro_stream import FileDistroStream, ObjectDistroStream


@task(ods=STREAM_OUT)
def produce(ods, begin, count):
    for number in range(begin, begin + count):
        ods.publish({"number": number})
        time.sleep(0.01)
    ods.close()


@task(ods=STREAM_OUT)
def produce_and_forget(ods, number):
    ods.publish({"number": number})


@task(ods=STREAM_IN, returns=1)
def consume(ods):
    got = []
    while not ods.is_closed():
        got += [each["number"] for each in ods.poll()]
    return got


@task(fds=STREAM_OUT)
def write(fds, base):
    for number in range(5):
        with open(os.path.join(base, f"{number}.txt"), "w") as file:
            file.write(str(number))
        time.sleep(0.01)
    fds.close()


@task(fds=STREAM_IN, returns=1)
def read(fds):
    got = []
    while not fds.is_closed():
        got += [int(open(path).read()) for path in fds.poll()]
        time.sleep(0.02)
    return got


@task(path=FILE_IN, returns=1)
def read_one(path):
    return int(open(path).read())


if __name__ == "__main__":
    # The consumers come first, and there are more of them than cores.
    ods = ObjectDistroStream()
    got = [consume(ods) for _ in range(4)]
    produce(ods, 0, 10)
    produce(ods, 10, 10)
    got = compss_wait_on(got)
    print("objects", sorted(number for each in got for number in each) == list(range(20)))
    ods = ObjectDistroStream("by alias")
    produce_and_forget(ods, 7)
    print("alias", compss_wait_on(consume(ObjectDistroStream(alias="by alias"))))
    os.mkdir("files")
    fds = FileDistroStream(base_dir="files")
    got = read(fds)
    write(fds, os.path.abspath("files"))
    print("files", sorted(compss_wait_on(got)))
    os.mkdir("more")
    fds = FileDistroStream(base_dir="more")
    write(fds, os.path.abspath("more"))
    results = []
    while not fds.is_closed():
        results += [read_one(path) for path in fds.poll()]
        time.sleep(0.01)
    print("tasks", sum(compss_wait_on(results)))
    try:
        consume([1])
    except Exception as error:
        print(type(error).__name__, "is a stream" in str(error))
"""
STREAMS_PRINTED = """objects True
alias [7]
files [0, 1, 2, 3, 4]
tasks 10
PyCOMPSsException True
"""


@pytest.fixture(scope="module")
def environment(shared_site: SiteUnderTest) -> dict[str, str]:
    return environment_on(shared_site)


def test_tasks_hand_objects_and_files_to_tasks_beside_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert run_text(environment, tmp_path, STREAMS)[0] == STREAMS_PRINTED
