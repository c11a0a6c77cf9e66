"""A job script in an executor: its environment, its files, and the programs that it finds.

The script is written into a directory of its own on the node, with the programs that stand in for
those of a batch system, which come first on its ``PATH``. What it finds there is said by its
dialect (`pilot.scheduler.batch.job_scripts`).

Invariants
----------
- The directory goes when the script has ended; where this process was killed, with the node worker.
- Nothing of the job that the pilot is shows in the script's environment: it sees its own.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.client.command import ShellCommand
from pilot.client.context import Context
from pilot.client.stopping import Stopping
from pilot.data.patience import is_there
from pilot.errors import PilotError
from pilot.launchers import get_launcher
from pilot.launchers.mpirun import MpirunLauncher
from pilot.model.ids import NUMBERS, parse_task_label, session_of
from pilot.scheduler.batch.job_scripts import (
    SCRIPT_PLACE,
    Dialect,
    ScriptPlace,
    StepFacts,
    find_dialect,
)
from pilot.site import Site
from pilot.variables import thread_defaults
from pilot.worker.node_cache import NodeCache
from pilot.worker.own_directory import make_own_directory
from pilot.worker.program import Program

#: An mpirun in a script binds ranks to no cores: it would count from the node's first one, and not
#: from the script's. They stay on the script's cores.
_UNBOUND = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
#: What a script has that wants no environment of the program that submits it.
_BARE = frozenset(
    ("HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
)
#: Has a login shell, which sets ``PATH`` anew, find the programs all the same.
_AS_LOGIN = f'PATH="${SCRIPT_PLACE}/bin:$PATH"; . "$0" "$@"'


def run_script(
    command: ShellCommand,
    kwargs: Mapping[str, Any],
    context: Context,
    site: Site,
    cache: NodeCache,
    where: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]],
    environ: Mapping[str, str],
    program: Program,
    stopping: Stopping,
) -> int:
    """Run a job script in this directory; return its exit status, -N for signal N.

    Parameters
    ----------
    command, kwargs
        The script, with its name and arguments as the words of the command.
    cache
        Knows a directory of the node.
    where
        The nodes, and for several of them the cores on each.
    environ
        The environment of commands here.
    program
        To be started.

    Raises
    ------
    PilotError
        It cannot be started.
    """
    script = command.script
    assert script is not None
    dialect = find_dialect(script.dialect)
    nodes, cores = where
    place = _place(context, nodes, kwargs)
    directory = make_own_directory("script", cache, site)
    try:
        facts = _step_facts(site, environ, dialect, script.text, place, cores)
        _fill_directory(directory, script.text, dialect, script.asked, place, facts)
        env = _environment(site, command, kwargs, environ, dialect, place, directory)
        stdin, stdout, stderr = (
            dialect.file_name(pattern, place) if pattern else None
            for pattern in (script.stdin, script.stdout, script.stderr)
        )
        for output in filter(None, (stdout, stderr)):
            above = Path(output).absolute().parent
            if not is_there(above):
                raise PilotError(f"the directory of its output, {above}, is not there: make it")
        if stdin:
            is_there(Path(stdin))
        argv = _argv(script.text, str(directory / "script"), list(command.command[1:]))
        timer = _signal_timer(command, context, program)
        program.start(argv, env, stdin, stdout, stderr or stdout, script.appends)
        if timer is not None:
            timer.start()
        try:
            return program.wait(stopping, lambda: context.should_stop)
        finally:
            if timer is not None:
                timer.cancel()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _place(context: Context, nodes: tuple[str, ...], kwargs: Mapping[str, Any]) -> ScriptPlace:
    number = parse_task_label(context.task_id)
    return ScriptPlace(
        task=number,
        session=session_of(number),
        number=number & NUMBERS,
        attempt=context.attempt,
        name=context.name,
        index=str(kwargs.get("index", "")),
        nodes=nodes,
        cores=max(1, context.resources.cores),
        gpus=tuple(context.indices.get("gpus", ())),
        started=time.time(),
        ends=context.deadline or 0.0,
        user=_user(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name in this container
        return str(os.getuid())


# --- the directory


def _fill_directory(
    directory: Path,
    text: str,
    dialect: Dialect,
    asked: Mapping[str, str],
    place: ScriptPlace,
    facts: StepFacts,
) -> None:
    programs = dialect.programs(asked, place, facts)
    _write(directory / "script", text)
    _write(directory / "steps.json", json.dumps(programs.facts))
    (directory / "bin").mkdir()
    for name, file in programs.files.items():
        words = shlex.join([sys.executable, "-I", "-S", file, name])
        _write(directory / "bin" / name, f'#!/bin/sh\nexec {words} "$@"\n')


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o700)


def _argv(text: str, path: str, arguments: list[str]) -> list[str]:
    """Return the words that run a script as the system would, by its first line."""
    first = text.split("\n", 1)[0].removeprefix("#!").strip().split(None, 1)
    if not first:
        first = ["/bin/sh"]
    interpreter = Path(first[0]).name
    options = first[1].split() if len(first) > 1 else []
    if interpreter == "env" and len(options) > 1 and options[0] in ("-S", "--split-string"):
        interpreter, options = Path(options[1]).name, options[2:]
    if interpreter == "bash" and _is_login(options):
        return [*_words(first), "-c", _AS_LOGIN, path, *arguments]
    return [*_words(first), path, *arguments]


def _words(first: list[str]) -> list[str]:
    """Return the words of a first line: a program, and all behind it as one word."""
    return [each.strip() for each in first]


def _is_login(options: list[str]) -> bool:
    return any(
        each == "--login" or (each[:1] == "-" and each[:2] != "--" and "l" in each)
        for each in options
    )


# --- what it finds


def _is_of_node(name: str) -> bool:
    """Tell whether a variable is one that a script has which wants no environment."""
    return name in _BARE or name.startswith(("PILOT_", "LC_")) or name.endswith("_DEVICES")


def _environment(
    site: Site,
    command: ShellCommand,
    kwargs: Mapping[str, Any],
    environ: Mapping[str, str],
    dialect: Dialect,
    place: ScriptPlace,
    directory: Path,
) -> dict[str, str]:
    script = command.script
    assert script is not None
    # A batch system says nothing of threads: libraries see the cores that a process may use.
    told = thread_defaults({}, place.cores).items()
    env = {
        name: value
        for name, value in environ.items()
        if not dialect.is_of_job(name) and (name, value) not in told
    }
    if not script.inherits:
        own = site.config.environment.variables
        env = {name: v for name, v in env.items() if name in own or _is_of_node(name)}
    env = {**_UNBOUND, **env, **script.variables, **command.variables(kwargs)}
    env |= dialect.variables(script.asked, place)
    env[SCRIPT_PLACE] = str(directory)
    env["PATH"] = f"{directory / 'bin'}{os.pathsep}{env.get('PATH') or os.defpath}"
    return env


def _step_facts(
    site: Site,
    environ: Mapping[str, str],
    dialect: Dialect,
    text: str,
    place: ScriptPlace,
    cores: tuple[tuple[int, ...], ...],
) -> StepFacts:
    config = site.config
    here = tuple(sorted(os.sched_getaffinity(0)))
    pinned: tuple[tuple[int, ...], ...] = ()
    if len(here) == place.cores:
        pinned = (here, *cores[1:])
    launcher = config.kind.node_launcher
    options: tuple[str, ...] = ()
    if launcher != "local":
        options = config.kind.step_options(environ.get("PILOT_JOB_ID", ""))
        if config.mpi.launcher in ("auto", launcher):
            options += tuple(config.mpi.options)
    mpirun: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    if launcher == "local" and dialect.has_steps(text):
        mpirun, variables = _mpirun(config.mpi.launcher, tuple(config.mpi.options))
    return StepFacts(
        python=sys.executable,
        cores=pinned,
        job={name: value for name, value in environ.items() if dialect.is_of_job(name)},
        launcher=launcher,
        launcher_options=options,
        mpirun=mpirun,
        mpi_variables={**variables, **config.mpi.variables},
    )


@functools.cache
def _mpirun(name: str, options: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the words that start MPI ranks on this node, and variables; empty: there is no MPI."""
    try:
        found = get_launcher(name, options)
    except (OSError, ValueError):
        return (), {}
    if not isinstance(found, MpirunLauncher):
        return (), {}
    flavour = found.flavour
    words = (found.program, *flavour.options, *flavour.options_here, *options)
    return words, flavour.env


def _signal_timer(
    command: ShellCommand, context: Context, program: Program
) -> threading.Timer | None:
    """Have the script get its signal before its time is over, and when its pilot ends soon."""
    script = command.script
    assert script is not None
    if command.stop_signal:
        program.is_signalled = True
        context.on_stop(lambda: program.send(command.stop_signal, not script.signal_shell))
    if not script.signal or context.deadline is None:
        return None
    program.is_signalled = True
    left_s = max(0.0, context.deadline - time.time() - script.signal_s)
    timer = threading.Timer(left_s, program.send, (script.signal, not script.signal_shell))
    timer.daemon = True
    return timer
