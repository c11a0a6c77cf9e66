"""The command lines of Pilot's own processes.

``python -m`` and ``python -c`` look for modules in the current directory first, which may be
anybody's: a file ``zmq.py`` in ``/tmp`` would be run as the user. ``-P`` would keep Python from it,
but Python 3.10 has no such option, and ``-I`` takes no ``PYTHONPATH`` either.
"""

from __future__ import annotations

import sys

_START = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "from pilot.__main__ import main; main()"
)


def pilot_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs Pilot with these arguments, safe in any current directory."""
    return [python, "-c", _START, *arguments]


def command_of_site(setting: str, *arguments: str) -> list[str]:
    """Return the command that runs Pilot in a job, with the Python of the site.

    Parameters
    ----------
    setting
        The site's ``environment.python``; ``auto`` is the Python of this process.
    arguments
        Those of Pilot.
    """
    return pilot_command(*arguments, python=sys.executable if setting == "auto" else setting)
