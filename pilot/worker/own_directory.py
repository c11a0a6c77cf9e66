"""A directory on the node for one try of a task: it is the task's own, and goes with it.

It is below one that goes with the node workers: where a process is killed that would have removed
it, they do.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pilot.errors import PilotError
from pilot.site import Site
from pilot.worker.node_cache import NodeCache

#: Where it may be, if the node has none for such things.
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def make_own_directory(what: str, cache: NodeCache, site: Site) -> Path:
    """Make a directory on this node from which programs may be started.

    Parameters
    ----------
    what
        A word for its name.
    cache
        Knows the node's directory.

    Raises
    ------
    PilotError
        None can be made, in any place.
    """
    above = [cache.directory, *map(Path, _PLACES), site.directory]
    for place in above:
        try:
            if place is None or os.statvfs(place).f_flag & os.ST_NOEXEC:
                continue
            return Path(tempfile.mkdtemp(prefix=f"pilot-{what}-", dir=place))
        except OSError:
            continue  # it is full, or not there
    raise PilotError(
        f"no directory for the {what} can be made on {os.uname().nodename}, in any of "
        f"{', '.join(map(str, filter(None, above)))}"
    )
