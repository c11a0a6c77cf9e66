"""Stamps and digests of files, to tell whether a file has changed since a task read or wrote it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from pilot.model.tasks import FileStamp

#: The bytes of the digests of files, code and arguments.
DIGEST_BYTES = 16
_CHUNK_BYTES = 1 << 20


def unchanged(files: Iterable[FileStamp]) -> bool:
    """Tell whether these files exist and have not changed."""
    for stamp in files:
        try:
            status = Path(stamp.path).stat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            return False
    return True


def file_digest(path: Path) -> bytes:
    """Return the digest of a file's contents; the file is read again only if its size or time
    changed."""
    status = path.stat()
    return _file_digest(str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: str, *_identity: int) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()
