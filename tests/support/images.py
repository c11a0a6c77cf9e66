"""An image for containers, made of this machine's own files: a shell, Python, their libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

#: What is in the image besides Python, with all that it loads.
_PROGRAMS = ("sh", "bash", "cat", "env", "ls", "true", "sleep")
#: The file by which a test knows that it is in the image, and what is in it.
MARK, MARKED = "/etc/pilot-image", "of the image"


def find_python(minor: tuple[int, int]) -> Path | None:
    """The Python of the distribution, where it is of this minor version."""
    found = shutil.which(f"python{minor[0]}.{minor[1]}", path="/usr/bin")
    return None if found is None else Path(found)


def make_image(image: Path, python: Path) -> None:
    """Make a directory tree that container engines can run programs in."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "dev", "proc", "sys", "tmp", "etc", "root"):
        (image / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (image / "etc" / name).touch()
    (image / MARK.lstrip("/")).write_text(MARKED)
    for program in _PROGRAMS:
        found = shutil.which(program, path="/usr/bin:/bin")
        assert found, program
        _copy(Path(found), image, f"usr/bin/{program}")
    _copy(python, image, f"usr/bin/{python.name}")
    (image / "usr/bin/python3").symlink_to(python.name)
    library = Path(f"/usr/lib/{python.name}")
    shutil.copytree(library, image / str(library).lstrip("/"), ignore=_left_out, symlinks=True)
    for extension in library.glob("lib-dynload/*.so"):
        _copy_libraries(extension, image)
    _add_common_libraries(image)


def _add_common_libraries(image: Path) -> None:
    """Put into an image what packages of the host's Python load, as images of distributions have
    it."""
    told = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(/\S+)/libc\.so", told)
    assert found, told
    for name in ("pthread", "dl", "rt", "util", "m", "gcc_s", "stdc++", "z"):
        for library in Path(found[1]).glob(f"lib{name}.so.[0-9]"):
            _copy_libraries(library, image)
            place = image / str(library).lstrip("/")
            if not place.exists():
                shutil.copy2(library.resolve(), place)


def _left_out(_: str, names: list[str]) -> list[str]:
    return [n for n in names if n in ("test", "__pycache__", "idlelib") or n.endswith(".a")]


def _copy(program: Path, image: Path, name: str) -> None:
    shutil.copy2(program.resolve(), image / name)
    _copy_libraries(program, image)


def _copy_libraries(program: Path, image: Path) -> None:
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for path in re.findall(r"(/\S+)", told):
        place = image / path.lstrip("/")
        if os.path.isfile(path) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(path).resolve(), place)
