"""What a task of PymoniK knows of itself: the first argument of a function with `require_context`.

Objects that a task retrieves by their ids are kept as files, in a directory of the node and the
session, so the next task there that wants one reads the file.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from pilot.client.context import running_context

if TYPE_CHECKING:
    _Adapter: TypeAlias = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter  # which has no parameter at run time before Python 3.11


class _Fields(_Adapter):
    """A logger that takes further keywords as fields of the message."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Put the fields behind the text."""
        usual = ("exc_info", "stack_info", "stacklevel", "extra")
        fields = {name: value for name, value in kwargs.items() if name not in usual}
        told = "".join(f" {name}={value!r}" for name, value in fields.items())
        return f"{msg}{told}", {name: kwargs[name] for name in usual if name in kwargs}


def own_directory(name: str) -> Path:
    """Return a directory below `$TMPDIR` that only this user can write to; make it if need be.

    Raises
    ------
    PermissionError
        There is one that another user has made.
    """
    path = Path(tempfile.gettempdir()) / f"pymonik-{os.getuid()}"
    for part in (path, path / name):
        part.mkdir(mode=0o700, exist_ok=True)
        if part.is_symlink() or part.stat().st_uid != os.getuid():
            raise PermissionError(f"{part} is not a directory of this user")
    return path / name


class PymonikContext:
    """The context of a running task.

    Parameters
    ----------
    environment
        What the instance was given as its environment.
    partition
        The partition of the task.
    """

    def __init__(self, environment: Mapping[str, Any] | None = None, partition: str = "") -> None:
        self.environment = dict(environment or {})
        self.task_handler = SimpleNamespace(task_options=SimpleNamespace(partition_id=partition))
        context = running_context()
        #: True where the function runs in the program itself.
        self.is_local = context is None
        logger = logging.getLogger("pymonik") if context is None else context.logger
        self.logger = _Fields(logger, {})

    @classmethod
    def from_local(cls) -> PymonikContext:
        """Return a context for a function that is called in the program itself."""
        return cls()

    def get_object_path(self, result_id: str) -> Path:
        """Return the path of the file that has the pickle of an object, once it was retrieved."""
        context = running_context()
        session = "local" if context is None else str(context.session_id)
        return own_directory(f"session-{session}") / result_id.replace("/", "_")

    def object_exists_locally(self, result_id: str) -> bool:
        """Tell whether an object was retrieved on this node before."""
        return self.get_object_path(result_id).is_file()

    def retrieve_object(
        self,
        result_id: str,
        auto_unpickle: bool = True,
        check_exists: bool = True,
        force_retrieve: bool = False,
    ) -> Any:
        """Return a result of the session by its id; None, and a line in the log, if that fails.

        Parameters
        ----------
        result_id
            The id, as in `ResultHandle.result_id`.
        auto_unpickle
            False: return the pickle.
        check_exists, force_retrieve
            Ask for it although a task on this node has it already.
        """
        try:
            path = self.get_object_path(result_id)
            if force_retrieve or not (check_exists and path.is_file()):
                context = running_context()
                if context is None:
                    raise RuntimeError("there is no session here: this is no task")
                value = context.session.future(result_id).result()
                new = path.with_name(f".{path.name}.{os.getpid()}")
                new.write_bytes(pickle.dumps(value, protocol=5))
                new.replace(path)
                if auto_unpickle:
                    return value
            kept = path.read_bytes()
            return pickle.loads(kept) if auto_unpickle else kept
        except Exception as error:
            self.logger.error("could not retrieve object %s: %s", result_id, error)
            return None
