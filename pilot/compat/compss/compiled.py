"""``@task(numba=…)``: functions that a worker compiles with Numba before it calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.layers import CallShape, Layer

_WAYS = ("jit", "njit", "generated_jit", "vectorize", "guvectorize", "stencil", "cfunc")
#: The functions that are compiled in this process, and by which layer, to be compiled once.
_known: dict[int, tuple[Any, Any, Any]] = {}


class Compiled(Layer, frozen=True):
    """A function compiled with Numba."""

    #: One of `_WAYS`.
    way: str
    flags: Mapping[str, Any]
    signature: Any = None
    declaration: Any = None

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return the function, compiled; without a launcher as it is."""
        del call
        if not is_task:
            return function  # type: ignore[no-any-return]  # a function
        known = _known.get(id(function))
        if known is None or known[0] is not function or known[1] != self:
            known = _known[id(function)] = (function, self, self._compile(function))
        return known[2]  # type: ignore[no-any-return]  # a function

    def _compile(self, function: Any) -> Any:
        try:
            import numba  # type: ignore[import-not-found,unused-ignore]  # it need not be there
        except ImportError:
            raise PyCOMPSsException(
                f"@task(numba={self.way!r}): Numba is not installed where tasks run"
            ) from None
        way = getattr(numba, self.way, None)
        if way is None:
            raise PyCOMPSsException(
                f"@task(numba={self.way!r}): Numba {numba.__version__} has no {self.way}"
            )
        if self.way == "vectorize":
            return way(self.signature or [], **self.flags)(function)
        if self.way == "guvectorize":
            return way(self.signature, self.declaration, **self.flags)(function)
        if self.way == "cfunc":
            return way(self.signature, **self.flags)(function).ctypes
        return way(**self.flags)(function)


def compiled_layer(given: Mapping[str, Any]) -> Compiled | None:
    """Return the layer of what ``@task`` says of Numba; None: nothing.

    Raises
    ------
    PyCOMPSsException
        It means nothing.
    """
    said = given.get("numba")
    if not said:
        return None
    flags: dict[str, Any] = dict(given.get("numba_flags") or {})
    if isinstance(said, dict):
        flags = {**said, **flags}
        said = "jit"
    way = "jit" if said is True else said
    if way not in _WAYS:
        raise PyCOMPSsException(f"@task(numba={said!r}): give True, or one of {', '.join(_WAYS)}")
    return Compiled(way, flags, given.get("numba_signature"), given.get("numba_declaration"))
