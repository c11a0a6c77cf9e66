"""Times, sizes and counts in words, for the sentences of the command line and the head."""

from __future__ import annotations

import time


def duration(seconds: float | None) -> str:
    """Format a length of time: ``3.2 ms``, ``12.5 s``, ``3m 20s``, ``2h 05m``, ``3d 04h``."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def moment(when: float | None, *, exact: bool = False) -> str:
    """Format a point in time by the local clock; `exact`: to the millisecond."""
    if when is None:
        return ""
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    return f"{text}.{int(when % 1 * 1000):03}" if exact else text


def ago(when: float | None, now: float | None = None) -> str:
    """Format the time since `when`: ``12s ago``, ``5m ago``, ``3h ago``, ``2d ago``."""
    if when is None:
        return ""
    seconds = max(0, int((time.time() if now is None else now) - when))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def amount(size: int) -> str:
    """Format a number of bytes: ``17 B``, ``1.2 MiB``."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a count with its noun: ``1 task``, ``2 tasks``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def shortened_cell(text: str, width: int) -> str:
    """Return a text, cut with an ellipsis if it is wider than `width` columns."""
    if text_width(text) <= width:
        return text
    shown = ""
    for one in text:
        if text_width(shown + one) > width - 1:
            break
        shown += one
    return f"{shown}…"


def text_width(text: str) -> int:
    """Return the number of terminal columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of(one) for one in text)


def _width_of(one: str) -> int:
    import unicodedata  # late: few texts need it, and every program would wait for it

    if unicodedata.combining(one) or unicodedata.category(one) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1
