"""Waiting for many futures, in whatever lists, tuples, sets and dicts they are."""

from __future__ import annotations

import concurrent.futures
import inspect
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from pilot.client.child_tasks import ChildFuture
from pilot.pickled import public

T = TypeVar("T")

_Future = concurrent.futures.Future[Any]


@public
@overload
def gather(
    futures: concurrent.futures.Future[T],
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> T: ...
@public
@overload
def gather(  # type: ignore[overload-overlap]  # a tuple is a sequence, too
    futures: tuple[concurrent.futures.Future[T], ...],
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> tuple[T, ...]: ...
@public
@overload
def gather(
    futures: Sequence[concurrent.futures.Future[T]] | Iterator[concurrent.futures.Future[T]],
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> list[T]: ...
@public
@overload
def gather(
    futures: Any,
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> Any: ...
@public
def gather(
    futures: Any,
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> Any:
    """Return the values of all futures, in the places of the futures.

    Parameters
    ----------
    futures
        A future, of this package or of `concurrent.futures`; or lists, tuples, sets and dicts
        (nested up to a third of Python's recursion limit) that hold some as values: the answer has
        the same shape, and other values stay as they are. Another iterable gives a list.
    timeout
        Seconds to wait at most, for all together.
    progress
        Show the progress on stderr: a bar on a terminal or in a notebook, elsewhere a line each
        10 s.
    return_exceptions
        Put the exception in the place of a value, in place of raising the first.

    Raises
    ------
    TimeoutError
        Not all have ended in time.
    TypeError
        There is a coroutine or a future of asyncio among them, which this cannot wait for; or
        `futures` cannot hold any.
    ValueError
        Lists and their like are nested too deep.
    Exception
        The first one, in the order of `futures`, that a task ended with.
    """
    if not isinstance(futures, (concurrent.futures.Future, list, tuple, set, frozenset, dict)):
        if isinstance(futures, (str, bytes)) or not isinstance(futures, Iterable):
            _check(futures)
            raise TypeError(
                f"gather takes a future, or lists, tuples, sets and dicts of them, and not "
                f"{futures!r:.100}"
            )
        futures = list(futures)
    # Of the frames that Python allows each level needs two, and the values need some, too.
    waiting = list(_within(futures, sys.getrecursionlimit() // 3))
    if progress:
        from pilot.client.progress import show  # loads click and rich

        began = time.monotonic()
        show(waiting, timeout)
        timeout = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
    not_done = concurrent.futures.wait(waiting, timeout).not_done
    if not_done:
        raise concurrent.futures.TimeoutError(f"{len(not_done)} of {len(waiting)} have not ended")
    return _filled(futures, return_exceptions)


def _within(item: Any, depth: int) -> Iterator[_Future]:
    """Yield the futures in a value that is nested up to this depth, in order."""
    if depth < 0:
        raise ValueError(
            f"gather: lists, tuples, sets and dicts are nested more than "
            f"{sys.getrecursionlimit() // 3} deep; does one hold itself?"
        )
    if isinstance(item, concurrent.futures.Future):
        yield item
    elif isinstance(item, dict):
        for part in item.values():
            yield from _within(part, depth - 1)
    elif isinstance(item, (list, tuple, set, frozenset)):
        for part in item:
            if isinstance(part, concurrent.futures.Future):
                yield part  # most are, and may be many: without a generator for each
            else:
                yield from _within(part, depth - 1)
    else:
        _check(item)


def _check(item: Any) -> None:
    """Refuse an object that looks like a future, but cannot be waited for here."""
    if isinstance(item, ChildFuture):
        item.result()  # says what to do with it
    if inspect.isawaitable(item):
        raise TypeError(f"gather cannot wait for {item!r:.100}; in a coroutine, await it")


def _filled(item: Any, return_exceptions: bool) -> Any:
    """Return a structure with values in the places of its futures."""
    if isinstance(item, concurrent.futures.Future):
        return _value_or_error(item) if return_exceptions else item.result()
    if isinstance(item, dict):
        return {key: _filled(part, return_exceptions) for key, part in item.items()}
    if isinstance(item, (list, tuple, set, frozenset)):
        parts = [
            part.result()
            if isinstance(part, concurrent.futures.Future) and not return_exceptions
            else _filled(part, return_exceptions)
            for part in item
        ]
        if isinstance(item, list):
            return parts
        if hasattr(item, "_fields"):  # of a namedtuple
            return type(item)(*parts)
        kind = next(k for k in (tuple, set, frozenset) if isinstance(item, k))
        return kind(parts)
    return item


def _value_or_error(future: _Future) -> Any:
    if future.cancelled():
        return concurrent.futures.CancelledError()
    return future.exception() or future.result()
