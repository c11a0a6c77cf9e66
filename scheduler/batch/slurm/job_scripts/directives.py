"""The options of ``sbatch`` in the lines of a script, as a list with their lines. Pure.

As sbatch reads them: lines that begin with ``#SBATCH``, up to the first line that is neither empty
nor a comment; words in quotes, with ``\\`` before a character that means nothing special; the rest
after ``#`` is a comment. Options are long ones (also shortened, with ``=`` or a blank before their
value), or letters (together, with or without a blank before the value).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pilot.scheduler.batch.job_scripts import ScriptError

_MARK = "#SBATCH"
#: Options that take a value, with their letters.
_WITH_VALUE = {
    "account": "A",
    "acctg-freq": "",
    "array": "a",
    "batch": "",
    "bb": "",
    "bbf": "",
    "begin": "b",
    "chdir": "D",
    "cluster-constraint": "",
    "clusters": "M",
    "comment": "",
    "constraint": "C",
    "container": "",
    "container-id": "",
    "core-spec": "S",
    "cores-per-socket": "",
    "cpu-freq": "",
    "cpus-per-gpu": "",
    "cpus-per-task": "c",
    "deadline": "",
    "delay-boot": "",
    "dependency": "d",
    "distribution": "m",
    "error": "e",
    "exclude": "x",
    "export": "",
    "export-file": "",
    "extra": "",
    "extra-node-info": "B",
    "gid": "",
    "gpu-bind": "",
    "gpu-freq": "",
    "gpus": "G",
    "gpus-per-node": "",
    "gpus-per-socket": "",
    "gpus-per-task": "",
    "gres": "",
    "gres-flags": "",
    "hint": "",
    "input": "i",
    "job-name": "J",
    "kill-on-invalid-dep": "",
    "licenses": "L",
    "mail-type": "",
    "mail-user": "",
    "mcs-label": "",
    "mem": "",
    "mem-bind": "",
    "mem-per-cpu": "",
    "mem-per-gpu": "",
    "mincpus": "",
    "network": "",
    "nodefile": "F",
    "nodelist": "w",
    "nodes": "N",
    "ntasks": "n",
    "ntasks-per-core": "",
    "ntasks-per-gpu": "",
    "ntasks-per-node": "",
    "ntasks-per-socket": "",
    "ntasks-per-tres": "",
    "open-mode": "",
    "output": "o",
    "partition": "p",
    "power": "",
    "prefer": "",
    "priority": "",
    "profile": "",
    "qos": "q",
    "reservation": "",
    "segment": "",
    "signal": "",
    "sockets-per-node": "",
    "switches": "",
    "tasks-per-node": "",
    "thread-spec": "",
    "threads-per-core": "",
    "time": "t",
    "time-min": "",
    "tmp": "",
    "tres-bind": "",
    "tres-per-task": "",
    "uid": "",
    "wait-all-nodes": "",
    "wckey": "",
    "workdir": "",
    "wrap": "",
}
#: Options that take none, or one behind ``=`` alone.
_WITHOUT = {
    "contiguous": "",
    "exclusive": "",
    "get-user-env": "",
    "hold": "H",
    "ignore-pbs": "",
    "nice": "",
    "no-kill": "k",
    "no-requeue": "",
    "overcommit": "O",
    "oversubscribe": "s",
    "parsable": "",
    "propagate": "",
    "quiet": "Q",
    "reboot": "",
    "requeue": "",
    "spread-job": "",
    "stepmgr": "",
    "test-only": "",
    "use-min-nodes": "",
    "verbose": "v",
    "wait": "W",
}
#: Other names of options.
_SAME = {"workdir": "chdir", "tasks-per-node": "ntasks-per-node"}
_LETTERS = {letter: name for name, letter in (*_WITH_VALUE.items(), *_WITHOUT.items()) if letter}


class Directive(NamedTuple):
    """An option, and where it stands."""

    #: Its long name.
    name: str
    #: Empty where it has none.
    value: str
    #: ``line 7``, or what else it is called in messages.
    where: str

    def __str__(self) -> str:
        return f"{self.where}: --{self.name}" + (f"={self.value}" if self.value else "")


def has_directives(text: str) -> bool:
    """Tell whether a text is a script with directives before its first command."""
    return text.startswith("#!") and any(_marked(text))


def script_directives(text: str) -> list[Directive]:
    """Return the options in a script, in their order.

    Raises
    ------
    ScriptError
        The text is no script that sbatch would take, or a directive means nothing.
    """
    if not text.startswith("#!"):
        raise ScriptError("line 1: a job script begins with #! and its shell, as #!/bin/bash")
    if "\r\n" in text:
        line = text[: text.index("\r\n")].count("\n") + 1
        raise ScriptError(
            f"line {line}: it ends with a carriage return, as on Windows, which no shell takes; "
            "convert the script with dos2unix"
        )
    words: list[tuple[str, str]] = []
    for number, rest in _marked(text):
        where = f"line {number}"
        if rest.split()[:1] in (["hetjob"], ["packjob"]):
            raise ScriptError(
                f"{where}: jobs of several parts ({rest.strip()}) cannot be run; submit a task "
                "for each part, or one whose nodes are alike"
            )
        words += [(word, where) for word in _words(rest, where)]
    return list(parse_options(words))


def parse_options(words: Iterable[tuple[str, str]]) -> Iterator[Directive]:
    """Return the options in words, each of which comes with its place.

    Raises
    ------
    ScriptError
        A word is no option of sbatch, or a value is missing.
    """
    rest = list(words)
    while rest:
        word, where = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            name = _full_name(name, where)
            if name in _WITH_VALUE and not equals:
                value = _value(rest, word, where)
            elif name in _WITH_VALUE and not value:
                raise ScriptError(f"{where}: {word} has no value")
            yield Directive(_SAME.get(name, name), value, where)
        elif word.startswith("-") and len(word) > 1 and word != "--":
            yield from _letters(word, rest, where)
        else:
            raise ScriptError(
                f"{where}: {word!r} is no option of sbatch, and nothing else may stand there"
            )


def _letters(word: str, rest: list[tuple[str, str]], where: str) -> Iterator[Directive]:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _LETTERS.get(letter)
        if name is None:
            raise ScriptError(f"{where}: sbatch has no option -{letter}")
        value = ""
        if name in _WITH_VALUE:
            value, letters = letters or _value(rest, f"-{letter}", where), ""
        elif name == "no-kill" and letters:
            value, letters = letters, ""
        yield Directive(name, value, where)


def _value(rest: list[tuple[str, str]], option: str, where: str) -> str:
    if not rest:
        raise ScriptError(f"{where}: {option} needs a value")
    return rest.pop(0)[0]


def _full_name(name: str, where: str) -> str:
    known = (*_WITH_VALUE, *_WITHOUT)
    if name in known:
        return name
    longer = [each for each in known if each.startswith(name)]
    if len(longer) == 1:
        return longer[0]
    if longer:
        raise ScriptError(f"{where}: --{name} may be any of {_listed(longer)}")
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean --{close[0]}?" if close else ""
    raise ScriptError(f"{where}: sbatch has no option --{name}{hint}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _marked(text: str) -> Iterator[tuple[int, str]]:
    """Give the number of each line of directives, and what stands behind its mark."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(_MARK):
            yield number, line[len(_MARK) :]
        elif line.strip() and not line.lstrip().startswith("#"):
            return


def _words(text: str, where: str) -> Iterator[str]:
    """Split the rest of a line into words.

    Raises
    ------
    ScriptError
        A quote is not closed.
    """
    word: str | None = None
    quote, is_escaped = "", False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif character == "\\":
            is_escaped = True
            continue
        elif quote:
            if character == quote:
                quote = ""
                continue
        elif character in "\"'":
            quote, word = character, word or ""
            continue
        elif character == "#":
            break
        elif character.isspace():
            if word is not None:
                yield word
            word = None
            continue
        word = (word or "") + character
    if quote:
        raise ScriptError(f"{where}: the quote {quote} is not closed")
    if word is not None:
        yield word
