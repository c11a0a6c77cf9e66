"""Endpoints of PymoniK programs, as sites name them: the key ``endpoints`` of a site file."""

from __future__ import annotations

from pilot.errors import SiteError
from pilot.site import Site, list_sites, open_site, pilot_home


def site_of(endpoint: str | None) -> Site | None:
    """Return the named site that says that it is behind an endpoint; None: no site does.

    Raises
    ------
    SiteError
        Several sites do.
    """
    if not endpoint:
        return None
    found = []
    for name in list_sites():
        try:
            site = open_site(pilot_home() / name)
        except SiteError:
            continue  # one that cannot be read is named by no program
        if _usual(endpoint) in map(_usual, site.config.endpoints):
            found.append(site)
    if len(found) > 1:
        names = ", ".join(site.name for site in found)
        raise SiteError(
            f"the endpoint {endpoint} is named by several sites ({names}); leave it in the "
            "site.yaml of one of them"
        )
    return found[0] if found else None


def _usual(endpoint: str) -> str:
    """Return an endpoint without what makes no difference."""
    told = endpoint.strip().rstrip("/").lower()
    return told.partition("://")[2] or told
