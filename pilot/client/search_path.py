"""The directories of a program's search path that its tasks need and workers do not have.

Workers run an interpreter of the site: its library, and the packages that are installed with it,
are found there anyway, and those of another interpreter would be in their way. This holds for
these directories themselves, not for those below them: people keep modules in a directory of a
virtual environment, and below whatever else `sys.prefix` happens to be.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path


def search_path(
    given: Sequence[str | os.PathLike[str]], found: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Return the directories that workers search for modules, each once, as absolute paths.

    Parameters
    ----------
    given
        The directories that the user names: they come first, and always.
    found
        The directories of the program; default: `sys.path`.
    """
    own = {os.path.realpath(path) for path in _of_the_interpreter()}
    named = absolute(given)
    others = absolute(sys.path if found is None else found)
    needed = [
        path
        for path in others
        # One that cannot be read is as good as none, and it is no error that it is in the list.
        if os.path.realpath(path) not in own and os.access(path, os.R_OK)
    ]
    return tuple(dict.fromkeys([*named, *needed]))


def absolute(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return absolute paths, each once."""
    return tuple(dict.fromkeys(str(Path(path).absolute()) for path in paths))


def _of_the_interpreter() -> list[str]:
    """Return the directories that this interpreter has by itself when it starts."""
    known = sysconfig.get_paths()  # once: each call works out all of them
    paths = [known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths.append(str(Path(known["stdlib"], "lib-dynload")))
    version = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        paths += [str(Path(prefix, sys.platlibdir, version)), str(Path(prefix, "lib", version))]
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    return [*paths, *site.getsitepackages(prefixes), site.getusersitepackages()]
