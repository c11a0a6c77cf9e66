"""Functions as tasks of PymoniK: `task`, `Task`, ``invoke`` and ``map_invoke``.

A function is known by what it is, and not by its name: two of the same name are two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from pilot.client.task import PYTHON, import_object
from pilot.client.task import Task as PilotTask
from pilot.compat.pymonik.current import current_instance
from pilot.compat.pymonik.handles import MultiResultHandle, ResultHandle
from pilot.compat.pymonik.options import said_by, take_keywords
from pilot.compat.pymonik.worker import task_body

T = TypeVar("T")


class Task(Generic[T]):
    """A function that can be invoked as a task.

    Parameters
    ----------
    func
        The function.
    require_context
        True: it gets a `PymonikContext` before its arguments.
    func_name
        The name that lists show.
    task_options
        Options of its tasks.
    """

    def __init__(
        self,
        func: Callable[..., T],
        require_context: bool = False,
        func_name: str | None = None,
        task_options: Any = None,
        **said: Any,
    ) -> None:
        self.func = func
        self.require_context = require_context
        self.func_name = func_name or str(getattr(func, "__name__", type(func).__name__))
        self.task_options = task_options
        #: What the decorator says beside the options.
        self.said = {name: value for name, value in said.items() if value is not None}
        self.__name__ = self.func_name
        self.__qualname__ = getattr(func, "__qualname__", self.func_name)
        self.__module__ = getattr(func, "__module__", None) or ""
        self.__doc__ = func.__doc__
        #: For each set of options the task of Pilot.
        self._made: dict[tuple[Any, ...], PilotTask[..., Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Run the function in this process at once."""
        return self.func(*args, **kwargs)

    def invoke(
        self, *args: Any, delegate: bool = False, pymonik: Any = None, **kwargs: Any
    ) -> ResultHandle[T]:
        """Run the function as a task; return the handle of its result.

        Parameters
        ----------
        *args, **kwargs
            Its arguments; handles among them are the values there.
        delegate
            In a task: the result is that of the task which invokes.
        pymonik
            The instance; default: the current one.
        **kwargs
            ``task_options=`` and ``pmk_…`` are options of this call.

        Raises
        ------
        RuntimeError
            There is no instance, or `delegate` was given outside of a task.
        """
        handles = self._invoke([args], pymonik, kwargs, delegate)
        return handles[0]

    def map_invoke(
        self,
        args_list: Iterable[tuple[Any, ...]],
        *,
        delegate: bool = False,
        pymonik: Any = None,
        **kwargs: Any,
    ) -> MultiResultHandle[T]:
        """Run the function as a task for each tuple of arguments, sent as one; see `invoke`."""
        rows = [row if isinstance(row, tuple) else (row,) for row in args_list]
        return MultiResultHandle(self._invoke(rows, pymonik, kwargs, delegate))

    def _invoke(
        self, rows: list[tuple[Any, ...]], pymonik: Any, kwargs: dict[str, Any], delegate: bool
    ) -> list[ResultHandle[T]]:
        instance = current_instance() if pymonik is None else pymonik
        said = {**said_by(self.task_options), **self.said}
        said |= said_by(kwargs.pop("task_options", None))
        taken = take_keywords(kwargs)
        said |= said_by(taken.pop("options", None)) | taken
        handles: list[ResultHandle[T]] = instance.run(self, rows, kwargs, said, delegate)
        return handles

    def pilot_task(self, options: Mapping[str, Any], partition: str) -> PilotTask[..., Any]:
        """Return the task of Pilot for these options; the same one for the same."""
        key = (partition, *options.items())
        made = self._made.get(key)
        if made is None:
            module, name = (self.__module__, self.__qualname__) if self._is_by_name() else ("", "")
            body = task_body(
                module, name, None if module else self.func, self.require_context, partition
            )
            made = self._made[key] = PilotTask(body, PYTHON, {"name": self.func_name, **options})
        return made

    def _is_by_name(self) -> bool:
        """Tell whether workers can import the task."""
        found: Any = sys.modules.get(self.__module__)
        if self.__module__ == "__main__" or found is None:
            return False
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        return found is self

    def watched_parts(self) -> tuple[Any, ...]:
        """Return what may change after decoration, for `pilot.client.function_watch`."""
        return () if self._is_by_name() else (self.func,)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_by_name():
            return import_object, (self.__module__, self.__qualname__)
        return _task_of, (
            self.func,
            self.require_context,
            self.func_name,
            self.task_options,
            self.said,
        )


def _task_of(
    func: Any, require_context: bool, func_name: str, task_options: Any, said: dict[str, Any]
) -> Task[Any]:
    return Task(func, require_context, func_name, task_options, **said)


@overload
def task(function: Callable[..., T], /) -> Task[T]: ...
@overload
def task(
    *,
    require_context: bool = False,
    function_name: str | None = None,
    task_options: Any = None,
    partition: str | None = None,
    max_duration: timedelta | float | None = None,
    priority: int | None = None,
    max_retries: int | None = None,
) -> Callable[[Callable[..., T]], Task[T]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    require_context: bool = False,
    function_name: str | None = None,
    task_options: Any = None,
    partition: str | None = None,
    max_duration: timedelta | float | None = None,
    priority: int | None = None,
    max_retries: int | None = None,
) -> Any:
    """Make a function a task: ``@task``, or ``@task(max_duration=60)``.

    Parameters
    ----------
    require_context, function_name, task_options
        As of `Task`.
    partition, max_duration, priority, max_retries
        Options of its tasks, which go before those in `task_options`; seconds, or a `timedelta`.
    """

    def decorate(decorated: Callable[..., Any]) -> Task[Any]:
        return Task(
            decorated,
            require_context,
            function_name,
            task_options,
            partition_id=partition,
            max_duration=max_duration,
            priority=priority,
            max_retries=max_retries,
        )

    return decorate if function is None else decorate(function)
