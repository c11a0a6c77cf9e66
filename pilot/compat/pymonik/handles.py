"""Handles: what a program for PymoniK has of results.

A handle that is given to a task is the value there, at any depth of the arguments; several together
are the list of their values.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

from pilot.client.current import is_running
from pilot.errors import PilotError

T = TypeVar("T")


class ResultHandle(Generic[T]):
    """One result: of a task, or of a value that was put.

    Parameters
    ----------
    future
        The future of the result.
    session_id
        The id of the session, in text.
    """

    def __init__(self, future: Any, session_id: str) -> None:
        self.future = future
        self.session_id = session_id

    @property
    def result_id(self) -> str:
        """The id of the result in text, by which other tasks of the session can ask for it."""
        return str(self.future.task_id)

    def wait(self) -> ResultHandle[T]:
        """Wait for the result, and return this handle.

        Raises
        ------
        RuntimeError
            There is no result, since the task has not ended well; the cause is its error. Or this
            is a task, which cannot wait for its children.
        """
        if is_running():
            raise RuntimeError("a task cannot wait for results; give the handle to another task")
        try:
            error = self.future.exception()
        except concurrent.futures.CancelledError as cancelled:
            error = cancelled
        if error is not None:
            raise RuntimeError(f"the result {self.result_id} was aborted: {error}") from error
        return self

    def get(self) -> T:
        """Return the value; wait for it where it is not there yet. Raises as `wait`."""
        self.wait()
        try:
            value: T = self.future.result()
        except PilotError as error:
            raise RuntimeError(f"the result {self.result_id} cannot be read: {error}") from error
        return value

    def __reduce__(self) -> Any:
        return self.future.__reduce__()

    def __repr__(self) -> str:
        return f"<ResultHandle {self.result_id} of session {self.session_id}>"


class MultiResultHandle(Generic[T]):
    """Several results, in order.

    Parameters
    ----------
    handles
        The handles of the results.
    """

    def __init__(self, handles: Iterable[ResultHandle[T]] = ()) -> None:
        self.result_handles = list(handles)

    def wait(self) -> MultiResultHandle[T]:
        """Wait for all results, and return this handle; raises as `ResultHandle.wait`."""
        for handle in self.result_handles:
            handle.wait()
        return self

    def get(self) -> list[T]:
        """Return the values, in order; raises as `ResultHandle.wait`."""
        self.wait()
        return [handle.get() for handle in self.result_handles]

    def append(self, handle: ResultHandle[T]) -> None:
        """Add a result at the end."""
        self.result_handles.append(handle)

    def extend(self, handles: Iterable[ResultHandle[T]]) -> None:
        """Add results at the end."""
        self.result_handles.extend(handles)

    def __iter__(self) -> Iterator[ResultHandle[T]]:
        return iter(self.result_handles)

    def __len__(self) -> int:
        return len(self.result_handles)

    @overload
    def __getitem__(self, index: int) -> ResultHandle[T]: ...
    @overload
    def __getitem__(self, index: slice) -> MultiResultHandle[T]: ...
    def __getitem__(self, index: int | slice) -> ResultHandle[T] | MultiResultHandle[T]:
        if isinstance(index, slice):
            return MultiResultHandle(self.result_handles[index])
        return self.result_handles[index]

    def __reduce__(self) -> Any:
        return list, (self.result_handles,)

    def __repr__(self) -> str:
        return f"<MultiResultHandle of {len(self)} results>"
