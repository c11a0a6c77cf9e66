"""The commands ``runcompss``, ``enqueue_compss`` and ``pycompss``, also as ``python -m pycompss``.

Flags are those of COMPSs (`flags`). What has no meaning here is named once.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from pilot.compat import search_directory
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.flags import RESOURCES, Flags, UsageError, parse
from pilot.errors import PilotError

_RUN_USAGE: Final = """usage: runcompss [FLAGS] PROGRAM.py [ARGUMENTS]…
       runcompss [FLAGS] -m MODULE [ARGUMENTS]…

Runs a program for PyCOMPSs on Pilot, on the site $PILOT_SITE or `local`.
"""
_PROGRAM_USAGE: Final = """
  --pythonpath=PATHS          directories that are searched for modules first
  --env_script=FILE           a script whose variables the program has
  --python_interpreter=FILE   the Python that runs the program
  --wall_clock_limit=SECONDS  the tasks are cancelled then
  --nested                    calls of tasks inside of tasks are tasks, too
  --checkpoint=POLICY         results are found again by the next run, whatever the policy
  --checkpoint_params=avoid.checkpoint:[MODULE.TASK,…]
                              but not those of these tasks
  --resources=FILE            where web services are, in the XML of COMPSs
  --lang=python               (nothing else)
  -h, --help                  show this
"""
_REST_USAGE: Final = """
Other flags of COMPSs have no meaning here: a line on stderr names them. Unknown ones are errors.
"""
_ENQUEUE_USAGE: Final = """usage: enqueue_compss [FLAGS] PROGRAM.py [ARGUMENTS]…

Submits a job that runs a program for PyCOMPSs, with the batch system of the site $PILOT_SITE, and
prints its id. What the flags leave open is as in the first pool of the site.

  --num_nodes=N               the nodes of the job (2)
  --exec_time=MINUTES         its walltime (10)
  --elasticity=N              so many more nodes may be added, in jobs of their own
  --job_name=NAME             part of its name
  --job_dependency=JOB        it starts when that job has ended
  --job_execution_dir=PATH    where the program runs; default: here
  --pre_env_script=FILE       a script that the job runs first
  --queue=NAME                a pool of the site, or a partition
  --qos=, --reservation=, --constraints=, --project_name=, --cluster=, --licenses=, --network=,
  --num_switches=, --extra_submit_flag=
                              as the batch system has them
  --cpus_per_node=N, --gpus_per_node=N, --node_memory=MB
                              what is used of each node
"""
_PYCOMPSS_USAGE: Final = """usage: pycompss [run] [FLAGS] PROGRAM.py [ARGUMENTS]…   as runcompss
       pycompss enqueue [FLAGS] PROGRAM.py …           as enqueue_compss
       pycompss job submit [FLAGS] PROGRAM.py …        the same
       pycompss job list | status JOB | cancel JOB     such jobs
       pycompss jupyter [ARGUMENTS]…                   a notebook that finds `pycompss.interactive`
       pycompss gengraph FILE.dot…                     a picture of each graph, by Graphviz
       pycompss monitor                                what the newest session of the site does
"""


def _say(text: str) -> None:
    print(text)  # noqa: T201 - what a command says


def _guarded(command: str, do: Callable[[], int]) -> int:
    """Return the exit status of what a command does; say what is wrong with its words."""

    def tell(text: str) -> None:
        print(f"{command}: {text}", file=sys.stderr)  # noqa: T201 - what a command says

    try:
        return do()
    except UsageError as error:
        tell(str(error))
        return 2
    except PilotError as error:
        tell(str(error))
        return error.exit_code


def _name_ignored(flags: Flags, command: str) -> None:
    if flags.ignored:
        told = " ".join(flags.ignored)
        print(f"{command}: without a meaning on Pilot: {told}", file=sys.stderr)  # noqa: T201 - as above


# --- runcompss -----------------------------------------------------------------------------------


def run(words: Sequence[str]) -> int:
    """Run a program as the command line says; return the exit status."""
    return _guarded("runcompss", lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    flags = parse(words)
    meant, rest = flags.meant, flags.rest
    if "help" in meant:
        sys.stdout.write(_RUN_USAGE + _PROGRAM_USAGE + _REST_USAGE)
        return 0
    if not rest or rest == ["-m"]:
        raise UsageError("give a program; `runcompss --help` shows how")
    limit = flags.number("wall_clock_limit")
    _name_ignored(flags, "runcompss")
    if "resources" in meant:
        os.environ[RESOURCES] = str(Path(meant["resources"]).absolute())
    if "env_script" in meant:
        os.environ.update(_variables_of(meant["env_script"]))
    if paths := [path for path in meant.get("pythonpath", "").split(os.pathsep) if path]:
        sys.path[:0] = [str(Path(path).absolute()) for path in paths]
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    if python := meant.get("python_interpreter"):
        applied = ("python_interpreter", "pythonpath", "env_script")
        left = {name: value for name, value in meant.items() if name not in applied}
        again = flags._replace(meant=left).program_flags()
        os.execvp(python, [python, "-m", "pilot.compat.compss.commands", *again, *rest])
    return _run_program(flags, limit)


def _run_program(flags: Flags, limit_s: float) -> int:
    from pilot.compat.compss import api, application, checkpoints
    from pilot.compat.compss.launching import run_program

    is_module = flags.rest[0] == "-m"
    program, *arguments = flags.rest[is_module:]
    if not is_module and not Path(program).is_file():
        raise UsageError(f"there is no program {program}")
    settings = application.Settings(
        is_nested=flags.is_set("nested"),
        has_checkpoints=flags.has_checkpoints,
        not_kept=checkpoints.not_kept(flags.meant.get("checkpoint_params", "")),
    )
    application.start(Path(program).name, settings)
    if limit_s:
        api.compss_set_wall_clock(limit_s)
    try:
        run_program(program, arguments, is_module=is_module)
    except (PyCOMPSsException, PilotError) as error:
        traceback.print_exception(error)
        return 1
    return 0


def _variables_of(script: str) -> dict[str, str]:
    """Return the environment that a shell has after a script.

    Raises
    ------
    UsageError
        The script fails.
    """
    command = ["bash", "-c", 'set -a; . "$1" >&2; env -0', "bash", str(Path(script).absolute())]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode or not Path(script).is_file():
        raise UsageError(f"--env_script={script}: the script fails, with {found.returncode}")
    pairs = (line.partition("=") for line in found.stdout.split("\0") if line)
    return {name: value for name, _, value in pairs if name != "_"}


# --- enqueue_compss ------------------------------------------------------------------------------


def enqueue(words: Sequence[str]) -> int:
    """Submit a program as a job; return the exit status."""
    return _guarded("enqueue_compss", lambda: _enqueue(words))


def _enqueue(words: Sequence[str]) -> int:
    from pilot.compat.compss import enqueueing, jobs
    from pilot.site import find_site

    flags = parse(words, "enqueue_compss", of_job=True)
    if "help" in flags.meant:
        sys.stdout.write(_ENQUEUE_USAGE + _PROGRAM_USAGE + _REST_USAGE)
        return 0
    site = enqueueing.site_of(flags, find_site())
    _name_ignored(flags, "enqueue_compss")
    job = enqueueing.enqueue(flags, site)
    _say(f"Submitted batch job {enqueueing.job_label(site, job)}")
    # Standard output is for the id.
    print(f"its output: {jobs.output_of(site, job)}", file=sys.stderr)  # noqa: T201 - as above
    return 0


# --- pycompss ------------------------------------------------------------------------------------


def act(words: Sequence[str]) -> int:
    """Do what the words of ``pycompss`` say; without an action, run a program."""
    action, *rest = list(words) or ["--help"]
    if action in ("-h", "--help"):
        sys.stdout.write(_PYCOMPSS_USAGE)
        return 0
    if action == "run":
        return run(rest)
    if action == "enqueue" or [action, *rest[:1]] == ["job", "submit"]:
        return enqueue(rest[action == "job" :])
    if action in ("init", "exec", "env", "environment", "app", "components", "inspect"):
        return _guarded("pycompss", lambda: _refuse(action))
    others = {"job": _job, "jupyter": _jupyter, "gengraph": _draw, "monitor": _monitor}
    if action in others:
        return _guarded("pycompss", lambda: others[action](rest))
    return run(words)


def _refuse(action: str) -> int:
    raise UsageError(f"{action!r} is not supported on Pilot; `pycompss --help` shows what is")


def _job(words: list[str]) -> int:
    from pilot.compat.compss import jobs
    from pilot.site import find_site

    jobs.manage(find_site(), words, _say)
    return 0


def _jupyter(words: list[str]) -> int:
    if importlib.util.find_spec("jupyter") is None and importlib.util.find_spec("notebook") is None:
        raise UsageError(f"Jupyter is not there: {sys.executable} -m pip install notebook")
    paths = [search_directory(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "jupyter", *(words or ["notebook"])]
    return subprocess.run(command, env=environment, check=False).returncode


def _draw(words: list[str]) -> int:
    if not words:
        raise UsageError("gengraph: name the graphs, such as complete_graph.dot")
    for word in words:
        path = Path(word)
        if not path.is_file():
            raise UsageError(f"gengraph: there is no graph {word}; `runcompss -g` writes one")
        command = ["dot", "-Tpdf", f"-o{path.with_suffix('.pdf')}", str(path)]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise UsageError("gengraph: there is no program dot; install Graphviz") from None
        except subprocess.CalledProcessError as error:
            raise UsageError(f"gengraph: dot has failed with {error.returncode}") from None
        _say(str(path.with_suffix(".pdf")))
    return 0


def _monitor(words: list[str]) -> int:
    from pilot.interpreter import pilot_command

    if words == ["stop"]:
        return 0  # there is no server
    if words not in ([], ["start"]):
        raise UsageError("monitor: there are start and stop")
    return subprocess.run(pilot_command("session", "watch"), check=False).returncode


# --- as commands ---------------------------------------------------------------------------------


def runcompss() -> NoReturn:
    """Be the command ``runcompss``."""
    sys.exit(run(sys.argv[1:]))


def enqueue_compss() -> NoReturn:
    """Be the command ``enqueue_compss``."""
    sys.exit(enqueue(sys.argv[1:]))


def pycompss() -> NoReturn:
    """Be the command ``pycompss``."""
    sys.exit(act(sys.argv[1:]))


if __name__ == "__main__":
    runcompss()
