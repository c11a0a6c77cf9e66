"""Notebooks and prompts: `pycompss.interactive`, which starts and stops the application by hand."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from pilot.compat.compss import api, application
from pilot.compat.compss.launching import IGNORED_SETTINGS, settings_of
from pilot.compat.compss.values import Future
from pilot.errors import PilotError


def _say(text: str) -> None:
    print(text)  # noqa: T201 - in a notebook


def start(
    *,
    app_name: str = "interactive",
    nested_enabled: bool = False,
    wcl: float = 0,
    checkpoint_policy: str = "",
    checkpoint_params: str = "",
    **others: Any,
) -> None:
    """Start the application of this process: from now on, calls of tasks are tasks.

    Parameters
    ----------
    app_name
        The name that lists of sessions show.
    nested_enabled
        True: calls of tasks inside of tasks are tasks.
    wcl
        The tasks are cancelled after so many seconds; 0: never.
    checkpoint_policy, checkpoint_params
        As the flags of ``runcompss``.
    **others
        Other settings of PyCOMPSs, which have no meaning here.

    Raises
    ------
    TypeError
        PyCOMPSs knows no such setting.
    """
    if unknown := sorted(others.keys() - IGNORED_SETTINGS):
        raise TypeError(f"start() got an unexpected keyword argument {unknown[0]!r}")
    if application.find() is not None:
        _say("The application runs already.")
        return
    settings = settings_of(nested_enabled, checkpoint_policy, checkpoint_params)
    app = application.start(app_name, settings)
    try:
        session = app.session
    except BaseException:
        application.stop(is_failed=True)
        raise
    if wcl:
        api.compss_set_wall_clock(wcl)
    _say(f"Tasks run on {session.site.name}, in session {session.id}.")


def stop(sync: bool = False, _hard_stop: bool = False) -> None:
    """Wait for all tasks, and stop the application.

    Parameters
    ----------
    sync
        True: variables that are results of tasks, or that tasks have changed, have the values of
        these then.
    _hard_stop
        True: the tasks are cancelled.
    """
    app = application.find()
    if app is None:
        _say("The application does not run.")
        return
    if sync and not _hard_stop:
        _synchronize(app)
    application.stop(is_failed=_hard_stop)


def _synchronize(app: application.Application) -> None:
    variables = vars(sys.modules["__main__"])
    for name, value in list(variables.items()):
        if name.startswith("_") or name in ("In", "Out"):
            continue
        is_list = type(value) is list and any(
            type(each) is Future or app.is_tracked(each) for each in value
        )
        if type(value) is Future or is_list or app.is_tracked(value):
            variables[name] = app.wait_on(value)


# --- what goes on --------------------------------------------------------------------------------


def _tasks() -> list[dict[str, Any]]:
    app = application.find()
    if app is None or not app.has_session:
        raise PilotError("no application runs here, or it has called no task yet")
    return app.session.tasks()


def tasks_info() -> None:
    """Print each task: its id, name and state."""
    for task in _tasks():
        _say(f"{task['id']}\t{task['name']}\t{task['state']}")


def tasks_status() -> None:
    """Print how many tasks are in which state."""
    for state, count in sorted(Counter(task["state"] for task in _tasks()).items()):
        _say(f"{state}\t{count}")


def statistics() -> None:
    """Print how many tasks of each name there are, and how long they have run, in seconds."""
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for task in _tasks():
        counts[task["name"]] += 1
        seconds[task["name"]] += task["ran_s"] or 0
    for name, count in sorted(counts.items()):
        _say(f"{name}\t{count}\t{seconds[name]:.3f}")


def resources_status() -> None:
    """Print the number of nodes that the tasks have now."""
    _say(f"nodes\t{api.compss_get_number_of_resources()}")


def monitoring_information() -> None:
    """Print what the session does, and what it waits for."""
    app = application.find()
    _say("nothing runs" if app is None or not app.has_session else str(app.session.why()))


def _graph(*_: Any, **__: Any) -> None:
    _say("There are no graphs of notebooks here; `pilot why` tells what a task waits for.")


current_task_graph = complete_task_graph = _graph
