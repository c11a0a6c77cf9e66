"""Verdicts on PyCOMPSs' test programs, from what their scripts say. Pure.

A program passes if its own `result` script says so. That script stops at the first thing that it
does not find, and some look for what only COMPSs' runtime writes about itself: such a program is
`beyond` if that, by its text, is what was not found. All that was looked at before was right then.
Others look for what Pilot does in another way on purpose, as docs/how-to/from-pycompss.md says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

#: What is not run unless it is named, and why.
LEFT_OUT: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("1_decorator_decaf", "3_module_decaf", "3_module_decaf_constrained"), "needs Decaf"
    ),
    **dict.fromkeys(
        ("1_decorator_ompss", "3_module_ompss", "3_module_ompss_constrained"), "needs OmpSs"
    ),
    **dict.fromkeys(
        ("1_decorator_opencl", "3_module_opencl", "3_module_opencl_constrained"), "needs OpenCL"
    ),
    "1_decorator_julia": "needs Julia",
    "3_module_kmeans": "fails in plain Python, too, with the NumPy of today",
    "9_jupyter_notebook": "needs Jupyter, and a kernel",
    "1_http_task": "needs a server in Java, which Maven builds",
    "1_serialization": "needs PyCOMPSs' own test code",
    "0_annotation_commutative": "needs persistent objects",
    "0_annotation_concurrent": "needs persistent objects",
    "2_resources_api": "waits for ever for nodes that it asks for: pools grow by themselves",
}
#: The words of a `result` script about what only COMPSs has, by program.
_BEYOND: Final[Mapping[str, str]] = {
    "0_api_barrier": "its scripts end with 1",
    # Which node has run a task.
    "0_weight": "ErrorManager has raised a fatal error",
    "3_module_io": "its scripts end with 2",
    # Names of versions.
    "0_keep_rename": "ErrorManager has raised a fatal error",
    "0_is_replicated_inout_shared": "All tasks have not completed",
    "1_cache": "THE SUPPORTED TYPES IN THE CACHE",
    "1_compss_exceptions": "ErrorManager has raised a fatal error",
    "1_decorator_reduce": "launched intermediate reduce tasks",
    "2_cancel_application_tasks": "More tasks than expected",
    "2_local_constraint": "on a remote node",
    # A try on another node has a number of its own there.
    "2_time_out": "ErrorManager raised and ERROR",
    "2_wall_clock_limit": "ErrorManager has raised a fatal error",
}
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b:.*", re.M)
_MISSING = re.compile(
    r".*not supported on Pilot.*|.*No module named 'pycompss\.(?:dds|interactive|streams|functions)"
    r".*"
)
_TOLD = re.compile(r"^.*ERROR.*", re.M)
KINDS: Final = ("pass", "beyond", "waits", "fail")


class Verdict(NamedTuple):
    """The verdict on a program."""

    #: One of `KINDS`.
    kind: str
    why: str
    seconds: float


def judge(
    name: str, status: int | None, statuses: Sequence[int], text: str, seconds: float
) -> Verdict:
    """Return what became of a program.

    Parameters
    ----------
    name
        The program.
    status
        The exit status of its `execution`, which is that of its `result`; None: it had no end.
    statuses
        The exit statuses of the programs that it has started.
    text
        All that was printed.
    seconds
        The time that it took.
    """
    if status is None:
        return Verdict("fail", "no end", seconds)
    if status == 0:
        return Verdict("pass", "", seconds)
    told = _TOLD.findall(text)
    last = told[-1].strip() if told else f"its scripts end with {status}"
    if name in _BEYOND and _BEYOND[name] in last:
        return Verdict("beyond", f"only COMPSs has it: {last}", seconds)
    if missing := _MISSING.findall(text):
        return Verdict("waits", _short(missing[-1]), seconds)
    errors = _ERROR.findall(text)
    why = [f"exit status {each}" for each in statuses if each][:1] + errors[-1:] + [last]
    return Verdict("fail", "; ".join(map(_short, why)), seconds)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 120 else f"{words[:117]}…"


def table(rows: Sequence[tuple[str, Verdict]]) -> str:
    """Return verdicts as a table."""
    lines = ["| program | verdict | s | why |", "| --- | --- | --- | --- |"]
    for name, verdict in rows:
        why = verdict.why.replace("|", "\\|")
        lines.append(f"| {name} | {verdict.kind} | {verdict.seconds:.0f} | {why} |")
    return "\n".join(lines)
