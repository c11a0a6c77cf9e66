"""A program for PyCOMPSs, run in this process: its application begins and ends with it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from pilot.compat import search_directory
from pilot.compat.compss import application


def run_program(program: str, arguments: Sequence[str], *, is_module: bool = False) -> None:
    """Run a program, and wait for all its tasks.

    After an error of the program the tasks are cancelled.

    Parameters
    ----------
    program
        The path of a file, or the name of a module.
    arguments
        What it finds in ``sys.argv[1:]``.
    is_module
        True for a module.

    Raises
    ------
    PyCOMPSsException
        A task has failed for good.
    SystemExit
        As the program raises it.
    """
    if search_directory() not in sys.path:
        sys.path.insert(0, search_directory())
    # Programs that it starts find the same.
    paths = [search_directory(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    sys.argv = [program, *arguments]
    application.start(Path(program).name)
    is_failed = True
    try:
        if is_module:
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            _run_file(program)
        is_failed = False
    except SystemExit as ended:
        is_failed = ended.code not in (None, 0)
        raise
    finally:
        application.stop(is_failed)


def _run_file(program: str) -> None:
    """Run a file as the main module, which stays that until this process ends."""
    path = Path(program)
    sys.path.insert(0, str(path.absolute().parent))
    main = ModuleType("__main__")
    main.__file__ = str(path)
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]  # as Python's own has it
    sys.modules["__main__"] = main
    code = compile(path.read_bytes(), str(path), "exec")
    exec(code, vars(main))
