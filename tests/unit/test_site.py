"""Where a site keeps its files, and how it is found."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

import pytest
import zmq.auth

from pilot.errors import SiteError
from pilot.site import create_site, find_site, list_sites, open_site, pilot_home
from pilot.site_configs import templates
from pilot.wire.keys import load_keys, make_keys


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


@pytest.mark.parametrize("name", ["with space", "ünï", "quote'\"", "$dollar;", "#%&?*[x]"])
def test_path_with_odd_characters_is_a_site(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    create_site(tmp_path / name / "mine", "local")
    assert find_site(tmp_path / name / "mine").directory == tmp_path / name / "mine"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("line\nbreak", "cannot be printed"),
        ("escape\x1b[31m", "cannot be printed"),
        ("back\\slash", "backslash"),
        (os.fsdecode(b"no utf-8: \xff"), "cannot be printed"),
        ("/".join(["l" * 200] * 3), "more than 480 bytes"),
    ],
)
def test_path_that_not_all_can_use_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SiteError, match=reason) as caught:
        create_site(tmp_path / name, "local")
    assert "choose another one" in str(caught.value) and str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SiteError, match=reason):
        open_site(tmp_path / name)


def test_unknown_sites(home: Path) -> None:
    find_site("local")
    with pytest.raises(SiteError, match=r"no site 'x' .*there: local.*pilot init") as caught:
        find_site("x")
    assert str(home) in str(caught.value)
    with pytest.raises(SiteError, match="is not a valid site name"):
        find_site("no such name")
    with pytest.raises(SiteError, match=r"has no site\.yaml"):
        find_site("./nowhere")


def test_everything_is_private(home: Path) -> None:
    site = find_site("local")
    for path in (site.directory, site.keys, site.logs, site.jobs, site.checkpoints):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in site.keys.glob("*_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        site = create_site(tmp_path / "above" / "home" / "mine", "local")
    finally:
        os.umask(before)
    for path in (*site.directory.rglob("*"), *list(site.directory.parents)[:2], site.directory):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("which", ["", "site.yaml"])
def test_site_that_others_can_change_is_refused(home: Path, which: str, mode: int) -> None:
    site = find_site("local")
    path = site.directory / which if which else site.directory
    path.chmod(mode)
    with pytest.raises(SiteError, match=rf"{path} can be changed by others.*: chmod go-w {path}"):
        find_site("local")
    path.chmod(mode & ~0o022)
    find_site("local")


@pytest.mark.parametrize("is_link", [False, True])
def test_named_site_that_others_can_exchange_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    user = tmp_path / "user"
    user.mkdir(mode=0o700)
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        (user / ".pilot").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("PILOT_HOME", raising=False)
    site = find_site("local")
    for above in {user, user / ".pilot", (user / ".pilot").resolve()}:
        mode = above.stat().st_mode
        above.chmod(0o777)
        with pytest.raises(SiteError, match="can be changed by others"):
            find_site("local")
        above.chmod(0o1777)  # sticky: nobody can exchange what is another's
        find_site("local")
        above.chmod(mode)
    # Who names a site by its path says where it is.
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    user.chmod(0o777)
    open_site(site.directory)


@pytest.mark.parametrize("which", ["keys", "jobs", "logs", "checkpoints", "results", "tasks.db"])
def test_site_whose_contents_others_can_change_is_refused(home: Path, which: str) -> None:
    """As where it was copied, and the umask lets the group write."""
    site = find_site("local")
    path = site.directory / which
    path.touch() if "." in which else path.mkdir(exist_ok=True)
    path.chmod(0o770)
    with pytest.raises(SiteError, match=rf"{path} can be .*: chmod -R go-w {site.directory}$"):
        site.prepare()
    path.chmod(0o750)
    site.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["", "site.yaml"])
def test_site_of_somebody_else_is_refused(home: Path, which: str) -> None:
    site = find_site("local")
    path = site.directory / which if which else site.directory
    os.chown(path, 61001, -1)
    with pytest.raises(SiteError, match="belongs to user 61001, and not to you"):
        find_site("local")


def test_keys_are_the_same_for_all_who_make_them_at_once(tmp_path: Path) -> None:
    """In processes that are forked at the same moment, again and again."""
    for number in range(10):
        directory = tmp_path / str(number)
        directory.mkdir()
        ends = []
        start, go = os.pipe()
        for _ in range(4):
            reader, writer = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
                child = os.fork()
            if child == 0:
                try:
                    os.close(go)
                    os.read(start, 1)
                    make_keys(directory / "keys")
                    os.write(writer, load_keys(directory / "keys").server_public)
                finally:
                    os._exit(0)
            os.close(writer)
            ends.append((child, reader))
        os.close(start)
        os.close(go)
        found = set()
        for child, reader in ends:
            with open(reader, "rb") as told:
                found.add(told.read())
            os.waitpid(child, 0)
        assert found == {load_keys(directory / "keys").server_public}
        assert [path.name for path in directory.iterdir()] == ["keys"]


def test_making_keys_leaves_the_umask_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the process's: another thread would make its files with it."""
    monkeypatch.setattr("os.umask", lambda _: pytest.fail("the umask was changed"))
    make_keys(tmp_path / "keys")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_keys_of_an_earlier_release_are_kept(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    for name in ("server", "client"):
        zmq.auth.create_certificates(tmp_path / "keys", name)
        (tmp_path / "keys" / f"{name}.key_secret").chmod(0o600)
    before = load_keys(tmp_path / "keys")
    make_keys(tmp_path / "keys")
    assert load_keys(tmp_path / "keys") == before


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
    with pytest.raises(SiteError, match=f"no template 'pbs'; there are {', '.join(templates())}$"):
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
