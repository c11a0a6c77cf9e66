"""Streams: what tasks that run at the same time hand to each other, as objects or as files.

A stream is a directory on the file system that the nodes share: each object is a file in it, and
whoever takes one renames it first, so it goes to one consumer. It is no dependency: producers and
consumers run side by side.

Invariants
----------
- What is published is whole: it is renamed into its place.
- With `AT_MOST_ONCE` each element goes to one consumer, with `AT_LEAST_ONCE` to each of them.
- A stream is closed when all tasks have closed it, or ended, that have it as ``STREAM_OUT``; and
  whoever polls it hears of that when nothing is left for him.
- A task that finds nothing lends its cores for a moment: consumers that fill all cores keep no
  producer from starting.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pilot.client.context import running_context
from pilot.client.lending import lending
from pilot.compat.compss import running
from pilot.compat.compss.errors import NotSupportedError, PyCOMPSsException

AT_MOST_ONCE: Final = "AT_MOST_ONCE"
AT_LEAST_ONCE: Final = "AT_LEAST_ONCE"
FILE: Final = "FILE"
OBJECT: Final = "OBJECT"

#: The default of `ObjectDistroStream.poll`, in milliseconds.
_POLL_MS: Final = 200
#: Between two looks at a directory, in seconds.
_LOOK_S: Final = 0.01
#: The least time that a task without anything to do lends its cores, in seconds.
_LEND_S: Final = 0.03
#: A file is there when it has not changed for so long, in seconds.
_SETTLED_S: Final = 0.05


class StreamError(PyCOMPSsException):
    """A stream cannot be used."""


def _place() -> Path:
    """Return the directory with the streams of the application, or of this process alone."""
    context = running_context()
    if context is not None:
        return context.session.site.checkpoints / str(context.session_id) / "streams"
    app: Any = running.current
    if app is not None:
        # It goes with the checkpoints of the session.
        checkpoints: Path = app.session.site.checkpoints
        return checkpoints / str(app.session.id) / "streams"
    global _own
    if _own is None:
        _own = Path(tempfile.mkdtemp(prefix="compss-streams-"))
        atexit.register(shutil.rmtree, _own, ignore_errors=True)
    return _own


#: The streams of a program that runs in one process.
_own: Path | None = None


class DistroStream:
    """A stream; see `ObjectDistroStream` and `FileDistroStream`.

    Parameters
    ----------
    alias
        A name by which other objects stand for the same stream; None: it is one of its own.
    access_mode
        ``AT_MOST_ONCE`` or ``AT_LEAST_ONCE``.
    """

    #: ``OBJECT`` or ``FILE``.
    stream_type = ""

    def __init__(self, alias: str | None = None, access_mode: str = AT_MOST_ONCE) -> None:
        if access_mode not in (AT_MOST_ONCE, AT_LEAST_ONCE):
            raise StreamError(f"access_mode={access_mode!r}: AT_MOST_ONCE or AT_LEAST_ONCE")
        self.alias = alias
        self.access_mode = access_mode
        key = f"{self.stream_type}:{alias}".encode()
        self.id = hashlib.blake2b(key, digest_size=16).hexdigest() if alias else uuid4().hex
        self._directory = _place() / self.id
        #: The task's part in it, where it is a producer.
        self._token = ""
        #: What this consumer has had, where each one gets all.
        self._had: set[str] = set()
        self._has_polled = True
        for name in ("elements", "producers"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)

    def get_stream_id(self) -> str:
        """Return the identity of the stream."""
        return self.id

    def get_stream_alias(self) -> str | None:
        """Return its alias."""
        return self.alias

    def get_stream_type(self) -> str:
        """Return ``OBJECT`` or ``FILE``."""
        return self.stream_type

    # --- producers

    def publish(self, message: Any) -> None:
        """Put an element into the stream."""
        raise NotImplementedError

    def publish_list(self, messages: Iterable[Any]) -> None:
        """Put several elements into the stream, in this order."""
        for message in messages:
            self.publish(message)

    def for_producer(self) -> DistroStream:
        """Return the stream as a task gets it that is to produce, which is open until that ends."""
        made = self.for_consumer()
        made._token = uuid4().hex
        made._producer.touch()
        return made

    def for_consumer(self) -> DistroStream:
        """Return the stream as a task gets it that is to consume."""
        made = type(self).__new__(type(self))
        made.__dict__ |= self.__dict__ | {"_had": set(), "_token": "", "_has_polled": True}
        return made

    @property
    def _producer(self) -> Path:
        return self._directory / "producers" / self._token

    def close(self) -> None:
        """End the part of this producer; of a program, the stream, once no task produces."""
        with contextlib.suppress(FileNotFoundError):  # the application has ended
            (self._directory / "closed").touch()
        if self._token:
            self._producer.unlink(missing_ok=True)

    # --- consumers

    def poll(self, timeout: float = 0) -> list[Any]:
        """Return what there is in the stream and nobody has had, as soon as there is something.

        Parameters
        ----------
        timeout
            The longest wait for it, in milliseconds.
        """
        self._has_polled = True
        if found := list(self._take()):
            return found
        if self._is_over() or not (timeout or running_context()):
            return []
        end = time.monotonic() + max(timeout / 1000, _LEND_S)
        with lending():
            while time.monotonic() < end and not self._is_over() and not self._has_more():
                time.sleep(_LOOK_S)
        return list(self._take())

    def is_closed(self) -> bool:
        """Tell whether nothing more will come.

        As long as something is left it is open for whoever polls: who asks twice without a poll
        hears of the end all the same.
        """
        if not self._is_over():
            return False
        polled, self._has_polled = self._has_polled, False
        return not (polled and self._has_more())

    def _is_over(self) -> bool:
        if not (self._directory / "closed").exists():
            return False
        return not any((self._directory / "producers").iterdir())

    def _take(self) -> Iterator[Any]:
        """Yield what this consumer gets now."""
        raise NotImplementedError

    def _has_more(self) -> bool:
        """Tell whether something is left that nobody has had."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.alias or self.id}>"


class ObjectDistroStream(DistroStream):
    """A stream of objects, each of which is pickled.

    Parameters
    ----------
    alias, access_mode
        As of `DistroStream`.
    """

    stream_type = OBJECT

    def publish(self, message: Any) -> None:
        """Put an object into the stream."""
        elements = self._directory / "elements"
        # Those of one producer have the order in which it has published them.
        name = f"{time.time_ns():020}-{uuid4().hex}"
        draft = elements / f".{name}"
        draft.write_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
        draft.replace(elements / name)

    def poll(self, timeout: float = _POLL_MS) -> list[Any]:
        """Return the objects that nobody has had; wait for one up to `timeout` milliseconds."""
        return super().poll(timeout)

    def _names(self) -> list[str]:
        names = (entry.name for entry in os.scandir(self._directory / "elements"))
        return sorted(n for n in names if not n.startswith(".") and n not in self._had)

    def _take(self) -> Iterator[Any]:
        elements = self._directory / "elements"
        for name in self._names():
            path = elements / name
            if self.access_mode == AT_MOST_ONCE:
                mine = elements / f".{name}.taken-{uuid4().hex}"
                try:
                    path.rename(mine)
                except FileNotFoundError:
                    continue  # another one has it
                found = pickle.loads(mine.read_bytes())
                mine.unlink()
            else:
                found = pickle.loads(path.read_bytes())
                self._had.add(name)
            yield found

    def _has_more(self) -> bool:
        return bool(self._names())


class FileDistroStream(DistroStream):
    """A stream of the files that appear in a directory: polls return their paths.

    Parameters
    ----------
    alias
        As of `DistroStream`.
    base_dir
        The directory, which is there. Names that begin with a dot count for nothing.
    access_mode
        As of `DistroStream`.

    Raises
    ------
    StreamError
        There is no such directory.
    """

    stream_type = FILE

    def __init__(
        self,
        alias: str | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        access_mode: str = AT_MOST_ONCE,
    ) -> None:
        if base_dir is None or not Path(base_dir).is_dir():
            raise StreamError(f"FileDistroStream: base_dir={base_dir!r} is no directory; make it")
        super().__init__(alias, access_mode)
        self.base_dir = base_dir
        self._files = Path(base_dir).absolute()

    def publish(self, message: Any) -> None:
        """Do nothing: the files of the directory are the stream."""

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Return the files that this consumer may get, each with what changes as it is written."""
        found = {}
        for entry in os.scandir(self._files):
            if entry.name.startswith(".") or entry.name in self._had or not entry.is_file():
                continue
            if (self._directory / "elements" / _key(entry)).exists():
                continue
            status = entry.stat()
            found[entry.name] = (status.st_size, status.st_mtime_ns)
        return found

    def _take(self) -> Iterator[str]:
        before = self._sizes()
        if not before:
            return
        if not self._is_over():
            # Who writes one now is given the time to end.
            time.sleep(_SETTLED_S)
        now = self._sizes()
        for name in sorted(now):
            if now[name] != before.get(name, now[name] if self._is_over() else None):
                continue
            if self.access_mode == AT_MOST_ONCE:
                key = _key(self._files / name)
                try:
                    (self._directory / "elements" / key).open("x").close()
                except FileExistsError:
                    continue  # another one has it
            self._had.add(name)
            yield str(self._files / name)

    def _has_more(self) -> bool:
        return bool(self._sizes())


def _key(path: os.DirEntry[str] | Path) -> str:
    """Return the name of the mark that somebody has had a file."""
    return hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()


class PscoDistroStream(DistroStream):
    """A stream of objects of a persistent storage: there is none here, and it says so."""

    def __init__(self, alias: str | None = None, access_mode: str = AT_MOST_ONCE) -> None:
        del alias, access_mode
        raise NotSupportedError("PscoDistroStream", "publish the objects by ObjectDistroStream")
