"""The interface of launchers: a placement in, a command line out.

A launcher decides nothing: the agent has decided which ranks run on which cores of which hosts (a
`Placement`), and the launcher says with which command line exactly that starts (a `Launch`).

Invariants:

- Building a command line is pure: no file is read and no process started.
- Values of environment variables never appear in a command line, where ``ps`` would show them; they
  are in `Launch.env`, and the command line holds at most their names.
- No launcher binds processes to cores. The ranks pin themselves: they know their cores, and the
  launchers' own notions of binding differ between vendors and releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class HostRanks(msgspec.Struct, frozen=True):
    """The consecutive ranks that one host gets."""

    #: Name of the host, as the batch system writes it.
    host: str
    #: How many ranks run on it.
    ranks: int
    #: The cores of this host that these ranks use together; empty: not pinned.
    cores: tuple[int, ...] = ()


class Placement(msgspec.Struct, frozen=True):
    """The ranks of one command on their hosts: each host once, in the order of ranks (block
    layout).

    The hosts must be in the order in which the batch system lists the nodes of the job: whatever is
    started on several hosts through the batch system comes up in that order, whichever order was
    asked for, and mpirun would exchange the shares.

    Raises
    ------
    ValueError
        No host is given, a host is given twice, or a host gets no rank.
    """

    #: The shares, in the order of ranks.
    hosts: tuple[HostRanks, ...]

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("a placement needs at least one host")
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"a host may have only one share of a placement: {', '.join(names)}")
        for share in self.hosts:
            if share.ranks < 1:
                raise ValueError(
                    f"host {share.host} gets {share.ranks} ranks; it must be 1 or more"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts' names, in the order of ranks."""
        return tuple(share.host for share in self.hosts)

    @property
    def ranks(self) -> int:
        """The number of ranks on all hosts together."""
        return sum(share.ranks for share in self.hosts)

    @property
    def overcommitted(self) -> bool:
        """True if the ranks of some pinned host have to share cores."""
        return any(share.cores and len(share.cores) < share.ranks for share in self.hosts)

    def is_on(self, host: str) -> bool:
        """Tell whether all ranks run on `host`; names with and without a domain are the same
        host."""
        here = {"localhost", short_name(host)}
        return all(short_name(name) in here for name in self.names)


class Launch(msgspec.Struct, frozen=True):
    """A launch of a command: an argument vector, and variables to add."""

    #: Program and arguments.
    argv: tuple[str, ...]
    #: Variables to add to the environment that the program is started in.
    env: dict[str, str]


class Launcher(Protocol):
    """A builder of the command line that starts one command on the ranks of a placement."""

    @property
    def name(self) -> str:
        """The name by which a site file chooses this launcher."""
        ...

    def launch(
        self, command: Sequence[str], placement: Placement, *, env: Mapping[str, str]
    ) -> Launch:
        """Return the launch of `command`, once per rank of `placement`.

        Parameters
        ----------
        command
            Program and arguments, the same for every rank.
        placement
            Hosts, and how many ranks each gets.
        env
            Variables that every rank must see, besides those of the process that calls. They win
            over the launcher's own.
        """
        ...


def short_name(host: str) -> str:
    """Return a host name without its domain; an IPv4 address stays whole."""
    label, _, rest = host.partition(".")
    return host if rest.replace(".", "").isdigit() else label
