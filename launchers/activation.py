"""Activation: the command line by which a program starts in a software environment. Pure.

A virtual environment, a conda environment and the modules of a site are for a shell to enter, which
then becomes the program: so the program has all of it from its first moment, the search path for
libraries too.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

#: Where the command ``module`` is defined, if the shell does not know it yet.
_MODULES = (
    '"${LMOD_PKG:-/none}/init/bash"',
    '"${MODULESHOME:-/none}/init/bash"',
    "/etc/profile.d/lmod.sh",
    "/etc/profile.d/modules.sh",
    "/etc/profile.d/z00_lmod.sh",
    "/usr/share/lmod/lmod/init/bash",
    "/usr/share/modules/init/bash",
)


def activated(
    command: Sequence[str], venv: str = "", conda: str = "", modules: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command line that starts a command in a virtual or conda environment, with
    modules loaded before."""
    script = activation(venv, conda, modules)
    return ("bash", "-c", script, "pilot", *command) if script else tuple(command)


def activation(venv: str, conda: str, modules: Sequence[str]) -> str:
    """Return the shell's lines that enter an environment and become the command that follows; empty
    if there is nothing to enter."""
    lines: list[str] = []
    if modules:
        places = " ".join(_MODULES)
        lines += [
            f"if ! type module >/dev/null 2>&1; then for f in {places}; do "
            '[ -r "$f" ] && . "$f" && break; done; fi',
            "type module >/dev/null 2>&1 || "
            + _fail("there is no command module here, so that modules cannot be loaded"),
        ]
    for name in modules:
        word = shlex.quote(name)
        lines.append(f"module load {word} || " + _fail(f"module load {word} has failed"))
    for kind, prefix in (("conda", conda), ("venv", venv)):
        if not prefix:
            continue
        word = shlex.quote(prefix)
        lines += [
            f"[ -x {word}/bin/python ] || [ -d {word}/bin ] || "
            + _fail(f"there is no environment {word} here"),
            f'export PATH={word}/bin:"$PATH"',
            "unset PYTHONHOME",
        ]
        if kind == "venv":
            lines.append(f"export VIRTUAL_ENV={word}")
        else:
            lines += [
                f"export CONDA_PREFIX={word}",
                f'for f in {word}/etc/conda/activate.d/*.sh; do [ -r "$f" ] && . "$f"; done',
            ]
    return "\n".join([*lines, 'exec "$@"']) if lines else ""


def _fail(told: str) -> str:
    return "{ echo " + shlex.quote(f"pilot: {told}") + " >&2; exit 1; }"
