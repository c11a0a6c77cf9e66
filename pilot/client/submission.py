"""Submissions: the tasks of a call of `submit` or `map`, on their way to the head."""

from __future__ import annotations

from pilot.model.tasks import Function, TaskSpec, Template


class Submission:
    """The tasks of one submission, and the functions and templates that are new with them."""

    __slots__ = ("functions", "tasks", "templates")

    def __init__(self) -> None:
        self.functions: list[Function] = []
        self.templates: list[Template] = []
        self.tasks: list[TaskSpec] = []
