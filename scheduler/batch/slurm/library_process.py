"""The process that asks Slurm by its library: a program, run by `library` with a path to this file.

It needs nothing but pyslurm and the standard library. It is a process of its own, since the library
in it cannot be interrupted, ends its process where it finds no slurm.conf, and crashes where it is
of another release than pyslurm was built for: the head would hang, end and crash with it.

The answer to each line of the standard input is one line of JSON on the standard output; before all
others comes an introduction. The process ends when its standard input does.

Invariants:

- The standard output has answers alone: what the library prints goes to the standard error.
- What cannot be answered as a whole is not answered at all, but with an error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
from typing import Any


def introduce(pyslurm: Any) -> dict[str, str]:
    """Return the versions of pyslurm, of the library that it is bound to, and of the controller.

    Where the controller gives no answer, return the error in place of them.
    """
    bound = getattr(pyslurm, "slurm_api_version", None)  # one of its older functions
    try:
        controller = pyslurm.slurmctld.Config.load().version
    except Exception as error:
        return {
            "error": f"pyslurm {pyslurm.__version__} gets no answer from this Slurm, which may be "
            f"of an earlier release: {in_words(error)}"
        }
    return {
        "pyslurm": pyslurm.__version__,
        "library": ".".join(f"{part:02d}" for part in bound()[:2]) if bound else "",
        "controller": controller,
    }


def jobs(pyslurm: Any, user: int) -> dict[str, Any]:
    """Return the rows of a user's jobs, as ``squeue`` would give them, and the number of all jobs.

    The library is asked for the jobs of all users: pyslurm has no function for those of one.
    """
    every = list(pyslurm.Jobs.load().values())
    rows = []
    for job in every:
        if job.user_id != user:
            continue
        with contextlib.suppress(UnicodeDecodeError):  # no job of Pilot's: its names are ASCII
            rows.append(_row(job))
    return {"rows": rows, "total": len(every)}


def _row(job: Any) -> list[str]:
    """Return the fields of a job in the order of `answers.QUEUE_FIELDS`."""
    return [
        str(job.id),
        job.state,
        job.state_reason or "",
        _time(job.submit_time),
        _time(job.start_time),
        _time(job.end_time),
        str(job.requeue_count),
        f"{job.exit_code}:{job.exit_code_signal}",
        _count(job.num_nodes, job.max_nodes),
        job.allocated_nodes or "",
        job.name or "",
    ]


def _count(least: int | None, most: int | None) -> str:
    """Return a number of nodes, or the range that a queued job asks for."""
    return f"{least}-{most}" if least and most and most > least else str(least or "")


def _time(time: int | None) -> str:
    return "" if time is None else str(time)


def in_words(error: Exception) -> str:
    """Return an error on one line."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")


def main() -> None:
    """Answer what is asked on the standard input until it ends."""
    sys.path.pop(0)  # the directory of this file: its modules would be taken for others
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        # It ends the process if there is no slurm.conf.
        pyslurm = importlib.import_module("pyslurm")
    except Exception as error:
        answer({"error": f"pyslurm cannot be imported: {in_words(error)}"})
        return
    try:
        answer(introduce(pyslurm))
        for line in sys.stdin:
            answer(jobs(pyslurm, int(line)))
    except Exception as error:
        answer({"error": in_words(error)})


if __name__ == "__main__":
    main()
