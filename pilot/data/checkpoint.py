"""Checkpoints: the state of a running task, for the next attempt of the same task.

Responsible for saving and finding states, by each rank for itself: ranks agree through the names of
files alone, without MPI, and may save at different times.

Each rank writes ``step-<n>-attempt-<a>/rank-<r>-of-<ranks>.h5``. A checkpoint is complete when the
directory holds the parts of all ranks: the listing of the directory is its manifest. That is
enough, since a part has its name only when it is whole and on the disk, and since parts of two
attempts never lie in one directory: an attempt that repeats a step does not complete what an
earlier one began.

Invariants:

- whatever is killed at whatever instant: `load` gives the latest complete checkpoint, or None;
- all ranks of an attempt load the same one. The first that asks makes a symbolic link
  ``resume-attempt-<a>`` to it (making one is atomic, and fails where it exists); the others follow.
  Without it, ranks of an earlier attempt that was only thought dead could complete another one
  in between;
- later attempts come after earlier ones, whatever their steps;
- a checkpoint is removed only after `keep` later ones are complete, and never the one that
  a later attempt resumes from.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from pilot.data import durable
from pilot.data.draft import Draft
from pilot.data.parts import Parts, put_together, take_apart
from pilot.data.patience import patient, patiently, when_there
from pilot.data.sealed_file import SealedFile
from pilot.errors import ResultError, StorageError

#: The name of the state in the file of a rank.
_STATE = "/state"


class _Entry(NamedTuple):
    """A checkpoint, complete or not; entries sort from old to new."""

    attempt: int
    step: int

    @property
    def name(self) -> str:
        return f"step-{self.step}-attempt-{self.attempt}"

    @staticmethod
    def parse(name: str) -> _Entry | None:
        match = re.fullmatch(r"step-(\d+)-attempt-(\d+)", name)
        return _Entry(int(match[2]), int(match[1])) if match else None


class Checkpoint:
    """The checkpoints of one task, as one rank of one attempt sees them.

    Parameters
    ----------
    directory
        The directory of this task alone. Created when something is saved.
    rank, ranks
        This rank, and how many there are; each saves its own part.
    keep
        How many complete checkpoints are kept, at least 1.
    attempt
        The number of this attempt, the same on all ranks, larger than that of the attempts before.
    within
        A directory that must be there: `directory` is not made where this is missing.
    """

    def __init__(
        self,
        directory: Path,
        rank: int = 0,
        ranks: int = 1,
        keep: int = 2,
        attempt: int = 0,
        within: Path | None = None,
    ) -> None:
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} is not among {ranks} ranks")
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.directory = directory
        self.rank = rank
        self.ranks = ranks
        self.keep = keep
        self.attempt = attempt
        self._within = within
        self._last_step: int | None = None

    def save(self, step: int, state: object) -> None:
        """Save this rank's part of a checkpoint. When it returns, the part is on the disk.

        Parameters
        ----------
        step
            Not negative; the same number on all ranks for what belongs together. It must grow from
            one `save` to the next. (A single rank may save the same step again.)
        state
            Anything that can be pickled; arrays become HDF5 data sets.

        Raises
        ------
        EncodingError
            The state cannot be pickled.
        StorageError
            The disk is full, say. Complete checkpoints are not affected.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, but is {step}")
        last = self._last_step
        if last is not None and (step < last or (step == last and self.ranks > 1)):
            raise ValueError(
                f"step {step} does not come after step {last}, which this attempt has saved: "
                "it would not be the latest, or mix parts of different states; let steps grow"
            )
        parts = take_apart(state)
        entry = _Entry(self.attempt, step)
        patiently(lambda: self._write(self._part(entry), parts))
        self._last_step = step
        if self._is_complete(entry):
            self._remove_before(entry)

    def _write(self, final: Path, parts: Parts) -> None:
        draft = Draft(final.with_name(f".{final.name}.tmp"), self._within)
        try:
            draft.write(_STATE, parts)
            draft.publish(final)
        except BaseException:
            draft.discard()
            raise

    def load(self) -> tuple[int, Any] | None:
        """Return the latest complete checkpoint: its step, and the state of this rank.

        An attempt begins with it; all ranks then get the same step. After the first `save` it
        gives what is the latest at that moment.

        Raises
        ------
        ResultError
            This rank's part is damaged. It has been set aside as ``*.damaged``: the next attempt
            loads the checkpoint before. With one rank, that happens here and now, with a warning.
        EncodingError
            The state needs something that is not here, such as a module.
        """
        for entry in self._candidates():
            try:
                parts = patiently(lambda: self._read(entry))  # noqa: B023
            except ResultError as error:
                if not _is_damage(error):
                    raise
                part = self._part(entry)
                with contextlib.suppress(OSError):
                    part.rename(part.with_name(f"{part.name}.damaged"))
                if self.ranks > 1:
                    raise
                warnings.warn(f"{error} Using the checkpoint before it.", stacklevel=2)
            else:
                return entry.step, put_together(parts)
        return None

    def _candidates(self) -> list[_Entry]:
        """Return the checkpoints that can be loaded, the best first."""
        if self.ranks == 1:
            return self._complete()[::-1]
        if self._last_step is None:
            return self._resume_from()
        return self._complete()[-1:]

    def _read(self, entry: _Entry) -> Parts:
        part = self._part(entry)
        file = when_there(part, lambda: SealedFile(part))
        try:
            return file.read(_STATE)
        finally:
            file.close()

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, from old to new."""
        return [entry.step for entry in self._complete()]

    def clear(self) -> None:
        """Remove all checkpoints of the task, of all ranks and attempts.

        Raises
        ------
        StorageError
            The files cannot be removed.
        """
        try:
            shutil.rmtree(self.directory)
        except FileNotFoundError:
            pass
        except OSError as cause:
            raise StorageError(f"cannot remove {self.directory}: {cause.strerror}") from cause
        self._last_step = None

    def _part(self, entry: _Entry) -> Path:
        return self.directory / entry.name / self._part_name(self.rank)

    def _part_name(self, rank: int) -> str:
        return f"rank-{rank}-of-{self.ranks}.h5"

    def _is_complete(self, entry: _Entry) -> bool:
        names = set(_listing(self.directory / entry.name))
        return all(self._part_name(rank) in names for rank in range(self.ranks))

    def _entries(self) -> list[_Entry]:
        parsed = (_Entry.parse(name) for name in _listing(self.directory))
        return sorted(entry for entry in parsed if entry)

    def _complete(self) -> list[_Entry]:
        return [entry for entry in self._entries() if self._is_complete(entry)]

    def _resume_from(self) -> list[_Entry]:
        """Return the checkpoint that this attempt resumes from, the same for all its ranks, as a
        list of at most one."""
        latest = self._complete()[-1:]
        link = self.directory / f"resume-attempt-{self.attempt}"
        try:
            durable.make_directory(self.directory, self._within)
            link.symlink_to(latest[0].name if latest else "nothing")
        except FileExistsError:
            agreed = _Entry.parse(patiently(link.readlink).name)
            return [agreed] if agreed else []
        except OSError as cause:
            raise StorageError(f"cannot write {link}: {cause.strerror}") from cause
        return latest

    def _remove_before(self, done: _Entry) -> None:
        """Remove the checkpoints that are older than the complete one `done` and not among those to
        keep."""
        kept = set(self._complete()[-self.keep :])
        for name in _listing(self.directory):
            match = re.fullmatch(r"resume-attempt-(\d+)", name)
            if match and int(match[1]) > self.attempt:
                with contextlib.suppress(OSError):
                    resumed = _Entry.parse((self.directory / name).readlink().name)
                    kept |= {resumed} if resumed else set()
        for entry in self._entries():
            if entry < done and entry not in kept:
                # Another rank may be at it as well, and what stays is tried again next time.
                shutil.rmtree(self.directory / entry.name, ignore_errors=True)


def _is_damage(error: ResultError) -> bool:
    """Tell whether a part will never be readable; False where the system failed, as for lack of
    memory."""
    cause = error.__cause__
    system_failed = isinstance(cause, (MemoryError, OSError)) and bool(getattr(cause, "errno", 0))
    return isinstance(cause, FileNotFoundError) or not system_failed


@patient
def _listing(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
