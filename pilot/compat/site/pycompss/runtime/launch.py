"""Names of `pycompss.runtime.launch`."""

from pilot.compat.compss.launching import launch

launch_pycompss_application = launch

__all__ = ["launch_pycompss_application"]
