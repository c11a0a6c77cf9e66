"""Installations: a Python with the versions of its packages, and how two of them differ. Pure.

Tasks are pickled by one Python and unpickled by another. Where a package has another version there,
what was pickled may mean something else, or nothing.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import re
from collections.abc import Iterable, Mapping

import msgspec

#: Modules whose packages have other names.
_PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "netCDF4": "netcdf4",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
#: Functions of a script are pickled by it, whether the program has imported it or not.
_ALWAYS = ("cloudpickle",)
#: So many differing packages are named.
_MOST = 8
_RECORD = re.compile(r"([A-Za-z0-9][\w.]*)-(\d[\w.!+]*?)(?:-py\d[\w.-]*)?\.(?:dist|egg)-info")


class Installation(msgspec.Struct, array_like=True, frozen=True):
    """A Python, and the versions of its packages by name."""

    #: As `pilot.data.pickling_by_value.INTERPRETER` has it; empty: not known.
    python: str = ""
    packages: dict[str, str] = {}


def package_of(record: str) -> tuple[str, str] | None:
    """Return name and version of a package by the name of its record, which installers leave beside
    it (``numpy-1.26.4.dist-info``); None: it is none, or tells no version."""
    found = _RECORD.fullmatch(record)
    return (_canonical(found[1]), found[2]) if found else None


def difference(here: Installation, there: Installation, modules: Iterable[str]) -> str:
    """Return the packages whose versions differ, in words; empty: none does.

    Parameters
    ----------
    here, there
        The installations of the program and of the pilots.
    modules
        The modules that count: those that the program has loaded. A package that is missing on one
        side is not told: that the module is not there says whoever imports it.
    """
    tops = {name.partition(".")[0] for name in modules}
    used = {*_ALWAYS, *(_PACKAGES.get(name) or _canonical(name) for name in tops)}
    ours = {name: version for name, version in here.packages.items() if name in used}
    return differing_packages(ours, there.packages)


def differing_packages(these: Mapping[str, str], those: Mapping[str, str]) -> str:
    """Return the packages that both have, in other versions, with those of the second in
    parentheses."""
    both = sorted(these.keys() & those.keys())
    found = [f"{name} {these[name]} ({those[name]})" for name in both if these[name] != those[name]]
    more = len(found) - _MOST
    return ", ".join(found[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
