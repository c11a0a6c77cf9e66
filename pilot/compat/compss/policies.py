"""The consequences of a failed task, as programs say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pilot.compat.compss.errors import PyCOMPSsException

RETRY: Final = "retry"
FAIL: Final = "fail"
IGNORE: Final = "ignore"
CANCEL: Final = "cancel"

_NAMED: Final = {
    "RETRY": RETRY,
    "FAIL": FAIL,
    "IGNORE": IGNORE,
    "CANCEL_SUCCESSORS": CANCEL,
}
#: The number of tries after the first one.
_RETRIES: Final = 2


def policy_of(given: Any) -> str:
    """Return the policy that a program names.

    Raises
    ------
    PyCOMPSsException
        There is none of this name.
    """
    found = _NAMED.get(str(given).upper())
    if found is None:
        raise PyCOMPSsException(
            f"on_failure={given!r}: give one of RETRY, FAIL, IGNORE and CANCEL_SUCCESSORS"
        )
    return found


def options_of(
    policy: str, defaults: Mapping[str, Any], returns: int, total: int, first: int = 0
) -> dict[str, Any]:
    """Return Pilot's options for a policy.

    All but IGNORE cancel what depends on a task that has failed: what that means for the program is
    decided there, since an exception may concern a group alone.

    Parameters
    ----------
    policy
        The policy.
    defaults
        With IGNORE: ``returns`` are the results then.
    returns
        The number of results that the function returns.
    total
        The number of results of the task.
    first
        The number of those that come before what it returns.
    """
    # The other one says what no new try changes: a child has failed for good, say.
    found: dict[str, Any] = {"no_retry_on": ("COMPSsException", "PyCOMPSsException")}
    if policy == RETRY:
        found |= {"retries": _RETRIES, "retry_timeouts": True}
    if policy != IGNORE:
        return found | {"on_failure": "cancel_successors"}
    given = defaults.get("returns")
    found["on_failure"] = "ignore"
    if given is not None and returns:
        several = list(given) if returns > 1 and isinstance(given, (tuple, list)) else [given]
        several = (several * returns)[:returns] if len(several) < returns else several[:returns]
        padded = (*[None] * first, *several, *[None] * (total - returns - first))
        found["default"] = padded if total > 1 else padded[0]
    return found
