"""The parameters of a workflow: defaults from the file, values from the command line.

A parameter has the type of its default; one whose default is ``null`` takes any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.site_configs import yamlfile
from pilot.site_configs.yaml_text import YamlError
from pilot.workflow.problems import Problems, Wrong, suggestion
from pilot.workflow.schema import WorkflowFileError

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list, such as [1, 2]",
    dict: "a mapping, such as {a: 1}",
}


def parameter_values(
    defaults: Mapping[str, Any], given: Mapping[str, Any], problems: Problems
) -> dict[str, Any]:
    """Return the values of all parameters; a wrong one is reported, and gets its default.

    Parameters
    ----------
    defaults
        The defaults in the file.
    given
        Texts as on the command line, or values.
    problems
        Collects values that are not of their parameter's type, and defaults that hold a reference.

    Raises
    ------
    WorkflowFileError
        A parameter is given that the file does not have.
    """
    for name in given:
        if name not in defaults:
            raise WorkflowFileError(f"there is no parameter {name!r}; {suggestion(name, defaults)}")
    values = dict(defaults)
    for name, default in defaults.items():
        with problems.caught():
            if _holds_reference(default):
                raise Wrong(
                    ("parameters", name), "a parameter is a plain value; write no ${…} in here"
                )
            if name in given:
                values[name] = _value(name, default, given[name])
    return values


def _value(name: str, default: Any, given: Any) -> Any:
    wanted = type(default)
    value = _read(given, wanted) if isinstance(given, str) else given
    if wanted is float and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not wanted:
        raise Wrong(
            ("parameters", name),
            f"{given!r} was given; expected {_NAMES[wanted]}, as its default {default!r}",
        )
    return value


def _read(text: str, wanted: type) -> Any:
    """Return the value of a text: the text itself if one is wanted, else its value in YAML."""
    if wanted is str:
        return text
    try:
        return yamlfile.load(text, Any).value if text.strip() else text
    except YamlError:
        return text


def _holds_reference(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_reference, value.values()))
    if isinstance(value, list):
        return any(map(_holds_reference, value))
    return isinstance(value, str) and "${" in value
