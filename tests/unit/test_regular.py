"""What stands in the place of a file and is none is told in words; nobody waits for it."""

from __future__ import annotations

import os
import signal
import socket
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pilot.cli import cli
from pilot.cli.completing import complete_parameter
from pilot.errors import SiteError
from pilot.head.lease_files import LeaseFiles, read_lease
from pilot.regular_files import NotRegularError, read_regular
from pilot.site import create_site, open_site
from pilot.wire.discovery import read_address
from pilot.wire.keys import load_keys, make_keys
from pilot.workflow import load_workflow
from pilot.workflow.record import FILE_NAME, read_record
from pilot.workflow.schema import WorkflowFileError

WORKFLOW = "tasks: {t: {run: 'true'}}\n"


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    path.chmod(0o600)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_directory(path: Path) -> None:
    path.mkdir(mode=0o700)


#: What can be in the place of a file, and how it is called.
KINDS: dict[str, Callable[[Path], None]] = {
    "FIFO": make_fifo,
    "socket": make_socket,
    "device": make_device,
    "directory": make_directory,
}


@pytest.fixture(autouse=True)
def nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def late(_number: int, _frame: types.FrameType | None) -> None:
        raise TimeoutError("it is waited for")

    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PILOT_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pilot(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], input=stdin)


def test_what_is_none_is_told_by_its_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    KINDS[kind](path)
    with pytest.raises(NotRegularError, match=f"it is a {kind}, and no regular file"):
        read_regular(path)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_regular(link) == b"abc" and read_regular(path, 2) == b"ab"
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nowhere")


def test_a_workflow_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "flow.yaml"
    KINDS[kind](path)
    with pytest.raises(WorkflowFileError, match=rf"flow\.yaml: cannot be read: it is a {kind}"):
        load_workflow(path)
    result = pilot("run", "--dry-run", path)
    assert result.exit_code == 2 and f"is a {kind}" in result.stderr


def test_a_program(tmp_path: Path) -> None:
    make_fifo(tmp_path / "program.py")
    result = pilot("run", tmp_path / "program.py")
    assert result.exit_code == 2 and "program.py: it is a FIFO" in result.stderr


def test_the_file_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    site = tmp_path / "site"
    make_directory(site)
    KINDS[kind](site / "site.yaml")
    if kind == "device":
        monkeypatch.setattr("pilot.site._check_owner", lambda _: None)  # it is everybody's
    with pytest.raises(SiteError, match=rf"site\.yaml.* it is a {kind}"):
        open_site(site)


def test_a_key(tmp_path: Path, kind: str) -> None:
    keys = tmp_path / "keys"
    make_keys(keys)
    key = keys / "client.key_secret"
    key.unlink()
    KINDS[kind](key)
    # Everybody can read the device, which is told first.
    told = "can be read by others" if kind == "device" else f"cannot be read: it is a {kind}"
    with pytest.raises(SiteError, match=rf"client\.key_secret {told}"):
        load_keys(keys)


def test_the_address_of_a_head(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "head.json")
    assert read_address(tmp_path / "head.json") is None


def test_a_lease(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "head.lease.1")
    assert read_lease(tmp_path / "head.lease") is None
    found = LeaseFiles(tmp_path / "head.lease").newest()
    assert found is not None and found.epoch == 1


def test_the_spare_of_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fifo(tmp_path / "head.lease.spare")
    files = LeaseFiles(tmp_path / "head.lease")
    real, full = os.open, [OSError(28, "no space")]

    def open_(path: Path, flags: int, *rest: int) -> int:
        if full and flags & os.O_CREAT:
            raise full.pop()
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(OSError, match="No such device"):
        files.prepare(b"{}")


def test_the_record_of_a_workflow(tmp_path: Path, kind: str) -> None:
    (tmp_path / "3").mkdir()
    KINDS[kind](tmp_path / "3" / FILE_NAME)
    assert read_record(tmp_path, 3) is None


def test_completing_the_parameters_of_a_workflow(tmp_path: Path, kind: str) -> None:
    import click

    path = tmp_path / "flow.yaml"
    KINDS[kind](path)
    context = click.Context(click.Command("run"))
    context.params["file"] = path
    assert complete_parameter(context, click.Option(["-p"]), "") == []


# --- lines ---------------------------------------------------------------------------------------


def submit_lines(path: str | Path, stdin: str | None = None) -> Result:
    """Try to submit a task for each line; the name is refused, before anything is done."""
    return pilot("submit", "--each-line", path, "--name", "{line}", "--", "true", stdin=stdin)


def is_read(result: Result) -> bool:
    return result.exit_code == 2 and "'{line}': the tasks of an array share one name" in (
        result.stderr.replace("\n", " ")
    )


def test_a_file_of_lines(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lines"
    KINDS[kind](path)
    result = submit_lines(path)
    assert result.exit_code == 2
    assert f"lines: it is a {kind}, and no regular file" in result.stderr


def test_lines_of_a_file_and_of_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"caf\xe9\n")
    assert is_read(submit_lines(path)) and is_read(submit_lines("-", stdin="a\nb\n"))
    assert "No such file" in submit_lines(tmp_path / "nowhere").stderr


def test_lines_of_a_process_substitution() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a\nb\n")
    os.close(writer)
    try:
        assert is_read(submit_lines(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)


def test_lines_without_an_end_are_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.client.array.TASKS_MOST", 100)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, b"a\n" * 101 + b"b" * 10)
    try:
        with open("/dev/zero", "rb") as zeros:
            assert "has a NUL" in submit_lines(f"/dev/fd/{zeros.fileno()}").stderr
        # Nobody closes the other end: who reads on waits.
        assert "more than 100 lines" in submit_lines(f"/dev/fd/{reader}").stderr
    finally:
        os.close(reader)
        os.close(writer)


def test_a_line_that_no_command_can_get_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("a\n" + "b" * 200_000)
    assert "line 2 is longer than the 128 KiB" in submit_lines(path).stderr


def test_a_site_whose_address_is_a_fifo_gets_a_head(tmp_path: Path) -> None:
    from pilot.wire.discovery import HeadAddress, write_address
    from pilot.wire.endpoints import Endpoints

    site = create_site(tmp_path / "site", "local")
    make_fifo(site.address_file)
    address = HeadAddress(1, "h", 1, 1, Endpoints("b", "unix:///s", ""), "1")
    write_address(site.address_file, address)
    assert read_address(site.address_file) == address
