"""One simple command of a shell text, as far as it decides what its words are for.

A word may be a plain argument, or what another shell, a shell on another machine or bash's
arithmetic reads again; `Command.refusal` tells which, from the words before it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from pilot.client.shell_places import ARITHMETIC, SUBSCRIPT, VARIABLE, Refusal

#: The beginning of a word that gives a variable its value.
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)
_SUBSCRIPTED = re.compile(r"(?:[A-Za-z_]\w*)?\[[^\]]*", re.ASCII)
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


class Word(Struct):
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


class Pipeline(Struct):
    """The values that go by a pipe into the command that is being read."""

    #: The number of its first value.
    begin_at: int
    #: The number of the first that stands behind the last pipe.
    fed: int = 0
    #: True if the last command ended with a pipe.
    goes_on: bool = False

    def begin(self, number: int) -> None:
        self.begin_at = self.fed = number


class Command:
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

    def add(self, word: Word, is_assignment: bool) -> bool:
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
            return SUBSCRIPT
        if not self.takes_list:
            return None
        if _COMPUTED.match(before):
            return VARIABLE
        name, last = self.name, self.last
        if name in ("eval", "alias") or (name == "trap" and last in (None, "--")):
            return _runs(f"'{name}'", 'give it to a variable before, A={…}, and write "$A" there')
        if name == "let":
            return ARITHMETIC
        if name in _NAMES or (name in _DECLARES and not ASSIGNMENT.match(before)):
            return VARIABLE
        plain = re.sub(r"[\"'\\]", "", before)
        if name in ("printf", "test", "[") and last in ("-v", "-R"):
            return VARIABLE
        if name == "printf" and last is None and plain.startswith("-v"):
            return VARIABLE
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


def reads_input(word: str) -> bool:
    """Tell whether a program of this name may run its input as shell text."""
    return _basename(word) in _SHELLS | _READ_SCRIPTS
