"""The launcher of a pilot's MPI ranks: from the site file, from the batch system, or tried out.

Invariants
----------
- What has to wait for the trials is kept, in its order, until they have ended.
- The trials run at most once, unless what they found turns out to be wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pilot.agent.mpi_choice import MpiChoice
from pilot.agent.rules import actions as a
from pilot.launchers import HostRanks, Launch, Launcher, Placement, get_launcher
from pilot.site import Site

log = logging.getLogger("pilot.agent")


class MpiLauncher:
    """The launcher that starts a pilot's ranks.

    Parameters
    ----------
    site
        The site.
    host
        The first node of the pilot, where trials run.
    """

    def __init__(self, site: Site, host: str) -> None:
        self._mpi = site.config.mpi
        self._kind = site.config.kind
        self._launcher: Launcher | None = None
        #: The trials, where the site file leaves the launcher open, and the work that waits for it.
        self._choice: MpiChoice | None = None
        self._waiting: list[a.RunOnExecutor | a.StartWorld] = []
        if self._mpi.launcher == "auto" and not self._mpi.options and self._kind.mpi_listing:
            path = site.directory / "mpi.json"
            self._choice = MpiChoice(path, self._kind, host, self._mpi.variables)

    def __str__(self) -> str:
        if self._launcher is None:
            return "the launcher"
        found = self._choice.found if self._choice else None
        return str((found and found.choice) or " ".join((self._launcher.name, *self._mpi.options)))

    @property
    def advice(self) -> str:
        """Advice for a launcher and an MPI library that do not know the same way."""
        return self._kind.mpi_advice

    def launch(
        self, command: Sequence[str], shares: tuple[Any, ...], variables: dict[str, str]
    ) -> Launch:
        """Return how a command is started as the ranks that `shares` have.

        Raises
        ------
        ValueError
            No launcher forms an MPI world here.
        FileNotFoundError
            The program that starts ranks is not there.
        """
        placement = Placement(tuple(HostRanks(s.node, s.ranks, s.cores) for s in shares))
        return self._get().launch(command, placement, env={**self._mpi.variables, **variables})

    def is_known(self, action: a.RunOnExecutor | a.StartWorld) -> bool:
        """Tell whether ranks can be started; if not, look for the launcher and keep `action` until
        then."""
        if self._choice is None or self._choice.found is not None:
            return True
        self._choice.start()
        self._waiting.append(action)
        return False

    @property
    def waiting(self) -> Sequence[a.RunOnExecutor | a.StartWorld]:
        """The actions that wait for the end of the trials."""
        return self._waiting

    def take_waiting(self) -> list[a.RunOnExecutor | a.StartWorld]:
        """Hand over what waits if the trials have ended; nothing before."""
        if not self._waiting or self._choice is None or self._choice.found is None:
            return []
        found = self._choice.found
        for failure in found.failures:
            log.warning("MPI worlds do not form by %s", failure)
        if found.choice is not None:
            log.info("MPI worlds are started by %s", found.choice)
        waiting, self._waiting = self._waiting, []
        return waiting

    def drop(self, world: int) -> bool:
        """Drop the start of a world that waits; return True if there was one."""
        for action in self._waiting:
            if isinstance(action, a.StartWorld) and action.world == world:
                self._waiting.remove(action)
                return True
        return False

    def doubt(self) -> None:
        """Try the launchers out anew: a world has not formed, so something has changed."""
        if self._choice is not None:
            self._choice.forget()
            self._launcher = None

    def _get(self) -> Launcher:
        if self._launcher is None:
            name, options = self._mpi.launcher, tuple(self._mpi.options)
            if self._choice is not None and self._choice.found is not None:
                found = self._choice.found
                if found.choice is None:
                    tried = "; ".join(found.failures)
                    raise ValueError(f"no launcher forms an MPI world here. Tried: {tried}")
                name, options = found.choice.launcher, found.choice.options
            elif name == "auto":
                name = self._kind.launcher
            self._launcher = get_launcher(name, options, self._kind.node_launcher)
        return self._launcher
