"""Kinds of places in a shell text in which a value may stand, and reasons why it may not."""

from __future__ import annotations

import enum

from msgspec import Struct


class Place(enum.Enum):
    """A kind of place in which a value may stand."""

    #: A word of its own; several values are several words.
    WORDS = enum.auto()
    #: A word, or a part of one, outside of quotes: one value only.
    WORD = enum.auto()
    #: Inside of double quotes.
    QUOTED = enum.auto()
    #: In the lines of a here-document.
    HERE = enum.auto()


class Refusal(Struct, frozen=True):
    """A reason for which no value is allowed in a place."""

    #: Goes on a sentence that begins with the value.
    reason: str
    #: True if a number is allowed: it means the same in nearly every context.
    takes_number: bool = True


SINGLE_QUOTES = Refusal(
    "is in single quotes, where a shell fills nothing in: take them away (Pilot does the quoting), "
    "or write double quotes"
)
ANSI_QUOTES = Refusal("is in $'…' or $\"…\", which not every shell knows: write double quotes")
COMMENT = Refusal("is in a comment, where nothing is filled in: take it away, or double the braces")
BACKSLASH = Refusal("is behind a backslash, which would undo its quoting: take that away")
DOLLAR = Refusal(
    r"is behind a '$', which would make a variable of it: a '$' of its own is written \$, and a "
    "shell's own variable $NAME",
    takes_number=False,
)
BRACES = Refusal("is inside of the shell's ${…}: give it to a variable before, A={…}, and use that")
BACKQUOTES = Refusal("is in backquotes, which read it twice: write $(…)")
ARITHMETIC = Refusal("is in an arithmetic expression, where a shell computes what it finds in it")
BRACKETS = Refusal("is in [[ … ]], where bash computes what it finds in it: write [ … ]")
SUBSCRIPT = Refusal("is a subscript, where bash computes what it finds in it")
DELIMITER = Refusal("is the word that ends a here-document, which is taken as it stands")
LITERAL_HERE = Refusal(
    "is in a here-document whose delimiter is quoted: nothing is filled in there"
)
SCRIPT_HERE = Refusal(
    "is in a here-document on a line with a shell (or ssh, sbatch), which runs it as shell text, "
    "or that ends with a pipe: write a script, and give it the value"
)
SCRIPT_INPUT = Refusal(
    "is in the input of a shell (or sbatch), which runs it as shell text: write a script, and give "
    "it the value"
)
CODE_HERE = Refusal(
    "is in a here-document with $(…), ${…} or backquotes in it: give these to variables before"
)
DESCRIPTOR = Refusal("is behind '>&' or '<&', which take the number of a descriptor")
VARIABLE = Refusal("would be the name of a variable, or a number that bash computes")
UNCLEAR = Refusal(
    "stands behind something that shells read in different ways: write that in a plainer way, or "
    "give the value to a variable at the beginning, A={…}, and use that"
)
