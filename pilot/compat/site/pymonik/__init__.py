"""The names that programs for PymoniK import; see `pilot.compat.pymonik`."""

from pilot.compat.pymonik.context import PymonikContext
from pilot.compat.pymonik.handles import MultiResultHandle, ResultHandle
from pilot.compat.pymonik.materials import Materialize, materialize
from pilot.compat.pymonik.options import TaskOptions
from pilot.compat.pymonik.session import Pymonik, run_pymonik_worker
from pilot.compat.pymonik.tasks import Task, task
from pilot.version import __version__

__all__ = [
    "Materialize",
    "MultiResultHandle",
    "Pymonik",
    "PymonikContext",
    "ResultHandle",
    "Task",
    "TaskOptions",
    "__version__",
    "materialize",
    "run_pymonik_worker",
    "task",
]
