"""Work as it is sent to executors and worlds: with the templates and functions they don't have."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.model.tasks import Function, Template
from pilot.wire.messages import worker as m
from pilot.wire.messages.pilot import AttemptSpec


class Sent:
    """Templates and functions that an executor, or all ranks of a world, have been sent already."""

    def __init__(self) -> None:
        self._templates: set[int] = set()
        self._functions: set[bytes] = set()

    def message(
        self,
        work: list[AttemptSpec],
        templates: Mapping[int, Template],
        functions: Mapping[int, Mapping[bytes, Function]],
        plan: m.LaunchPlan | None = None,
        nodes: tuple[str, ...] = (),
        keeps: bool = True,
        cores: tuple[tuple[int, ...], ...] = (),
    ) -> m.Run:
        """Return the message with some work, and what is new in it."""
        new_templates = []
        new_functions = []
        for number in {item.template for item in work} - self._templates:
            template = templates[number]
            new_templates.append(template)
            self._templates.add(number)
            if template.function not in self._functions:
                self._functions.add(template.function)
                new_functions.append(functions[template.session][template.function])
        return m.Run(new_functions, new_templates, work, plan, nodes, keeps, cores)
