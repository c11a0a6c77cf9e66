"""A Slurm of one node for tests: its commands, run by whoever finds them in ``PATH``.

*Live*, its jobs are processes of this machine; *mute*, it takes jobs and never tells of them again.
What else it is to do wrong is switched by files in its directory, also while heads and pilots live.
It is a program too, of the standard library alone: each command is a link to a line that runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

#: What ends each field of ``--Format`` in the adapter.
SEPARATOR = "\x1f"
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")
#: An ended job is listed for so long, in seconds.
LISTED_S = 300.0


class FakeSlurm:
    """A Slurm in a directory; the test puts `commands` into ``PATH``.

    Parameters
    ----------
    directory
        Where its state is; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.commands = directory / "bin"
        self.commands.mkdir(parents=True, exist_ok=True)
        (directory / "jobs").mkdir(exist_ok=True)
        for name in COMMANDS:
            path = self.commands / name
            line = f'exec {sys.executable} -I -S {Path(__file__).resolve()} {directory} {name} "$@"'
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(0o755)

    def switch(self, name: str, value: str = "") -> None:
        """Have it do something: see `_Slurm` for the switches."""
        temporary = self.directory / f"{name}.new"
        temporary.write_text(value)
        temporary.replace(self.directory / name)

    def switch_off(self, name: str) -> None:
        """Have it do so no longer."""
        (self.directory / name).unlink(missing_ok=True)

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of a command, in order."""
        try:
            lines = (self.directory / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [call[1:] for call in map(json.loads, lines) if call[0] == command]

    def submitted(self) -> int:
        """How many jobs it has taken."""
        return len(list((self.directory / "jobs").iterdir()))

    def pid(self, job: str) -> int:
        """The process of a job's script."""
        return int((self.directory / "jobs" / job / "pid").read_text())

    def say(self, job: str, state: str, reason: str = "") -> None:
        """Have it say this of a job, which does not start meanwhile."""
        self.switch(f"jobs/{job}/said", f"{state}|{reason}")

    def say_no_more(self, job: str) -> None:
        """Have it say what is so."""
        self.switch_off(f"jobs/{job}/said")

    def end(self, job: str, state: str) -> None:
        """Kill a job, which has ended so."""
        self.say(job, state)
        self.kill(job)

    def has_ended(self, job: str) -> bool:
        """Tell whether the script of a job, which may have been killed, has ended."""
        return (self.directory / "jobs" / job / "exit").exists()

    def queue_again(self, job: str) -> None:
        """Have a job, whose script has ended, wait for its next life."""
        record = self.directory / "jobs" / job
        restarts = record / "restarts"
        restarts.write_text(str(int(restarts.read_text()) + 1 if restarts.exists() else 1))
        (record / "state").write_text("PENDING")
        for name in ("end", "pid", "exit"):  # the last one lets it start
            (record / name).unlink()

    def kill(self, job: str) -> None:
        """Kill all processes of a job at once."""
        os.killpg(self.pid(job), signal.SIGKILL)

    def script(self, job: str) -> str:
        """The script of a job."""
        return (self.directory / "jobs" / job / "script").read_text()


class _Slurm:
    """One call of a command.

    Switches, each a file: ``mute``; ``hold`` (jobs wait); ``refuse`` (``sbatch`` fails with this
    text); ``answer`` (what it prints, ``@`` is the job's id); ``slow`` (it answers so many seconds
    after it has taken the job); ``down`` (every command fails with this text); ``empty``
    (``squeue`` lists nothing); ``hide`` (it leaves out these jobs); ``before`` and ``after`` (more
    lines of it); ``rename`` (all jobs have this name); ``nodes`` (so many have all);
    ``no_accounting``; ``world`` (only with this ``--mpi`` do ranks find each other); ``ends``
    (when the job that is asked for ends).
    """

    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self._directory = directory
        self._jobs = directory / "jobs"
        self._arguments = arguments

    def run(self, command: str) -> int:
        line = json.dumps([command, *self._arguments]) + "\n"
        with (self._directory / "calls").open("a") as file:
            file.write(line)
        if (told := self._switched("down")) is not None:
            print(told, file=sys.stderr)
            return 1
        return int(getattr(self, command)() or 0)

    # --- state

    def _switched(self, name: str) -> str | None:
        try:
            return (self._directory / name).read_text()
        except FileNotFoundError:
            return None

    def _get(self, job: str, key: str) -> str:
        try:
            return (self._jobs / job / key).read_text()
        except FileNotFoundError:
            return ""

    def _put(self, job: str, key: str, value: object) -> None:
        temporary = self._jobs / job / f"{key}.new{os.getpid()}"
        temporary.write_text(str(value))
        temporary.replace(self._jobs / job / key)

    def _ids(self) -> list[str]:
        return sorted((entry.name for entry in self._jobs.iterdir()), key=int)

    def _state(self, job: str) -> str:
        if said := self._get(job, "said"):
            return said.partition("|")[0]
        state = self._get(job, "state")
        may_start = not (self._get(job, "exit") or self._get(job, "mute"))
        if (
            state == "PENDING"
            and may_start
            and self._switched("hold") is None
            and self._get(job, "script")
        ):
            self._start(job)
            return "RUNNING"
        if self._get(job, "exit"):
            if self._get(job, "cancelled"):
                return "CANCELLED"
            return "COMPLETED" if self._get(job, "exit") == "0" else "FAILED"
        return state or "PENDING"

    def _start(self, job: str) -> None:
        self._put(job, "state", "RUNNING")
        self._put(job, "start", int(time.time()))
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self._directory), "keep", job],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def keep(self) -> None:
        """Be the one who has started a job's script, and waits for its end."""
        (job,) = self._arguments
        script = self._get(job, "script")
        node = socket.gethostname()
        job_variables = {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NODELIST": node,
            "SLURMD_NODENAME": node,
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_RESTART_COUNT": self._get(job, "restarts") or "0",
        }
        match = re.search(r"--output=(\S+)", script)
        output = match[1].replace("%j", job) if match else os.devnull
        with open(output, "ab") as file:
            process = subprocess.Popen(
                ["/bin/bash", self._jobs / job / "script"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **job_variables},
            )
        self._put(job, "pid", process.pid)
        status = process.wait()
        self._put(job, "end", int(time.time()))
        self._put(job, "exit", status if status >= 0 else 128 - status)

    # --- commands

    def sbatch(self) -> int:
        if "--version" in self._arguments:
            print("slurm 23.11.4")
            return 0
        if (told := self._switched("refuse")) is not None:
            print(told, file=sys.stderr)
            return 1
        script = sys.stdin.read()
        if "--test-only" in self._arguments:
            print("sbatch: Job 1 to start at once", file=sys.stderr)
            return 0
        number = 7001
        while True:
            try:
                (self._jobs / str(number)).mkdir()
                break
            except FileExistsError:
                number += 1
        job = str(number)
        match = re.search(r"--job-name=(\S+)", script)
        self._put(job, "name", match[1] if match else "none")
        self._put(job, "submit", int(time.time()))
        self._put(job, "state", "PENDING")
        self._put(job, "script", script)
        if self._switched("mute") is not None:
            self._put(job, "mute", 1)
        self._state(job)
        if slow := self._switched("slow"):
            time.sleep(float(slow))
        print((self._switched("answer") or "@").replace("@", job))
        return 0

    def squeue(self) -> None:
        if self._switched("mute") is not None:
            return
        wanted = self._option("--jobs", "-j")
        sys.stdout.write(self._switched("before") or "")
        if self._switched("empty") is None:
            self._list(wanted)
        sys.stdout.write(self._switched("after") or "")

    def _list(self, wanted: list[str]) -> None:
        columns = re.findall(rf"(\w+):(\d+){SEPARATOR}", self._option("--Format")[0])
        names = self._option("--name")
        hidden = (self._switched("hide") or "").split()
        for job in self._ids():
            state = self._state(job)
            ended = float(self._get(job, "end") or "inf")
            fields = self._fields(job, state)
            if job in hidden or time.time() - ended > LISTED_S:
                continue
            if (wanted and job not in wanted) or (names and fields["Name"] not in names):
                continue
            print("".join(fields[name].ljust(int(n))[: int(n)] + SEPARATOR for name, n in columns))

    def _option(self, long: str, short: str = "") -> list[str]:
        for position, argument in enumerate(self._arguments):
            if argument.startswith(f"{long}="):
                value = argument.partition("=")[2]
                return [value] if long == "--Format" else value.split(",")
            if short and argument == short:
                return self._arguments[position + 1].split(",")
        return []

    def _fields(self, job: str, state: str) -> dict[str, str]:
        start = self._get(job, "start")
        return {
            "JobID": job,
            "State": state,
            "Reason": self._get(job, "said").partition("|")[2]
            or ("Resources" if state == "PENDING" else "None"),
            "SubmitTime": self._get(job, "submit"),
            "StartTime": start or "N/A",
            "EndTime": self._get(job, "end") or (str(int(start) + 3600) if start else "N/A"),
            "RestartCnt": self._get(job, "restarts") or "0",
            "exit_code": str(int(self._get(job, "exit") or 0) << 8),  # as wait() gives it
            "NumNodes": self._switched("nodes") or "1",
            "NodeList": "" if state == "PENDING" else socket.gethostname(),
            "Name": self._switched("rename") or self._get(job, "name"),
        }

    def sacct(self) -> int:
        if self._switched("no_accounting") is not None:
            return 1
        if self._switched("mute") is not None:
            return 0
        columns = self._option("--format")
        asked = {"JobIDRaw": "JobID", "ExitCode": "exit_code", "Submit": "SubmitTime"}
        asked |= {"Start": "StartTime", "End": "EndTime", "JobName": "Name"}
        for job in self._option("--jobs"):
            if (self._jobs / job).exists():
                fields = self._fields(job, self._state(job))
                fields["exit_code"] = f"{int(fields['exit_code']) >> 8}:0"
                print(SEPARATOR.join(fields[asked.get(name, name)] for name in columns))
        return 0

    def scancel(self) -> None:
        for job in filter(str.isdecimal, self._arguments):
            if self._get(job, "state") == "PENDING":
                self._put(job, "cancelled", 1)
                self._put(job, "end", int(time.time()))
                self._put(job, "exit", 1)
            elif pid := self._get(job, "pid"):
                self._put(job, "cancelled", 1)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid), signal.SIGTERM)
                    os.killpg(int(pid), signal.SIGCONT)  # it may be suspended

    def srun(self) -> int:
        """Start ranks; in most ways each of them is alone."""
        if "--mpi=list" in self._arguments:
            print("MPI plugin types are...\n\tnone\n\tcray_shasta\n\tpmix\n\tpmi2")
            print("specific pmix plugin versions available: pmix_v4", file=sys.stderr)
            return 0
        first = next(n for n, word in enumerate(self._arguments) if not word.startswith("--"))
        command = self._arguments[first:]
        options = dict(word[2:].partition("=")[::2] for word in self._arguments[:first])
        ranks = options["ntasks"]
        if options.get("mpi", "") == (self._switched("world") or ""):
            mpiexec = str(Path(sys.executable).parent / "mpiexec")
            here = ["-launcher", "fork", "-hosts", socket.gethostname()]
            os.execv(mpiexec, [mpiexec, *here, "-n", ranks, *command])
        processes = [subprocess.Popen(command) for _ in range(int(ranks))]
        return max(process.wait() for process in processes)

    def sinfo(self) -> None:
        print("p" if "--format=%R" in self._arguments else "p|1|8|8000|1-00:00:00")

    def scontrol(self) -> int:
        if self._arguments == ["show", "config"]:
            print("PropagateResourceLimits = ALL")
            return 0
        action, job = self._arguments[-2:]
        if action == "job" and (ends := self._switched("ends")):
            node = os.uname().nodename
            print(
                f"JobId={job} JobName=a UserId=me({os.getuid()}) JobState=RUNNING Restarts=0 "
                f"EndTime={ends} NodeList={node} NumNodes=1 Nodes={node} CPU_IDs=0 Mem=0 GRES="
            )
            return 0
        number = {"suspend": signal.SIGSTOP, "resume": signal.SIGCONT}.get(action)
        if number is None:
            return 1
        self._put(job, "state", "SUSPENDED" if action == "suspend" else "RUNNING")
        os.killpg(int(self._get(job, "pid")), number)
        return 0


def slurm_template(cores: int = 1, **changes: Any) -> dict[str, Any]:
    """The site file of a site on a fake Slurm, with quick timers."""
    pool = {"partition": "p", "cores_per_node": cores, "walltime": "1h", "idle_time": "1m"}
    slurm = {"poll_interval": "200ms", "submit_interval": "50ms", "command_limit": "20s"}
    return {
        "batch": "slurm",
        "lease": {"renew": "500ms", "expire": "10s"},
        "slurm": {**slurm, **changes.pop("slurm", {})},
        "pools": {"main": {**pool, **changes.pop("pool", {})}},
        **changes,
    }


def _main() -> NoReturn:
    directory, command, *arguments = sys.argv[1:]
    sys.exit(_Slurm(Path(directory), arguments).run(command))


if __name__ == "__main__":
    _main()
