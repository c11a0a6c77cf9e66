"""Several programs as one MPI job (MPMD): the ranks of each have an own command.

Launchers differ in how they take several programs, and where these then run. So to the launcher it
is one program, a shell that runs what is its rank's: the ranks are where they would be otherwise.
"""

from __future__ import annotations

import operator
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from pilot.client.command import CommandResult, shell
from pilot.client.task import OptionError, Task
from pilot.pickled import public

#: What begins the shell text: a direct call, and a launcher that gives its ranks no numbers.
_NO_RANK = (
    'case "$PILOT_RANK" in "") echo "several programs as one MPI job need a number in '
    'PILOT_RANK, which ranks of tasks have" >&2; exit 1;; esac'
)


@public
def mpmd(
    programs: Sequence[tuple[str | Sequence[str], int]], **options: Any
) -> Task[..., CommandResult]:
    """Make several programs one MPI job: ``mpmd([("./ocean {case}", 4), ("./ice {case}", 2)])``.

    The first ranks run the first program, the next ones the second, and so on; all are in one
    ``MPI_COMM_WORLD``. Parameters are filled in as by `shell`.

    Parameters
    ----------
    programs
        Commands, as `shell` takes them, and how many ranks each has.
    **options
        As of `shell`; without ``ranks``, which follows.

    Raises
    ------
    OptionError
        There is no program, a number of ranks is none, or an option is not valid.
    CommandError
        A text has a parameter where no value can stand.
    """
    if "ranks" in options:
        raise OptionError("ranks: that is the sum of the ranks of all programs; leave it out")
    texts, ranks = zip(*_checked(programs), strict=True)
    name = "+".join((text.split() or ["?"])[0].rpartition("/")[2] for text in texts)
    return shell(
        joined_text(list(zip(texts, ranks, strict=True))),
        **{"name": name, **options, "ranks": sum(ranks)},
    )


def joined_text(programs: Sequence[tuple[str, int]]) -> str:
    """Return the shell text that runs, on each rank, the text of its program."""
    lines = [_NO_RANK]
    below, word = 0, "if"
    for text, ranks in programs:
        below += ranks
        lines += [f'{word} [ "$PILOT_RANK" -lt {below} ]; then', text.strip()]
        word = "elif"
    told = f'echo "rank $PILOT_RANK has no program: those given have {below} ranks" >&2'
    return "\n".join([*lines, "else", told, "exit 1", "fi"])


def _checked(programs: object) -> Iterable[tuple[str, int]]:
    """Yield texts and numbers of ranks.

    Raises
    ------
    OptionError
        One is neither.
    """
    told = 'give pairs of a command and its number of ranks, as [("./ocean", 4), ("./ice", 2)]'
    if isinstance(programs, (str, bytes)) or not isinstance(programs, Iterable):
        raise OptionError(f"programs={programs!r:.100}: {told}")
    pairs = list(programs)
    if not pairs:
        raise OptionError(f"there is no program; {told}")
    for pair in pairs:
        try:
            command, given = pair
            ranks = operator.index(given)
        except (TypeError, ValueError):
            raise OptionError(f"{pair!r:.100}: {told}") from None
        if isinstance(given, bool) or ranks < 1:
            raise OptionError(f"{pair!r:.100}: the number of ranks is at least 1")
        yield _text(command, told), ranks


def _text(command: object, told: str) -> str:
    if isinstance(command, str) and command.strip():
        return command
    if isinstance(command, Sequence) and not isinstance(command, (str, bytes)) and command:
        # Words are taken as they are, braces included.
        line = shlex.join(map(str, command))
        return line.replace("{", "{{").replace("}", "}}")
    raise OptionError(f"the command {command!r:.100}: {told}")
