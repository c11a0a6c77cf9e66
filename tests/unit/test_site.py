"""Where a site keeps its files, and how it is found."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pilot.errors import SiteError
from pilot.site import create_site, find_site, list_sites, open_site, pilot_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PILOT_SITE", raising=False)
    return tmp_path / "home"


def test_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pilot_home() == home
    monkeypatch.setenv("PILOT_HOME", "~/elsewhere")
    assert pilot_home() == Path.home() / "elsewhere"
    monkeypatch.delenv("PILOT_HOME")
    assert pilot_home() == Path.home() / ".pilot"


def test_local_is_made_at_its_first_use(home: Path) -> None:
    assert list_sites() == []
    site = find_site()
    assert (site.name, site.directory) == ("local", home / "local")
    assert list_sites() == ["local"]
    assert find_site("local") == site


def test_site_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_site(home / "other", "local")
    monkeypatch.setenv("PILOT_SITE", "other")
    assert find_site().directory == home / "other"
    assert find_site("local").directory == home / "local"


@pytest.mark.parametrize("kind", [str, Path])
def test_site_by_its_path(home: Path, tmp_path: Path, kind: type) -> None:
    create_site(tmp_path / "anywhere", "local")
    assert find_site(kind(tmp_path / "anywhere")).directory == tmp_path / "anywhere"


def test_relative_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_site(tmp_path / "anywhere", "local")
    monkeypatch.chdir(tmp_path)
    assert find_site("./anywhere").directory == tmp_path / "anywhere"


def test_unknown_sites(home: Path) -> None:
    find_site("local")
    with pytest.raises(SiteError, match=r"no site 'x' .*there: local.*pilot init") as caught:
        find_site("x")
    assert str(home) in str(caught.value)
    with pytest.raises(SiteError, match="is no name of a site"):
        find_site("no such name")
    with pytest.raises(SiteError, match=r"has no site\.yaml"):
        find_site("./nowhere")


def test_everything_is_private(home: Path) -> None:
    site = find_site("local")
    for path in (site.directory, site.keys, site.logs, site.jobs, site.checkpoints):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in site.keys.glob("*_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_preparing_again_keeps_the_keys(home: Path) -> None:
    site = find_site("local")
    before = {path.name: path.read_bytes() for path in site.keys.iterdir()}
    site.prepare()
    assert {path.name: path.read_bytes() for path in site.keys.iterdir()} == before


def test_site_is_not_made_twice(home: Path) -> None:
    create_site(home / "mine", "local")
    text = (home / "mine" / "site.yaml").read_text()
    with pytest.raises(SiteError, match="exists already"):
        create_site(home / "mine", "slurm")
    assert (home / "mine" / "site.yaml").read_text() == text
    assert create_site(home / "mine", "local", exist_ok=True).directory == home / "mine"


def test_unknown_template(home: Path) -> None:
    with pytest.raises(SiteError, match="no template 'pbs'; there are local, slurm, virtual"):
        create_site(home / "mine", "pbs")
    assert not home.exists()


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match=r"cannot be made in .*choose another directory"):
        create_site(tmp_path / "file" / "site", "local")


def test_site_file_with_a_fault(home: Path) -> None:
    site = find_site("local")
    file = site.directory / "site.yaml"
    file.write_text(file.read_text() + "\nunknown_key: 1\n")
    line = file.read_text().splitlines().index("unknown_key: 1") + 1
    with pytest.raises(SiteError, match=rf"site\.yaml:{line}: .*unknown_key"):
        open_site(site.directory)


def test_name_in_the_file(home: Path) -> None:
    site = find_site("local")
    file = site.directory / "site.yaml"
    file.write_text("name: special\n" + file.read_text())
    assert open_site(site.directory).name == "special"


def test_files_of_a_site_lie_in_its_directory(home: Path) -> None:
    site = find_site("local")
    for path in (site.database, site.lease_file, site.address_file, site.keys, site.logs):
        assert path.parent == site.directory
