"""Files and directories that tasks of PymoniK find at a path on their node.

What is there is known by a hash of names and contents: something that has the same is left as it
is. Workers share a node, so one of them writes at a time, beside the path, and renames.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilot.compat.pymonik.context import own_directory

_BLOCK = 1 << 20


class Materialize:
    """A file or directory that is to be at a path where a task runs.

    Parameters
    ----------
    source_path
        Where it is in the program.
    worker_path
        Where a task finds it.
    content_hash
        The hash of what is there.
    is_directory
        True for a directory.
    result_id
        The id of its contents in the session; None: they are not there yet.
    """

    def __init__(
        self,
        source_path: str | os.PathLike[str],
        worker_path: str | os.PathLike[str],
        content_hash: str,
        is_directory: bool = False,
        result_id: str | None = None,
    ) -> None:
        self.source_path = str(source_path)
        self.worker_path = str(worker_path)
        self.content_hash = content_hash
        self.is_directory = is_directory
        self.result_id = result_id
        #: In the program the future of the contents, in a task the contents.
        self.contents: Any = None

    def __fspath__(self) -> str:
        return self.worker_path

    def __repr__(self) -> str:
        return f"<Materialize {self.source_path} at {self.worker_path}>"


def materialize(source: str | os.PathLike[str], worker_path: str | os.PathLike[str]) -> Materialize:
    """Return what is to be uploaded of a file or directory; see `Pymonik.upload_materialize`.

    Raises
    ------
    FileNotFoundError
        There is no such file or directory.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing to materialize at {path}")
    return Materialize(path, worker_path, content_hash(path), path.is_dir())


def content_hash(path: Path) -> str:
    """Return the hash of a file, or of the names and contents of all files of a directory."""
    digest = hashlib.sha256()
    if not path.is_dir():
        _add(digest, path)
        return digest.hexdigest()
    for found in sorted(path.rglob("*")):
        digest.update(f"{found.relative_to(path)}\0{found.is_dir():d}".encode())
        if found.is_file():
            digest.update(f"{found.stat().st_size}\0".encode())
            _add(digest, found)
    return digest.hexdigest()


def _add(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def contents_of(path: Path) -> bytes:
    """Return a file's bytes, or an archive of a directory."""
    if not path.is_dir():
        return path.read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, arcname=".")
    return archive.getvalue()


def put_in_place(material: Materialize) -> None:
    """Write a file or directory to its path, unless the same is there.

    Raises
    ------
    OSError
        It cannot be written.
    """
    path = Path(material.worker_path)
    with _alone(path):
        if path.exists() and content_hash(path) == material.content_hash:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            if material.is_directory:
                _unpack(material.contents, new)
                _replace_directory(new, path)
            else:
                new.write_bytes(material.contents)
                new.replace(path)
        finally:
            if new.is_dir():
                shutil.rmtree(new, ignore_errors=True)
            else:
                new.unlink(missing_ok=True)


def _unpack(archive: bytes, into: Path) -> None:
    into.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(into, filter="data")
        else:
            tar.extractall(into)


def _replace_directory(new: Path, path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        new.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only one on this node that writes to a path."""
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()
    with (own_directory("locks") / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
