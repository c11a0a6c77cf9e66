"""The work that a script for ``sbatch`` asks for, from its directives. Pure.

Where a script leaves something open, it gets what Slurm gives: one task of one core, a task on each
node where only nodes are said, as few nodes as hold the tasks. All nodes of a script have the same:
where tasks are spread unequally, each node has what the fullest one needs.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pilot.scheduler.batch.job_scripts import Earlier, ScriptError, ScriptWork, Surface
from pilot.scheduler.batch.slurm.job_scripts.directives import (
    Directive,
    parse_options,
    script_directives,
)

_MEMORY_MIB = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_ARRAY_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_ID = r"\d{1,10}(?:[._]\d{1,10})?"
#: Numbers of jobs from here on are Pilot's: see `running.job_number`.
OWN_JOBS, PER_SESSION = 100_000_000, 100_000
#: How each kind of dependency is meant.
_HOW = {"afterany": "end", "afterok": "ok", "aftercorr": "each"}
#: An array has no more tasks than this.
_TASKS_MOST = 1_000_000
#: Directives that change nothing here, so that nothing need be said of them.
_SILENT = {"parsable", "quiet", "verbose", "get-user-env", "ignore-pbs"}
#: Why others are not honoured, where that is of use.
_WHY = {
    "partition": "no pool has this name or this partition",
    "no-requeue": "what was interrupted is run again; see max_crashes",
}
#: What would run something else than was meant if it were left out.
_REFUSED = {
    "clusters": "a site is one cluster; submit to the site of that one",
    "wrap": "give the command itself: pilot submit -- COMMAND",
    "test-only": "pilot submit has no trial run",
    "begin": "Pilot starts tasks as soon as it can; submit later",
    "hold": "pause the session: pilot session pause",
    "export-file": "give variables with --export or in the script",
}


class _Wishes(NamedTuple):
    """The directives that count: the last of each name."""

    last: dict[str, Directive]

    def text(self, name: str, default: str = "") -> str:
        found = self.last.get(name)
        return default if found is None else found.value

    def has(self, name: str) -> bool:
        return name in self.last

    def wrong(self, name: str, hint: str) -> ScriptError:
        return ScriptError(f"{self.last[name]}: {hint}")

    def whole(self, name: str, least: int = 1) -> int:
        """Return a whole number; 0 where the directive is not there."""
        if name not in self.last:
            return 0
        text = self.text(name)
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            raise self.wrong(name, f"give a whole number, at least {least}")
        return int(text)


def read_script(text: str, more: Sequence[str], surface: Surface) -> ScriptWork:
    """Read a script; options of `more` stand above those in it.

    Raises
    ------
    ScriptError
        The script is none, an option means nothing, or it asks for what Pilot cannot do.
    """
    found = script_directives(text)
    found += parse_options([(word, "given beside it") for word in more])
    for each in found:
        if why := _REFUSED.get(each.name):
            raise ScriptError(f"{each} is not possible: {why}")
    wishes = _Wishes({each.name: each for each in found})
    honoured: set[str] = set(_SILENT)
    pool = _pool(wishes, surface, honoured)
    layout = _layout(wishes, surface, pool, honoured)
    memory_mib = _memory(wishes, layout, surface, pool, honoured)
    gpus, resources = _devices(wishes, layout, surface, honoured)
    array, at_once = _array(wishes, honoured)
    inherits, passed, variables = _export(wishes, honoured)
    number, signal_s, signal_shell = _signal(wishes, honoured)
    earlier, is_single = _dependency(wishes, honoured)
    honoured |= {"job-name", "chdir", "input", "output", "error", "open-mode", "time"}
    mode = wishes.text("open-mode", "truncate")
    if not mode or not ("append".startswith(mode) or "truncate".startswith(mode)):
        raise wishes.wrong("open-mode", "give append or truncate")
    output = wishes.text("output") or ("slurm-%A_%a.out" if array else "slurm-%j.out")
    return ScriptWork(
        name=wishes.text("job-name"),
        nodes=layout.nodes,
        cores=layout.cores,
        memory_mib=memory_mib,
        gpus=gpus,
        resources=resources,
        time_limit_s=_time(wishes),
        pool=pool,
        array=array,
        at_once=at_once,
        cwd=wishes.text("chdir"),
        stdin=wishes.text("input"),
        stdout=output,
        stderr=wishes.text("error"),
        appends="append".startswith(mode),
        earlier=earlier,
        is_single=is_single,
        inherits=inherits,
        passed=passed,
        variables=variables,
        signal=number,
        signal_s=signal_s,
        signal_shell=signal_shell,
        asked=_asked(wishes, layout, array, gpus),
        ignored=tuple(_ignored(found, honoured, gpus)),
    )


def _ignored(found: list[Directive], honoured: set[str], gpus: int) -> Iterator[str]:
    for each in found:
        if each.name not in honoured:
            why = _WHY.get(each.name)
            yield f"{each}" + (f" ({why})" if why else "")
        elif (
            each.name in ("gres", "gpus", "gpus-per-node", "gpus-per-task")
            and gpus
            and (kind := re.search(r"([A-Za-z][\w.-]*):\d+", each.value.removeprefix("gpu:")))
        ):
            yield f"{each} (of any kind, not only {kind[1]})"


# --- nodes and cores


class _Layout(NamedTuple):
    nodes: int
    #: On each node.
    cores: int
    tasks: int
    tasks_per_node: int
    cores_per_task: int


def _pool(wishes: _Wishes, surface: Surface, honoured: set[str]) -> str:
    for name in wishes.text("partition").split(","):
        pool = name if name in surface.pools else surface.aliases.get(name, "")
        if pool:
            honoured.add("partition")
            return pool
    return ""


def _node_cores(surface: Surface, pool: str) -> int:
    cores = [each[0] for name, each in surface.pools.items() if pool in ("", name)]
    return max(cores, default=1)


def _layout(wishes: _Wishes, surface: Surface, pool: str, honoured: set[str]) -> _Layout:
    honoured |= {"nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "exclusive", "mincpus"}
    each, per_node = wishes.whole("cpus-per-task"), wishes.whole("ntasks-per-node")
    tasks, nodes = wishes.whole("ntasks"), _nodes(wishes)
    on_node = _node_cores(surface, pool)
    cores_per_task = each or 1
    if not nodes:
        if tasks and per_node:
            nodes = -(-tasks // per_node)
        elif tasks and tasks * cores_per_task > on_node >= cores_per_task:
            nodes = -(-tasks // (on_node // cores_per_task))
        else:
            nodes = 1
    if not tasks:
        tasks = nodes * (per_node or 1)
    if tasks < nodes:
        nodes = tasks  # as Slurm does, which has no node without a task
    on_each = -(-tasks // nodes)
    cores = max(on_each * cores_per_task, wishes.whole("mincpus"))
    if wishes.has("overcommit") and not each:
        honoured.add("overcommit")
        cores = max(wishes.whole("mincpus"), 1)
    if wishes.has("exclusive"):
        cores = max(cores, on_node)
    return _Layout(nodes, cores, tasks, on_each, cores_per_task)


def _nodes(wishes: _Wishes) -> int:
    text = wishes.text("nodes")
    if not text:
        return 0
    found = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", text)
    if not found or not int(found[1]):
        raise wishes.wrong("nodes", "give a number of nodes, as 2 or 2-4")
    return int(found[1])


# --- memory and devices


def _memory(
    wishes: _Wishes, layout: _Layout, surface: Surface, pool: str, honoured: set[str]
) -> int:
    honoured |= {"mem", "mem-per-cpu"}
    if wishes.has("mem"):
        amount = _mebibytes(wishes, "mem")
        if amount:
            return amount
        offered = [each[1] for name, each in surface.pools.items() if pool in ("", name)]
        return max(offered, default=0)  # Slurm's 0 is all that the node has
    return _mebibytes(wishes, "mem-per-cpu") * layout.cores


def _mebibytes(wishes: _Wishes, name: str) -> int:
    text = wishes.text(name)
    if not text:
        return 0
    found = re.fullmatch(r"(?i)(\d{1,12}(?:\.\d+)?)([KMGT]?)B?", text)
    if not found:
        raise wishes.wrong(name, "give an amount of memory, as 4G or 512M")
    return math.ceil(float(found[1]) * _MEMORY_MIB[found[2].upper()])


def _devices(
    wishes: _Wishes, layout: _Layout, surface: Surface, honoured: set[str]
) -> tuple[int, dict[str, int]]:
    """Return the GPUs of each node, and other resources by name."""
    gpus, resources = 0, {}
    for name, share in (
        ("gpus", layout.nodes),
        ("gpus-per-node", 1),
        ("gpus-per-task", 0),
    ):
        if wishes.has(name):
            honoured.add(name)
            count = sum(_count(wishes, name, item) for item in wishes.text(name).split(","))
            gpus = -(-count // share) if share else count * layout.tasks_per_node
    for item in filter(None, wishes.text("gres").split(",")):
        kind, _, rest = item.removeprefix("gres/").partition(":")
        if kind == "gpu":
            honoured.add("gres")
            gpus = _count(wishes, "gres", rest or "1")
        elif kind in surface.resources:
            honoured.add("gres")
            resources[kind] = _count(wishes, "gres", rest or "1")
    for item in filter(None, re.split("[,;]", wishes.text("licenses"))):
        kind, _, rest = item.partition(":")
        kind = kind.partition("@")[0]
        if kind in surface.resources:
            honoured.add("licenses")
            resources[kind] = _count(wishes, "licenses", rest or "1")
    return gpus, resources


def _count(wishes: _Wishes, name: str, text: str) -> int:
    """Return the number at the end of ``a100:2``, ``2`` or ``a100``."""
    last = re.sub(r"\(.*\)$", "", text).rpartition(":")[2]
    if re.fullmatch(r"\d{1,6}", last):
        return int(last)
    if re.fullmatch(r"[A-Za-z][\w.-]*", last):
        return 1
    raise wishes.wrong(name, "give a number, as 2 or KIND:2")


# --- time, arrays, dependencies


def _time(wishes: _Wishes) -> float:
    text = wishes.text("time")
    if not text or text.upper() in ("UNLIMITED", "INFINITE", "-1", "0"):
        return 0.0
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not (
        len(parts) <= 3
        and all(re.fullmatch(r"\d{1,6}", part) for part in parts)
        and (not dash or re.fullmatch(r"\d{1,5}", days))
    ):
        raise wishes.wrong("time", "give minutes, H:MM:SS, or D-HH:MM:SS")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, numbers[0], (*numbers, 0)[1]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _array(wishes: _Wishes, honoured: set[str]) -> tuple[tuple[int, ...], int]:
    honoured.add("array")
    if not wishes.has("array"):
        return (), 0
    text, percent, most = wishes.text("array").partition("%")
    if percent and (not re.fullmatch(r"\d{1,9}", most)):
        raise wishes.wrong("array", "behind % is how many run at once: a number")
    indices: dict[int, None] = {}
    for part in text.strip("[]").split(","):
        found = _ARRAY_PART.fullmatch(part.strip())
        first, last, step = (
            (found[1], found[2] or found[1], found[3] or "1") if found else (0, 0, 0)
        )
        if not found or int(last) < int(first) or not int(step):
            raise wishes.wrong("array", "give numbers and ranges, as 0-99, 0-99:2 or 1,5,7%4")
        if len(indices) + (int(last) - int(first)) // int(step) >= _TASKS_MOST:
            raise wishes.wrong("array", f"it has more than {_TASKS_MOST:,} tasks")
        indices.update(dict.fromkeys(range(int(first), int(last) + 1, int(step))))
    return tuple(sorted(indices)), int(most or 0)


def _dependency(wishes: _Wishes, honoured: set[str]) -> tuple[tuple[Earlier, ...], bool]:
    honoured.add("dependency")
    text = wishes.text("dependency")
    if "?" in text:
        raise wishes.wrong("dependency", "Pilot waits for all of several tasks, not for any (?)")
    earlier, is_single = [], False
    for item in filter(None, text.split(",")):
        kind, colon, ids = item.partition(":")
        if kind == "singleton":
            is_single = True
            continue
        how = _HOW.get(kind)
        if how is None:
            raise wishes.wrong(
                "dependency",
                f"Pilot knows {', '.join(_HOW)} and singleton, and cannot do {kind or item}",
            )
        names = ids.split(":")
        if not colon or not all(re.fullmatch(_ID, name) for name in names):
            raise wishes.wrong(
                "dependency",
                "give the ids that pilot submit has printed, as afterok:3.17 (or 3, of an array)",
            )
        earlier.append(Earlier(how, tuple(map(own_id, names))))
    return tuple(earlier), is_single


def own_id(text: str) -> str:
    """Return the id of a task or session for a number that `running.job_number` made; others as
    they are."""
    number, underscore, index = text.partition("_")
    if not number.isdecimal() or int(number) < OWN_JOBS:
        return text
    if int(number) >= 1 << 32:
        return f"{int(number) >> 32}.{int(number) & ((1 << 32) - 1)}"
    session, task = divmod(int(number) - OWN_JOBS, PER_SESSION)
    if task:
        return f"{session}.{task}"
    return f"{session}_{index}" if underscore else str(session)


# --- environment and signals


def _export(wishes: _Wishes, honoured: set[str]) -> tuple[bool, tuple[str, ...], dict[str, str]]:
    honoured.add("export")
    text = wishes.text("export", "ALL")
    if text.upper() in ("NONE", "NIL"):
        return False, (), {}
    inherits, passed, variables = False, [], {}
    # A value may be in quotes, and have commas then.
    for item in re.findall(r"""(?:[^,'"]|'[^']*'|"[^"]*")+""", text):
        name, equals, value = item.strip().partition("=")
        if equals:
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            variables[name] = value[1:-1] if quoted else value
        elif name.upper() == "ALL":
            inherits = True
        else:
            passed.append(name)
    if not all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in (*passed, *variables)):
        raise wishes.wrong("export", "give ALL, NONE, or names of variables, as ALL,CASE=3")
    return inherits, tuple(passed), variables


def _signal(wishes: _Wishes, honoured: set[str]) -> tuple[int, float, bool]:
    honoured.add("signal")
    text = wishes.text("signal")
    if not text:
        return 0, 0.0, False
    found = re.fullmatch(r"(?:([RB]+):)?(?:SIG)?(\w+)(?:@(\d{1,6}))?", text, re.IGNORECASE)
    number = 0
    if found and found[2].isdecimal():
        number = int(found[2])
    elif found:
        number = int(getattr(signal, f"SIG{found[2].upper()}", 0))
    if not found or number not in signal.valid_signals():
        raise wishes.wrong("signal", "give a signal and seconds, as B:USR1@120")
    return number, float(found[3] or 60), "B" in (found[1] or "").upper()


# --- what is wanted again where it runs


def _asked(wishes: _Wishes, layout: _Layout, array: tuple[int, ...], gpus: int) -> dict[str, str]:
    """Return what the variables are made of, as `running.script_variables` reads it."""
    asked = {
        "tasks": str(layout.tasks),
        "tasks_per_node": str(layout.tasks_per_node),
        "cores_per_task": str(layout.cores_per_task),
    }
    for key, name in (
        ("says_tasks", "ntasks"),
        ("says_tasks_per_node", "ntasks-per-node"),
        ("says_cores_per_task", "cpus-per-task"),
    ):
        if wishes.has(name):
            asked[key] = "1"
    for key, name in (("memory", "mem"), ("memory_per_core", "mem-per-cpu")):
        if wishes.has(name):
            asked[key] = str(_mebibytes(wishes, name))
    for name in ("partition", "account", "qos", "gpus", "distribution"):
        if wishes.has(name):
            asked[name] = wishes.text(name)
    if gpus:
        asked["gpus_per_node"] = str(gpus)
    if array:
        step = array[1] - array[0] if len(array) > 1 else 1
        asked |= {
            "array_count": str(len(array)),
            "array_min": str(array[0]),
            "array_max": str(array[-1]),
            "array_step": str(step),
        }
    return asked
