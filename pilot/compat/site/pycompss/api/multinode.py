"""Names of `pycompss.api.multinode`."""

from pilot.compat.compss.several_nodes import multinode

MultiNode = multinode
Multinode = multinode

__all__ = ["MultiNode", "Multinode", "multinode"]
