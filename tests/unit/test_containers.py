"""The command lines of container engines, and which engine it is."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilot.launchers.containers import ENGINES, PODMAN, choose_engine, in_container, outermost


def line(engine: str, image: str = "/images/a", **more: Any) -> str:
    given: dict[str, Any] = {"directory": "/w d", "binds": ("/data", "/a:/b:ro"), **more}
    return " ".join(in_container(engine, image, ("prog", "a b"), options=("--x",), **given))


def test_each_engine_has_its_own_words() -> None:
    assert line("charliecloud") == (
        "ch-run --cd /w d --bind=/data --bind=/a:/b --x /images/a -- prog a b"
    )
    assert line("apptainer", "/i.sif") == (
        "apptainer exec --pwd=/w d --bind=/data --bind=/a:/b:ro --x /i.sif prog a b"
    )
    assert line("singularity", "debian:12").startswith("singularity exec --pwd=/w d")
    assert line("singularity", "debian:12").endswith("--x docker://debian:12 prog a b")
    assert line("apptainer", "oras://x/y").endswith("oras://x/y prog a b")
    podman = line("podman", "debian:12", variables=("B", "A", "PATH", "HOME"), user=(5, 6))
    assert podman == (
        "podman run --rm --interactive --pid=host --network=host --ipc=host "
        "--security-opt=label=disable --log-driver=none --userns=keep-id --workdir=/w d "
        "--entrypoint= --env=A --env=B --volume=/data:/data --volume=/a:/b:ro --x debian:12 "
        "prog a b"
    )
    assert "--rootfs /images/a prog" in line("podman") and "--userns" not in line("podman")
    docker = line("docker", "debian:12", user=(5, 6))
    assert docker.startswith("docker run --rm") and "--user=5:6" in docker


def test_charliecloud_shows_the_hosts_tmp_whatever_tmpdir_says() -> None:
    words = line("charliecloud", temporary="/scratch/1")
    assert words.startswith("env --unset=TMPDIR ch-run --set-env=TMPDIR=/scratch/1 --cd /w d ")
    assert line("apptainer", temporary="/scratch/1") == line("apptainer")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_value_of_a_variable_is_in_a_command_line(engine: str) -> None:
    words = in_container(engine, "i", ("prog",), directory="/", variables={"TOKEN": "s3cret"})
    assert not any("s3cret" in word for word in words)


def test_the_engine_is_the_first_that_is_there_and_has_such_an_image() -> None:
    def which(*there: str) -> Callable[[str], str | None]:
        return lambda program: f"/bin/{program}" if program in there else None

    def choose(image: str, engine: str, *there: str) -> str:
        return choose_engine(image, engine, which(*there))

    assert choose("/dir", "", "podman", "ch-run") == "charliecloud"
    assert choose("/dir", "", "podman") == "podman"
    assert choose("/a.sif", "", "podman", "singularity") == "singularity"
    assert choose("/a.sqfs", "", "ch-run", "apptainer") == "charliecloud"
    assert choose("debian:12", "", "docker", "ch-run") == "docker"
    assert choose("debian:12", "podman", "docker", "podman") == "podman"
    with pytest.raises(ValueError, match="none of apptainer, singularity is on the PATH"):
        choose("/a.sif", "", "podman")
    with pytest.raises(ValueError, match="the container engine docker is not here"):
        choose("debian:12", "docker", "podman")


def test_directories_in_others_are_bound_with_them() -> None:
    given = ["/a/b", "/a", "/ab", "/c/./d/", "/c/d/e", "/a"]
    assert outermost(given) == ["/a", "/ab", "/c/d"]


def test_a_rank_in_podman_is_told_what_it_is_and_has_the_socket_of_its_launcher(
    tmp_path: Path,
) -> None:
    words = in_container(PODMAN, "/images/a", ["prog"], directory="/", is_rank=True)
    assert "--env=PMI*" in words and "--env=PILOT_*" in words
    assert "*" not in line("podman"), "what others are told is known before"
    engine = tmp_path / "podman"
    engine.write_text('#!/bin/sh\necho "$1 $2"\n[ -z "$PMI_FD" ] || echo told >&"$PMI_FD"\n')
    engine.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "run --rm\n"
    read, write = os.pipe()
    high = fcntl.fcntl(write, fcntl.F_DUPFD, 100)  # as the launcher has many
    done = subprocess.run(
        words,
        env={**env, "PMI_FD": str(high)},
        pass_fds=[high],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "run --preserve-fds=1\n", "Podman hands on descriptor 3"
    assert os.read(read, 10) == b"told\n"
    for descriptor in (read, write, high):
        os.close(descriptor)
