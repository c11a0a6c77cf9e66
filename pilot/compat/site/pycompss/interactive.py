"""Names of `pycompss.interactive`."""

from pilot.compat.compss.interactive import (
    complete_task_graph,
    current_task_graph,
    monitoring_information,
    resources_status,
    start,
    statistics,
    stop,
    tasks_info,
    tasks_status,
)

__all__ = [
    "complete_task_graph",
    "current_task_graph",
    "monitoring_information",
    "resources_status",
    "start",
    "statistics",
    "stop",
    "tasks_info",
    "tasks_status",
]
