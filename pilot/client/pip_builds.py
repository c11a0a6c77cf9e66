"""Virtual environments of pip's making, each built once and kept in the site directory.

Whoever submits the first task that needs one builds it, where the network usually is; others wait
for that. Its name is a digest of what was asked for and of the Python that it is for.

Invariants
----------
- An environment that has its mark is complete, and never changes. One without is nobody's but the
  builder's.
- One builds at a time, on whatever machine: the right to it is a directory in which a file
  changes. A builder that has died is seen by that this file stands still.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pilot.data.directories import make_private
from pilot.errors import SubmissionError

#: The file that a complete environment has, with what it was made of.
MARK = "pilot.json"
#: A builder changes its file so often, and is dead if it has not for so long, in seconds.
BEAT_S, DEAD_S = 1.0, 20.0
_LOOK_S = 0.2
#: That an environment is used is noted so often, in seconds.
_USED_S = 3600.0
#: The lines of pip's that are told of a failed build.
_LINES = 15


def digest_of(pip: Sequence[str], options: Sequence[str]) -> str:
    """Return the name of the environment for these requirements and this Python."""
    python = [*sys.version_info[:2], platform.machine(), sys.base_prefix]
    text = json.dumps([list(pip), list(options), python])
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def built(directory: Path, site: Path, pip: Sequence[str], options: Sequence[str]) -> Path:
    """Return the virtual environment that has these requirements; build it if it is not there.

    Parameters
    ----------
    directory
        Where environments are.
    site
        The site directory, in which that is.
    pip
        The requirements, as for ``pip install``.
    options
        More words for ``pip install``.

    Raises
    ------
    SubmissionError
        It cannot be built; the message has the last lines of pip.
    """
    place = directory / digest_of(pip, options)
    if (place / MARK).exists():
        _note_use(place)
        return place
    try:
        make_private(directory, site)
        with _right_to_build(place) as is_ours:
            if is_ours:
                _build(place, pip, options)
    except OSError as error:
        raise SubmissionError(
            f"the environment {place} cannot be made: {error.strerror or error}"
        ) from error
    return place


def read_mark(place: Path) -> dict[str, Any]:
    """Return what an environment was made of: ``pip``, ``options``, ``python``, ``made``, and when
    it was ``used`` last; empty if it is not complete."""
    try:
        found: dict[str, Any] = json.loads((place / MARK).read_text())
        used = (place / MARK).stat().st_mtime
    except (OSError, ValueError):
        return {}
    return {**found, "used": used}


def _note_use(place: Path) -> None:
    """Note that a program has asked for an environment, by the time of its mark."""
    with contextlib.suppress(OSError):  # a full disk is not its user's affair
        if time.time() - (place / MARK).stat().st_mtime > _USED_S:
            os.utime(place / MARK)


@contextlib.contextmanager
def _right_to_build(place: Path) -> Iterator[bool]:
    """Wait until the environment is there, and give False; or until nobody builds it, and give
    True, with the right to do so for as long as the block lasts."""
    right = place.with_suffix(".building")
    beat = right / "beat"
    seen, since = "", time.monotonic()
    while True:
        if (place / MARK).exists():
            yield False
            return
        try:
            right.mkdir(mode=0o700)
            break
        except FileExistsError:
            pass
        try:
            now = beat.read_text()
        except OSError:
            now = "none"
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > DEAD_S:
            # Of several that find it dead, one gives the right another name.
            with contextlib.suppress(OSError):
                gone = right.with_suffix(f".{uuid.uuid4().hex}")
                right.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            since = time.monotonic()
        time.sleep(_LOOK_S)
    done = threading.Event()
    mine = uuid.uuid4().hex

    def live() -> None:
        count = 0
        while True:
            count += 1
            with contextlib.suppress(OSError):
                beat.write_text(f"{mine} {count}")
            if done.wait(BEAT_S):
                return

    thread = threading.Thread(target=live, name="builds", daemon=True)
    thread.start()
    try:
        yield not (place / MARK).exists()
    finally:
        done.set()
        thread.join()
        shutil.rmtree(right, ignore_errors=True)


def _build(place: Path, pip: Sequence[str], options: Sequence[str]) -> None:
    shutil.rmtree(place, ignore_errors=True)  # what a builder that died has left
    asked = " ".join(pip)
    try:
        _run([sys.executable, "-m", "venv", str(place)], f"no virtual environment for {asked}")
        python = str(place / "bin" / "python")
        words = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        _run([python, *words, *options, "--", *pip], f"pip cannot install {asked}")
        made = {"pip": list(pip), "options": list(options), "python": platform.python_version()}
        partial = place / f"{MARK}.part"
        partial.write_text(json.dumps({**made, "made": time.time()}))
        partial.replace(place / MARK)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _run(command: Sequence[str], told: str) -> None:
    # Without what an environment around this program would say to another one's Python.
    env = {name: v for name, v in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
        check=False,
    )
    if done.returncode:
        lines = "\n".join(done.stdout.strip().splitlines()[-_LINES:])
        raise SubmissionError(f"{told} (exit status {done.returncode}):\n{lines}")
