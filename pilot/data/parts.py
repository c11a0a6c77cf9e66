"""Objects taken apart into arrays and a pickle, and put together again: pure, no files.

Responsible for what is stored how. An object is pickled, but its NumPy arrays are lifted out: the
pickle (the *skeleton*) keeps a mark in place of each, and the array gets a name that tells a person
where in the object it was: ``{"u": [a, b]}`` gives ``u/0`` and ``u/1``. Since everything else is
left to pickle, what comes back is what went in: types, keys of any kind, identity of an array that
is in two places.

Invariants:

- an array is lifted only where HDF5 gives back an equal dtype; others (objects, Unicode, dates)
  stay in the pickle, as do instances of subclasses. What NumPy says of a type beyond that (see
  `dtypes`) is in the pickle, which then is there for a lone array, too;
- a lifted array is in C's order in files; one that was in Fortran's order is in that order again
  when it comes back;
- no array is copied as a whole on its way: see `pieces`;
- names are unique, have no empty component, and none that is ``.``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from h5py import h5t
from numpy.typing import NDArray

from pilot.data import chunks, labelled
from pilot.data.dtypes import is_plain, plain
from pilot.data.pickles import TooLargeError, needs_cloudpickle, unpickled
from pilot.data.pickling_by_value import pickler
from pilot.data.unpicklable import decoding_error, encoding_error
from pilot.errors import PilotError
from pilot.pickled import pickled_name

#: A data set costs as much as 4 KiB of data. The first few small arrays get one each, so that a
#: person finds them; a value of thousands of small arrays keeps the rest in its pickle.
_SMALL_BYTES = 4096
_SMALL_ARRAYS = 256

#: How far names are looked for; arrays behind that are numbered.
_NAMED_OBJECTS = 10_000
_NAMED_DEPTH = 16

#: What an array in another order than C's is copied by.
PIECE_BYTES = 16 * 1024 * 1024

#: HDF5 has no more dimensions.
_MAX_DIMENSIONS = 32

#: Names in the group of a value that no key in it gives an array.
SKELETON = ".pickle"
UNNAMED = ".arrays"
#: The name of an array that is the object itself and has a pickle beside it.
LONE = ".array"


@dataclass(frozen=True)
class Parts:
    """An object taken apart into arrays and a pickle."""

    #: Lifted arrays, in the order of their marks in the skeleton.
    arrays: list[NDArray[Any]]
    #: One per array: a path with ``/`` between its components; ``""`` for a lone array.
    names: list[str]
    #: The pickle; ``None`` where the object is nothing but one array.
    skeleton: bytes | None
    #: Plain numbers and strings of a dict, for people who look into the file.
    notes: dict[str, Any]
    #: True if a lone array was in Fortran's order.
    is_fortran: bool = False
    #: What is said of xarray's objects among them, for who reads the file.
    labels: list[labelled.Labels] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The number of bytes of data."""
        return sum(array.nbytes for array in self.arrays) + len(self.skeleton or b"")


def raw(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of an array in C's order, without a copy where it is in that order."""
    if not array.size:
        return np.empty(0, np.uint8)
    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def pieces(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of an array in C's order: as they are, or copies of a piece at a time."""
    if array.flags.c_contiguous:
        yield raw(array)
    else:
        yield from map(raw, chunks.blocks(array, PIECE_BYTES))


def native_type(dtype: np.dtype[Any]) -> Any:
    """Return the HDF5 type that gives back a type equal to `dtype`, or None if there is none."""
    return _native_type(plain(dtype))


@lru_cache(maxsize=256)
def _native_type(dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject or (dtype.kind == "V" and dtype.names is None):
        return None
    try:
        native = h5t.py_create(dtype, logical=True)
        return native if native.dtype == dtype else None
    except (TypeError, ValueError):
        return None


def is_native(obj: object) -> bool:
    """Tell whether `obj` is an array that HDF5 keeps, at least with an equal type."""
    return (
        type(obj) is np.ndarray
        and obj.ndim <= _MAX_DIMENSIONS
        and native_type(obj.dtype) is not None
    )


def take_apart(
    obj: Any, file: io.BytesIO | None = None, reducer: Callable[[Any], Any] | None = None
) -> Parts:
    """Take `obj` apart into arrays and a pickle.

    Parameters
    ----------
    obj
        The object.
    file
        The file that the skeleton is written to; it may raise an error of its own.
    reducer
        Says first how an object is pickled, as `pickle.Pickler.reducer_override` does. Then all
        that workers cannot import goes by value.

    Raises
    ------
    EncodingError
        Neither pickle nor cloudpickle can take it.
    """
    if is_native(obj) and is_plain(obj.dtype):
        return Parts([obj], [""], None, {}, is_fortran(obj))
    lifter: _Lifter | _CloudLifter
    again = reducer is not None
    if not again:
        try:
            lifter = _Lifter(obj)
            skeleton = lifter.lift(obj)
            again = needs_cloudpickle(skeleton)
        except MemoryError:
            raise
        except Exception:
            again = True
    if again:
        lifter = _CloudLifter(obj, file, reducer)
        try:
            skeleton = lifter.lift(obj)
        except (MemoryError, TooLargeError, PilotError):
            raise
        except Exception as cause:
            raise encoding_error(obj, cause) from cause
    if not lifter.arrays:
        return Parts([], [], skeleton, {})
    stored = set(lifter.names)
    labels = (labelled.labels_of(path, one, stored) for path, one in lifter.labelled)
    return Parts(
        lifter.arrays,
        lifter.names,
        skeleton,
        _notes(obj),
        labels=[one for one in labels if one is not None],
    )


def put_together(parts: Parts) -> Any:
    """Put an object together again from its parts, taking over their arrays, which must be
    writable.

    Raises
    ------
    EncodingError
        The pickle needs something that is not here, such as a module.
    """
    if parts.skeleton is None:
        array = parts.arrays[0]
        return in_fortran_order(array) if parts.is_fortran else array
    try:
        return unpickled(parts.skeleton, parts.arrays)
    except (MemoryError, PilotError):
        raise
    except Exception as cause:
        raise decoding_error(cause) from cause


def stored_name(name: str, names: list[str]) -> str:
    """Return the name that an array has among those of a value, as others ask for it: the array
    that is the value itself has none for them."""
    return LONE if not name and names == [LONE] else name


def no_array(name: str, names: list[str]) -> KeyError:
    """Return the error for a value that has other arrays than the one that is asked for."""
    if names in ([""], [LONE]):
        return KeyError(f"the result is an array itself, and has none that is called {name!r}")
    has = f"it has {', '.join(names[:20])}" if names else "it has none"
    if name:
        return KeyError(f"the result has no array {name!r}; {has}")
    return KeyError(f"the result is not stored as one array; {has}")


@pickled_name
def itself(array: NDArray[Any]) -> NDArray[Any]:
    """Return a lifted array unchanged; skeletons call this. The name is part of the format of the
    files."""
    return array


@pickled_name
def in_fortran_order(array: NDArray[Any]) -> NDArray[Any]:
    """Return a lifted array in Fortran's order; skeletons call this. The name is part of the format
    of the files.
    """
    return np.asfortranarray(array)


@pickled_name
def of_type(array: NDArray[Any], dtype: np.dtype[Any], is_fortran: bool) -> NDArray[Any]:
    """Return a lifted array with all that its type says, in Fortran's order or C's; skeletons call
    this. The name is part of the format of the files."""
    return (np.asfortranarray(array) if is_fortran else array).view(dtype)


def is_fortran(array: NDArray[Any]) -> bool:
    """Tell whether an array is in Fortran's order."""
    return array.flags.f_contiguous and not array.flags.c_contiguous


#: Stands in the skeleton for the next array. Writable, or pickle would wrap what replaces it.
_MARK = pickle.PickleBuffer(bytearray())


class _Lifting:
    """The common base of the two picklers below."""

    def __init__(
        self,
        obj: object,
        file: io.BytesIO | None = None,
        reducer: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file = io.BytesIO() if file is None else file
        super().__init__(self._file, 5, buffer_callback=self._stays)  # type: ignore[call-arg]  # a pickler's
        self._reducer = reducer
        #: xarray's objects, with the names of their groups.
        self.labelled: list[tuple[str, Any]] = []
        self._known = dict(_array_names(obj, self.labelled))
        if type(obj) is np.ndarray:
            self._known[id(obj)] = LONE
        self._small_left = _SMALL_ARRAYS
        self.arrays: list[NDArray[Any]] = []
        self.names: list[str] = []

    def lift(self, obj: object) -> bytes:
        self.dump(obj)  # type: ignore[attr-defined]  # a pickler's
        return self._file.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray and self._worth_it(obj) and is_native(obj):
            self.arrays.append(obj)
            self.names.append(self._known.get(id(obj)) or f"{UNNAMED}/{len(self.names)}")
            if not is_plain(obj.dtype):
                return of_type, (_MARK, obj.dtype, is_fortran(obj))
            return in_fortran_order if is_fortran(obj) else itself, (_MARK,)
        if self._reducer is not None:
            found = self._reducer(obj)
            if found is not NotImplemented:
                return found
        return super().reducer_override(obj)  # type: ignore[misc]  # a pickler's

    def _worth_it(self, array: NDArray[Any]) -> bool:
        if array.nbytes >= _SMALL_BYTES:
            return True
        self._small_left -= 1
        return self._small_left >= 0

    @staticmethod
    def _stays(buffer: pickle.PickleBuffer) -> bool:
        return buffer is not _MARK


class _Plain(pickle.Pickler):
    def reducer_override(self, _obj: Any) -> Any:
        return NotImplemented


class _Lifter(_Lifting, _Plain):
    """A pickler by reference, which is fast."""


class _CloudLifter(_Lifting, pickler()):  # type: ignore[misc]  # made late
    """A pickler by value, for what the user's script itself defines."""


def _array_names(obj: object, found: list[tuple[str, Any]]) -> Iterator[tuple[int, str]]:
    """Give the id and the name of each array in nested containers, breadth first; labelled ones
    are put into `found`."""
    seen = {id(obj)}
    level: list[tuple[str, object]] = [(labelled.TOP if labelled.is_labelled(obj) else "", obj)]
    for _ in range(_NAMED_DEPTH):
        below: list[tuple[str, object]] = []
        for path, container in level:
            taken = {SKELETON, UNNAMED, LONE} if not path else set()
            if labelled.is_labelled(container):
                found.append((path, container))
            for key, child in _children(container):
                if id(child) in seen:
                    continue
                if len(seen) > _NAMED_OBJECTS:
                    return
                if type(child) is np.ndarray or _is_container(child):
                    seen.add(id(child))
                    name = f"{path}/{unique(component(key), taken)}".lstrip("/")
                    if type(child) is np.ndarray:
                        yield id(child), name
                    else:
                        below.append((name, child))
        level = below


def _is_container(obj: object) -> bool:
    return type(obj) in (dict, list, tuple) or _is_record(obj) or labelled.is_labelled(obj)


def _is_record(obj: object) -> bool:
    named_tuple = isinstance(obj, tuple) and hasattr(obj, "_fields")
    return named_tuple or (is_dataclass(obj) and not isinstance(obj, type))


def _children(obj: Any) -> Iterable[tuple[object, object]]:
    if type(obj) is dict:
        return obj.items()
    if type(obj) in (list, tuple):
        return enumerate(obj)
    if _is_record(obj):
        names = getattr(obj, "_fields", None) or [field.name for field in fields(obj)]
        return ((name, getattr(obj, name, None)) for name in names)
    if labelled.is_labelled(obj):
        return labelled.arrays_of(obj)
    return ()


def component(key: object) -> str:
    """Return `key` as one component of a path, in HDF5 or in the file system."""
    plain = type(key) in (str, float) or (type(key) is int and abs(key) < 2**64)
    text = str(key) if plain else type(key).__name__
    text = text[:100].replace("/", "_").replace("\0", "_")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "_" if text in ("", ".", "..") else text


def unique(name: str, taken: set[str]) -> str:
    """Return `name`, with ``~2``, ``~3``… appended if it is taken, and mark the result as taken."""
    candidate, n = name, 1
    while candidate in taken:
        n += 1
        candidate = f"{name}~{n}"
    taken.add(candidate)
    return candidate


_NOTES = 32
_NOTE_CHARACTERS = 1000


def _notes(obj: object) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    for key, value in obj.items() if isinstance(obj, dict) else ():
        if len(notes) == _NOTES:
            break
        if type(key) is str and component(key) == key and _is_note(value):
            notes[key] = value
    return notes


def _is_note(value: object) -> bool:
    if type(value) is str:
        return len(value) <= _NOTE_CHARACTERS and value.isprintable()
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if isinstance(value, np.generic):
        return native_type(value.dtype) is not None
    return type(value) in (float, bool)
