"""Site files: what they may hold, and what a mistake in one is told as."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.amounts import UNIT
from pilot.scheduler.resources import NodeShape, Supply, node_shape
from pilot.site_configs import (
    SiteConfig,
    SiteFileError,
    load_site_file,
    pool_type,
    site_file_schema,
    template_text,
    templates,
    units,
    yaml_text,
    yamlfile,
)
from pilot.site_configs.schema import site_type

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "site-file.md"

#: A right file of four lines, to add mistakes to.
SLURM = "batch: slurm\npools:\n  cpu:\n    cores_per_node: 4\n"


def load_text(directory: Path, text: str) -> SiteConfig:
    path = directory / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return load_site_file(path)


# --- templates -----------------------------------------------------------------------------------


def test_the_shipped_files_are_right(tmp_path: Path) -> None:
    for name, meaning in templates().items():
        assert re.fullmatch(r"[A-Z][^\n]{10,90}[^.\n]", meaning), name
        path = tmp_path / f"{name}.yaml"
        path.write_text(template_text(name), encoding="utf-8")
        assert load_site_file(path).name == name
    with pytest.raises(KeyError, match=r"local, .*slurm"):
        template_text("../setup")


def test_the_local_site_is_this_machine(tmp_path: Path) -> None:
    config = load_text(tmp_path, template_text("local"))
    (pool,) = config.pools.values()
    assert (config.batch, *config.pools) == ("local", "main")
    assert pool.shape == node_shape(len(os.sched_getaffinity(0)), coreless=32)
    assert (pool.max_nodes, pool.nodes_per_pilot) == (1, 1)


def test_the_virtual_clusters_site(tmp_path: Path) -> None:
    config = load_text(tmp_path, template_text("virtual"))
    assert next(iter(config.pools)) == "main"
    pools: dict[str, Any] = dict(config.pools)
    assert {name: pool.partition for name, pool in pools.items()} == {
        "main": "main",
        "urgent": "urgent",
    }
    for pool in config.pools.values():
        assert pool.shape == node_shape(4, 4000, coreless=32)
        assert pool.max_nodes == 4
    assert (config.mpi.launcher, config.mpi.options) == ("srun", ("--mpi=pmix",))


def test_the_slurm_template_names_every_key_of_a_site() -> None:
    text = template_text("slurm")
    for name, key in _keys():
        # A GPU pool's keys stand in the example of one.
        assert f"{key}:" in text, f"{name}.{key}"


# --- values --------------------------------------------------------------------------------------


def test_defaults_are_complete(tmp_path: Path) -> None:
    config = load_text(tmp_path, SLURM)
    assert config.name == tmp_path.name  # a site.yaml is named by its directory
    assert config.head.idle_timeout_s == 1800
    assert (config.lease.renew_s, config.lease.expire_s) == (2, 15)
    assert config.data.inline_limit_bytes == 65536
    assert config.mpi.launcher == "auto"
    assert config.store.journal == "auto"
    pool = config.pools["cpu"]
    assert pool == pool_type("slurm")(cores_per_node=4, max_nodes=4)
    assert (pool.walltime_s, pool.idle_time_s, pool.max_pilots_queued) == (3600, None, 2)


def test_units_are_read_once(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        SLURM
        + "    memory_per_node: 1.5G\n    walltime: 1-12:00:00\n    idle_time: 90\n"
        + "data: {inline_limit: 1M}\nslurm: {poll_interval: 500ms, submit_interval: 0}\n",
    )
    pool = config.pools["cpu"]
    assert (pool.memory_per_node_mib, pool.walltime_s, pool.idle_time_s) == (1536, 129600, 90)
    assert type(pool.walltime_s) is float
    assert config.data.inline_limit_bytes == 2**20
    assert (config.manners.poll_interval_s, config.manners.submit_interval_s) == (0.5, 0)


def test_resources_of_nodes_and_of_the_site(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        SLURM
        + "    gpus_per_node: 1\n    resources: {scratch_gib: 400, fpga: [0, b], share: 0.5}\n"
        + "resources: {matlab: 20, ansys: 2.5, none: 0}\n",
    )
    assert config.amounts == (("ansys", 5 * UNIT // 2), ("matlab", 20 * UNIT), ("none", 0))
    assert config.pools["cpu"].shape == NodeShape(
        4,
        (
            Supply("coreless", 32 * UNIT),
            Supply("fpga", 2 * UNIT, ("0", "b")),
            Supply("gpus", UNIT, ("0",)),
            Supply("scratch_gib", 400 * UNIT),
            Supply("share", UNIT // 2),
        ),
    )


def test_a_loaded_site_can_be_sent_and_stored(tmp_path: Path) -> None:
    """Its values are plain: no class of the loader is left in them."""
    config = load_text(tmp_path, template_text("virtual"))
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(config))
    assert plain["pools"]["main"]["walltime"] == 1800.0


def test_plain_words_are_texts(tmp_path: Path) -> None:
    """YAML 1.1 would read these as false, 8, 5400 and a text."""
    config = load_text(
        tmp_path,
        SLURM
        + "    partition: no\n    max_nodes: 010\n    walltime: 1:30:00\n    account: 0x1f_\n",
    )
    pool: Any = config.pools["cpu"]
    assert (pool.partition, pool.max_nodes, pool.walltime_s) == ("no", 10, 5400)
    assert pool.account == "0x1f_"


def test_sections_may_be_comments_only(tmp_path: Path) -> None:
    config = load_text(tmp_path, "batch: local\nhead:\n  # port: 1\npools:\n  main:\n")
    assert config.head.port == 0
    assert [*config.pools] == ["main"]


def test_pools_may_share_lines(tmp_path: Path) -> None:
    text = SLURM.replace("cpu:", "cpu: &cpu") + "  long:\n    <<: *cpu\n    walltime: 2d\n"
    pools = load_text(tmp_path, text).pools
    assert pools["long"] == msgspec.structs.replace(pools["cpu"], walltime_s=172800.0)


def test_environment_numbers_are_their_digits(tmp_path: Path) -> None:
    config = load_text(tmp_path, SLURM + "environment: {variables: {A: 1, B: x, C: ''}}\n")
    assert config.environment.variables == {"A": "1", "B": "x", "C": ""}


def test_a_site_may_name_itself(tmp_path: Path) -> None:
    assert load_text(tmp_path, "name: mine\n" + SLURM).name == "mine"
    path = tmp_path / "cluster.yaml"
    path.write_text(SLURM)
    assert load_site_file(path).name == "cluster"


# --- mistakes ------------------------------------------------------------------------------------

MISTAKES = [
    # What, in which line, what the message must say.
    ("", 1, "'batch' is missing"),
    ("pools: {a: {}}\n", 1, "'batch' is missing"),
    ("batch: local\n", 1, "'pools' is missing"),
    ("batch: slrum\npools: {}\n", 1, "batch: 'slrum' is not a batch system; did you mean 'slurm'"),
    ("batch: local\npools:\n", 2, "there is no pool"),
    ("batch: local\npools: {a: {}}\nhed: {}\n", 3, "hed: unknown key; did you mean 'head'"),
    (SLURM + "    waltime: 1h\n", 5, "pools.cpu.waltime: unknown key; did you mean 'walltime'"),
    (SLURM + "    xyzzy: 1h\n", 5, "unknown key; Known: account, address, budget, constraint"),
    (SLURM + "    walltime: one hour\n", 5, 'pools.cpu.walltime: .* "90s", "10m"'),
    (SLURM + "    walltime: .inf\n", 5, "not an amount"),
    (SLURM + "    walltime: -5\n", 5, "cannot be negative"),
    (SLURM + "    walltime: 30s\n", 5, "warned of its end"),
    (SLURM + "    memory_per_node: lots\n", 5, "not an amount of memory"),
    (SLURM + "    memory_per_node: true\n", 5, "not an amount of memory"),
    (SLURM + "    resources: {Big: 1}\n", 5, "resources.Big: 'Big' is not a valid name of a res"),
    (SLURM + "    resources: {gpus: 1}\n", 5, "'gpus' has a key of its own"),
    (SLURM + "    resources: {a: lots}\n", 5, "resources.a: expected"),
    (SLURM + "    resources: {a: -1}\n", 5, "-1 is not an amount; write a number from 0"),
    (SLURM + "    resources: {a: 0.00001}\n", 5, "at most 4 decimals"),
    (SLURM + "    resources: {a: true}\n", 5, "resources.a: "),
    (SLURM + "    resources: {a: [0, 1, 0]}\n", 5, "the index '0' is there twice"),
    (SLURM + "    resources: {a: []}\n", 5, "the list is empty"),
    (SLURM + '    resources: {a: ["x,y"]}\n', 5, "'x,y' is not a valid index"),
    (SLURM + "resources: {memory: 1}\n", 5, "'memory' has a key of its own"),
    (SLURM + "resources: {a: [1]}\n", 5, "resources.a: expected"),
    (SLURM + "    resources: {a: 1}\nresources: {a: 1}\n", 5, "of the whole site, too"),
    (SLURM + "    max_nodes: many\n", 5, "whole number from 1"),
    (SLURM + "    max_nodes: 0\n", 5, "whole number from 1"),
    (SLURM + "    max_nodes: 2\n    min_nodes: 3\n", 6, "3 is more than max_nodes"),
    (SLURM + "    nodes_per_pilot: 3\n    max_nodes: 2\n", 5, "3 is more than max_nodes"),
    (SLURM + "    max_nodes: 2\n    max_nodes: 3\n", 6, "written twice"),
    (SLURM + "    gpus_per_node: -1\n", 5, "expected a whole number >= 0, got the number -1"),
    (
        SLURM + "    budget: 5 core-hours\n",
        5,
        "'5 core-hours' is not a budget; write it as 500",
    ),
    (SLURM + "    account: 2026\n", 5, "expected a text, got the number 2026; put it in quotes"),
    (SLURM + '    account: "a\\nb"\n', 5, "on one line"),
    (SLURM + "    memory_request: some\n", 5, "'some' is not a valid value.*all, counted, none"),
    (SLURM + "    sbatch_options: [--x, exclusive]\n", 5, r"sbatch_options\[1\]: 'exclusive'"),
    (SLURM + "    sbatch_options:\n    - --x\n    - [a]\n", 7, "expected a text, got a list"),
    (SLURM + "    sbatch_options: [-Mnorth]\n", 5, "'-Mnorth' cannot be set here: write 'cluster'"),
    (
        SLURM + "    sbatch_options: [--x, --clusters=a]\n",
        5,
        "write 'cluster' in the section 'slurm'",
    ),
    (SLURM + '    sbatch_options: ["--time 5"]\n', 5, "write 'walltime' in the pool"),
    (SLURM + "slurm: {cluster: 'a,b'}\n", 5, "'a,b' is not the name of one cluster"),
    (SLURM + "slurm: {cluster: --all}\n", 5, "'--all' is not the name of one cluster"),
    (SLURM + "  gpu:\n    walltime: 1h\n", 5, "pools.gpu.cores_per_node: must be a number"),
    (SLURM + "  a b:\n    cores_per_node: 1\n", 5, "'a b' is not a valid name of a pool"),
    (SLURM + "  2: {cores_per_node: 3}\n", 5, "the key 2 is not text; put it in quotes"),
    (SLURM + "  ? [a]\n  : {}\n", 5, "a key is a list"),
    ("batch: local\npools:\n  m: {nodes_per_pilot: 2}\n", 3, "has one node"),
    (SLURM + "lease: {expire: 3s}\n", 5, "lease.expire: is 3 s; make it at least three times"),
    (SLURM + "head:\n  port: 99999\n", 6, "head.port: 99999 is not a TCP port"),
    (SLURM + "head:\n  address: ib0\n  transport: files\n", 6, "address: has no meaning with"),
    (SLURM + "head:\n  transport: nfs\n", 6, "transport"),
    (SLURM + "head:\n  port: '80'\n", 6, "expected a whole number, got the text '80'; remove"),
    (SLURM + "head: [a]\n", 5, "head: expected a mapping .*, got a list"),
    (SLURM + "store: {journal: off}\n", 5, "'off' is not a valid value.*auto, truncate, wal"),
    (SLURM + "data: {inline_limit: lots}\n", 5, '"64K"'),
    (SLURM + "data:\n  inline_limit: 2G\n", 6, "data.inline_limit: it is more than 16M"),
    (SLURM + "mpi:\n  options: --mpi=pmix\n", 6, "mpi.options: expected a list"),
    (SLURM + "mpi: {variables: {A-B: x}}\n", 5, "mpi.variables.A-B: is not a valid name"),
    (SLURM + "environment:\n  variables:\n    A: 1.5\n", 7, "put it in quotes"),
    (SLURM + "slurm: {job_name_prefix: a b}\n", 5, "cannot begin a job name"),
    (SLURM + "slurm: {poll_interval: 0}\n", 5, "longer than 0"),
    (SLURM + "name: a/b\n", 5, "'a/b' is not a valid name"),
    ("- a\n- b\n", 1, "expected a mapping .*, got a list"),
    ("batch: [\n", 2, "is not YAML"),
    ("batch: slurm\n\tpools: x\n", 2, "is not YAML.*indent with spaces"),
    (SLURM + "---\na: 1\n", 5, "another document"),
    (SLURM + "  b: &x [*x]\n", 5, "an alias stands for something that holds it"),
    (SLURM + "  b: !!python/object:os.system {}\n", 5, "the tag .* is not known"),
    (SLURM + "  b: !odd x\n", 5, "is not YAML.*!odd"),
    (SLURM + "  b: *nothing\n", 5, "undefined alias"),
]


@pytest.mark.parametrize(("text", "line", "told"), MISTAKES)
def test_a_mistake_names_line_and_remedy(tmp_path: Path, text: str, line: int, told: str) -> None:
    with pytest.raises(SiteFileError, match=f"(?s){told}") as raised:
        load_text(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'site.yaml'}:{line}: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SiteFileError, match=r"none\.yaml: cannot be read: No such file"):
        load_site_file(tmp_path / "none.yaml")
    (tmp_path / "site.yaml").write_bytes(b"batch: \xff")
    with pytest.raises(SiteFileError, match="UTF-8"):
        load_site_file(tmp_path / "site.yaml")
    (tmp_path / "site.yaml").write_bytes(b"batch: \x01")
    with pytest.raises(SiteFileError, match="is not YAML"):
        load_site_file(tmp_path / "site.yaml")


# --- the reader, for any type --------------------------------------------------------------------


class _Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: How much.
    #: Really.
    amount: units.Mebibytes = 0
    kind: Literal["a", "b"] = "a"


class _Run(msgspec.Struct, frozen=True, tag_field="do", tag="run", forbid_unknown_fields=True):
    command: str


class _Wait(msgspec.Struct, frozen=True, tag_field="do", tag="wait", forbid_unknown_fields=True):
    time_s: units.Seconds = msgspec.field(name="time")


class _Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    leaves: list[dict[str, _Leaf]] = []
    steps: list[_Run | _Wait] = []
    anything: Any = None


def test_reads_any_type_and_keeps_lines() -> None:
    text = "leaves:\n- x: {}\n- y:\n    amount: 2G\n  z:\n    kind: b\nanything: [1, a: 1e-3]\n"
    file = yamlfile.load(text, _Tree, "tree.yaml")
    assert file.value.leaves[1]["y"].amount == 2048
    assert file.value.anything == [1, {"a": 0.001}]
    assert file.line_of("leaves") == 1
    assert file.line_of("leaves", 1, "z") == 5
    assert file.line_of("leaves", 1, "z", "kind") == 6
    assert file.line_of("leaves", 1, "z", "amount") == 5  # not there: what holds it
    assert file.line_of("leaves", 9) == 1
    assert file.line_of() == 1
    error = file.error("leaves", 1, "z", "kind", message="is odd")
    assert isinstance(error, yaml_text.YamlError)
    assert str(error) == "tree.yaml:6: leaves[1].z.kind: is odd"


def test_lines_are_found_through_merges() -> None:
    text = "leaves:\n- a: &a\n    kind: b\n  b:\n    <<: *a\n"
    file = yamlfile.load(text, _Tree)
    assert file.value.leaves[0]["b"].kind == "b"
    assert file.line_of("leaves", 0, "b", "kind") == 3


def test_the_key_at_fault_is_found_among_many() -> None:
    text = (
        "leaves:\n- a: {}\n- a: {amount: 1}\n  b: {amount: 1}\n  c: {amount: x}\n  d: {amount: y}\n"
    )
    with pytest.raises(yaml_text.YamlError, match=r"^<text>:5: leaves\[1\].c.amount: 'x' is no"):
        yamlfile.load(text, _Tree)


def test_unknown_keys_of_tagged_mappings_are_compared_to_their_own() -> None:
    with pytest.raises(yaml_text.YamlError, match=r":3: .*comand: unknown key; did you mean 'comm"):
        yamlfile.load("steps:\n- {do: wait, time: 1s}\n- {do: run, comand: x}\n", _Tree)
    with pytest.raises(yaml_text.YamlError, match="'command' is missing"):
        yamlfile.load("steps:\n- do: run\n", _Tree)
    steps = yamlfile.load("steps: [{do: wait, time: 2m}]\n", _Tree).value.steps
    assert steps == [_Wait(120.0)]


def test_the_schema_carries_the_comments() -> None:
    leaf = yamlfile.json_schema(_Tree)["$defs"]["_Leaf"]
    assert leaf["properties"]["amount"]["description"] == "How much. Really."
    assert "description" not in leaf["properties"]["kind"]
    assert leaf["additionalProperties"] is False


# --- schema and reference ------------------------------------------------------------------------


def _keys() -> list[tuple[str, str]]:
    schema = site_file_schema("slurm")
    return [(name, key) for name, one in schema["$defs"].items() for key in one["properties"]]


def test_every_key_is_described() -> None:
    definitions = site_file_schema("slurm")["$defs"]
    assert set(definitions) >= {"SiteConfig", "PoolConfig", "HeadConfig", "Manners"}
    for name, key in _keys():
        assert definitions[name]["properties"][key].get("description"), f"{name}.{key}"


def test_the_reference_tells_every_key_and_nothing_else() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    definitions = site_file_schema("slurm")["$defs"]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    told = [line.split("|")[1].strip().strip("`") for line in rows]
    assert sorted(told) == sorted(key for _, key in _keys())
    for name, key in _keys():
        description = definitions[name]["properties"][key]["description"]
        assert any(f"| `{key}` " in row and description in row for row in rows), f"{name}.{key}"


def test_all_mistakes_are_told_at_once() -> None:
    text = SLURM + "    acount: x\n    walltime: soon\nhead: {prot: 1, address: 3}\nlesae: {}\n"
    with pytest.raises(yaml_text.YamlError) as raised:
        yamlfile.load(text, site_type("slurm"), name="s.yaml")
    told = str(raised.value).splitlines()
    assert [line.split(": ")[1].rpartition(".")[2] for line in told] == [
        "acount",
        "walltime",
        "prot",
        "address",
        "lesae",
    ]


# --- files that grow -----------------------------------------------------------------------------


def _laughs(levels: int) -> str:
    """Lines that each stand for ten times what the one before does."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_laughs(9), "f.yaml:6: stands for more than 1000000 values"),
        (
            "a: &a {" + ", ".join(f"k{n}: v" for n in range(1000)) + "}\n"
            "b: [" + ", ".join(["*a"] * 1000) + "]",
            "f.yaml:2: stands for more than 1000000 values",
        ),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n + 1}: &a{n + 1} [*a{n}]" for n in range(200)),
            "f.yaml:100: is nested more than 100 deep",
        ),
        ("a: " + "[" * 150 + "]" * 150, "f.yaml:1: is nested more than 100 deep"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "f.yaml:1: is nested more than 100 deep"),
        ("".join(" " * n + "a:\n" for n in range(3000)), "is nested more than 100 deep"),
    ],
    ids=["laughs", "many", "chain", "lists", "deep-lists", "deep-mappings"],
)
def test_what_a_small_file_stands_for_is_bounded(text: str, told: str) -> None:
    with pytest.raises(yaml_text.YamlError, match=re.escape(told)):
        yamlfile.load(text, dict[str, Any], name="f.yaml")


def test_keys_with_escape_sequences_are_told_as_they_are_written() -> None:
    with pytest.raises(yaml_text.YamlError) as raised:
        yamlfile.load('"\\e]0;owned\\a\\n": 3', dict[str, str], name="f.yaml")
    assert str(raised.value).isprintable() and r"\x1b]0;owned" in str(raised.value)


# --- large files ---------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([None, True, False]))
def test_large_files_are_read_as_small_ones(data: Any, flow: bool | None) -> None:
    text = yaml.dump({"data": data, "again": [1, {"a": "b"}]}, default_flow_style=flow)
    known, quick = yaml.compose(text, yamlfile._Loader), _quick(text)
    assert quick is not None and known is not None
    assert _tree(quick) == _tree(known)
    assert _read(text, quick=True) == _read(text, quick=False)


@pytest.mark.parametrize(
    "text",
    ["a: [1\n", "a: 1\n a: 2\n", "\ta: 1\n", "a: &b [*b]", "a: *b", "[" * 1_000, "? [a]: b"],
)
def test_what_is_wrong_in_large_files_is_told_as_in_small_ones(text: str) -> None:
    assert _read(text, quick=True) == _read(text, quick=False)


def _quick(text: str) -> yaml.Node:
    with mock.patch.object(yamlfile, "_LARGE", 0):
        node = yamlfile._quick_node(text)
    assert node is not None
    return node


def _read(text: str, *, quick: bool) -> Any:
    with mock.patch.object(yamlfile, "_LARGE", 0 if quick else 1 << 30):
        try:
            return repr(yamlfile._parse(text, "file", SiteFileError)[1])
        except SiteFileError as error:
            return str(error)


def _tree(node: yaml.Node) -> Any:
    """What a node is, with its line, and all that is in it."""
    inside = node.value
    if isinstance(inside, list):
        pairs = isinstance(node, yaml.MappingNode)
        inside = [(_tree(n[0]), _tree(n[1])) if pairs else _tree(n) for n in inside]
    return node.tag, node.start_mark.line, inside
