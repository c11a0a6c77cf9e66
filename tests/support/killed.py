"""Processes that are killed at a given instant: just before one of their calls."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterable
from typing import Any


def killed_at(call: int, action: Callable[[], object], touches: Iterable[tuple[Any, str]]) -> bool:
    """Run `action` in a forked child that kills itself before the `call`-th of some calls.

    Parameters
    ----------
    call
        The number of the call, from 1.
    action
        The function to run.
    touches
        The functions whose calls count, each by what it is an attribute of and its name.

    Returns
    -------
    bool
        True if the child was killed, False if it came to its end before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Fork beside the threads of a BLAS.
        child = os.fork()
    if not child:
        left = call

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def count(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return count

        try:
            for owner, name in touches:
                setattr(owner, name, counted(getattr(owner, name)))
            action()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
