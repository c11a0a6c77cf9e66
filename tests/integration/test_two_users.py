"""Two users of one machine, of whom one wants to be taken for the other's head.

Both are real: processes of two user ids that no account has, which only root can start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

from pilot.wire.channel import Client
from pilot.wire.endpoints import LOCAL
from pilot.wire.keys import load_keys, make_keys
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Welcome
from pilot.wire.unix import Line, Listener

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")

ROOT = Path(__file__).resolve().parents[2]
VICTIM, ATTACKER = (61_000 + 2 * (os.getpid() % 2000) + which for which in (0, 1))
WORK = """\
import pilot
with pilot.Session("local") as session:
    print("result:", session.submit(pow, 2, 5).result(60))
    session.detach()
"""
#: Be the head at a path: believe every proof, and answer with what runs a command when it is read.
EVIL = """\
import os, pickle, socket, struct, sys
import msgspec.msgpack as mp
path, mark = sys.argv[1:]
class Evil:
    def __reduce__(self):
        return os.system, (f"id > {mark}",)
os.umask(0)
os.makedirs(os.path.dirname(path), exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(50)
print("listens", flush=True)
def send(connected, frame):
    connected.sendall(struct.pack("<I", len(frame)) + frame)
def answer(connected):
    buffer, first = b"", True
    while data := connected.recv(1 << 16):
        buffer += data
        while len(buffer) >= 4 and len(buffer) >= 4 + (n := struct.unpack_from("<I", buffer)[0]):
            frame, buffer = buffer[4 : 4 + n], buffer[4 + n :]
            print("said", frame[:40].hex(), flush=True)
            if first:
                send(connected, os.urandom(64))
                first = False
            for message in (
                ["Welcome", 99, "0.1.0", 7, ""],
                ["Reply", 1, [1, pickle.dumps(Evil()), [(1 << 32) | 1, 1000]], ""],
            ):
                send(connected, mp.encode(message))
while True:
    connected, _ = listener.accept()
    try:
        answer(connected)
    except OSError:
        pass
"""


class Users:
    """A place where both can work, and how to run something as one of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.temporary = place / "tmp"
        self.home = place / "home"
        for directory, mode, user in (
            (place, 0o755, 0),
            (self.temporary, 0o1777, 0),
            (self.home, 0o700, VICTIM),
        ):
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)
            os.chown(directory, user, user)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
            ),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
        }

        self.python = ""

    def find_python(self) -> None:
        """Take an interpreter that others can run, with this project; or skip the test."""
        for self.python in (sys.executable, "/usr/bin/python3"):
            with contextlib.suppress(OSError):
                if "found" in self.run(VICTIM, "-c", "import pilot.cli, h5py; print('found')"):
                    return
        pytest.skip(f"other users cannot run {sys.executable} with this project")

    def start(self, user: int, *command: str, umask: int = 0o022) -> subprocess.Popen[str]:
        """Start Python with these arguments as this user."""
        return subprocess.Popen(
            [self.python, *command],
            user=user,
            group=user,
            extra_groups=[],
            umask=umask,
            cwd=self.place,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, user: int, *command: str, umask: int = 0o022) -> str:
        """What it says."""
        said, _ = self.start(user, *command, umask=umask).communicate(timeout=120)
        return said

    @property
    def socket(self) -> Path:
        """Where the victim's head listens, as it says."""
        address = json.loads((self.home / ".pilot" / "local" / "head.json").read_text())
        return Path(address["endpoints"]["local"].removeprefix(LOCAL))


def _processes() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid in (VICTIM, ATTACKER):
                stat = (entry / "stat").read_text()
                if stat[stat.rindex(")") + 2] not in "ZX":
                    found.append(int(entry.name))
    return found


@pytest.fixture
def users() -> Iterator[Users]:
    place = Path(tempfile.mkdtemp(prefix="pilot-users-", dir="/tmp"))
    users = Users(place)
    try:
        users.find_python()
        yield users
    finally:

        def gone() -> bool:
            left = _processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(gone)
        shutil.rmtree(place)


def test_who_takes_the_name_of_a_directory_that_has_gone_is_no_head(users: Users) -> None:
    """As a cleaner of old files in /tmp takes it away, while the head goes on."""
    assert "result: 32" in users.run(VICTIM, "-c", WORK)
    taken, mark = users.socket, users.place / "tmp" / "pwned"
    head = json.loads((users.home / ".pilot" / "local" / "head.json").read_text())["pid"]
    shutil.rmtree(taken.parent)
    (users.place / "evil.py").write_text(EVIL)
    evil = users.start(ATTACKER, str(users.place / "evil.py"), str(taken), str(mark))
    try:
        assert evil.stdout is not None and evil.stdout.readline() == "listens\n"
        said = users.run(VICTIM, "-c", WORK)
    finally:
        evil.kill()
        heard, _ = evil.communicate()
    assert "result: 32" in said
    assert not mark.exists()
    assert heard == "", "something was said to a stranger"
    now = json.loads((users.home / ".pilot" / "local" / "head.json").read_text())
    assert now["pid"] == head and users.socket.parent != taken.parent


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_who_has_the_name_of_the_directory_first_stops_nobody(users: Users, kind: str) -> None:
    name = str(users.temporary / f"pilot-{VICTIM}")
    make = {
        "directory": f"import os; os.mkdir({name!r})",
        "link": f"import os; os.symlink('/nonexistent/x', {name!r})",
    }
    users.run(ATTACKER, "-c", make[kind])
    assert os.lstat(name).st_uid == ATTACKER
    assert "result: 32" in users.run(VICTIM, "-c", WORK)
    assert users.socket.parent.name.startswith(f"pilot-{VICTIM}-")


def test_nobody_can_exchange_a_named_site(users: Users) -> None:
    """It was possible where the victim's umask leaves directories open."""
    users.home.chmod(0o755)
    assert "result: 32" in users.run(VICTIM, "-c", WORK, umask=0)
    site = users.home / ".pilot" / "local"
    said = users.run(ATTACKER, "-c", f"import os; os.rename({str(site)!r}, {str(site) + '2'!r})")
    assert "Permission denied" in said
    # Somebody has opened it by hand.
    (users.home / ".pilot").chmod(0o777)
    users.run(ATTACKER, "-c", f"import os; os.rename({str(site)!r}, {str(site) + '2'!r})")
    users.run(
        ATTACKER,
        "-c",
        f"import pilot.site as s, pathlib; s.create_site(pathlib.Path({str(site)!r}), 'local')",
        umask=0,
    )
    assert site.stat().st_uid == ATTACKER
    said = users.run(VICTIM, "-c", WORK)
    assert "SiteError" in said and f"belongs to user {ATTACKER}" in said
    assert not (site / "head.json").exists()
    shutil.rmtree(site)
    (users.home / ".pilot").chmod(0o700)
    Path(f"{site}2").rename(site)


def _as(user: int, script: str, *arguments: str) -> str:
    """Run some lines as a user, in this process's own world of modules."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            said: list[str] = []
            exec(script, {"say": said.append, "arguments": arguments, "Line": Line})
            os.write(writer, "\n".join(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        answer = told.read()
    os.waitpid(child, 0)
    return answer


def test_another_user_is_not_let_in_even_with_the_key(tmp_path: Path) -> None:
    """Where the modes of the directory do not keep him out."""
    place = Path(tempfile.mkdtemp(prefix="pilot-users-", dir="/tmp"))
    place.chmod(0o777)
    listener = Listener(place / "socket", b"k" * 32)
    try:
        (place / "socket").chmod(0o777)
        said = _as(
            ATTACKER,
            "line = Line(arguments[0], b'me', b'k' * 32)\nsay(str(line.is_lost))",
            str(place / "socket"),
        )
        assert said == "True"  # a client looks, too, and does not speak to another user's process
        script = (
            "import socket\n"
            "with socket.socket(socket.AF_UNIX) as mine:\n"
            "    mine.connect(arguments[0])\n"
            "    mine.sendall(b'x' * 100)\n"
            "    say('connected')\n"
        )
        assert _as(ATTACKER, script, str(place / "socket")) == "connected"
        assert not listener.receive()
        assert not listener._streams
    finally:
        listener.close(0.0)
        shutil.rmtree(place)


def test_a_client_does_not_speak_to_another_users_socket(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(keys)
    place = Path(tempfile.mkdtemp(prefix="pilot-users-", dir="/tmp"))
    try:
        os.chown(place, ATTACKER, ATTACKER)
        path = place / "socket"
        with socket.socket(socket.AF_UNIX) as false:
            false.bind(str(path))
            os.chown(path, ATTACKER, ATTACKER)
            # Whose the process is that listens tells the kernel, when it begins to listen.
            os.setresuid(ATTACKER, ATTACKER, 0)
            try:
                false.listen()
            finally:
                os.setresuid(0, 0, 0)
            client = Client[Welcome](load_keys(keys), b"client:1", m.ToClient)
            client.connect(f"{LOCAL}{path}")
            client.send(m.ClientHello(PROTOCOL, "1"))
            assert client.is_lost
            client.check()  # it is nobody, not somebody with other keys
            connected, _ = false.accept()
            with connected:
                assert connected.recv(100) == b""
            client.close(0.0)
    finally:
        shutil.rmtree(place)
