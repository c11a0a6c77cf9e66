"""The commands ``runcompss`` and ``pycompss run``, also as ``python -m pycompss``.

Flags are those of COMPSs. What has no meaning here is named once, and what COMPSs does not know is
an error: a flag that is misspelled changes nothing in silence.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from pilot.compat.compss.errors import PyCOMPSsException
from pilot.errors import PilotError

_USAGE: Final = """usage: runcompss [FLAGS] PROGRAM.py [ARGUMENTS]…
       runcompss [FLAGS] -m MODULE [ARGUMENTS]…

Runs a program for PyCOMPSs on Pilot, on the site $PILOT_SITE or `local`.

  --pythonpath=PATHS          directories that are searched for modules first
  --env_script=FILE           a script whose variables the program has
  --python_interpreter=FILE   the Python that runs the program
  --wall_clock_limit=SECONDS  the tasks are cancelled then
  --lang=python               (nothing else)
  -h, --help                  show this

Other flags of COMPSs have no meaning here: a line on stderr names them. Unknown ones are errors.
"""
_VALUES: Final = frozenset(
    {"pythonpath", "env_script", "python_interpreter", "wall_clock_limit", "lang"}
)
#: What programs would need, and is not there.
_MISSING: Final = {"nested", "streaming", "checkpoint", "checkpoint_params", "jupyter_notebook"}
#: Flags of COMPSs without a meaning here.
_IGNORED: Final = frozenset(
    {"debug", "log_level", "log_dir", "base_log_dir", "specific_log_dir", "graph", "tracing"}
    | {"monitoring", "external_debugger", "jmx_port", "summary", "project", "resources", "conn"}
    | {"scheduler", "scheduler_config_file", "library_path", "classpath", "appdir", "comm"}
    | {"storage_impl", "storage_conf", "streaming_master_name", "streaming_master_port"}
    | {"task_execution", "uuid", "shutdown_in_node_failure", "jvm_master_opts", "jvm_workers_opts"}
    | {"cpu_affinity", "gpu_affinity", "fpga_affinity", "fpga_reprogram", "io_executors"}
    | {"task_count", "input_profile", "output_profile", "worker_in_master_cpus"}
    | {"worker_in_master_memory", "python_propagate_virtual_environment", "python_mpi_worker"}
    | {"python_memory_profile", "python_worker_cache", "python_cache_profiler", "master_name"}
    | {"master_port", "agent_sandboxed", "ear", "data_provenance", "provenance", "reuse_on_block"}
    | {"checkpoint_folder", "checkpoint_policy", "keep_workingdir", "extrae_config_file"}
    | {"extrae_config_file_python", "trace_label", "tracing_task_dependencies", "opt", "quiet"}
    | {"generate_trace", "delete_trace_packages", "custom_threads", "verbose"}
)
_SHORT: Final = {"d": "debug", "g": "graph", "t": "tracing", "q": "quiet", "v": "verbose"}


def _tell(text: str) -> None:
    print(f"runcompss: {text}", file=sys.stderr)  # noqa: T201 - what a command says


class UsageError(Exception):
    """The command line means nothing."""


def parse(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the flags that mean something, those that do not, and the program's own words.

    Raises
    ------
    UsageError
        There is no such flag.
    """
    meant: dict[str, str] = {}
    ignored: list[str] = []
    for place, word in enumerate(words):
        if word == "-m" or not word.startswith("-"):
            return meant, ignored, list(words[place:])
        name, _, value = word.lstrip("-").partition("=")
        name = _SHORT.get(name, name) if not word.startswith("--") else name
        if name in ("h", "help"):
            meant["help"] = ""
        elif name in _VALUES:
            if not value:
                raise UsageError(f"{word}: write --{name}=…")
            meant[name] = value
        elif name in _MISSING:
            if value.lower() not in ("false", "none", "no", "0"):
                raise UsageError(f"{word} is not supported on Pilot")
        elif name in _IGNORED:
            ignored.append(word)
        else:
            raise UsageError(f"{word}: there is no such flag; `runcompss --help` shows them")
    return meant, ignored, []


def run(words: Sequence[str]) -> int:
    """Run a program as the command line says; return the exit status."""
    try:
        meant, ignored, rest = parse(words)
        if "help" in meant:
            sys.stdout.write(_USAGE)
            return 0
        if meant.get("lang", "python").lower() != "python":
            raise UsageError(f"--lang={meant['lang']}: there is python alone")
        if not rest or rest == ["-m"]:
            raise UsageError("give a program; `runcompss --help` shows how")
        limit = float(meant["wall_clock_limit"]) if "wall_clock_limit" in meant else 0.0
    except (UsageError, ValueError) as error:
        _tell(str(error))
        return 2
    if ignored:
        told = " ".join(ignored)
        _tell(f"without a meaning on Pilot: {told}")
    if "env_script" in meant:
        os.environ.update(_variables_of(meant["env_script"]))
    if paths := [path for path in meant.get("pythonpath", "").split(os.pathsep) if path]:
        sys.path[:0] = [str(Path(path).absolute()) for path in paths]
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    if python := meant.get("python_interpreter"):
        flags = [f"--wall_clock_limit={limit:g}"] if limit else []
        os.execvp(python, [python, "-m", "pilot.compat.compss.commands", *flags, *rest])
    return _run_program(rest, limit)


def _run_program(words: list[str], limit_s: float) -> int:
    from pilot.compat.compss import api, application
    from pilot.compat.compss.launching import run_program

    is_module = words[0] == "-m"
    program, *arguments = words[1:] if is_module else words
    if not is_module and not Path(program).is_file():
        _tell(f"there is no program {program}")
        return 2
    if limit_s:
        application.start(Path(program).name)
        api.compss_set_wall_clock(limit_s)
    try:
        run_program(program, arguments, is_module=is_module)
    except (PyCOMPSsException, PilotError) as error:
        traceback.print_exception(error)
        return 1
    return 0


def _variables_of(script: str) -> dict[str, str]:
    """Return the environment that a shell has after a script."""
    command = ["bash", "-c", 'set -a; . "$1" >&2; env -0', "bash", str(Path(script).absolute())]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    pairs = (line.partition("=") for line in told.split("\0") if line)
    return {name: value for name, _, value in pairs if name != "_"}


def runcompss() -> NoReturn:
    """Be the command ``runcompss``."""
    sys.exit(run(sys.argv[1:]))


def pycompss() -> NoReturn:
    """Be the command ``pycompss``, whose only action is ``run``."""
    words = sys.argv[1:]
    if words[:1] == ["run"]:
        words = words[1:]
    elif words and words[0] in ("job", "enqueue", "jupyter", "gengraph", "monitor", "env", "app"):
        _tell(f"{words[0]!r} is not supported on Pilot; there is run")
        sys.exit(2)
    sys.exit(run(words))


if __name__ == "__main__":
    runcompss()
