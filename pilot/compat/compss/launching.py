"""Programs for PyCOMPSs, run in this process: the application begins and ends with the program."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pilot.compat import search_directory
from pilot.compat.compss import api, application
from pilot.compat.compss.checkpoints import not_kept

#: The settings of programs that are started by hand, and that have no meaning here.
IGNORED_SETTINGS: Final = frozenset(
    {"log_level", "debug", "o_c", "graph", "trace", "monitor", "project_xml", "resources_xml"}
    | {"summary", "task_execution", "storage_impl", "storage_conf", "streaming_backend"}
    | {"streaming_master_name", "streaming_master_port", "task_count", "uuid", "log_dir"}
    | {"master_working_dir", "extrae_cfg", "extrae_final_directory", "comm", "conn"}
    | {"master_name", "master_port", "scheduler", "jvm_workers", "cpu_affinity", "gpu_affinity"}
    | {"fpga_affinity", "fpga_reprogram", "profile_input", "profile_output", "scheduler_config"}
    | {"external_adaptation", "propagate_virtual_environment", "mpi_worker", "worker_cache"}
    | {"shutdown_in_node_failure", "io_executors", "env_script", "reuse_on_block"}
    | {"tracing_task_dependencies", "trace_label", "extrae_cfg_python", "cache_profiler", "ear"}
    | {"data_provenance", "checkpoint_folder", "verbose", "disable_external"}
)


def settings_of(
    is_nested: bool, checkpoint_policy: str, checkpoint_params: str
) -> application.Settings:
    """Return what a program is told that is started by hand.

    Raises
    ------
    PyCOMPSsException
        A parameter means nothing.
    """
    policy = checkpoint_policy.rpartition(".")[2]
    return application.Settings(
        is_nested=is_nested,
        has_checkpoints=policy not in ("", "NoCheckpoint"),
        not_kept=not_kept(checkpoint_params),
    )


def launch(
    app: str,
    func: str | None,
    *args: Any,
    nested_enabled: bool = False,
    checkpoint_policy: str = "",
    checkpoint_params: str = "",
    wcl: float = 0,
    **kwargs: Any,
) -> Any:
    """Call a function of a program's file with tasks, wait for them, and return what it returns.

    Parameters
    ----------
    app
        The path of the file, which is imported.
    func
        The name of the function; None: the file is the main module.
    *args
        Its arguments; also what it finds in ``sys.argv``.
    nested_enabled, checkpoint_policy, checkpoint_params, wcl
        As of `pycompss.interactive.start`.
    **kwargs
        Other settings of PyCOMPSs, which have no meaning here, and arguments of the function.

    Raises
    ------
    PyCOMPSsException
        A task has failed for good.
    """
    given = {name: value for name, value in kwargs.items() if name not in IGNORED_SETTINGS}
    settings = settings_of(nested_enabled, checkpoint_policy, checkpoint_params)
    application.start(given.pop("app_name", "") or Path(app).name, settings)
    if wcl:
        api.compss_set_wall_clock(wcl)
    if func is None:
        run_program(app, [str(each) for each in args])
        return None
    saved, sys.argv = sys.argv, list(args)
    is_failed = True
    try:
        found = getattr(_imported(Path(app)), func)(*args, **given)
        is_failed = False
        return found
    finally:
        sys.argv = saved
        application.stop(is_failed)


def _imported(path: Path) -> ModuleType:
    """Import a file under its name, as workers do."""
    directory = str(path.absolute().parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return importlib.import_module(path.stem)


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
    # COMPSs runs programs among its own names, and some have come to rely on this one.
    main.sys = sys  # type: ignore[attr-defined]  # of a module that is made here
    sys.modules["__main__"] = main
    code = compile(path.read_bytes(), str(path), "exec")
    exec(code, vars(main))
