"""The flags of ``runcompss`` and ``enqueue_compss``: what they mean here, and what means nothing.

What COMPSs does not know is an error: a flag that is misspelled changes nothing in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class UsageError(Exception):
    """The command line means nothing."""


#: The variable by which a program finds the file that ``--resources`` names.
RESOURCES: Final = "PILOT_COMPSS_RESOURCES"
#: Flags of programs, that have a value.
_PROGRAM: Final = frozenset(
    {"pythonpath", "env_script", "python_interpreter", "wall_clock_limit", "lang", "checkpoint"}
    | {"checkpoint_params", "resources"}
)
#: Flags of programs that are true without a value.
_SWITCHES: Final = frozenset({"nested"})
#: Flags of jobs, that have a value.
_JOB: Final = frozenset(
    {"num_nodes", "exec_time", "queue", "qos", "reservation", "constraints", "cpus_per_node"}
    | {"gpus_per_node", "node_memory", "project_name", "cluster", "licenses", "network"}
    | {"num_switches", "extra_submit_flag", "job_name", "job_dependency", "job_execution_dir"}
    | {"pre_env_script", "elasticity"}
)
#: What programs would need, and is not there, with what to do.
_MISSING: Final = {
    "jupyter_notebook": "start it by `pycompss jupyter`",
    "notebook": "start it by `pycompss jupyter`",
    "agents": "",
}
#: Flags of COMPSs without a meaning here.
_IGNORED: Final = frozenset(
    {"debug", "log_level", "log_dir", "base_log_dir", "specific_log_dir", "graph", "tracing"}
    | {"monitoring", "external_debugger", "jmx_port", "summary", "project", "conn"}
    | {"scheduler", "scheduler_config_file", "library_path", "classpath", "appdir", "comm"}
    | {"storage_impl", "storage_conf", "streaming", "streaming_master_name"}
    | {"streaming_master_port", "master_working_dir", "gen_coredump", "PyObject_serialize"}
    | {"task_execution", "uuid", "shutdown_in_node_failure", "jvm_master_opts", "jvm_workers_opts"}
    | {"cpu_affinity", "gpu_affinity", "fpga_affinity", "fpga_reprogram", "io_executors"}
    | {"task_count", "input_profile", "output_profile", "worker_in_master_cpus"}
    | {"worker_in_master_memory", "python_propagate_virtual_environment", "python_mpi_worker"}
    | {"python_memory_profile", "python_worker_cache", "python_cache_profiler", "master_name"}
    | {"master_port", "agent_sandboxed", "ear", "data_provenance", "provenance", "reuse_on_block"}
    | {"checkpoint_folder", "checkpoint_policy", "keep_workingdir", "extrae_config_file"}
    | {"extrae_config_file_python", "trace_label", "tracing_task_dependencies", "opt", "quiet"}
    | {"generate_trace", "delete_trace_packages", "custom_threads", "verbose"}
    | {"enable_external_adaptation", "persistent_worker_c"}
)
#: Flags of COMPSs' jobs without a meaning here.
_IGNORED_OF_JOBS: Final = frozenset(
    {"sc_cfg", "worker_working_dir", "max_tasks_per_node", "cpus_per_task", "file_systems"}
    | {"forward_time_limit", "nvram_options", "node_storage_bandwidth", "storage_home"}
    | {"storage_props", "storage_container_image", "storage_cpu_affinity", "types_cfg", "master"}
    | {"workers", "container_image", "container_compss_path", "container_opts"}
    | {"automatic_scaling", "jupyter_notebook_dir", "switches"}
)
_SHORT: Final = {
    "d": "debug",
    "g": "graph",
    "h": "help",
    "p": "provenance",
    "q": "quiet",
    "t": "tracing",
    "v": "verbose",
}
#: The values of a flag by which it is not set.
_UNSET: Final = ("false", "none", "no", "0", "disabled")


class Flags(NamedTuple):
    """A command line."""

    #: The flags that mean something, by name.
    meant: dict[str, str]
    #: Those that do not, as they were written.
    ignored: list[str]
    #: The program and its own words.
    rest: list[str]

    def program_flags(self) -> list[str]:
        """Return, as words, those flags that are for the program and not for its job."""
        of_program = _PROGRAM | _SWITCHES
        return [f"--{name}={value}" for name, value in self.meant.items() if name in of_program]

    def is_set(self, name: str) -> bool:
        """Tell whether a flag is true."""
        return self.meant.get(name, "false").lower() not in _UNSET

    @property
    def has_checkpoints(self) -> bool:
        """True if the program is to find results of an earlier run."""
        policy = self.meant.get("checkpoint", "").rpartition(".")[2]
        return policy.lower() not in ("", "nocheckpoint", *_UNSET)

    def number(self, name: str, default: float = 0.0) -> float:
        """Return the value of a flag as a number, which is not negative.

        Raises
        ------
        UsageError
            It is none.
        """
        if name not in self.meant:
            return default
        try:
            found = float(self.meant[name])
        except ValueError:
            found = -1.0
        if not 0.0 <= found < float("inf"):
            raise UsageError(f"--{name}={self.meant[name]}: give a number")
        return found

    def whole(self, name: str, default: int) -> int:
        """Return the value of a flag as a number of things, at least one.

        Raises
        ------
        UsageError
            It is none.
        """
        found = self.number(name, default)
        if found != int(found) or (name in self.meant and found < 1):
            raise UsageError(f"--{name}={self.meant[name]}: give a whole number from 1 on")
        return int(found)


def parse(words: Sequence[str], command: str = "runcompss", *, of_job: bool = False) -> Flags:
    """Return what a command line says.

    Parameters
    ----------
    words
        Its words.
    command
        The command, for messages.
    of_job
        True if flags of jobs may be among them.

    Raises
    ------
    UsageError
        There is no such flag, or it has no value.
    """
    valued = _PROGRAM | (_JOB if of_job else frozenset())
    ignorable = _IGNORED | (_IGNORED_OF_JOBS if of_job else frozenset())
    meant: dict[str, str] = {}
    ignored: list[str] = []
    for place, word in enumerate(words):
        if word == "-m" or not word.startswith("-"):
            return Flags(meant, ignored, list(words[place:]))
        name, _, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):
            several = [_SHORT.get(letter, "") for letter in name]
            # Short ones may stand together, as -dg.
            if name not in valued | ignorable and all(several):
                ignored += [f"-{letter}" for letter in name if letter != "h"]
                if "h" in name:
                    meant["help"] = ""
                continue
        if name == "help":
            meant["help"] = ""
        elif name in _SWITCHES:
            meant[name] = value or "true"
        elif name in valued:
            if not value:
                raise UsageError(f"{word}: write --{name}=…")
            meant[name] = value
            if name == "lang" and value.lower() != "python":
                raise UsageError(f"{word}: there is python alone")
        elif name in _MISSING:
            if value.lower() not in _UNSET:
                advice = _MISSING[name]
                raise UsageError(f"{word} is not supported on Pilot{advice and f': {advice}'}")
        elif name in ignorable:
            ignored.append(word)
        elif name in _JOB:
            raise UsageError(f"{word}: that is a flag of enqueue_compss, for jobs")
        else:
            raise UsageError(f"{word}: there is no such flag; `{command} --help` shows them")
    return Flags(meant, ignored, [])
