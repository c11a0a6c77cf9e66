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

import enum
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

#: Stands for a value in the texts of this module; no shell text can have it.
VALUE = "\0"
_DEEPEST = 50


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


_SINGLE_QUOTES = Refusal(
    "is in single quotes, where a shell fills nothing in: take them away (Pilot does the quoting), "
    "or write double quotes"
)
_ANSI_QUOTES = Refusal("is in $'…' or $\"…\", which not every shell knows: write double quotes")
_COMMENT = Refusal(
    "is in a comment, where nothing is filled in: take it away, or double the braces"
)
_BACKSLASH = Refusal("is behind a backslash, which would undo its quoting: take that away")
_DOLLAR = Refusal(
    r"is behind a '$', which would make a variable of it: a '$' of its own is written \$, and a "
    "shell's own variable $NAME",
    takes_number=False,
)
_BRACES = Refusal(
    "is inside of the shell's ${…}: give it to a variable before, A={…}, and use that"
)
_BACKQUOTES = Refusal("is in backquotes, which read it twice: write $(…)")
_ARITHMETIC = Refusal("is in an arithmetic expression, where a shell computes what it finds in it")
_BRACKETS = Refusal("is in [[ … ]], where bash computes what it finds in it: write [ … ]")
_SUBSCRIPT = Refusal("is a subscript, where bash computes what it finds in it")
_DELIMITER = Refusal("is the word that ends a here-document, which is taken as it stands")
_LITERAL_HERE = Refusal(
    "is in a here-document whose delimiter is quoted: nothing is filled in there"
)
_SCRIPT_HERE = Refusal(
    "is in a here-document on a line with a shell (or ssh, sbatch), which runs it as shell text, "
    "or that ends with a pipe: write a script, and give it the value"
)
_SCRIPT_INPUT = Refusal(
    "is in the input of a shell (or sbatch), which runs it as shell text: write a script, and give "
    "it the value"
)
_CODE_HERE = Refusal(
    "is in a here-document with $(…), ${…} or backquotes in it: give these to variables before"
)
_DESCRIPTOR = Refusal("is behind '>&' or '<&', which take the number of a descriptor")
_VARIABLE = Refusal("would be the name of a variable, or a number that bash computes")
_UNCLEAR = Refusal(
    "stands behind something that shells read in different ways: write that in a plainer way, or "
    "give the value to a variable at the beginning, A={…}, and use that"
)

_BLANKS = " \t"
_META = frozenset(" \t\n;&|()<>")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)
_SUBSCRIPTED = re.compile(r"(?:[A-Za-z_]\w*)?\[[^\]]*", re.ASCII)
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]", re.ASCII)
_JOINED = re.compile(r"(?:\\\n)+[;&|()<>-]")
_PLAIN_BRACES = re.compile(r"\$\{[A-Za-z_]\w*\}", re.ASCII)
#: Words after which a command begins as if they were not there.
_RESERVED = frozenset(["if", "then", "else", "elif", "do", "while", "until", "{", "!", "coproc"])
#: Commands that run another one, which the shell may know itself.
_PREFIXES = frozenset(["command", "builtin", "exec", "time"])
#: Read their input as shell text.
_READ_SCRIPTS = frozenset(["ssh", "rsh", "sbatch", "qsub", "bsub", "at", "batch", "source", "."])
_SHELLS = frozenset(
    [
        "sh",
        "bash",
        "dash",
        "ash",
        "zsh",
        "ksh",
        "ksh93",
        "mksh",
        "pdksh",
        "yash",
        "fish",
        "csh",
        "tcsh",
        "rbash",
    ]
)
#: Commands that take names of variables; with ``NAME=`` in front, a value.
_DECLARES = frozenset(["declare", "typeset", "local", "readonly", "export"])
_NAMES = frozenset(["unset", "read", "mapfile", "readarray", "getopts"])
#: Programs that run what stands behind ``-c`` as shell text.
_RUNS_OPTION = frozenset(["su", "runuser", "script", "flock", "sg"])
_REMOTE = frozenset(["ssh", "rsh"])
_RUNNERS = _SHELLS | _RUNS_OPTION | _REMOTE
#: More of them in one command mean nothing.
_RUNNERS_SEEN = 8
#: Options of ssh that have a value of their own.
_SSH_OPTIONS = "BbcDEeFIiJLlmOoPpQRSWw"
#: Variables that bash computes, or expands, at their own time.
_COMPUTED = re.compile(
    r"(?:RANDOM|SRANDOM|SECONDS|LINENO|OPTIND|HISTCMD|PS[0-4]|PROMPT_COMMAND|BASH_ENV)\+?="
)
_STDIN = "/dev/stdin"
_CLOSING = frozenset(["}", "done", "fi", "esac"])
#: The beginning of a word without quotes, blanks and expansions.
_BEGINNING = re.compile(r"[^\0 \t\n;&|()<>$`]*")


def places(text: str) -> tuple[Place | Refusal, ...]:
    """Return the place of each `VALUE` of a text, in order, or why no value is allowed there."""
    scanner = _Scanner(text)
    try:
        scanner.commands(closing=False)
        scanner.end_line()
    except _TooDeepError:
        scanner.refuse_to(len(text), _UNCLEAR)
    return tuple(place if place is not None else _UNCLEAR for place in scanner.found)


class _TooDeepError(Exception):
    """Parentheses or quotes are nested too deeply."""


class _Word(Struct):
    """A word of a command."""

    #: The place in the text where it begins.
    start: int
    #: Without its quotes, and without what is expanded, which may be nothing.
    literal: str = ""
    is_quoted: bool = False
    is_expanded: bool = False
    #: For each value in it: its number, where it stands, and whether in double quotes.
    values: list[tuple[int, int, bool]] = []

    def add(self, characters: str) -> None:
        self.literal += characters


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
            self.unclear = self.unclear or _UNCLEAR
        self.at = end

    def in_doubt(self) -> None:
        """Allow no value anywhere from this place on."""
        self.unclear = self.unclear or _UNCLEAR

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
            self.refuse_found(self.here_strings, _SCRIPT_INPUT)
        self.here_strings = []
        self.line_runs_input = False

    # --- commands

    def commands(self, closing: bool) -> None:
        """Read commands up to the end; with `closing` up to the parenthesis that closes them."""
        command = _Command()
        pipeline = _Pipeline(len(self.found))
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
                self.refuse_to(end if end >= 0 else len(self.text), _COMMENT)
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
                self.line_runs_input |= _basename(word.literal) in _SHELLS | _READ_SCRIPTS
                is_assignment = _ASSIGNMENT.match(self.text, word.start) is not None
                if command.add(word, is_assignment):
                    self.in_doubt()
                if command.in_brackets:
                    self.refusal = before or _BRACKETS
                else:
                    self.refusal = before
        self.end_command(command, pipeline)
        self.refusal = before

    def end_command(self, command: _Command, pipeline: _Pipeline, is_pipe: bool = False) -> None:
        """End a command; values that are piped into it are refused if it is a shell."""
        if command.reads_script():
            self.refuse_found(range(pipeline.begin_at, pipeline.fed), _SCRIPT_INPUT)
        if is_pipe:
            # What is in the braces or the loop goes into the pipe; where they begin is not kept.
            if command.closes_group:
                pipeline.begin_at = 0
            pipeline.fed = len(self.found)
        else:
            pipeline.begin(len(self.found))
        pipeline.goes_on = is_pipe
        command.end()

    def parenthesis(self, command: _Command) -> None:
        if command.begins_pattern():
            self.at += 1
            return
        is_array = self.text[self.at - 1 : self.at] == "="
        is_double = self.follows("((") and (not command.words or command.words == ["for"])
        begin = self.at
        refusal = _ARITHMETIC if is_double else None
        if self.text[begin - 1 : begin] == "<" and command.reads_script(also_sourced=True):
            refusal = _SCRIPT_INPUT
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
                self.settle(number, _DELIMITER)
            if word.is_expanded:
                self.in_doubt()
            else:
                here = _HereDocument(word.literal, word.is_quoted, operator[0] == "<<-")
                self.pending.append(here)
        elif operator[0] in ("<&", ">&"):
            for number, *_ in word.values:
                self.settle(number, _DESCRIPTOR)
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
            refusal = _LITERAL_HERE
        elif self.line_runs_input:
            refusal = _SCRIPT_HERE
        elif re.search(r"`|\$[({\[]", _PLAIN_BRACES.sub("", lines)):
            refusal = _CODE_HERE
        elif re.search(r"\\\n", lines):
            self.in_doubt()
        for match in re.finditer(r"\\(.)|\$(\0)|\0", lines, re.DOTALL):
            if match[2]:
                self.settle(self.value(), refusal or _DOLLAR)
            elif match[1] == VALUE:
                self.settle(self.value(), refusal or _BACKSLASH)
            elif match[0] == VALUE:
                self.settle(self.value(), refusal or Place.HERE)

    # --- words

    def word(self) -> _Word:
        """Read a word; the values in it are settled by the caller, who knows its purpose."""
        word = _Word(self.at)
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
                self.to_single_quote(_SINGLE_QUOTES)
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

    def backslash(self, word: _Word) -> None:
        """Read a backslash outside of quotes, and the character that it quotes."""
        self.at += 1
        if self.follows("\n"):
            self.at += 1
            return
        word.is_quoted = True
        if self.follows(VALUE):
            word.is_expanded = True
            self.settle(self.value(), _BACKSLASH)
        else:
            word.add(self.text[self.at : self.at + 1])
            self.at += 1

    def to_single_quote(self, refusal: Refusal) -> None:
        end = self.text.find("'", self.at + 1)
        self.refuse_to(len(self.text) if end < 0 else end + 1, refusal)

    def double_quotes(self, word: _Word) -> None:
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
                        self.settle(self.value(), _BACKSLASH)
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
        self.refuse_to(end.end() if end else len(self.text), _BACKQUOTES)

    def dollar(self, word: _Word, is_quoted: bool) -> None:
        """Read a dollar sign, and the expansion that it begins."""
        self.at += 1
        if self.follows(VALUE):
            word.is_expanded = True
            self.settle(self.value(), _DOLLAR)
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

    def foreign_quotes(self, word: _Word) -> None:
        """Read ``$'…'`` or ``$"…"``, in which bash and other shells differ."""
        word.is_expanded = True
        if self.follows('"'):
            with self.inside(_ANSI_QUOTES):
                self.double_quotes(word)
            return
        begin = self.at
        self.to_single_quote(_ANSI_QUOTES)
        if "\\" in self.text[begin : self.at]:
            self.in_doubt()

    def arithmetic(self) -> None:
        """Read ``$((…))``, or ``$(…)`` around parentheses: only the end must be right."""
        self.at += 2
        open_ = 2
        with self.inside(_ARITHMETIC):
            while self.at < len(self.text) and open_:
                character = self.text[self.at]
                if character == VALUE:
                    self.value()
                elif character == "$" and self.text[self.at + 1 : self.at + 2] in tuple("({[\\"):
                    self.dollar(_Word(self.at), is_quoted=True)
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
        with self.inside(_BRACES):
            while self.at < len(self.text):
                character = self.text[self.at]
                if character == "}":
                    self.at += 1
                    break
                if character == VALUE:
                    self.value()
                elif character == "\\":
                    self.refuse_to(min(self.at + 2, len(self.text)), _BRACES)
                elif character == "'":
                    if is_quoted:
                        self.in_doubt()
                        self.at += 1
                    else:
                        self.to_single_quote(_BRACES)
                elif character == '"':
                    begin = self.at
                    self.double_quotes(_Word(self.at))
                    if is_quoted and "}" in self.text[begin : self.at]:
                        self.in_doubt()
                elif character == "`":
                    self.backquotes()
                elif character == "$":
                    self.dollar(_Word(self.at), is_quoted)
                else:
                    if character == "\n" and self.pending:
                        self.in_doubt()
                    self.at += 1

    # --- what a word is for

    def settle_word(self, word: _Word, command: _Command) -> None:
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


class _Pipeline(Struct):
    """The values that go by a pipe into the command that is being read."""

    #: The number of its first value.
    begin_at: int
    #: The number of the first that stands behind the last pipe.
    fed: int = 0
    #: True if the last command ended with a pipe.
    goes_on: bool = False

    def begin(self, number: int) -> None:
        self.begin_at = self.fed = number


class _Command:
    """The simple command that is being read: its words so far, and its place in a ``case``."""

    def __init__(self) -> None:
        #: For each ``case`` that is open, what is expected next: subject, in, pattern, body.
        self.cases: list[str] = []
        self.in_brackets = False
        self.end()

    def end(self) -> None:
        """Begin with the next command, after an operator or the end of a line."""
        #: The words without quotes, and without what is expanded.
        self.words: list[str] = []
        #: The command that is run, as the shell itself sees it, and the place of its arguments.
        self.name: str | None = None
        self.arguments_at = 0
        #: The places of words that may run others as shell text.
        self.runners: list[int] = []
        self._has_prefix = False

    @property
    def closes_group(self) -> bool:
        """True if the command ends braces, a loop or a condition."""
        return bool(self.words) and self.words[0] in _CLOSING

    def reads_script(self, also_sourced: bool = False) -> bool:
        """Tell whether the command runs its input as shell text, or a file still to be named."""
        if self.name is None:
            return False
        if _basename(self.name) in _READ_SCRIPTS - _REMOTE:
            sourced = self.name in ("source", ".")
            others = [word for word in self.words[self.arguments_at :] if not word.startswith("-")]
            return not others if sourced == also_sourced else (sourced and _STDIN in others)
        return any(
            _basename(self.words[runner]) in _SHELLS and _reads_input(self.words[runner + 1 :])
            for runner in self.runners[:_RUNNERS_SEEN]
        )

    @property
    def takes_list(self) -> bool:
        return not self.cases or self.cases[-1] == "body"

    @property
    def is_at_start(self) -> bool:
        return not self.words or all(word in ("time", "-p") for word in self.words[:3])

    @property
    def last(self) -> str | None:
        """The previous word, if it is an argument."""
        return self.words[-1] if len(self.words) > self.arguments_at > 0 else None

    def begins_pattern(self) -> bool:
        """Tell whether a parenthesis is the one that may stand before a pattern."""
        return bool(self.cases) and self.cases[-1] == "pattern" and not self.words

    def ends_pattern(self) -> bool:
        """Take a closing parenthesis, if it ends a pattern."""
        if not self.cases or self.cases[-1] != "pattern":
            return False
        self.cases[-1] = "body"
        self.end()
        return True

    def end_of_case_item(self) -> None:
        if self.cases:
            self.cases[-1] = "pattern"

    def add(self, word: _Word, is_assignment: bool) -> bool:
        """Take a word; return whether it changes the meaning of everything that follows."""
        bare = None if word.is_quoted or word.is_expanded else word.literal
        state = self.cases[-1] if self.cases else "body"
        if self.in_brackets:
            self.in_brackets = bare != "]]"
        elif state == "subject":
            self.cases[-1] = "in"
        elif state == "in":
            self.cases[-1] = "pattern"
        elif bare == "esac" and not self.words and self.cases:
            self.cases.pop()
        elif state == "pattern":
            self.words.append(word.literal)
        elif bare == "case" and self.is_at_start:
            self.cases.append("subject")
            self.end()
        elif bare == "[[" and self.is_at_start:
            self.in_brackets = True
        elif self._begins_again(bare):
            self.end()
        elif not (is_assignment and self.name is None):
            self._append(word.literal)
            # What is declared so is computed whenever it gets a value.
            return (
                self.name in _DECLARES
                and self.name != "export"
                and re.fullmatch(r"[-+]\w*[inI]\w*", self.last or "") is not None
            )
        return False

    def _begins_again(self, bare: str | None) -> bool:
        """Tell whether a command begins after this word."""
        if not self.words:
            return bare in _RESERVED
        return (bare == "do" and self.name in ("for", "select")) or (
            bare == "{" and self.name == "function"
        )

    def _append(self, word: str) -> None:
        self.words.append(word)
        if _basename(word) in _RUNNERS:
            self.runners.append(len(self.words) - 1)
        if self.name is not None or not word:
            return
        if word in _PREFIXES:
            self._has_prefix = True
        elif not (self._has_prefix and word.startswith("-")):
            self.name = word
            self.arguments_at = len(self.words)

    def refusal(self, before: str) -> Refusal | None:
        """Return why no value is allowed in the next word, which begins with `before`."""
        if _SUBSCRIPTED.fullmatch(before):
            return _SUBSCRIPT
        if not self.takes_list:
            return None
        if _COMPUTED.match(before):
            return _VARIABLE
        name, last = self.name, self.last
        if name in ("eval", "alias") or (name == "trap" and last in (None, "--")):
            return _runs(f"'{name}'", 'give it to a variable before, A={…}, and write "$A" there')
        if name == "let":
            return _ARITHMETIC
        if name in _NAMES or (name in _DECLARES and not _ASSIGNMENT.match(before)):
            return _VARIABLE
        plain = re.sub(r"[\"'\\]", "", before)
        if name in ("printf", "test", "[") and last in ("-v", "-R"):
            return _VARIABLE
        if name == "printf" and last is None and plain.startswith("-v"):
            return _VARIABLE
        if last == "--wrap" or plain.startswith("--wrap="):
            return _runs("a batch job's shell", "write a script, and give it the value")
        for runner in self.runners[:_RUNNERS_SEEN]:
            words = itertools.islice(self.words, runner + 1, None)
            kind = _basename(self.words[runner])
            if kind in _REMOTE:
                if _is_remote(words):
                    return _runs("the other machine's shell", "send it as input, or in a file")
            elif _is_script(words) if kind in _SHELLS else _is_command_option(last, plain):
                return _runs("a shell", "write it so: sh -c 'echo \"$1\"' sh {…}")
        return None


def _basename(word: str) -> str:
    return word.rpartition("/")[2]


def _runs(whose: str, instead: str) -> Refusal:
    return Refusal(f"is a part of what {whose} runs as shell text again: {instead}")


def _is_script(words: Iterable[str]) -> bool:
    """Tell whether the word after these arguments of a shell is its ``-c`` script."""
    has_option = False
    rest = iter(words)
    for word in rest:
        if word and not word.startswith(("-", "+")):
            return False
        _skip_values(word, rest)
        has_option |= re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", word) is not None
    return has_option


def _skip_values(option: str, rest: Iterator[str]) -> None:
    """Skip the words that an option of a shell takes: two for ``-oeo``, one for ``-euo``."""
    count = 0
    if option in ("--rcfile", "--init-file"):
        count = 1
    elif re.fullmatch(r"[-+][A-Za-z]+", option):
        count = option.count("o") + option.count("O")
    for _ in range(count):
        next(rest, None)


def _reads_input(words: Iterable[str]) -> bool:
    """Tell whether a shell with these arguments takes its text from its input."""
    rest = iter(words)
    for word in rest:
        if word in ("-", "--"):
            return next(rest, None) in (None, _STDIN)
        if word and not word.startswith(("-", "+")):
            return word == _STDIN
        if re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", word):
            return False
        if re.fullmatch(r"-[A-Za-z]*s[A-Za-z]*", word):
            return True
        _skip_values(word, rest)
    return True


def _is_command_option(last: str | None, plain: str) -> bool:
    """Tell whether ``su`` and the like run a word, after ``-c``, ``-qc`` or ``--command``."""
    if re.match(r"--co[a-z]*=|-[A-Za-z]*c", plain):
        return True
    return last is not None and re.fullmatch(r"-[A-Za-z]*c|--com[a-z]*", last) is not None


def _is_remote(words: Iterable[str]) -> bool:
    """Tell whether the text after these arguments of ``ssh`` is part of its command."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return True
        if len(word) == 2 and word[1] in _SSH_OPTIONS:
            next(rest, None)
    return False
