"""A directory of its own for each try of a command, and what is brought there and back.

A command with ``scratch`` runs in an empty directory, which goes when it has ended. Its input files
are there, copied or as links; its output files are made there, and get to their places only when it
has ended well. So tries that fail leave nothing behind, and never meet each other's files.

Invariants
----------
- An output is in its place as a whole, or not at all: it is copied beside it, and renamed.
- The files of a command have different names there; that they have not is told before it starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pilot.errors import CommandError

#: How input files get there.
COPY, LINK = "copy", "link"
#: Around a command with a prolog or an epilog: its words follow. What the prolog sets is there for
#: the command, and its failure is the command's; the epilog runs however that has ended.
_AROUND = """eval "$PILOT_PROLOG" || exit
"$@"
PILOT_STATUS=$?
export PILOT_STATUS
(eval "$PILOT_EPILOG")
ended=$?
[ "$PILOT_STATUS" -ne 0 ] || PILOT_STATUS=$ended
exit "$PILOT_STATUS"
"""


def around(
    argv: Sequence[str], env: Mapping[str, str], prolog: str, epilog: str
) -> tuple[list[str], dict[str, str]]:
    """Return words and environment of a command with its prolog and epilog around it."""
    own = {"PILOT_PROLOG": prolog or ":", "PILOT_EPILOG": epilog or ":"}
    return ["/bin/sh", "-c", _AROUND, "sh", *argv], {**env, **own}


class Scratch:
    """The directory of one try of a command, with its inputs.

    Parameters
    ----------
    directory
        The directory, which is empty.
    inputs, outputs
        The places of the files, by the names of their parameters.
    how
        `COPY` or `LINK`.

    Raises
    ------
    CommandError
        Two files have the same name.
    OSError
        An input cannot be copied.
    """

    def __init__(
        self, directory: Path, inputs: Mapping[str, Path], outputs: Mapping[str, Path], how: str
    ) -> None:
        self.directory = directory
        self._outputs = {directory / place.name: place for place in outputs.values()}
        #: The files as they are called there, by the names of their parameters.
        self.names = {parameter: place.name for parameter, place in {**inputs, **outputs}.items()}
        taken: dict[str, str] = {}
        for parameter, name in self.names.items():
            if other := taken.get(name):
                raise CommandError(
                    f"{other} and {parameter} are both called {name!r}, and with scratch they are "
                    "in one directory; give one of them another name"
                )
            taken[name] = parameter
        for place in inputs.values():
            self._bring(place, how)

    def _bring(self, place: Path, how: str) -> None:
        there = self.directory / place.name
        if how == LINK:
            there.symlink_to(place)
        elif place.is_dir():
            shutil.copytree(place, there, symlinks=True)
        else:
            shutil.copy2(place, there)

    def take_back(self) -> None:
        """Bring the outputs to their places; one that was not made is left to whoever looks.

        Raises
        ------
        OSError
            One cannot be copied.
        """
        for made, place in self._outputs.items():
            if not os.path.lexists(made):
                continue
            part = place.with_name(f".{place.name}.{os.uname().nodename}-{os.getpid()}.part")
            try:
                if made.is_dir():
                    shutil.copytree(made, part, symlinks=True)
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        shutil.rmtree(place)
                else:
                    shutil.copy2(made, part)
                part.replace(place)
            except BaseException:
                _remove(part)
                raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
