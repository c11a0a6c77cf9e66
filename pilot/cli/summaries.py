"""The end of a workflow for people: what ``pilot run`` and ``pilot session watch`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilot.cli.output import counted, duration, first_line, print_fields, print_json, say
from pilot.errors import TaskError
from pilot.model.states import FAILURES

if TYPE_CHECKING:
    from pilot.site import Site

#: The most failed tasks that the summary names.
_NAMED = 10
#: What is shown of a result that is a text: so many lines, each up to so many characters.
_LINES, _WIDTH = 10, 200


def show_end(
    name: str, site: Site, session: int, seconds: float, summary: dict[str, Any], as_json: bool
) -> int:
    """Print the end of a workflow; return the exit code."""
    from pilot.cli.commands.result import plain

    told = {"name": name, "site": site.name, "session": session, "seconds": seconds, **summary}
    told["results"] = {
        key: {what: plain(value) for what, value in result.items()}
        for key, result in summary["results"].items()
    }
    if as_json:
        print_json(told)
    else:
        print_summary(told)
    return 0 if set(summary["states"]) <= {"COMPLETED"} else TaskError.exit_code


def print_summary(summary: dict[str, Any]) -> None:
    """Print a summary of `summarise`, for people."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary["states"].items()))
    say(
        f"{summary['name']}: {counted(summary['tasks'], 'task')} in "
        f"{duration(summary['seconds'])}: {states or 'there was nothing to run'}"
        + (f" ({summary['found']} found, of an earlier run)" if summary["found"] else "")
    )
    failed = summary["failed"]
    count = sum(summary["states"].get(state, 0) for state in FAILURES)
    if failed:
        say(f"\n{counted(count, 'task')} failed:")
        for row in failed[:_NAMED]:
            say(f"  {row['label']}: {first_line(row['error'])}")
            say(f"    pilot task show {row['task']}; pilot task logs {row['task']}")
        if count > _NAMED:
            say(
                f"  and {count - _NAMED} more: pilot task list --session "
                f"{summary['session']} --failed"
            )
    if summary["results"]:
        say("\nresults")
        print_fields({f"  {key}": _shown(result) for key, result in summary["results"].items()})
    if summary["data"]:
        say(f"\ndata: {summary['data']}")


def _shown(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"({result['error']})"
    if "stored" in result:
        places = [f"{place['file']}: {place['dataset']}" for place in result["stored"]]
        return "\n".join(places[:_NAMED] + (["…"] if len(places) > _NAMED else []))
    value = result["value"]
    return _first_lines(value if isinstance(value, str) else repr(value))


def _first_lines(text: str) -> str:
    """Return the first lines of a text, shortened, and how many more there are."""
    lines = text.strip("\n").splitlines()
    shown = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in lines[:_LINES]]
    if len(lines) > len(shown):
        shown.append(f"… and {counted(len(lines) - len(shown), 'more line')}; all with --json")
    return "\n".join(shown)
