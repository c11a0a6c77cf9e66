"""The cache of a site file's plain data, which spares each start of a process PyYAML.

It is a file beside the site file, ``.site.yaml.parsed``: a head of its format, Pilot's release and
the YAML text itself, then a checksum, then the data as msgpack, with empty mappings where the text
has nothing in place of one. Checks that need more than the data (``auto`` depends on the machine)
are not in it.

Invariants:

- Never stale: it is used only where its whole head is what this release makes of this text.
- Never dangerous: nobody but the user and root may write what is used, and its data are plain.
- Never needed: whatever is wrong with it, it is as if there were none.
"""

from __future__ import annotations

import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pilot.version import __version__

#: To be raised where `yamlfile` makes other data of the same text.
_FORMAT = 2
#: More than this is not kept; a few aliases can stand for a million values.
_MOST_BYTES = 1 << 20
_CHECKSUM_BYTES = 4


def cache_path(site_file: Path) -> Path:
    """Return where the data of a site file are kept."""
    return site_file.with_name(f".{site_file.name}.parsed")


def read_parsed(site_file: Path, text: str) -> Any:
    """Return the plain data of a site file's text; None: they are not known, read the YAML."""
    try:
        head = _head(text)
        most = len(head) + _CHECKSUM_BYTES + _MOST_BYTES
        content = _read_own(cache_path(site_file), most)
        if not content.startswith(head):
            return None
        at = len(head) + _CHECKSUM_BYTES
        packed = content[at:]
        if content[len(head) : at] != _checksum(packed):
            return None
        return msgspec.msgpack.decode(packed)
    except (OSError, ValueError, msgspec.DecodeError, RecursionError):
        return None


def keep_parsed(site_file: Path, text: str, data: Any) -> None:
    """Keep the plain data of a site file's text, where this can be done and changes nothing."""
    try:
        packed = msgspec.msgpack.encode(data)
        # Not all that YAML can say comes back the same from msgpack, such as dates.
        if len(packed) > _MOST_BYTES or repr(msgspec.msgpack.decode(packed)) != repr(data):
            return
        content = _head(text) + _checksum(packed) + packed
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, RecursionError):
        return
    with suppress(OSError):  # the file system is full, or read-only
        _replace_own(cache_path(site_file), content)


def _head(text: str) -> bytes:
    return msgspec.msgpack.encode((_FORMAT, __version__, text))


def _checksum(packed: bytes) -> bytes:
    """Return a checksum, which tells damage, as by a crash; its owner tells who wrote a file."""
    return zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "big")


def _read_own(path: Path, most: int) -> bytes:
    """Return so many bytes of a regular file that nobody but the user and root may write.

    Raises
    ------
    OSError
        There is none.
    """
    # A FIFO is not waited for, and a link not followed.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _is_own(status):
            raise PermissionError(f"{path} can be written by others")
        return file.read(most)


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _replace_own(path: Path, content: bytes) -> None:
    """Replace a file at once, in a directory that is the user's alone.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    status = path.parent.stat()
    if status.st_uid != os.geteuid() or not _is_own(status):
        return
    partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
