"""The commands of the command line: a click module for each noun or verb, listed here.

A new one is a module, and a line in `COMMANDS`. What several commands need is in `pilot.cli`.

Invariant: importing this package loads none of its modules.
"""

from __future__ import annotations

#: The commands in the order of a user's first day: for each, the module here that defines it under
#: its name, and its line in the list of commands.
COMMANDS = {
    "init": ("site", "Make a site, and say what to edit next."),
    "run": (
        "run",
        "Run a workflow FILE (.yaml), or a Python program (.py) with its ARGUMENTS.",
    ),
    "submit": ("submit", "Run a COMMAND as a task, and print the task's id."),
    "retry": (
        "retry",
        "Run failed tasks of sessions (3), or single ones (3.17), also cancelled ones, again.",
    ),
    "doctor": (
        "doctor",
        "Check a site: file system, batch system, network, limits, MPI; say what to do.",
    ),
    "status": ("status", "Show what is going on: head, open sessions, pilots."),
    "why": ("why", "Say what a task, a result or a session waits for, or how it ended."),
    "head": ("head", "Control the head: the process on the login node that keeps the tasks."),
    "site": (
        "site",
        "See what a site takes on the disk, copy its database, or begin with a new one.",
    ),
    "session": (
        "session",
        "List and control sessions: each has the tasks that one program submitted.",
    ),
    "task": ("task", "List, show and cancel tasks, named by ids such as 3.17."),
    "result": ("result", "Get, find or delete the values that tasks returned."),
    "object": ("object", "List, show and remove named objects, and move their aliases."),
    "environment": ("environment", "List and remove the environments that were built for tasks."),
    "events": ("events", "Show every change of a state, once and in order."),
    "fleet": ("fleet", "See and steer the pilots: jobs of the batch system that run tasks."),
    "compat": ("compat", "Run programs that were written for PymoniK or PyCOMPSs."),
    "completion": ("completion", "Print the completion script for a shell."),
}
