"""Site files of real machines: within the limits that their documentation names, as of 2026.

The machines cannot be asked here. So the limits are written down a second time, and what the job
scripts ask of Slurm is compared to what the documentation says.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pilot.cli.commands.site import _marked_lines
from pilot.scheduler.batch import JobRequest
from pilot.scheduler.batch.slurm.script import job_script
from pilot.scheduler.resources import parse_duration_s
from pilot.site_configs import SiteConfig, load_site_file, template_text, templates

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "real-machines.md"
MACHINES = sorted(set(templates()) - {"local", "slurm", "virtual"})
G = 1024


class Limits(NamedTuple):
    """The documented limits of what a pool uses, and what its jobs have to ask for."""

    hours: float
    #: Nodes in a job; 0: the documentation names no limit.
    nodes: int
    cores: int
    gpus: int
    #: MiB that a job can have on a node; 0: not documented, so not to be counted.
    memory: int
    asks: set[str]


LIMITS = {
    "lumi": {
        "cpu": Limits(48, 512, 128, 0, 224 * G, {"--partition=standard", "--mem=0"}),
        "cpu-small": Limits(72, 4, 128, 0, 224 * G, {"--partition=small", "--mem=56000M"}),
        "gpu": Limits(48, 1024, 56, 8, 0, {"--partition=standard-g", "--gres=gpu:8", "--mem=0"}),
        "gpu-small": Limits(
            72, 4, 7, 1, 64 * G, {"--partition=small-g", "--gres=gpu:1", "--mem=61440M"}
        ),
    },
    "frontier": {
        "gpu": Limits(2, 91, 56, 8, 0, {"--partition=batch", "--gres=gpu:8"}),
        "extended": Limits(24, 64, 56, 8, 0, {"--partition=extended", "--gres=gpu:8"}),
    },
    "perlmutter": {
        "cpu": Limits(48, 3072, 128, 0, 0, {"--qos=regular", "--constraint=cpu", "--exclusive"}),
        "gpu": Limits(
            48,
            1792,
            64,
            4,
            0,
            {"--qos=regular", "--constraint=gpu", "--gres=gpu:4", "--exclusive"},
        ),
    },
    "leonardo": {
        "cpu": Limits(24, 16, 112, 0, 0, {"--partition=dcgp_usr_prod", "--exclusive", "--mem=0"}),
        "gpu": Limits(
            24,
            64,
            32,
            4,
            0,
            {"--partition=boost_usr_prod", "--gres=gpu:4", "--exclusive", "--mem=0"},
        ),
    },
    "jupiter": {"booster": Limits(12, 5884, 288, 4, 0, {"--partition=booster", "--gres=gpu:4"})},
    "snellius": {
        "cpu": Limits(120, 0, 192, 0, 336 * G, {"--partition=genoa", "--mem=344064M"}),
        "rome": Limits(120, 0, 128, 0, 224 * G, {"--partition=rome", "--mem=229376M"}),
        "gpu": Limits(
            120, 0, 72, 4, 480 * G, {"--partition=gpu_a100", "--gres=gpu:4", "--mem=491520M"}
        ),
        "gpu-h100": Limits(
            120, 0, 64, 4, 720 * G, {"--partition=gpu_h100", "--gres=gpu:4", "--mem=737280M"}
        ),
    },
    # The least of its production queues: a user has one of them.
    "marenostrum5": {
        "cpu": Limits(24, 50, 112, 0, 224 * G, set()),
        "gpu": Limits(24, 10, 80, 4, 500 * G, {"--gres=gpu:4"}),
    },
}
#: Where these are to be asked for: nowhere else may they be.
NAMED_BY_SOME = {"--partition", "--qos", "--constraint", "--exclusive", "--mem", "--gres"}
POOLS = [(machine, pool) for machine in MACHINES for pool in LIMITS[machine]]

#: The options of sbatch that job scripts have, as its manual spells them.
OPTIONS = NAMED_BY_SOME | {
    "--account",
    "--chdir",
    "--job-name",
    "--no-kill",
    "--nodes",
    "--ntasks-per-node",
    "--open-mode",
    "--output",
    "--requeue",
    "--signal",
    "--time",
}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(machine: str, **changes: str) -> SiteConfig:
        text = template_text(machine)
        for old, new in changes.items():
            text = re.sub(rf'(?m)^( +{old}): ""', rf"\1: {new}", text)
        path = tmp_path / f"{machine}.yaml"
        path.write_text(text, encoding="utf-8")
        return load_site_file(path)

    return load


def asked(config: SiteConfig, name: str) -> tuple[str, dict[str, str]]:
    """The job script of the largest pilot of a pool, and the options in it, by their names."""
    pool: Any = config.pools[name]
    script = job_script(
        JobRequest(
            name=f"pilot-{config.name}-1",
            command=["python", "-m", "pilot", "agent"],
            nodes=pool.nodes_per_pilot,
            walltime_s=pool.walltime_s,
            directory=Path("/scratch/pilot/jobs"),
            directives=pool,
            setup=config.environment.setup,
            variables=config.environment.variables,
            warning_s=pool.warning_s,
        )
    )
    options = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            _, option = shlex.split(line)
            options[option.partition("=")[0]] = option
    return script, options


def test_every_pool_of_every_machine_has_its_limits_here(load: Any) -> None:
    assert {name: [*limits] for name, limits in LIMITS.items()} == {
        name: [*load(name).pools] for name in LIMITS
    }
    assert sorted(LIMITS) == MACHINES


@pytest.mark.parametrize(("machine", "pool"), POOLS)
def test_pools_keep_to_the_limits(load: Any, machine: str, pool: str) -> None:
    config, limits = load(machine).pools[pool], LIMITS[machine][pool]
    assert config.walltime_s <= limits.hours * 3600
    assert config.nodes_per_pilot <= config.max_nodes
    assert config.nodes_per_pilot <= (limits.nodes or config.nodes_per_pilot)
    assert 0 < config.cores_per_node <= limits.cores
    assert config.gpus_per_node == limits.gpus
    assert (config.memory_per_node_mib > 0) is (limits.memory > 0)
    assert config.memory_per_node_mib <= limits.memory


@pytest.mark.parametrize(("machine", "pool"), POOLS)
def test_job_scripts_ask_as_the_documentation_says(load: Any, machine: str, pool: str) -> None:
    config, limits = load(machine, account="a1", qos="q1"), LIMITS[machine][pool]
    script, options = asked(config, pool)
    assert set(options) <= OPTIONS
    named = {text for name, text in options.items() if name in NAMED_BY_SOME}
    mine = {"--qos=q1"} if machine == "marenostrum5" else set()
    assert named == limits.asks | mine
    assert options["--account"] == "--account=a1"
    assert options["--ntasks-per-node"] == f"--ntasks-per-node={config.pools[pool].cores_per_node}"
    walltime_s = parse_duration_s(options["--time"].partition("=")[2])
    assert 0 < walltime_s <= limits.hours * 3600
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("machine", MACHINES)
def test_what_only_the_user_knows_is_empty_and_marked(load: Any, machine: str) -> None:
    text = template_text(machine)
    marked = [line for _, line in _marked_lines(text)]
    empty = [line.strip() for line in text.splitlines() if re.search(r": (\"\"|0)( |$)", line)]
    assert set(empty) <= set(marked)
    assert any(line.startswith("account:") for line in marked)
    for pool in load(machine).pools.values():
        assert pool.account == ""


@pytest.mark.parametrize("machine", MACHINES)
def test_a_file_says_where_it_is_from_and_that_it_was_not_tried(machine: str) -> None:
    text = template_text(machine)
    header = text[: text.index("\nbatch:")]
    assert "not tried on the machine" in header
    assert re.search(r"Written from the documentation in \w+ 20\d\d", header)
    assert f"pilot init --template {machine} " in header
    sources = re.findall(r"https://[\w./+-]+", header)
    page = PAGE.read_text(encoding="utf-8")
    assert f"| `{machine}` |" in page
    hosts = {source.split("/")[2] for source in sources}
    assert hosts and all(host in page for host in hosts)
