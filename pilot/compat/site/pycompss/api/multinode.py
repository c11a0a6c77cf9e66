"""Names of `pycompss.api.multinode`."""

from pilot.compat.compss.decoration import unsupported

multinode = unsupported("multinode")
Multinode = multinode

__all__ = ["Multinode", "multinode"]
