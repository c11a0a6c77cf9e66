"""Names of `pycompss.api.http`."""

from pilot.compat.compss.decoration import unsupported

http = unsupported("http")
Http = http

__all__ = ["Http", "http"]
