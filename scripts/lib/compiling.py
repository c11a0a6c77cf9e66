"""The byte code of Pilot, made before something is measured, as an installation makes it."""

from __future__ import annotations

import compileall
from pathlib import Path

import pilot


def compile_pilot() -> None:
    """Compile Pilot's modules.

    Under PYTHONDONTWRITEBYTECODE, say, each process of a fresh checkout would compile what it
    imports, and that would be measured.
    """
    package = Path(pilot.__file__ or "").parent
    # In a checkout some packages are links, which `compile_dir` does not follow.
    for directory in (package, *(path for path in package.iterdir() if path.is_symlink())):
        compileall.compile_dir(directory, quiet=2)
