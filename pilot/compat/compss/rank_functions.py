"""Functions below ``@mpi``: on the ranks, each with its part of collections, and what they return
as a list.

Invariants
----------
- Where a rank has raised, none waits for what it would have returned.
- All ranks work on the same files, which take the places of others when all have ended well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

from pilot.client.context import running_context
from pilot.client.task import MPI
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.layers import CallShape, Layer, WorkOut
from pilot.compat.compss.ranks import Ranks
from pilot.model.states import TaskKind

_KEYS = ("block_count", "block_length", "stride")


class Layout(NamedTuple):
    """The part of a collection that each rank gets: blocks of it, in turns."""

    #: The number of blocks; None: one for each rank.
    blocks: int | None = None
    length: int = 1
    stride: int = 1

    @classmethod
    def read(cls, name: str, given: Any) -> Layout:
        """Return a layout as a decorator says it.

        Raises
        ------
        PyCOMPSsException
            It is none.
        """
        told = f"@mpi({name}={given!r:.60})"
        if not isinstance(given, Mapping) or given.keys() - set(_KEYS):
            raise PyCOMPSsException(f"{told}: give a dict with {', '.join(_KEYS)}")
        if given and "block_count" not in given:
            raise PyCOMPSsException(f"{told}: block_count is missing")
        for key, value in given.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PyCOMPSsException(f"{told}: {key} is a number from 1 on, not {value!r:.60}")
        return cls(
            *(
                given.get(key, cls._field_defaults[field])
                for key, field in zip(_KEYS, cls._fields, strict=True)
            )
        )

    def of_rank(self, items: Any, rank: int, size: int) -> Any:
        """Return what a rank gets of a collection: an item, or a list of several or none.

        Raises
        ------
        PyCOMPSsException
            The collection has too few items.
        """
        blocks = size if self.blocks is None else self.blocks
        items = list(items)
        starts = (block * self.stride for block in range(rank, blocks, size))
        places = [place for start in starts for place in range(start, start + self.length)]
        if places and places[-1] >= len(items):
            raise PyCOMPSsException(
                f"the layout {self.blocks or size} x {self.length}, stride {self.stride}, needs "
                f"{places[-1] + 1} items, and the collection has {len(items)}"
            )
        own = [items[place] for place in places]
        return own[0] if len(own) == 1 else own


class OnRanks(Layer, frozen=True):
    """The ranks around a function."""

    ranks: Ranks
    layouts: Mapping[str, Layout]
    #: True if a failure is ignored, so that all ranks have to know of it.
    ignores: bool
    kind: ClassVar[TaskKind] = MPI

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that may differ between calls."""
        return self.ranks.values

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for the ranks."""
        self.ranks.adapt(options, work_out)

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what a rank calls; without a launcher the function itself, as PyCOMPSs does."""
        if not is_task:
            return function  # type: ignore[no-any-return]  # a function
        return partial(_run_rank, self, call, function)


def _run_rank(
    on: OnRanks, call: CallShape, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Run the function on this rank; return, on rank 0, what all have returned."""
    context = running_context()
    rank, size = (0, 1) if context is None else (context.rank, context.ranks)
    values, named = list(args), dict(kwargs)
    value: Any = None
    raised: BaseException | None = None
    try:
        for name, layout in on.layouts.items():
            if name in named:
                named[name] = layout.of_rank(named[name], rank, size)
            elif name in call.names[: len(values)]:
                place = call.names.index(name)
                values[place] = layout.of_rank(values[place], rank, size)
            else:
                raise PyCOMPSsException(f"@mpi({name}_layout=…): there is no parameter {name}")
        value = function(*values, **named)
    except BaseException as error:
        raised = error
    if size > 1:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        failed = world.allgather(raised is not None)
        if raised is None and any(failed):
            if on.ignores:
                raise RuntimeError(f"rank {failed.index(True)} has failed")
            return None  # that rank tells why
    if raised is not None:
        raise raised
    sys.stdout.flush()
    return world.gather(value) if size > 1 else [value]
