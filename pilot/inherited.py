"""The variables of a user's program that its tasks see, in place of those of the head's starter.

The environment of a pilot's job is that of the head, and so of the program or shell that has
started it, maybe on another day; on the way the batch system and the site's set-up have changed it.
A task is to see what its own session's program has. So of what came from the head unchanged nothing
is left, and in a list (``PATH``) that the site has put something in front of, the program's takes
the place of the head's. What the site has set stays, and so do variables of a machine, a login or a
job. Pure.

Invariants
----------
- No value of the head's travels for this: a pilot is told short digests, by which it knows them
  again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from pilot.launchers.identity import JOB_VARIABLES, identity_in
from pilot.limits import VALUE_BYTES, VARIABLES_BYTES
from pilot.variables import CORES, THREADS

#: The variable that tells the processes of a pilot what came from the head: digests by name.
GIVEN = "PILOT_GIVEN"
#: Variables that belong to a machine, a user's login or a terminal: a task has its node's.
_OF_PLACE = frozenset(
    (
        *("HOME", "USER", "LOGNAME", "SHELL", "MAIL", "HOSTNAME", "HOST", "HOSTTYPE", "MACHTYPE"),
        *("PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "TERM", "COLUMNS", "LINES"),
        *("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "WINDOWID", "STY", "TTY", "PS1", "PS2"),
        *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
        *("GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK", "ENVIRONMENT", "JPY_PARENT_PID"),
    )
)
_OF_PLACE_BEGIN = ("PILOT_", "SSH_", "XDG_", "DBUS_", "TMUX", "VSCODE_", "TERM_", *JOB_VARIABLES)
#: Lists of more entries are looked through at their ends only.
_ENTRIES = 64

#: By the name of a variable that came from the head: what the site has put before and behind it;
#: None: the site has removed it.
Frames: TypeAlias = Mapping[str, "tuple[str, str] | None"]


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a program that its tasks are to see."""
    identity = set(identity_in(environment))
    # What a task that opens a session has been told of its threads is not set by hand.
    told = {name for name in THREADS if environment.get(name) == environment.get(CORES)}
    found: dict[str, str] = {}
    left = VARIABLES_BYTES
    for name, value in sorted(environment.items(), key=lambda item: len(item[1])):
        if name in _OF_PLACE or name.startswith(_OF_PLACE_BEGIN) or name in identity | told:
            continue
        try:
            size = len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            continue  # no text that can be sent
        left -= size
        if size > VALUE_BYTES or left < 0:
            break  # the longest ones: a job could not be started with much more
        found[name] = value
    return dict(sorted(found.items()))


def digests(environment: Mapping[str, str]) -> str:
    """Return what a pilot is told of the environment that its job gets from the head."""
    told = {name: _digest(value) for name, value in carried(environment).items()}
    return msgspec.json.encode(told).decode()


def frames(environment: Mapping[str, str]) -> Frames:
    """Return which variables of a pilot's process came from the head, and what is around them."""
    found: dict[str, tuple[str, str] | None] = {}
    try:
        given = msgspec.json.decode(environment.get(GIVEN) or "{}", type=dict[str, str])
    except msgspec.MsgspecError:
        return {}
    for name, digest in given.items():
        value = environment.get(name)
        if value is None:
            found[name] = None
            continue
        for before, inner, behind in _inner(value):
            if _digest(inner) == digest:
                found[name] = before, behind
                break
    return found


def _inner(value: str) -> Iterator[tuple[str, str, str]]:
    """Give a value, and then the parts of it that others may have put something around."""
    yield "", value, ""
    entries = value.split(":")
    count = len(entries)
    ends = [(first, count) for first in range(1, count)]
    ends += [(0, last) for last in range(count - 1, 0, -1)]
    if count <= _ENTRIES:
        ends += [(i, j) for i in range(1, count - 1) for j in range(count - 1, i, -1)]
    for first, last in ends:
        before = "".join(f"{entry}:" for entry in entries[:first])
        behind = "".join(f":{entry}" for entry in entries[last:])
        yield before, ":".join(entries[first:last]), behind


def _digest(value: str) -> str:
    return blake2b(value.encode(errors="surrogateescape"), digest_size=5).hexdigest()


def changes(
    environment: Mapping[str, str], around: Frames, program: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what is to be changed in the environment of a process for the tasks of a program.

    Parameters
    ----------
    environment
        The environment of the pilot's process.
    around
        What came from the head, as `frames` gives it.
    program
        The variables of the program.

    Returns
    -------
    dict
        New values by name; None: the variable is to go.
    """
    found: dict[str, str | None] = {}
    for name, frame in around.items():
        if frame is None:
            continue
        before, behind = frame
        its = program.get(name)
        if its is not None:
            found[name] = f"{before}{its}{behind}"
        elif before or behind:
            found[name] = f"{before.rstrip(':')}{behind}" if before else behind.lstrip(":")
        else:
            found[name] = None
    added = (name for name in program if name not in around and name not in environment)
    return {**found, **{name: program[name] for name in added}}
