"""Users' texts, made fit for messages and terminals.

Texts of tasks hold anything: file names that are no UTF-8 (as lone surrogates), escape sequences,
line breaks, megabytes.
"""

from __future__ import annotations

from pilot.limits import NAME_BYTES

#: Bytes that are kept for telling what is left out.
_NOTE_BYTES = 64


def encodable(text: str) -> str:
    r"""Return the text with lone surrogates written out (``\udce9``), so that UTF-8 can carry
    it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def shortened(text: str, limit: int) -> str:
    """Return a text cut to at most `limit` bytes (in UTF-8): its beginning and its end.

    The result is `encodable`. The time that it takes does not grow with the text.
    """
    # A character has one byte at least, and four at most (six, where it is written out).
    if len(text) <= limit and len(whole := encodable(text).encode()) <= limit:
        return whole.decode()
    share = (limit - _NOTE_BYTES) // 2
    first = encodable(text[:share]).encode()[:share].decode("utf-8", "ignore")
    last = encodable(text[-share:]).encode()[-share:].decode("utf-8", "ignore")
    left_out = len(text) - len(first) - len(last)
    return f"{first}\n… {left_out} characters left out …\n{last}"


def printable(text: str) -> str:
    r"""Return a text for a terminal or a list; unprintable characters are escaped (``\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def said(error: BaseException) -> str:
    """Return the class and the text of an error, even if the class raises on being asked for it."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as unprintable:
        return f"{name} (its text cannot be had: {type(unprintable).__name__})"
    return f"{name}: {text}" if text else name


def size_text(size: int) -> str:
    """Format a number of bytes for a message: ``1.1 GB``, ``312 bytes``."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.3g} {unit}"
    return f"{size} bytes"


def as_name(name: object) -> str:
    """Return a name for lists from any object: text that can be sent and is not too long."""
    text = encodable(str(name)).replace("\0", "\\x00")  # databases and file formats stop there
    if len(text) * 4 <= NAME_BYTES or len(text.encode()) <= NAME_BYTES:
        return text
    return text.encode()[: NAME_BYTES - 3].decode("utf-8", "ignore") + "…"
