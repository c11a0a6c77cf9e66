"""Slurm's host lists as lists of names, without asking Slurm. Pure."""

from __future__ import annotations

import re

#: The largest number of hosts in a list: a longer one is damaged.
_MOST = 100_000
#: The texts by which Slurm says that there are no nodes.
NO_NODES = {"", "(null)", "None", "None assigned", "N/A"}


def expand_nodelist(text: str) -> list[str]:
    """Return the hosts of a list as Slurm writes it: ``n[1-3,07],gpu01``, ``r[1-2]n[01-02]``.

    Raises
    ------
    ValueError
        The text is not a host list.
    """
    text = text.strip()
    if text in NO_NODES:
        return []
    return [name for item in _split(text, text) for name in _expand_item(item, text)]


def _split(text: str, whole: str) -> list[str]:
    """Split at the commas outside brackets."""
    items, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
        if depth not in (0, 1):
            raise ValueError(f"{whole!r} is not a host list: its brackets do not match")
    items.append(text[start:])
    if depth or not all(items):
        raise ValueError(f"{whole!r} is not a host list")
    return items


def _expand_item(item: str, whole: str) -> list[str]:
    names = [""]
    for literal, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", item):
        parts = [literal] if literal else _expand_ranges(ranges, whole)
        if len(names) * len(parts) > _MOST:
            raise ValueError(f"{whole!r:.200} is not a host list: it has more than {_MOST} hosts")
        names = [name + part for name in names for part in parts]
    return names


def _expand_ranges(ranges: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        if not match:
            raise ValueError(f"{whole!r} is not a host list: {part!r} is not a range")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"{whole!r} is not a host list: the range {part!r} runs backwards")
        if int(last) - int(first) >= _MOST - len(numbers):
            raise ValueError(f"{whole!r:.200} is not a host list: {part!r} has too many hosts")
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers
