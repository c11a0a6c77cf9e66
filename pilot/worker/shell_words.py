"""Command lines that need no shell, which would double the cost of starting them.

As `make` does it: a line of plain words, some of them in single quotes, that does not begin with
what only a shell knows, is executed as it is. Everything else, and whatever is in doubt, goes to
the shell.
"""

from __future__ import annotations

import re
import shlex

#: A word without any character that means something to a shell, or one in single quotes.
_WORD = r"(?:[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+=:,./-]*|'[^']*')"
_PLAIN = re.compile(rf"[ \t]*{_WORD}(?:[ \t]+{_WORD})*[ \t]*")
#: What a shell does by itself, or differently from the program of that name (POSIX, and bash's).
_SHELLS_OWN = frozenset(
    re.findall(
        r"\S+",
        """
        . : [ alias bg break builtin case cd command continue declare do done echo elif else esac
        eval exec exit export false fc fg fi for function getopts hash help history if in jobs kill
        let local logout printf pwd read readonly return select set shift source suspend test then
        time times trap true type typeset ulimit umask unalias unset until wait while
        """,
    )
)


def plain_words(line: str) -> list[str] | None:
    """Return the words of a command line that means the same without a shell; None for others."""
    if not _PLAIN.fullmatch(line):
        return None
    words = shlex.split(line)
    first = words[0]
    if first in _SHELLS_OWN or "=" in first:
        return None
    return words
