"""The opening of a site whose file system may not answer."""

from __future__ import annotations

from collections.abc import Callable

from pilot.doctor.limited import NotGathered, gathered
from pilot.errors import SiteError
from pilot.findings import Check
from pilot.site import Site

#: How long the site file may take to be read, in seconds.
OPEN_S = 15.0


def open_in_time(find: Callable[[], Site]) -> Site:
    """Open a site, unless its file system hangs: then nothing else could be done.

    Raises
    ------
    SiteError
        There is no such site, or its file system does not answer.
    """

    def try_it() -> str:
        try:
            find()
        except SiteError:
            return ""  # told below
        return ""

    try:
        gathered(Check("site", str, try_it, lambda _: (), OPEN_S))
    except NotGathered as error:
        raise SiteError(
            f"the site file cannot be read ({error}): does its file system answer? Try `ls` there"
        ) from error
    return find()
