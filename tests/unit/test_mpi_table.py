"""The table of MPIs, without any: what site files say, what rows say, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from mpi_table import body, obtaining
from mpi_table.cli import main
from mpi_table.ways import WAYS, Mpi, Place, Row, Way, site_text, table

from pilot.site_configs import load_site_file, template_text

BY_NAME = {way.name: way for way in WAYS}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.name))
def test_each_way_gives_a_site_file_that_is_read(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(site_text(template_text("virtual"), way, Place(), 3))
    assert load_site_file(path).mpi.launcher == way.launcher


def test_an_mpi_with_a_directory_is_named_with_it(tmp_path: Path) -> None:
    (tmp_path / "libmpi.so.12").touch()
    place = Place(str(tmp_path / "b in"), (str(tmp_path),))
    way = BY_NAME["pmi2-mpich-pypi"]
    content = yaml.safe_load(site_text(template_text("virtual"), way, place, 4))
    variables = content["mpi"]["variables"]
    assert variables["MPI4PY_LIBMPI"] == str(tmp_path / "libmpi.so.12")
    assert variables["LD_LIBRARY_PATH"] == str(tmp_path)
    assert f"'{tmp_path}/b in':" in content["environment"]["setup"]
    assert [pool["nodes_per_pilot"] for pool in content["pools"].values()] == [4]


def test_rows_tell_apart_what_failed_and_what_cannot_be_had() -> None:
    way = BY_NAME["pmi2-mpich-pypi"]
    there = Row(way, "MPICH", "1 s", "failed", "exit status 3")
    missing = Row(way, note="cannot be had here: no")
    assert (there.failed, missing.failed) == (True, False)
    *_, first, second = table([there, missing]).splitlines()
    begin = "| pmi2-mpich-pypi | srun --mpi=pmi2 | MPICH of PyPI |"
    assert first == f"{begin} MPICH | 1 s | failed | exit status 3 |"
    assert second == f"{begin} - | - | - | cannot be had here: no |"


def test_what_the_ranks_have_seen_is_checked() -> None:
    told = {"sum": 3, "nodes": ["n1", "n2"], "library": "MPICH"}
    assert body.fault_of(told, 2) == ""
    assert body.fault_of({**told, "nodes": ["n1", "n1"]}, 2) == "not on 2 nodes, but on n1, n1"
    assert body.fault_of({**told, "sum": 1}, 2) == "a sum of 1 over 2 ranks"


def test_half_of_an_mpi_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ntouch half.deb\necho 'E: no such package' >&2\nexit 100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    mpi = Mpi("An MPI", "MPI", debian=("some",))
    with pytest.raises(obtaining.MissingError, match="E: no such package"):
        obtaining.obtain(mpi, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_an_unknown_way_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["mvapich"])
    assert "there is no mvapich; there are openmpi-debian," in capsys.readouterr().err
