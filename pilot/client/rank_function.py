"""A function of MPI ranks, with arguments that each rank gets a part of, and results of all ranks.

Runs on the ranks, within the task: it cuts arguments, calls the user's function, and brings the
results to rank 0, over the task's own ``MPI.COMM_WORLD``.

Invariants
----------
- Rows keep their order: those of rank 0 are the first, in arguments and results.
- Where a rank has raised, none waits for its result: all leave, and the exception is told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, Final

from pilot.client.context import running_context
from pilot.pickled import pickled_name

FIRST: Final = "first"
LIST: Final = "list"
ROWS: Final = "rows"
RESULTS = (FIRST, LIST, ROWS)
#: An MPI message counts its bytes in 31 bits.
_PIECE_BYTES = 1 << 30


@pickled_name
class RankFunction:
    """A function whose arguments are split over ranks, and whose results are gathered.

    Parameters
    ----------
    function
        The user's function.
    split
        The parameters of which each rank gets its rows.
    result
        ``first``: the result is that of rank 0; ``list``: a list of those of all ranks; ``rows``:
        the arrays of all ranks, one below the other.
    """

    def __init__(self, function: Callable[..., Any], split: tuple[str, ...], result: str) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.split = split
        self.result = result

    @property
    def rank_parts(self) -> tuple[object, ...]:
        """The parts that decide about the results beside the user's function."""
        return self.split, self.result

    def bound_to(self, instance: object) -> RankFunction:
        """Return the same for a method of an object."""
        return RankFunction(MethodType(self.function, instance), self.split, self.result)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function on this rank; outside of tasks as the only one."""
        here = running_context()
        if here is None or here.ranks == 1:
            value = self.function(*args, **kwargs)
            return [value] if self.result == LIST else value
        from mpi4py import MPI

        return self._run(MPI.COMM_WORLD, args, kwargs)

    def _run(self, world: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        value: Any = None
        raised: BaseException | None = None
        try:
            args, kwargs = self._own(args, kwargs, world.rank, world.size)
            value = self.function(*args, **kwargs)
            if self.result == ROWS:
                value = _rows_of(value)
        except BaseException as error:
            raised = error
        if self.result == FIRST:
            if raised is not None:
                raise raised
            return value
        told = None if raised is not None or self.result == LIST else _kind_of(value)
        all_told = world.allgather((raised is not None, told))
        if raised is not None:
            raise raised
        if any(failed for failed, _ in all_told):
            return None  # another rank tells why
        if self.result == LIST:
            return world.gather(value)
        return _gathered_rows(world, value, [kind for _, kind in all_told])

    def _own(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rank: int, size: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with this rank's rows in place of the whole."""
        positions = {name: number for number, name in enumerate(parameters(self.function))}
        listed, named = list(args), dict(kwargs)
        for name in self.split:
            if name in named:
                named[name] = _own_rows(name, named[name], rank, size)
            elif (number := positions.get(name, len(listed))) < len(listed):
                listed[number] = _own_rows(name, listed[number], rank, size)
        return tuple(listed), named


def make_rank_function(function: Callable[..., Any], split: object, result: object) -> Any:
    """Return a function with parts; the function itself where there are none.

    Raises
    ------
    ValueError
        `split` names no parameters of the function, or `result` is none of `RESULTS`.
    """
    names = (split,) if isinstance(split, str) else split
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"split={split!r:.100}: give the names of parameters")
    names = tuple(names)
    known = parameters(function)
    for name in names:
        if known and name not in known:
            raise ValueError(
                f"split: {getattr(function, '__name__', 'the function')} has no parameter "
                f"{name!r}; it has {', '.join(known)}"
            )
    if result not in RESULTS:
        raise ValueError(f"result={result!r:.60}: give one of {', '.join(RESULTS)}")
    return RankFunction(function, names, str(result)) if names or result != FIRST else function


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, without the object of a method; empty where they
    are not known."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ()
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return names[1:] if isinstance(function, MethodType) else names


def rows_of_rank(count: int, rank: int, size: int) -> slice:
    """Return which of `count` rows are a rank's: as equal shares as can be, the first the larger
    ones."""
    each, more = divmod(count, size)
    begin = rank * each + min(rank, more)
    return slice(begin, begin + each + (rank < more))


def _own_rows(name: str, value: Any, rank: int, size: int) -> Any:
    try:
        return value[rows_of_rank(len(value), rank, size)]
    except TypeError:
        raise TypeError(
            f"split={name!r}: a {type(value).__name__} has no rows; give an array or a list"
        ) from None


def _rows_of(value: Any) -> Any:
    import numpy as np

    array = np.ascontiguousarray(value)
    if np.ndim(value) == 0 or array.dtype.hasobject:
        raise TypeError(
            f"result='rows': a rank returned a {type(value).__name__}, which is no array of "
            "numbers with rows; return one on every rank, if need be of no rows"
        )
    return array


def _kind_of(array: Any) -> tuple[Any, ...]:
    return array.shape, array.dtype


def _gathered_rows(world: Any, own: Any, kinds: Sequence[tuple[Any, ...]]) -> Any:
    """Return, on rank 0, the rows of all ranks in one array, into which they are received."""
    import numpy as np

    shapes = {shape[1:] for shape, _ in kinds}
    if len(shapes) > 1:
        told = ", ".join(f"rank {rank}: {shape}" for rank, (shape, _) in enumerate(kinds))
        raise ValueError(f"result='rows': the arrays of the ranks differ in more than rows: {told}")
    common = np.result_type(*(dtype for _, dtype in kinds))
    own = np.ascontiguousarray(own, common)
    if world.rank:
        for piece in _pieces(own):
            world.Send(piece, 0)
        return None
    whole = np.empty((sum(shape[0] for shape, _ in kinds), *own.shape[1:]), common)
    begin = len(own)
    whole[:begin] = own
    for rank, (shape, _) in enumerate(kinds[1:], 1):
        for piece in _pieces(whole[begin : begin + shape[0]]):
            world.Recv(piece, rank)
        begin += shape[0]
    return whole


def _pieces(array: Any) -> Iterable[Any]:
    """Yield the bytes of an array in C's order, in pieces that a message can have."""
    import numpy as np

    flat = array.reshape(-1).view(np.uint8)
    for begin in range(0, flat.size, _PIECE_BYTES):
        yield flat[begin : begin + _PIECE_BYTES]
