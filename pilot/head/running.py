"""The head that runs at a site, as other processes see it: its address, and whether it lives."""

from __future__ import annotations

import time

from pilot.errors import HeadError
from pilot.head.lease_files import Holder, has_run_out, read_lease
from pilot.head.silence import Silence
from pilot.site import Site
from pilot.wire.discovery import HeadAddress, read_address

#: The exit status of a head that the file system has failed, maybe for a moment, at its start.
TRY_AGAIN = 75
#: The exit status of a head that finds the database locked by another program.
LOCKED = 76
#: The interval at which a process looks for a head that another one is starting, in seconds.
LOOK_S = 0.25
#: The time to wait for a head that starts or ends before a question is given up, in seconds.
_SETTLE_S = 10.0


class DatabaseLocked(HeadError):
    """The error that no head can start, since another program has the database locked."""


class HeadChanges(HeadError):
    """The error that a head is just starting or ending: try again soon."""


def find_head(site: Site, dead: int = 0) -> HeadAddress | None:
    """Return the head of the site, or None if there is none, as far as a single look can tell.

    A head whose process cannot be seen from here counts as long as it renews its lease. The
    process that would succeed it decides in the end whether it may.

    Parameters
    ----------
    dead
        Heads of this epoch and of earlier ones are known not to live.
    """
    address = read_address(site.address_file)
    if (
        address is None
        or address.epoch <= dead
        or address.is_dead()
        or not address.is_of(site.directory)
        or has_run_out(site.lease_file, site.config.lease.expire_s)
    ):
        return None
    return address


def silence_of(site: Site) -> Silence:
    """Return a `Silence` that tells whether the head of a site lives."""
    lease = site.config.lease
    return Silence(site.lease_file, lease.expire_s, lease.renew_s)


def lives(site: Site, address: HeadAddress) -> bool:
    """Watch until it is known whether a head lives; at once if its process is visible from here."""
    if address.is_here():
        return not address.is_dead()
    silence = silence_of(site)
    while not silence.has_ended(address.epoch):
        if silence.moved:
            return True
        time.sleep(LOOK_S)
    return False


def lease_holder(site: Site) -> Holder | None:
    """Return the live holder of the site's lease; None if there is none."""
    holder = read_lease(site.lease_file)
    if holder is None or has_run_out(site.lease_file, site.config.lease.expire_s):
        return None
    return holder


def await_head(site: Site) -> HeadAddress | None:
    """Return the head that runs, or None; wait while one starts or ends."""
    deadline = time.monotonic() + _SETTLE_S
    while (address := find_head(site)) is None:
        if lease_holder(site) is None or time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return address
