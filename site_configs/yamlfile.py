"""The reader of YAML files into typed structs, with errors that name file and line.

`load` is the whole interface: it parses, checks against a type and keeps the line of every key, so
that checks made later (`YamlFile.error`) name lines too. Site files and workflows are both read
here.

Invariants:

- Plain data only: no tag creates an object of a class.
- A key that is written twice, or that no type knows, is an error, never dropped.
- A key with nothing behind it, where a mapping belongs, is an empty mapping: all its lines may be
  comments.
- Plain words are text. Only ``true``, ``false``, ``null`` and numbers are not (YAML 1.2's core
  schema): a partition may be named ``no`` or ``on``, ``1:30:00`` is a text, ``1e-3`` a number.
- Each error reads ``file:line: where: what is wrong; what to do``.
- However small a file: what its aliases stand for is bounded, and so is how deep it is nested.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import yaml

from pilot.site_configs.units import convert_custom, custom_schema, with_mappings
from pilot.site_configs.yaml_text import YamlError, read_yaml_text

T = TypeVar("T")

#: Where a value is in a file: keys and indices from the top.
YamlPath = tuple[str | int, ...]

#: A file has no more values than this, what its aliases stand for counted each time.
_MOST_VALUES = 1_000_000
#: Lists and mappings in each other.
_DEEPEST = 100
#: More findings than these help nobody.
_MOST_FINDINGS = 100
_MISSING = re.compile(r"the key '(.*)' is missing; add it", re.DOTALL)
_MEANT = re.compile(r"did you mean '([^']*)'\?")
_TOO_DEEP = f"is nested more than {_DEEPEST} deep"

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain words of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def _construct_int(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    digits = text.lower().lstrip("+-")
    if digits.startswith(("0x", "0o")):
        return int(digits, 0)
    return int(text)  # YAML 1.1 would read 010 as 8


def _construct_float(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(node.value).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)

#: The same on libyaml, where PyYAML has it; from 0.2.3 on it bears no depth that Python does not.
_QuickLoader: Any = None
if yaml.__with_libyaml__ and yaml._yaml.get_version() >= (0, 2, 3):
    _QuickLoader = type(
        "_QuickLoader",
        (yaml.CSafeLoader,),
        {
            "yaml_implicit_resolvers": _Loader.yaml_implicit_resolvers,
            "yaml_constructors": _Loader.yaml_constructors,
        },
    )
#: From so many characters on a text is large.
_LARGE = 100_000


@dataclass(frozen=True)
class Parsed:
    """A file whose YAML was read but not yet checked against a type."""

    #: The file's name as it stands in messages.
    name: str
    #: Its nodes, which know lines; None: it is empty.
    root: yaml.Node | None
    #: Plain values.
    data: Any
    #: The class of the errors to raise.
    error_type: type[YamlError]


class YamlFile(Generic[T]):
    """A file that was read: its value, and the line of everything in it."""

    def __init__(
        self, name: str, value: T, root: yaml.Node | None, error_type: type[YamlError]
    ) -> None:
        #: The file's name as it stands in messages.
        self.name = name
        #: What the file says.
        self.value = value
        self._root = root
        self._error_type = error_type

    def line_of(self, *path: str | int) -> int:
        """Return the line (from 1) of a key or list item, or of its container if it is missing."""
        return _line_of(self._root, path)

    def error(self, *path: str | int, message: str) -> YamlError:
        """Return an error about the value at `path`, to be raised: ``file:line: path: message``."""
        return self._error_type(_located(self.name, self._root, path, message))

    def findings_error(self, findings: Iterable[Finding]) -> YamlError:
        """Return an error that lists findings, one a line, in the order of the file."""
        ordered = sorted(findings, key=lambda found: self.line_of(*found.path))
        lines = (_located(self.name, self._root, f.path, f.message) for f in ordered)
        return self._error_type("\n".join(dict.fromkeys(lines)))


@dataclass(frozen=True)
class Finding:
    """Something in a file that does not fit its type."""

    path: YamlPath
    message: str
    #: The key that it was left out with; a misspelt one stands for the one that was meant.
    left_out: YamlPath


def parse(
    source: Path | str, name: str | None = None, *, error_type: type[YamlError] = YamlError
) -> Parsed:
    """Read YAML that `load` is to check, against one type or several.

    Raises
    ------
    YamlError
        As `error_type`: the file cannot be read, or is not YAML.
    """
    if isinstance(source, Path):
        name = name or str(source)
        text = read_yaml_text(source, name, error_type=error_type)
    else:
        name = name or "<text>"
        text = source
    root, data = _parse(text, name, error_type)
    return Parsed(name, root, data, error_type)


def load(
    source: Path | str | Parsed,
    value_type: type[T],
    name: str | None = None,
    *,
    error_type: type[YamlError] = YamlError,
) -> YamlFile[T]:
    """Read YAML and check it against a type.

    Parameters
    ----------
    source
        A path, the YAML itself as text, or what `parse` gave.
    value_type
        A msgspec struct (or any type that msgspec converts to). Attributes may be of the types
        `Seconds`, `Mebibytes`, `Bytes`, `Count` and `EnvironmentText` of `units`.
    name
        The file's name in messages; the path if left out.
    error_type
        The class of the errors to raise.

    Raises
    ------
    YamlError
        As `error_type`: the file cannot be read, is not YAML, or does not fit `value_type`. It has
        one line for each finding.
    """
    file, findings = load_what_fits(source, value_type, name, error_type=error_type)
    if findings:
        raise file.findings_error(findings)
    return file


def load_what_fits(
    source: Path | str | Parsed,
    value_type: type[T],
    name: str | None = None,
    *,
    error_type: type[YamlError] = YamlError,
) -> tuple[YamlFile[T], list[Finding]]:
    """Read YAML as `load` does, but leave out what does not fit, and return all mistakes at once.

    Raises
    ------
    YamlError
        As `error_type`: the file cannot be read, is not YAML, or nothing of use is left of it.
    """
    parsed = source if isinstance(source, Parsed) else parse(source, name, error_type=error_type)
    name, root, error_type = parsed.name, parsed.root, parsed.error_type
    data = with_mappings(parsed.data, value_type)
    findings: list[Finding] = []
    while True:
        try:
            value = msgspec.convert(data, value_type, dec_hook=convert_custom)
            return YamlFile(name, value, root, error_type), findings
        except msgspec.ValidationError as error:
            path, message = _explain(error, data, value_type)
        finding, is_missing = _finding(path, message)
        # A key that is missing because it was left out has been told.
        if not (is_missing and any(f.left_out == finding.left_out for f in findings)):
            findings.append(finding)
        cut = _key_of(path)
        if cut is None or not _is_there(data, cut) or len(findings) >= _MOST_FINDINGS:
            raise YamlFile(name, data, root, error_type).findings_error(findings)
        data = _without(data, cut)


def _finding(path: YamlPath, message: str) -> tuple[Finding, bool]:
    """Return a finding, and whether it is a missing key."""
    if missing := _MISSING.fullmatch(message):
        return Finding(path, message, (*path, missing[1])), True
    if message.startswith("unknown key") and (meant := _MEANT.search(message)):
        return Finding(path, message, (*path[:-1], meant[1])), False
    return Finding(path, message, _key_of(path) or ()), False


def _key_of(path: YamlPath) -> YamlPath | None:
    """Return the path up to its innermost key, without the indices of list items behind that."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path or None


def _is_there(data: Any, path: YamlPath) -> bool:
    for step in path:
        if isinstance(data, dict):
            found = [value for key, value in data.items() if str(key) == str(step)]
        else:
            found = data[step : step + 1] if isinstance(data, list) and type(step) is int else []
        if not found:
            return False
        data = found[0]
    return True


def _without(data: Any, path: YamlPath) -> Any:
    """Return a copy of data without the item at `path`."""
    step: Any = path[0]
    if isinstance(data, list):
        return [_without(x, path[1:]) if n == step else x for n, x in enumerate(data)]
    if len(path) == 1:
        return {key: value for key, value in data.items() if str(key) != str(step)}
    return {k: _without(v, path[1:]) if str(k) == str(step) else v for k, v in data.items()}


def json_schema(value_type: Any) -> dict[str, Any]:
    """Return the JSON schema of a type that `load` checks, for editors.

    The ``#:`` comment above an attribute becomes its description.
    """
    schema = msgspec.json.schema(value_type, schema_hook=custom_schema)
    definitions = schema.get("$defs", {})
    for struct in _structs_of(msgspec.inspect.type_info(value_type)):
        properties = definitions.get(struct.cls.__name__, {}).get("properties", {})
        comments = attribute_comments(struct.cls)
        for struct_field in struct.fields:
            comment = comments.get(struct_field.name)
            if comment and struct_field.encode_name in properties:
                properties[struct_field.encode_name] = {
                    **properties[struct_field.encode_name],
                    "description": comment,
                }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def attribute_comments(cls: type) -> dict[str, str]:
    """Return the ``#:`` comments of a class's attributes, each joined to one line, by attribute."""
    comments: dict[str, str] = {}
    pending: list[str] = []
    for line in "\n".join(map(inspect.getsource, _documenting(cls))).splitlines():
        stripped = line.strip()
        if stripped.startswith("#:"):
            pending.append(stripped[2:].strip())
            continue
        attribute = re.match(r"(\w+)\s*:", stripped)
        if attribute and pending:
            comments[attribute[1]] = " ".join(pending)
        pending = []
    return comments


def _documenting(cls: type) -> Iterator[type]:
    """Find the classes whose source documents the attributes of a class, bases first.

    One that was put together at run time has none, and names another class that has.
    """
    for each in reversed(cls.__mro__):
        if "documented_by" in vars(each):
            yield vars(each)["documented_by"]
        elif "__annotations__" in vars(each):
            yield each


# --- parsing -------------------------------------------------------------------------------------


def _parse(
    text: str, name: str, error_type: type[YamlError]
) -> tuple[yaml.Node | None, dict[Any, Any] | Any]:
    """Return the node tree of a text, which knows lines, and its plain value."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise error_type(f"{name}: is not YAML: {error}") from None
    try:
        root = _quick_node(text) or loader.get_single_node()
        if root is None:
            return None, {}
        return root, _Constructor(loader, name, error_type).value(root)
    except RecursionError:
        line = loader.get_mark().line + 1
        raise error_type(f"{name}:{line}: {_TOO_DEEP}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        told = " ".join(part for part in (error.context, error.problem) if part)
        if "\\t" in told:
            told += "; indent with spaces"
        raise error_type(f"{where}: is not YAML: {told}") from None
    except yaml.YAMLError as error:
        raise error_type(f"{name}: is not YAML: {error}") from None
    finally:
        loader.dispose()


def _quick_node(text: str) -> yaml.Node | None:
    """Return the node tree of a large text by libyaml, ten times as fast; None to leave the text to
    Python's loader.

    What is wrong Python's loader tells, with its line, and so what libyaml takes for too deep.
    """
    if _QuickLoader is None or len(text) < _LARGE:
        return None
    loader = _QuickLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except (yaml.YAMLError, RecursionError):
        return None
    finally:
        loader.dispose()
    return node


class _Constructor:
    """A maker of the plain values of nodes; the value of an alias is made once, and shared."""

    def __init__(self, loader: yaml.SafeLoader, name: str, error_type: type[YamlError]) -> None:
        self._loader = loader
        self._name = name
        self._error_type = error_type
        #: Value, number of values in it, and depth, by the node.
        self._made: dict[int, tuple[Any, int, int]] = {}
        #: For finding circles.
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        """Return the plain value of a node."""
        return self._construct(node)[0]

    def _error(self, node: yaml.Node, told: str) -> YamlError:
        return self._error_type(f"{self._name}:{node.start_mark.line + 1}: {told}")

    def _construct(self, node: yaml.Node) -> tuple[Any, int, int]:
        known = self._made.get(id(node))
        if known is not None:
            return known
        if isinstance(node, yaml.ScalarNode) and len(self._open) < _DEEPEST:
            return self._scalar(node), 1, 1  # cheaper made again than known
        if id(node) in self._open:
            raise self._error(node, "an alias stands for something that holds it")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTION_TAGS:
            raise self._error(node, f"the tag {node.tag!r} is not known here; remove it")
        if len(self._open) >= _DEEPEST:
            raise self._error(node, _TOO_DEEP)
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value, sizes, depths = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            items = [self._construct(item) for item in node.value]
            value = [item for item, _, _ in items]
            sizes, depths = [size for _, size, _ in items], [depth for _, _, depth in items]
        else:
            value, sizes, depths = self._scalar(node), [], []
        size, depth = 1 + sum(sizes), 1 + max(depths, default=0)
        if size > _MOST_VALUES:
            raise self._error(
                node, f"stands for more than {_MOST_VALUES} values, with what its aliases name"
            )
        if depth > _DEEPEST:
            raise self._error(node, _TOO_DEEP)
        self._open.discard(id(node))
        self._made[id(node)] = value, size, depth
        return value, size, depth

    def _mapping(self, node: yaml.MappingNode) -> tuple[dict[Any, Any], list[int], list[int]]:
        value: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        sizes: list[int] = []
        depths: list[int] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key is a list or mapping; write a word")
            item, size, depth = self._construct(value_node)
            sizes.append(size + 1)
            depths.append(depth)
            if key_node.tag == "tag:yaml.org,2002:merge":
                for part in item if isinstance(item, list) else [item]:
                    if not isinstance(part, dict):
                        raise self._error(key_node, "'<<' takes mappings only")
                    merged = {**part, **merged}
                continue
            key = self._scalar(key_node)
            if key in value:
                raise self._error(
                    key_node, f"key {key!r} is written twice in one mapping; remove one"
                )
            value[key] = item
        return {**merged, **value}, sizes, depths

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == "tag:yaml.org,2002:str":
            return node.value
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # such as a !!timestamp that is none
            raise self._error(node, f"{_cut(repr(node.value))}: {error}") from None


# --- lines ---------------------------------------------------------------------------------------


def _line_of(root: yaml.Node | None, path: YamlPath) -> int:
    if root is None:
        return 1
    node, line = root, root.start_mark.line + 1
    for step in path:
        found = _child(node, step)
        if found is None:
            break
        mark, node = found
        line = mark.line + 1
    return line


def _child(node: yaml.Node, step: str | int) -> tuple[Any, yaml.Node] | None:
    """Return the mark and the node of one key or item of a node."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(step, int) and 0 <= step < len(node.value):
            item = node.value[step]
            return item.start_mark, item
        return None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in parts:
                    if found := _child(part, step):
                        return found
    return None


def _located(name: str, root: yaml.Node | None, path: YamlPath, message: str) -> str:
    where = "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{_shown_key(step)}"
        if index
        else _shown_key(step)
        for index, step in enumerate(path)
    )
    return f"{name}:{_line_of(root, path)}: {where + ': ' if where else ''}{message}"


def _shown_key(key: str) -> str:
    """Return a key for a message: on one line, and without control characters for the terminal."""
    return _cut(key if key.isprintable() else repr(key))


# --- explaining what does not fit ----------------------------------------------------------------

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "a mapping (key: value)",
    "array": "a list",
    "null": "nothing",
}


def _explain(error: msgspec.ValidationError, data: Any, value_type: Any) -> tuple[YamlPath, str]:
    """Return the path of a fault and a message for it, from msgspec's error."""
    told, _, at = str(error).partition(" - at ")
    key_in = re.fullmatch(r"`key` in `(.*)`", at)
    steps = _split_path(key_in[1] if key_in else at.strip("`"))
    path = _resolve(data, steps, lambda d: _fails(d, value_type, str(error)))
    value = _value_at(data, path)
    if key_in:
        odd = [key for key in value if not isinstance(key, str)] if isinstance(value, dict) else []
        if odd:
            return (*path, str(odd[0])), f"the key {odd[0]!r} is not text; put it in quotes"
        return path, f"a key is wrong: {told}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", told, re.DOTALL):
        known = [f.encode_name for s in _structs_at(value_type, data, path) for f in s.fields]
        return (*path, unknown[1]), f"unknown key; {_suggest(unknown[1], known)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", told):
        return path, f"the key {missing[1]!r} is missing; add it"
    if expected := re.match(r"Expected `([^`]*)`(?:, got `[^`]*`)?(.*)", told, re.DOTALL):
        wanted = [_WORDS.get(t.strip(), t.strip()) for t in expected[1].split("|")]
        if isinstance(value, (int, float)) and any("number" in one for one in wanted):
            # A text would be a reference: quotes make no number of it that fits.
            wanted = [one for one in wanted if one != "a text"]
        words = " or ".join(wanted)
        return (
            path,
            f"expected {words}{expected[2]}, got {_show(value)}{_quotes_hint(words, value)}",
        )
    if told.startswith("Invalid enum value"):
        choices = _choices_at(value_type, path)
        hint = _suggest(str(value), choices) if choices else "see the reference for its values"
        return path, f"{_show(value)} is not a valid value for this key; {hint}"
    return path, told


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _quotes_hint(expected: str, value: Any) -> str:
    if "a text" in expected and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    if "number" in expected and isinstance(value, str) and _NUMBER.fullmatch(value):
        return "; remove the quotes"
    return ""


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(sorted(set(known)))}"


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping (key: value)"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    return f"the number {value!r}" if isinstance(value, (int, float)) else repr(value)


def _split_path(at: str) -> list[str | int]:
    """Split msgspec's ``$.pools[...].tags[2]`` into steps; ``...`` is a key that it does not
    tell."""
    steps: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", at.removeprefix("$")):
        steps.append(name if name else index if index == "..." else int(index))
    return steps


def _resolve(data: Any, steps: list[str | int], fails: Callable[[Any], bool]) -> YamlPath:
    """Return the steps with each ``...`` replaced by its key.

    msgspec does not tell the key of a mapping of anything; so each key is tried alone: the one
    that gives the same error is it.
    """
    path: list[str | int] = []
    for step in steps:
        if step != "...":
            path.append(step)
            continue
        keys = _value_at(data, tuple(path))
        for key in keys if isinstance(keys, dict) else []:
            if fails(_with_only(data, tuple(path), key)):
                path.append(key if isinstance(key, int) else str(key))
                break
        else:
            return tuple(path)
    return tuple(path)


def _with_only(data: Any, path: YamlPath, key: Any) -> Any:
    """Return a copy of data whose mapping at `path` has no key but `key`."""
    if not path:
        return {key: data[key]}
    step: Any = path[0]
    if isinstance(data, list):
        return [
            _with_only(item, path[1:], key) if index == step else item
            for index, item in enumerate(data)
        ]
    return {k: _with_only(v, path[1:], key) if k == step else v for k, v in data.items()}


def _fails(data: Any, value_type: Any, message: str) -> bool:
    try:
        msgspec.convert(data, value_type, dec_hook=convert_custom)
    except msgspec.ValidationError as error:
        return str(error) == message
    return False


def _value_at(data: Any, path: YamlPath) -> Any:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _types_at(value_type: Any, path: YamlPath) -> Iterator[msgspec.inspect.Type]:
    """Give every type that may stand at `path`."""
    types = list(_alternatives(msgspec.inspect.type_info(value_type)))
    for step in path:
        inner: list[msgspec.inspect.Type] = []
        for one in types:
            if isinstance(one, msgspec.inspect.StructType):
                inner += [f.type for f in one.fields if f.encode_name == step]
            elif isinstance(one, msgspec.inspect.DictType):
                inner.append(one.value_type)
            elif isinstance(
                one,
                (
                    msgspec.inspect.ListType,
                    msgspec.inspect.VarTupleType,
                    msgspec.inspect.SetType,
                    msgspec.inspect.FrozenSetType,
                ),
            ):
                inner.append(one.item_type)
        types = [part for one in inner for part in _alternatives(one)]
    yield from types


def _alternatives(one: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    if isinstance(one, msgspec.inspect.Metadata):
        yield from _alternatives(one.type)
    elif isinstance(one, msgspec.inspect.UnionType):
        for part in one.types:
            yield from _alternatives(part)
    else:
        yield one


def _structs_at(value_type: Any, data: Any, path: YamlPath) -> Iterator[msgspec.inspect.StructType]:
    """Return the structs that may stand at `path`; of tagged ones, the one that the data names."""
    structs = [
        one for one in _types_at(value_type, path) if isinstance(one, msgspec.inspect.StructType)
    ]
    value = _value_at(data, path)
    tagged = [
        one
        for one in structs
        if one.tag_field and isinstance(value, dict) and value.get(one.tag_field) == one.tag
    ]
    yield from tagged or structs


def _choices_at(value_type: Any, path: YamlPath) -> list[str]:
    choices: list[str] = []
    for one in _types_at(value_type, path):
        if isinstance(one, msgspec.inspect.LiteralType):
            choices += [str(value) for value in one.values]
        elif isinstance(one, msgspec.inspect.EnumType):
            choices += [str(member.value) for member in one.cls]
    return choices


def _structs_of(root: msgspec.inspect.Type) -> list[msgspec.inspect.StructType]:
    """Return all structs that a type is made of."""
    found: dict[type, msgspec.inspect.StructType] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, msgspec.inspect.StructType):
            if one.cls not in found:
                found[one.cls] = one
                waiting += [f.type for f in one.fields]
        elif isinstance(one, msgspec.inspect.DictType):
            waiting.append(one.value_type)
        elif isinstance(one, msgspec.inspect.UnionType):
            waiting += one.types
        elif isinstance(one, msgspec.inspect.Metadata):
            waiting.append(one.type)
        elif isinstance(one, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            waiting.append(one.item_type)
    return list(found.values())
