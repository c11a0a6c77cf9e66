r"""The places of values in a shell text: a word, a part of one, in quotes, or none at all.

A value is never written into the text. The shell gets it beside the text and expands a variable in
its place, so that its content is always data. That is right in some places and wrong in others: in
single quotes nothing is expanded, in ``$((…))`` what was expanded is computed, and the words of
``eval`` or ``sh -c`` are shell text again. `places` follows the shell's quoting to find out.

Invariants
----------
- Pure: the text is looked at, and nothing is run.
- In doubt, and where shells differ (dash, bash), a value is refused, with the reason.
- The author of the text is trusted; values may come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from pilot.client.shell_command import ASSIGNMENT, Command, Pipeline, Word, reads_input
from pilot.client.shell_places import (
    ANSI_QUOTES,
    ARITHMETIC,
    BACKQUOTES,
    BACKSLASH,
    BRACES,
    BRACKETS,
    CODE_HERE,
    COMMENT,
    DELIMITER,
    DESCRIPTOR,
    DOLLAR,
    LITERAL_HERE,
    SCRIPT_HERE,
    SCRIPT_INPUT,
    SINGLE_QUOTES,
    UNCLEAR,
    Place,
    Refusal,
)

#: Stands for a value in the texts of this module; no shell text can have it.
VALUE = "\0"
_DEEPEST = 50
_BLANKS = " \t"
_META = frozenset(" \t\n;&|()<>")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]", re.ASCII)
_JOINED = re.compile(r"(?:\\\n)+[;&|()<>-]")
_PLAIN_BRACES = re.compile(r"\$\{[A-Za-z_]\w*\}", re.ASCII)
#: The beginning of a word without quotes, blanks and expansions.
_BEGINNING = re.compile(r"[^\0 \t\n;&|()<>$`]*")


def places(text: str) -> tuple[Place | Refusal, ...]:
    """Return the place of each `VALUE` of a text, in order, or why no value is allowed there."""
    scanner = _Scanner(text)
    try:
        scanner.commands(closing=False)
        scanner.end_line()
    except _TooDeepError:
        scanner.refuse_to(len(text), UNCLEAR)
    return tuple(place if place is not None else UNCLEAR for place in scanner.found)


class _TooDeepError(Exception):
    """Parentheses or quotes are nested too deeply."""


class _HereDocument(Struct, frozen=True):
    delimiter: str
    is_literal: bool
    strips_tabs: bool


class _Scanner:
    """A scanner that reads a text once, from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        #: For each value so far; None while its word goes on.
        self.found: list[Place | Refusal | None] = []
        #: The reason for which no value is allowed at the scanner's place.
        self.refusal: Refusal | None = None
        #: Set for good by what shells read in different ways.
        self.unclear: Refusal | None = None
        #: The here-documents whose lines begin after this line.
        self.pending: list[_HereDocument] = []
        #: True if this line has a program that runs its input.
        self.line_runs_input = False
        #: The values in the here-strings of this line.
        self.here_strings: list[int] = []
        self.depth = 0

    # --- small things

    def follows(self, *texts: str) -> bool:
        return self.text.startswith(texts, self.at)

    def value(self) -> int:
        """Take a value; return its number."""
        self.at += 1
        self.found.append(self.unclear or self.refusal)
        return len(self.found) - 1

    def settle(self, number: int, place: Place | Refusal) -> None:
        if self.found[number] is None:
            self.found[number] = place

    def refuse_to(self, end: int, refusal: Refusal) -> None:
        """Go on to `end`; no value is allowed in between."""
        between = self.text[self.at : end]
        self.found += [self.unclear or self.refusal or refusal] * between.count(VALUE)
        if "\n" in between and self.pending:
            self.unclear = self.unclear or UNCLEAR
        self.at = end

    def in_doubt(self) -> None:
        """Allow no value anywhere from this place on."""
        self.unclear = self.unclear or UNCLEAR

    @contextmanager
    def inside(self, refusal: Refusal | None) -> Iterator[None]:
        """Enter a construct that is closed again; `refusal` holds for the values inside."""
        before = self.refusal
        self.refusal = before or refusal
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _TooDeepError
        yield
        self.depth -= 1
        self.refusal = before

    def refuse_found(self, numbers: Iterable[int], refusal: Refusal) -> None:
        """Refuse values that were allowed so far, because of what is done with them."""
        for number in numbers:
            if not isinstance(self.found[number], Refusal):
                self.found[number] = refusal

    def end_line(self) -> None:
        if self.line_runs_input:
            self.refuse_found(self.here_strings, SCRIPT_INPUT)
        self.here_strings = []
        self.line_runs_input = False

    # --- commands

    def commands(self, closing: bool) -> None:
        """Read commands up to the end; with `closing` up to the parenthesis that closes them."""
        command = Command()
        pipeline = Pipeline(len(self.found))
        before = self.refusal
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in ";&|()<>" and _JOINED.match(self.text, self.at + 1):
                self.in_doubt()  # an operator in two lines
            if character in _BLANKS:
                self.at += 1
            elif self.follows("\\\n"):
                self.at += 2
            elif character == "\n":
                self.at += 1
                if pipeline.goes_on and not command.words:
                    self.line_runs_input |= bool(self.pending)
                    self.here_documents()
                    continue
                self.here_documents()
                self.end_command(command, pipeline)
            elif character == "#":
                end = self.text.find("\n", self.at)
                self.refuse_to(end if end >= 0 else len(self.text), COMMENT)
            elif character in "<>" or self.follows("&>"):
                self.redirection()
            elif character in ";&|":
                if self.follows(";;", ";&"):
                    command.end_of_case_item()
                    self.at += 1
                is_pipe = character == "|" and not self.follows("||")
                self.at += 2 if self.follows("&&", "||", "|&") else 1
                self.end_command(command, pipeline, is_pipe)
            elif character == "(":
                self.parenthesis(command)
            elif character == ")":
                self.at += 1
                if command.ends_pattern():
                    pipeline.begin(len(self.found))
                    continue
                if not closing or command.cases:
                    self.in_doubt()
                if closing:
                    break
            else:
                beginning = _BEGINNING.match(self.text, self.at)
                with self.inside(command.refusal(beginning[0] if beginning else "")):
                    word = self.word()
                self.settle_word(word, command)
                self.line_runs_input |= reads_input(word.literal)
                is_assignment = ASSIGNMENT.match(self.text, word.start) is not None
                if command.add(word, is_assignment):
                    self.in_doubt()
                if command.in_brackets:
                    self.refusal = before or BRACKETS
                else:
                    self.refusal = before
        self.end_command(command, pipeline)
        self.refusal = before

    def end_command(self, command: Command, pipeline: Pipeline, is_pipe: bool = False) -> None:
        """End a command; values that are piped into it are refused if it is a shell."""
        if command.reads_script():
            self.refuse_found(range(pipeline.begin_at, pipeline.fed), SCRIPT_INPUT)
        if is_pipe:
            # What is in the braces or the loop goes into the pipe; where they begin is not kept.
            if command.closes_group:
                pipeline.begin_at = 0
            pipeline.fed = len(self.found)
        else:
            pipeline.begin(len(self.found))
        pipeline.goes_on = is_pipe
        command.end()

    def parenthesis(self, command: Command) -> None:
        if command.begins_pattern():
            self.at += 1
            return
        is_array = self.text[self.at - 1 : self.at] == "="
        is_double = self.follows("((") and (not command.words or command.words == ["for"])
        begin = self.at
        refusal = ARITHMETIC if is_double else None
        if self.text[begin - 1 : begin] == "<" and command.reads_script(also_sourced=True):
            refusal = SCRIPT_INPUT
        self.at += 1
        with self.inside(refusal):
            self.commands(closing=True)
        if is_double and re.search(r"<<|[#'\"`\\]", self.text[begin : self.at]):
            self.in_doubt()
        if not is_array and self.text[begin - 1 : begin] not in ("<", ">"):
            command.end()

    def redirection(self) -> None:
        operator = re.compile(r"&>>?|<<<|<<-?|<&|>&|<>|>>|>\||<|>").match(self.text, self.at)
        assert operator is not None
        self.at = operator.end()
        if self.follows("\\\n"):
            self.in_doubt()
        while self.follows(" ", "\t"):
            self.at += 1
        if self.at >= len(self.text) or self.text[self.at] in _META:
            return  # nothing follows, or a process substitution
        word = self.word()
        if operator[0] in ("<<", "<<-"):
            for number, *_ in word.values:
                self.settle(number, DELIMITER)
            if word.is_expanded:
                self.in_doubt()
            else:
                here = _HereDocument(word.literal, word.is_quoted, operator[0] == "<<-")
                self.pending.append(here)
        elif operator[0] in ("<&", ">&"):
            for number, *_ in word.values:
                self.settle(number, DESCRIPTOR)
        else:
            for number, _, is_quoted in word.values:
                self.settle(number, Place.QUOTED if is_quoted else Place.WORD)
                if operator[0] == "<<<":
                    self.here_strings.append(number)

    def here_documents(self) -> None:
        """Read the lines of the pending here-documents."""
        pending, self.pending = self.pending, []
        for here in pending:
            begin = end = self.at
            closed = False
            while end < len(self.text) and not closed:
                line_end = self.text.find("\n", end)
                line_end = len(self.text) if line_end < 0 else line_end
                line = self.text[end:line_end]
                closed = (line.lstrip("\t") if here.strips_tabs else line) == here.delimiter
                if closed:
                    self.here_lines(self.text[begin:end], here)
                end = min(line_end + 1, len(self.text))
            if not closed:
                self.here_lines(self.text[begin:], here)
            self.at = end
        self.end_line()

    def here_lines(self, lines: str, here: _HereDocument) -> None:
        refusal: Refusal | None = None
        if here.is_literal:
            refusal = LITERAL_HERE
        elif self.line_runs_input:
            refusal = SCRIPT_HERE
        elif re.search(r"`|\$[({\[]", _PLAIN_BRACES.sub("", lines)):
            refusal = CODE_HERE
        elif re.search(r"\\\n", lines):
            self.in_doubt()
        for match in re.finditer(r"\\(.)|\$(\0)|\0", lines, re.DOTALL):
            if match[2]:
                self.settle(self.value(), refusal or DOLLAR)
            elif match[1] == VALUE:
                self.settle(self.value(), refusal or BACKSLASH)
            elif match[0] == VALUE:
                self.settle(self.value(), refusal or Place.HERE)

    # --- words

    def word(self) -> Word:
        """Read a word; the values in it are settled by the caller, who knows its purpose."""
        word = Word(self.at)
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in _META:
                break
            if character == VALUE:
                word.is_expanded = True
                where = self.at
                word.values.append((self.value(), where, False))
            elif character == "\\":
                self.backslash(word)
            elif character == "'":
                word.is_quoted = True
                begin = self.at + 1
                self.to_single_quote(SINGLE_QUOTES)
                word.add(self.text[begin : self.at - 1])
            elif character == '"':
                self.double_quotes(word)
            elif character == "`":
                word.is_expanded = True
                self.backquotes()
            elif character == "$":
                self.dollar(word, is_quoted=False)
            else:
                word.add(character)
                self.at += 1
        return word

    def backslash(self, word: Word) -> None:
        """Read a backslash outside of quotes, and the character that it quotes."""
        self.at += 1
        if self.follows("\n"):
            self.at += 1
            return
        word.is_quoted = True
        if self.follows(VALUE):
            word.is_expanded = True
            self.settle(self.value(), BACKSLASH)
        else:
            word.add(self.text[self.at : self.at + 1])
            self.at += 1

    def to_single_quote(self, refusal: Refusal) -> None:
        end = self.text.find("'", self.at + 1)
        self.refuse_to(len(self.text) if end < 0 else end + 1, refusal)

    def double_quotes(self, word: Word) -> None:
        """Read double quotes and their content, which is a part of the word."""
        word.is_quoted = True
        self.at += 1
        with self.inside(None):
            while self.at < len(self.text):
                character = self.text[self.at]
                if character == '"':
                    self.at += 1
                    break
                if character == VALUE:
                    word.is_expanded = True
                    where = self.at
                    word.values.append((self.value(), where, True))
                elif character == "\\":
                    self.at += 1
                    if self.follows(VALUE):
                        self.settle(self.value(), BACKSLASH)
                    else:
                        word.add(self.text[self.at : self.at + 1])
                        self.at += 1
                elif character == "`":
                    word.is_expanded = True
                    self.backquotes()
                elif character == "$":
                    self.dollar(word, is_quoted=True)
                else:
                    if character == "\n" and self.pending:
                        self.in_doubt()
                    word.add(character)
                    self.at += 1

    def backquotes(self) -> None:
        """Read backquotes, up to the next one without a backslash before it."""
        end = re.compile(r"(?:[^`\\]|\\.)*(?:`|$)", re.DOTALL).match(self.text, self.at + 1)
        self.refuse_to(end.end() if end else len(self.text), BACKQUOTES)

    def dollar(self, word: Word, is_quoted: bool) -> None:
        """Read a dollar sign, and the expansion that it begins."""
        self.at += 1
        if self.follows(VALUE):
            word.is_expanded = True
            self.settle(self.value(), DOLLAR)
        elif self.follows("\\\n"):
            self.in_doubt()
        elif self.follows("'", '"') and not is_quoted:
            self.foreign_quotes(word)
        elif self.follows("(("):
            word.is_expanded = True
            self.arithmetic()
        elif self.follows("("):
            word.is_expanded = True
            self.at += 1
            if self.pending:
                self.in_doubt()
            with self.inside(None):
                self.commands(closing=True)
            if self.pending:  # its lines would begin outside
                self.in_doubt()
        elif self.follows("{"):
            word.is_expanded = True
            self.braces(is_quoted)
        elif self.follows("["):
            word.is_expanded = True
            self.in_doubt()
        elif name := _VARIABLE_NAME.match(self.text, self.at):
            word.is_expanded = True
            self.at = name.end()
        else:
            word.add("$")

    def foreign_quotes(self, word: Word) -> None:
        """Read ``$'…'`` or ``$"…"``, in which bash and other shells differ."""
        word.is_expanded = True
        if self.follows('"'):
            with self.inside(ANSI_QUOTES):
                self.double_quotes(word)
            return
        begin = self.at
        self.to_single_quote(ANSI_QUOTES)
        if "\\" in self.text[begin : self.at]:
            self.in_doubt()

    def arithmetic(self) -> None:
        """Read ``$((…))``, or ``$(…)`` around parentheses: only the end must be right."""
        self.at += 2
        open_ = 2
        with self.inside(ARITHMETIC):
            while self.at < len(self.text) and open_:
                character = self.text[self.at]
                if character == VALUE:
                    self.value()
                elif character == "$" and self.text[self.at + 1 : self.at + 2] in tuple("({[\\"):
                    self.dollar(Word(self.at), is_quoted=True)
                else:
                    open_ += {"(": 1, ")": -1}.get(character, 0)
                    # As a command these may hide a parenthesis.
                    if character in "'\"`\\" or self.follows(" #", "\n#", "<<", "case", ";"):
                        self.in_doubt()
                    self.at += 1

    def braces(self, is_quoted: bool) -> None:
        """Read ``${…}``."""
        self.at += 1
        if self.follows(" ", "\t", "\n", "|"):  # bash: a command
            self.in_doubt()
        with self.inside(BRACES):
            while self.at < len(self.text):
                character = self.text[self.at]
                if character == "}":
                    self.at += 1
                    break
                if character == VALUE:
                    self.value()
                elif character == "\\":
                    self.refuse_to(min(self.at + 2, len(self.text)), BRACES)
                elif character == "'":
                    if is_quoted:
                        self.in_doubt()
                        self.at += 1
                    else:
                        self.to_single_quote(BRACES)
                elif character == '"':
                    begin = self.at
                    self.double_quotes(Word(self.at))
                    if is_quoted and "}" in self.text[begin : self.at]:
                        self.in_doubt()
                elif character == "`":
                    self.backquotes()
                elif character == "$":
                    self.dollar(Word(self.at), is_quoted)
                else:
                    if character == "\n" and self.pending:
                        self.in_doubt()
                    self.at += 1

    # --- what a word is for

    def settle_word(self, word: Word, command: Command) -> None:
        """Decide for each value of a word in which kind of place it stands."""
        for number, where, is_quoted in word.values:
            before = self.text[word.start : where]
            alone = not is_quoted and len(word.values) == 1 and self.at == word.start + 1
            refusal = command.refusal(before)
            if refusal is not None:
                self.settle(number, refusal)
            elif is_quoted:
                self.settle(number, Place.QUOTED)
            else:
                self.settle(number, Place.WORDS if alone and command.takes_list else Place.WORD)
