"""The arguments that several commands take: sessions and tasks, by their ids."""

from __future__ import annotations

import click

from pilot.cli.completing import complete_session, complete_task, complete_task_or_object
from pilot.cli.parameters import SESSION, TASK, TASK_OR_OBJECT

#: A session, which a command can do without: ``session_id``.
newest_session_argument = click.argument(
    "session_id", metavar="[ID]", type=SESSION, required=False, shell_complete=complete_session
)
#: A session: ``session_id``.
session_argument = click.argument(
    "session_id", metavar="ID", type=SESSION, shell_complete=complete_session
)
#: One session or several: ``session_ids``.
sessions_argument = click.argument(
    "session_ids",
    metavar="ID...",
    type=SESSION,
    nargs=-1,
    required=True,
    shell_complete=complete_session,
)
#: A task: ``task_id``.
task_argument = click.argument("task_id", metavar="ID", type=TASK, shell_complete=complete_task)
#: A task, or a version of a named object: ``name``.
value_argument = click.argument(
    "name", metavar="ID|OBJECT", type=TASK_OR_OBJECT, shell_complete=complete_task_or_object
)
#: One task or several: ``task_ids``.
tasks_argument = click.argument(
    "task_ids",
    metavar="ID...",
    type=TASK,
    nargs=-1,
    required=True,
    shell_complete=complete_task,
)
