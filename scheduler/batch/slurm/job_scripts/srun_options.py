"""The words of ``srun`` in a job script, for `srun_program`: the standard library alone."""

from __future__ import annotations

import os
import re

#: Options with a value, with their letters.
_WITH_VALUE = {
    "account": "A",
    "acctg-freq": "",
    "bcast-exclude": "",
    "begin": "b",
    "chdir": "D",
    "cluster-constraint": "",
    "clusters": "M",
    "comment": "",
    "constraint": "C",
    "container": "",
    "core-spec": "S",
    "cores-per-socket": "",
    "cpu-bind": "",
    "cpu_bind": "",
    "cpu-freq": "",
    "cpus-per-gpu": "",
    "cpus-per-task": "c",
    "deadline": "",
    "dependency": "d",
    "distribution": "m",
    "epilog": "",
    "error": "e",
    "exclude": "x",
    "export": "",
    "extra-node-info": "B",
    "gpu-bind": "",
    "gpu-freq": "",
    "gpus": "G",
    "gpus-per-node": "",
    "gpus-per-socket": "",
    "gpus-per-task": "",
    "gres": "",
    "gres-flags": "",
    "het-group": "",
    "hint": "",
    "input": "i",
    "jobid": "",
    "job-name": "J",
    "licenses": "L",
    "mail-type": "",
    "mail-user": "",
    "mem": "",
    "mem-bind": "",
    "mem-per-cpu": "",
    "mem-per-gpu": "",
    "mincpus": "",
    "mpi": "",
    "network": "",
    "nodefile": "F",
    "nodelist": "w",
    "nodes": "N",
    "ntasks": "n",
    "ntasks-per-core": "",
    "ntasks-per-gpu": "",
    "ntasks-per-node": "",
    "ntasks-per-socket": "",
    "open-mode": "",
    "output": "o",
    "partition": "p",
    "prolog": "",
    "profile": "",
    "qos": "q",
    "relative": "r",
    "reservation": "",
    "signal": "",
    "slurmd-debug": "",
    "sockets-per-node": "",
    "switches": "",
    "task-epilog": "",
    "task-prolog": "",
    "tasks-per-node": "",
    "thread-spec": "",
    "threads": "T",
    "threads-per-core": "",
    "time": "t",
    "time-min": "",
    "tmp": "",
    "tres-bind": "",
    "tres-per-task": "",
    "wait": "W",
    "wckey": "",
}
#: Options without one, or with one behind ``=`` alone.
_WITHOUT = {
    "bcast": "",
    "compress": "",
    "contiguous": "",
    "disable-status": "X",
    "exact": "",
    "exclusive": "",
    "hold": "H",
    "immediate": "I",
    "interactive": "",
    "kill-on-bad-exit": "K",
    "label": "l",
    "multi-prog": "",
    "nice": "",
    "no-allocate": "Z",
    "no-kill": "k",
    "overcommit": "O",
    "overlap": "",
    "oversubscribe": "s",
    "preserve-env": "E",
    "propagate": "",
    "pty": "",
    "quiet": "Q",
    "quit-on-interrupt": "q",
    "reboot": "",
    "resv-ports": "",
    "spread-job": "",
    "unbuffered": "u",
    "use-min-nodes": "",
    "verbose": "v",
    "version": "V",
    "whole": "",
}
_LETTERS = {v: k for options in (_WITH_VALUE, _WITHOUT) for k, v in options.items() if v}
_NODE_LIST = re.compile(r"([^\[\],]*)(?:\[([^\]]*)\])?([^\[\],]*)(?:,|$)")


class Wrong(Exception):
    """The step cannot be started; the text says why."""


def parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options of a command line, by their long names, and the command."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _full_name(name)
            if name in _WITH_VALUE and not equals:
                value = _value(rest, word)
            options[name] = value
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in _LETTERS:
                raise Wrong(f"there is no option -{letter}")
            name = _LETTERS[letter]
            if name in _WITH_VALUE or (name in ("kill-on-bad-exit", "immediate") and letters):
                options[name], letters = letters or _value(rest, f"-{letter}"), ""
            else:
                options[name] = ""
    for other, name in (("tasks-per-node", "ntasks-per-node"), ("cpu_bind", "cpu-bind")):
        if other in options:
            options[name] = options.pop(other)
    return options, rest


def _value(rest: list[str], option: str) -> str:
    if not rest:
        raise Wrong(f"option {option} needs a value")
    return rest.pop(0)


def _full_name(name: str) -> str:
    known = (*_WITH_VALUE, *_WITHOUT)
    longer = [name] if name in known else [each for each in known if each.startswith(name)]
    if len(longer) != 1:
        raise Wrong(f"there is no option --{name}" if not longer else f"--{name} is ambiguous")
    return longer[0]


def expand(listed: str) -> list[str]:
    """Return the hosts of a list such as ``n[1-3,07],gpu01``."""
    hosts: list[str] = []
    for before, ranges, after in _NODE_LIST.findall(listed):
        if not ranges:
            hosts += [before + after] if before + after else []
            continue
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                hosts.append(f"{before}{str(number).zfill(len(first))}{after}")
    return hosts


def whole(options: dict[str, str], name: str, otherwise: str = "") -> int:
    """Return the number that an option, or else a variable, gives; 0: neither does."""
    text = options.get(name) or os.environ.get(otherwise, "")
    if not text:
        return 0
    found = re.match(r"\d+", text)
    if not found:
        raise Wrong(f"{text!r} is no number for --{name}")
    return int(found[0])
