"""YAML workflows: a file of tasks, on top of the Python API.

In the order in which a file goes through: `schema` says what it may hold, `parameters` are filled
in, `plans` read each entry (with `commands`; with `expression`, the language in ``${…}``, and
`references`, what it refers to), `targets` find the functions, `expand` (with `ranges`) makes the
`graph`, `files` looks at its files; then `render` shows it, or `run` submits it. `load` is the
entrance, and `problems` collects what is wrong on the way.
"""

from pilot.workflow.graph import Graph, Node, Result, TaskGroup
from pilot.workflow.load import Workflow, load_workflow
from pilot.workflow.render import graph_data, graph_text
from pilot.workflow.run import SubmittedWorkflow
from pilot.workflow.schema import WorkflowFileError, workflow_schema

__all__ = [
    "Graph",
    "Node",
    "Result",
    "SubmittedWorkflow",
    "TaskGroup",
    "Workflow",
    "WorkflowFileError",
    "graph_data",
    "graph_text",
    "load_workflow",
    "workflow_schema",
]
