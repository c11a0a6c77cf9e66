"""The exceptions of programs for PyCOMPSs."""

from __future__ import annotations


class PyCOMPSsException(Exception):
    """Something in the program means nothing, or a task has failed for good."""


class COMPSsException(Exception):
    """The error that a task raises to end the other tasks of its group; it is never tried again.

    Parameters
    ----------
    message
        The text, which the barrier of the group raises again.
    target_direction
        Of no meaning here.
    """

    def __init__(self, message: object = "", target_direction: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.target_direction = target_direction


class NotSupportedError(PyCOMPSsException):
    """The program uses a part of PyCOMPSs that is not there."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(f"{what} is not supported on Pilot{instead and f': {instead}'}")
