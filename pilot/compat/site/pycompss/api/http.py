"""Names of `pycompss.api.http`."""

from pilot.compat.compss.web_services import http

HTTP = http
Http = http

__all__ = ["HTTP", "Http", "http"]
