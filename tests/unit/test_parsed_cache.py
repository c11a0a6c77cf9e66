"""The cache of a site file's data: never stale, never dangerous, never needed."""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot.site_configs import (
    SiteConfig,
    SiteFileError,
    load_site_file,
    parsed_cache,
    template_text,
    templates,
    yamlfile,
)
from pilot.site_configs.parsed_cache import cache_path, keep_parsed, read_parsed

TEXT = "batch: slurm\npools:\n  cpu:\n    cores_per_node: 4\n"
DATA = {"batch": "slurm", "pools": {"cpu": {"cores_per_node": 4}}}
CRAFTED = {**DATA, "environment": {"setup": "evil"}}


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    """A site file whose data are kept."""
    path = tmp_path / "site" / "site.yaml"
    path.parent.mkdir(mode=0o700)
    path.write_text(TEXT, encoding="utf-8")
    load(path)
    assert cache_path(path).is_file()
    return path


def load(path: Path) -> tuple[SiteConfig, bool]:
    """Load a site file; returns its config, and whether its YAML was read."""
    with mock.patch.object(yamlfile, "parse", wraps=yamlfile.parse) as parse:
        config = load_site_file(path)
    return config, parse.called


@pytest.mark.parametrize("template", templates())
def test_what_was_read_once_is_known(tmp_path: Path, template: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(template_text(template), encoding="utf-8")
    first, was_read = load(path)
    assert was_read
    second, was_read = load(path)
    assert not was_read
    assert repr(second) == repr(first)
    assert {each.name for each in tmp_path.iterdir()} == {"site.yaml", ".site.yaml.parsed"}
    assert cache_path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [TEXT.replace("4", "5"), TEXT + "#", TEXT[:-1], "\n" + TEXT])
def test_another_text_is_read(site_file: Path, text: str) -> None:
    times = site_file.stat()
    site_file.write_text(text, encoding="utf-8")
    os.utime(site_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    config, was_read = load(site_file)
    assert was_read
    assert config.pools["cpu"].cores_per_node == (5 if "5" in text else 4)
    assert load(site_file) == (config, False)


def _spoil(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda kept: kept.write_bytes(change(kept.read_bytes()))


def _replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(kept: Path) -> None:
        kept.rename(kept.with_name("moved"))
        make(kept)

    return replace


@pytest.mark.parametrize(
    "spoil",
    [
        _spoil(lambda _: b""),
        _spoil(lambda content: content[:1]),
        _spoil(lambda content: content[:-1]),
        _spoil(lambda content: content[: len(content) // 2]),
        _spoil(lambda content: content[:-10] + bytes(10)),  # as after a crash of a machine
        _spoil(lambda content: content + b"\0"),
        _spoil(lambda content: content.replace(TEXT.encode(), TEXT.encode()[:-1] + b" ")),
        _spoil(lambda content: bytes(len(content))),
        _replace(lambda kept: kept.symlink_to("moved")),
        _replace(lambda kept: kept.symlink_to("nowhere")),
        _replace(lambda kept: os.mkfifo(kept, 0o600)),
    ],
)
def test_what_is_no_whole_cache_is_not_used_and_replaced(
    site_file: Path, spoil: Callable[[Path], object]
) -> None:
    config, _ = load(site_file)
    spoil(cache_path(site_file))
    assert load(site_file) == (config, True)
    assert load(site_file) == (config, False)
    assert cache_path(site_file).is_file()
    assert not cache_path(site_file).is_symlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), after_head=st.booleans())
def test_any_bytes_are_no_error(site_file: Path, content: bytes, after_head: bool) -> None:
    head = parsed_cache._head(TEXT) if after_head else b""
    cache_path(site_file).write_bytes(head + content)
    assert read_parsed(site_file, TEXT) is None


@pytest.mark.parametrize(("name", "value"), [("__version__", "0.0.9"), ("_FORMAT", 0)])
def test_what_another_release_kept_is_not_used(
    site_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(parsed_cache, name, value)
    assert load(site_file)[1]
    assert not load(site_file)[1]


def test_a_directory_in_its_place_is_no_error(site_file: Path) -> None:
    config, _ = load(site_file)
    cache_path(site_file).unlink()
    cache_path(site_file).mkdir()
    assert load(site_file) == (config, True)
    assert {each.name for each in site_file.parent.iterdir()} == {"site.yaml", ".site.yaml.parsed"}


def test_what_others_own_or_may_write_is_not_used(
    site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = load(site_file)
    kept = cache_path(site_file)
    keep_parsed(site_file, TEXT, CRAFTED)
    crafted, was_read = load(site_file)
    assert (crafted.environment.setup, was_read) == ("evil", False)  # so the owner is what counts
    for mode in (0o620, 0o602):
        keep_parsed(site_file, TEXT, CRAFTED)
        kept.chmod(mode)
        assert load(site_file) == (config, True)
    keep_parsed(site_file, TEXT, CRAFTED)
    if os.geteuid() == 0:
        os.chown(kept, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert load(site_file) == (config, True)


def test_auto_is_of_this_machine_each_time(
    site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file.write_text("batch: local\npools: {main: }\n", encoding="utf-8")
    for cores in (3, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        config, was_read = load(site_file)
        assert (config.pools["main"].cores_per_node, was_read) == (cores, cores == 3)


def test_what_is_wrong_is_told_with_its_line(site_file: Path) -> None:
    moved = site_file.parent.rename(site_file.parent.with_name("no name")) / "site.yaml"
    with pytest.raises(
        SiteFileError, match=r"no name/site\.yaml:1: name: 'no name' is not a valid name"
    ):
        load(moved)
    keep_parsed(moved, TEXT, {"batch": "slurm", "pools": 3})
    with pytest.raises(SiteFileError, match="'no name' is not a valid name"):
        load(moved)


def test_a_wrong_file_is_not_kept(site_file: Path) -> None:
    cache_path(site_file).unlink()
    for text in ("batch: slurm\n", "batch: [", TEXT.replace("4", "0"), ""):
        site_file.write_text(text, encoding="utf-8")
        with pytest.raises(SiteFileError):
            load(site_file)
    assert not cache_path(site_file).exists()


@pytest.mark.parametrize(
    "data",
    [
        {"a": datetime.date(2026, 1, 2)},
        {"a": datetime.datetime(2026, 1, 2)},
        {"a": 1 << 64},
        {"a": "\ud800"},
        {"a": {1, 2}},
        {"a": (1, 2)},
        {"a": "x" * (parsed_cache._MOST_BYTES + 1)},
    ],
)
def test_what_msgpack_does_not_give_back_is_not_kept(site_file: Path, data: Any) -> None:
    cache_path(site_file).unlink()
    keep_parsed(site_file, TEXT, data)
    assert not cache_path(site_file).exists()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_no_error(site_file: Path, error: int) -> None:
    config, _ = load(site_file)
    cache_path(site_file).unlink()
    with mock.patch.object(Path, "replace", side_effect=OSError(error, "no")) as replace:
        assert load(site_file) == (config, True)
    assert replace.called
    assert [each.name for each in site_file.parent.iterdir()] == ["site.yaml"]


def test_nothing_is_written_where_others_may_write(site_file: Path) -> None:
    cache_path(site_file).unlink()
    for mode in (0o770, 0o1777):
        site_file.parent.chmod(mode)
        load(site_file)
    assert [each.name for each in site_file.parent.iterdir()] == ["site.yaml"]
