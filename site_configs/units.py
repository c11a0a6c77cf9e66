"""The types of YAML values that are text with a unit, and the conversion of their values.

Each start of a process needs these, and most need no YAML: nothing here imports PyYAML.
"""

from __future__ import annotations

import abc
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from pilot.compression import parse_compression
from pilot.scheduler.budgets import NodeBudget, parse_budget
from pilot.scheduler.resources import parse_duration_s, parse_memory_mib

_BYTES = r"(?i)\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*"
_BYTE_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

# A type checker sees the type that the program gets; msgspec sees a class of its own to convert.
# Registered as virtual subclasses, plain numbers and texts pass its check of the converted value.
if TYPE_CHECKING:
    Seconds = float
    AutoSeconds = float | None
    Mebibytes = int
    AutoMebibytes = int | None
    Bytes = int
    Count = int
    EnvironmentText = str
    NodeHours = NodeBudget | None
    Compression = int
else:

    def _written_as_text(name: str, *value_types: type) -> abc.ABCMeta:
        kind = abc.ABCMeta(name, (), {})
        for value_type in value_types:
            kind.register(value_type)
        return kind

    #: A length of time: ``90s``, ``10m``, ``1:30:00``, or seconds.
    Seconds = _written_as_text("Seconds", float)
    #: A length of time, or ``auto``, which the program sees as None.
    AutoSeconds = _written_as_text("AutoSeconds", float, type(None))
    #: An amount of memory: ``4G``, ``512M``, or MiB.
    Mebibytes = _written_as_text("Mebibytes", int)
    #: An amount of memory, or ``auto``, which the program sees as None.
    AutoMebibytes = _written_as_text("AutoMebibytes", int, type(None))
    #: A size: ``64K``, ``1M``, or bytes.
    Bytes = _written_as_text("Bytes", int)
    #: A whole number from 1, or ``auto``, which the program sees as 0.
    Count = _written_as_text("Count", int)
    #: A text; a whole number is taken as its digits.
    EnvironmentText = _written_as_text("EnvironmentText", str)
    #: A budget: ``500 node-hours``, ``20 node-hours per day``; None: there is none.
    NodeHours = _written_as_text("NodeHours", NodeBudget, type(None))
    #: A compression: ``none``, ``gzip:4``; the program sees its level.
    Compression = _written_as_text("Compression", int)


def with_mappings(data: Any, value_type: type) -> Any:
    """Return data with each empty value that stands in place of a mapping, where the type has one,
    replaced by an empty mapping."""
    return _with_mappings(data, msgspec.inspect.type_info(value_type))


def _with_mappings(data: Any, one: msgspec.inspect.Type) -> Any:
    if isinstance(one, msgspec.inspect.Metadata):
        return _with_mappings(data, one.type)
    if isinstance(one, msgspec.inspect.StructType):
        fields = {f.encode_name: f.type for f in one.fields}
        if data is None:
            return {}
        if isinstance(data, dict):
            return {
                key: _with_mappings(value, fields[key]) if key in fields else value
                for key, value in data.items()
            }
    if isinstance(one, msgspec.inspect.DictType):
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: _with_mappings(value, one.value_type) for key, value in data.items()}
    return data


def convert_custom(custom: Any, value: Any) -> Any:
    """Return the number or text that a value of one of this module's types stands for."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not an amount; write a number")
    if custom in (AutoSeconds, AutoMebibytes) and value == "auto":
        return None
    if custom in (Seconds, AutoSeconds):
        return float(parse_duration_s(value))
    if custom is NodeHours:
        return parse_budget(value)
    if custom is Compression:
        return parse_compression(value)
    if custom in (Mebibytes, AutoMebibytes):
        return parse_memory_mib(value)
    if custom is Bytes:
        return _parse_bytes(value)
    if custom is Count:
        if value == "auto":
            return 0
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ValueError(f"{value!r} is neither a whole number from 1 nor auto")
    if custom is EnvironmentText:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f"{value!r} is not text; put it in quotes")
        return str(value)
    raise NotImplementedError(f"no conversion to {custom}")


def _parse_bytes(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(_BYTES, value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f'{value!r} is not a size; write it as "64K", "1M" or in bytes')
    return int(float(match[1]) * _BYTE_UNITS[match[2].upper()])


def custom_schema(custom: Any) -> dict[str, Any]:
    """Return the JSON schema of one of the types with units."""
    if custom is Count:
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}
    if custom is Compression:
        return {"type": "string", "pattern": "^(none|gzip(:[1-9])?)$"}
    if custom is EnvironmentText:
        return {"type": ["string", "integer"]}
    return {"type": ["string", "number"], "minimum": 0}
