"""Numbers at equal distances, for foreach; and limits on a workflow's size when unfolded."""

from __future__ import annotations

import math

#: More tasks than this in a workflow, or numbers in a range, are a slip of the pen.
MOST_ITEMS = 1_000_000
#: More values in foreach variables and in lists, and results that tasks refer to, fill the memory.
MOST_VALUES = 10_000_000


class Allowance:
    """The tasks and values that a workflow may still unfold to; short files can mean many."""

    def __init__(self) -> None:
        self._items = MOST_ITEMS
        self._values = MOST_VALUES

    def take_items(self, count: int) -> None:
        """Count tasks.

        Raises
        ------
        ValueError
            There are too many.
        """
        self._items -= count
        if self._items < 0:
            raise ValueError(
                f"gives {count} items; at most {MOST_ITEMS} are possible, of all tasks together"
            )

    def take_values(self, count: int) -> None:
        """Count values of variables or in arguments, or references to results.

        Raises
        ------
        ValueError
            There are too many.
        """
        self._values -= count
        if self._values < 0:
            raise ValueError(
                f"the workflow has more than {MOST_VALUES} values in its variables and arguments "
                "and references to results; join results in steps, or keep long lists in files"
            )


def numbers(
    start: int | float,
    to: int | float | None,
    step: int | float | None,
    count: int | None,
) -> list[int | float]:
    """Return the numbers from `start` to `to`, both included, or `count` of them.

    With `to` and `count` they are those of `numpy.linspace`, to the last bit. They are whole where
    start and distance are.

    Raises
    ------
    ValueError
        The four parameters contradict each other; the message says why.
    """
    given = [value for value in (start, to, step) if value is not None]
    if not all(map(math.isfinite, given)):
        raise ValueError("a range needs finite numbers")
    if count is not None and count < 0:
        raise ValueError(f"count is {count}; it cannot be negative")
    if to is None:
        if count is None:
            raise ValueError("a range needs 'to' or 'count'")
        _check(count)
        distance = 1 if step is None else step
        return [start + number * distance for number in range(count)]
    if count is None:
        distance = 1 if step is None else step
        if distance == 0:
            raise ValueError("step is 0; it leads nowhere")
        if step is not None and (to < start if step > 0 else to > start):
            raise ValueError(f"step is {step}; from {start} that leads away from {to}")
        if isinstance(start, int) and isinstance(to, int) and isinstance(distance, int):
            count = (to - start) // distance + 1
        else:
            # What is less than a billionth of a step beyond the end is a rounding error.
            count = math.floor((to - start) / distance + 1e-9) + 1
        _check(count)
        return [start + number * distance for number in range(count)]
    if step is not None:
        raise ValueError("give two of 'to', 'step' and 'count', not all three")
    _check(count)
    if count < 2:
        return [start][:count]
    if isinstance(start, int) and isinstance(to, int) and (to - start) % (count - 1) == 0:
        return [start + number * ((to - start) // (count - 1)) for number in range(count)]
    distance = (to - start) / (count - 1)
    if distance == 0:  # also of a length whose parts are too small for a number
        inner = [number / (count - 1) * (to - start) + start for number in range(count - 1)]
    else:
        inner = [number * distance + start for number in range(count - 1)]
    return [*inner, float(to)]


def _check(count: int) -> None:
    if count > MOST_ITEMS:
        raise ValueError(f"the range has {count} numbers; at most {MOST_ITEMS} are possible")
