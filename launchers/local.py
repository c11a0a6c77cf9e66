"""The launcher of a single process on this host: the command itself, with nothing around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pilot.launchers.base import Launch, Placement


class LocalLauncher(msgspec.Struct, frozen=True):
    """A launcher that starts one process directly.

    It takes no options, and more than one rank is refused: without an MPI launcher, "two ranks"
    would silently be two worlds of one.
    """

    @property
    def name(self) -> str:
        """The launcher's name, ``local``."""
        return "local"

    def launch(
        self, command: Sequence[str], placement: Placement, *, env: Mapping[str, str]
    ) -> Launch:
        """Return the command as it is.

        Raises
        ------
        ValueError
            The placement has more than one rank.
        """
        if placement.ranks != 1:
            raise ValueError(
                f"the launcher 'local' starts one process, not {placement.ranks} ranks; "
                "set the site's MPI launcher to 'auto' or to an MPI's name"
            )
        return Launch(tuple(command), dict(env))


def start_here(command: Sequence[str], _host: str, _options: Sequence[str]) -> Launch:
    """Return the launch of a node worker on the caller's host."""
    return Launch(tuple(command), {})
