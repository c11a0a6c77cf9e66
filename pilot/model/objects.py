"""Named objects: what their names may be, and what is said of a new version.

A name stands for versions 1, 2, 3, … of an object; an alias of the name stands for one of them. In
text: ``mesh`` (the newest), ``mesh@3``, ``mesh@best``.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import msgspec

from pilot.errors import PilotError
from pilot.model.bounds import UNREADABLE, Seconds

#: The longest name or alias, and the longest text of all tags, in bytes.
NAME_MOST, TAGS_MOST = 200, 16 << 10


class Naming(msgspec.Struct, array_like=True, frozen=True):
    """The facts about a version besides its value, and who makes it."""

    name: str
    #: The class of the value; empty: unknown.
    type: str = ""
    user: str = ""
    #: A JSON object.
    tags: str = "{}"
    #: The time that it is kept, in seconds; 0: until it is removed.
    keep_s: Seconds = 0.0


encode_naming = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Naming).decode


def decode_naming(payload: bytes) -> Naming | None:
    """Return what `encode_naming` has encoded; None where that is nothing that can be taken."""
    try:
        naming = _decode(payload)
    except UNREADABLE:
        return None
    return naming if is_fit(naming) else None


class Wanted(msgspec.Struct, frozen=True):
    """The version that a text means: a number, an alias, or without either the newest."""

    name: str
    version: int = 0
    alias: str = ""


def problem(name: object, what: str = "the name of an object") -> str:
    """Return why a text can be no name, or alias; empty: it can."""
    if not isinstance(name, str) or not name:
        return f"{what} is a text of at least one character, not {name!r:.60}"
    if not name.isprintable():
        return f"{what} has no control characters, and can be written in UTF-8: not {name!r:.60}"
    if "@" in name:
        return f"{what} has no @, which comes before a version: not {name!r:.60}"
    if name != name.strip():
        return f"{what} does not begin or end with a space: not {name!r:.60}"
    if (size := len(name.encode())) > NAME_MOST:
        return f"{what} has {NAME_MOST} bytes at most, and {name[:20]!r}… has {size}"
    return ""


def alias_problem(alias: object) -> str:
    """Return why a text can be no alias; empty: it can."""
    if why := problem(alias, "an alias"):
        return why
    if str(alias).isdecimal():
        return f"an alias is no number, which would be a version: not {alias!r:.60}"
    return ""


def check(naming: Naming) -> None:
    """Check what is said of a new version.

    Raises
    ------
    PilotError
        The name can be none, or the tags are too long.
    """
    why = problem(naming.name)
    if not why and len(naming.tags.encode(errors="replace")) > TAGS_MOST:
        why = f"the tags of an object have {TAGS_MOST >> 10} KiB at most"
    if why:
        raise PilotError(why)


def is_fit(naming: Naming) -> bool:
    """Tell whether what is said of a new version can be taken."""
    try:
        check(naming)
    except PilotError:
        return False
    return True


def parse(text: object) -> Wanted:
    """Return what ``mesh``, ``mesh@3`` or ``mesh@best`` means.

    Raises
    ------
    PilotError
        The text means nothing.
    """
    name, at, which = text.partition("@") if isinstance(text, str) else ("", "", "")
    if why := problem(name or text):
        raise PilotError(why)
    if not at:
        return Wanted(name)
    if which.isascii() and which.isdecimal():
        if not 0 < int(which[:20]) < 1 << 31:
            raise PilotError(f"{name}@{which[:20]}: versions are counted from 1")
        return Wanted(name, int(which))
    if why := alias_problem(which):
        raise PilotError(f"{name}@…: after the @ comes a version or an alias; {why}")
    return Wanted(name, 0, which)


def versioned(name: str, version: int) -> str:
    """Return the text that means one version."""
    return f"{name}@{version}"
