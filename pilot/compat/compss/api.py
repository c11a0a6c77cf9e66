"""The functions that programs for PyCOMPSs call: `pycompss.api.api`.

Without an application each function does what a sequential program expects.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pilot.compat.compss import application
from pilot.compat.compss.application import GroupState
from pilot.compat.compss.errors import PyCOMPSsException


def compss_start(*_: Any, **__: Any) -> None:
    """Start the application of this process: from now on, calls of tasks are tasks."""
    application.start()


def compss_stop(code: int = 0, *_: Any, **__: Any) -> None:
    """Stop the application: after all tasks, or, with a code that is not 0, cancelling them."""
    application.stop(is_failed=code != 0)


def compss_wait_on(*objs: Any, **_: Any) -> Any:
    """Return the value of an object as tasks leave it; of several, a list.

    Lists and dicts are looked into. The object is not known any more then.

    Raises
    ------
    PyCOMPSsException
        A task has failed for good.
    """
    app = application.find()
    found = list(objs) if app is None else [app.wait_on(obj) for obj in objs]
    return found[0] if len(found) == 1 else found


def compss_wait_on_any(*objs: Any, **_: Any) -> tuple[Any, list[Any]]:
    """Return the value of the first of several objects that is there, and the others."""
    given = list(objs[0]) if len(objs) == 1 and isinstance(objs[0], (list, tuple)) else list(objs)
    if not given:
        raise PyCOMPSsException("compss_wait_on_any: there is nothing to wait for")
    app = application.find()
    if app is None:
        return given[0], given[1:]

    def found() -> int:
        for place, obj in enumerate(given):
            entry = app.entry_of(obj)
            now = obj if entry is None else entry.current()
            if not isinstance(now, concurrent.futures.Future) or now.done():
                return place
        return -1

    app.wait_until(lambda: found() >= 0)
    place = found()
    return app.wait_on(given[place]), given[:place] + given[place + 1 :]


def compss_barrier(no_more_tasks: bool = False) -> None:
    """Wait for all tasks.

    Raises
    ------
    PyCOMPSsException
        A task has failed for good.
    """
    del no_more_tasks
    app = application.find()
    if app is not None:
        app.barrier()


def compss_barrier_group(group_name: str) -> None:
    """Wait for the tasks of a group.

    Raises
    ------
    COMPSsException
        A task of the group has raised it.
    """
    app = application.find()
    if app is not None:
        app.barrier_group(group_name)


def compss_cancel_group(group_name: str) -> None:
    """Cancel what is unfinished of a group."""
    app = application.find()
    if app is not None:
        app.cancel_group(group_name)


def compss_delete_object(*objs: Any) -> Any:
    """Forget objects, whose versions are deleted once no task needs them; True for each."""
    app = application.find()
    if app is not None:
        # No lock: this may be a `__del__`, in the middle of anything and on any thread.
        app.deleted.extend(objs)
    return True if len(objs) == 1 else [True] * len(objs)


# --- files


def compss_open(file_name: str, mode: str = "r") -> IO[Any]:
    """Open a file, once those have ended who write it."""
    app = application.find()
    if app is not None:
        app.wait_on_file(file_name, writes=any(sign in mode for sign in "wax+"))
    return open(file_name, mode)


def _paths(given: Any) -> Iterator[str]:
    if isinstance(given, (list, tuple)):
        for each in given:
            yield from _paths(each)
    elif given is not None:
        yield os.fspath(given)


def compss_wait_on_file(*file_names: Any) -> Any:
    """Wait for those who write files; return the names as they were given."""
    app = application.find()
    for path in _paths(file_names):
        if app is not None:
            app.wait_on_file(path)
    return file_names[0] if len(file_names) == 1 else list(file_names)


compss_wait_on_directory = compss_wait_on_file


def _each(do: Callable[[str], bool], given: Any) -> Any:
    """Return the answers for paths, in lists and tuples as these are."""
    if isinstance(given, (list, tuple)):
        return type(given)(_each(do, each) for each in given)
    return do(given)


def compss_file_exists(*file_names: Any) -> Any:
    """Tell whether files are there, or will be; lists and tuples are looked into."""
    found = [_each(_file_exists, name) for name in file_names]
    return found[0] if len(found) == 1 else found


def _file_exists(name: str) -> bool:
    app = application.find()
    entry = None if app is None else app.files.find(name)
    return (entry is not None and entry.need() is not None) or Path(name).exists()


def compss_delete_file(*file_names: Any) -> Any:
    """Delete files, when all who have them have ended; lists and tuples are looked into."""
    found = [_each(_delete_file, name) for name in file_names]
    return found[0] if len(found) == 1 else found


def _delete_file(name: str) -> bool:
    app = application.find()
    if app is None:
        return _remove(name)
    with app.lock:
        known = app.files.find(name) is not None
    if not known:
        return _remove(name)
    app.wait_on_file(name, writes=True)
    _remove(name)
    return True


def _remove(name: str) -> bool:
    path = Path(name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return True
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


# --- groups


class TaskGroup:
    """Tasks that are waited for, and cancelled, together: ``with TaskGroup("mesh"):``.

    Parameters
    ----------
    group_name
        The name.
    implicit_barrier
        True: leaving the block waits for them.
    """

    def __init__(self, group_name: str, implicit_barrier: bool = True) -> None:
        self.group_name = group_name
        self.implicit_barrier = implicit_barrier

    def __enter__(self) -> TaskGroup:
        app = application.find()
        if app is not None:
            with app.lock:
                state = app.groups[self.group_name] = GroupState(self.group_name)
                app.open_groups.append(state)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        app = application.find()
        if app is None:
            return
        with app.lock:
            app.open_groups.remove(app.groups[self.group_name])
        if self.implicit_barrier and error is None:
            app.barrier_group(self.group_name)


# --- resources and time


def compss_get_number_of_resources() -> int:
    """Return the number of nodes that the site's pilots have now."""
    app = application.find()
    if app is None:
        return 1
    pilots = app.session.query("fleet", alive=True)
    return max(1, sum(int(pilot["nodes"]) for pilot in pilots if pilot["cores"] is not None))


def compss_request_resources(num_resources: int, group_name: str | None = None) -> None:
    """Do nothing: pools ask for the nodes that the tasks are worth."""


def compss_free_resources(num_resources: int, group_name: str | None = None) -> None:
    """Do nothing: idle nodes go back by themselves."""


def compss_set_wall_clock(wall_clock_limit: float) -> None:
    """Cancel all tasks after so many seconds."""
    app = application.find()
    if app is None:
        return

    def end() -> None:
        app.expire(wall_clock_limit)

    timer = threading.Timer(wall_clock_limit, end)
    timer.daemon = True
    timer.start()


def compss_snapshot() -> None:
    """Do nothing: what has ended is on the disk already."""


def compss_add_logger(logger_name: str) -> None:
    """Do nothing: tasks have loggers of their own."""
