"""Job scripts as tasks: what of a script goes with the command that runs it.

A script is taken as it is when it is submitted, as a batch system does: later changes of its file
mean nothing. `pilot.worker.script_run` runs it.
"""

from __future__ import annotations

from msgspec import Struct

from pilot.pickled import pickled_name


@pickled_name
class JobScript(Struct, frozen=True):
    """A job script, with what it does not say in its options as a task."""

    text: str
    #: The name of a `pilot.scheduler.batch.job_scripts.Dialect`.
    dialect: str
    #: What the dialect wants to know again where the script runs.
    asked: dict[str, str]
    #: The environment that it gets beside that of the node.
    variables: dict[str, str]
    #: Names of files, in which the dialect fills in its patterns; empty: none.
    stdin: str = ""
    stdout: str = ""
    #: Empty: as `stdout`.
    stderr: str = ""
    #: True if it writes behind what is in these files.
    appends: bool = False
    #: The signal that it gets so many seconds before its time limit; 0: none.
    signal: int = 0
    signal_s: float = 0.0
    #: True if only its own shell gets it.
    signal_shell: bool = False
    #: False if it gets nothing of the node's environment but what each program needs.
    inherits: bool = True
