"""Sites for tests: made in a directory of their own, and always ended with all their processes.

A process belongs to a site under test if the site's mark is in its command line (which has the
names of its head and pilots), is set in its first environment, or is in the name of its directory
or of a file that it has open. So nothing that a test starts can hide, whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pilot.client import current
from pilot.client.connection import Connection
from pilot.client.session import Session
from pilot.client.starter import head_command
from pilot.errors import PilotError
from pilot.head.running import find_head
from pilot.site import Site, open_site
from pilot.wire.messages import client as m
from support.waiting import wait_until

#: How long a site that was told to end may need for it, in seconds.
END_S = 30.0
#: Added to the module search path of sessions: tests' own modules.
TESTS = Path(__file__).resolve().parents[1]


class Process(NamedTuple):
    """A process that belongs to a site."""

    pid: int
    #: As ``ps`` shows it.
    title: str


class SiteUnderTest:
    """A site in a directory of its own.

    Parameters
    ----------
    parent
        Where the directory is made.
    template
        What the site file says, besides its name.
    """

    def __init__(self, parent: Path, template: dict[str, Any]) -> None:
        #: What ran before there was the site is none of its own, and need not be looked into.
        self._older = {(pid, _started(pid)) for pid in _pids()}
        self.mark = f"t{uuid.uuid4().hex[:10]}"
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.mark}-", dir=parent))
        #: For files of the test that its tasks write.
        self.scratch = self.home / "scratch"
        self.scratch.mkdir()
        directory = self.home / "local"
        directory.mkdir(mode=0o700)
        config = {**template, "name": self.mark}
        environment = {**config.get("environment", {})}
        environment["variables"] = {**environment.get("variables", {}), "PILOT_TEST": self.mark}
        config["environment"] = environment
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        try:
            self.site: Site = open_site(directory)
            self.site.prepare()
        except BaseException:
            self.remove()
            raise

    @property
    def directory(self) -> Path:
        """The site directory."""
        return self.site.directory

    def session(self, **arguments: Any) -> Session:
        """A session whose tasks find the tests' modules."""
        return Session(self.site, sys_path=[TESTS], **arguments)

    @contextlib.contextmanager
    def guarded_session(self) -> Iterator[Session]:
        """A session whose tasks are cancelled where the test fails: its end waits for them."""
        with self.session() as session:
            try:
                yield session
            except BaseException:
                session.cancel()
                raise

    def query(self, name: str, /, **arguments: Any) -> Any:
        """What the head answers to a query."""
        return self._request(lambda n: m.Query(n, name, arguments))

    def _request(self, make: Any) -> Any:
        connection = Connection(self.site, start=False)
        try:
            return connection.request(make, 30.0)
        finally:
            connection.close()

    # --- processes

    def processes(self, word: str = "") -> list[Process]:
        """The site's processes whose title has the word, the oldest first."""
        found = []
        for entry in sorted(_pids()):
            if entry == os.getpid() or (entry, _started(entry)) in self._older:
                continue
            title = _read(entry, "cmdline").replace("\0", " ").strip()
            if word in title and title and self._is_mine(entry, title):
                found.append(Process(entry, title))
        return found

    def _is_mine(self, pid: int, title: str) -> bool:
        if _state(pid) in "ZX":
            return False
        if self.mark in title or f"PILOT_TEST={self.mark}\0" in _read(pid, "environ"):
            return True
        links = [f"/proc/{pid}/cwd"]
        with contextlib.suppress(OSError):
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        for link in links:
            with contextlib.suppress(OSError):
                if self.mark in os.readlink(link):
                    return True
        return False

    def pid_of(self, word: str, deadline_s: float = 20.0) -> int:
        """The process whose title begins with ``pilot <word>``; there has to be one soon."""
        return self.pids_of(word, 1, deadline_s)[0]

    def pids_of(self, word: str, least: int, deadline_s: float = 20.0) -> list[int]:
        """All processes whose titles begin with ``pilot <word>``, once there are enough."""

        def found() -> list[int]:
            pids = [p.pid for p in self.processes() if p.title.startswith(f"pilot {word}")]
            return pids if len(pids) >= least else []

        return wait_until(found, deadline_s, f"{least} times 'pilot {word}'")

    @property
    def head_pid(self) -> int:
        """The head's process, 0 where there is none."""
        address = find_head(self.site)
        return 0 if address is None else address.pid

    def start_head(self) -> subprocess.Popen[str]:
        """Start one more head, in the foreground of a process of ours."""
        return subprocess.Popen(
            head_command(self.site),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            start_new_session=True,
        )

    # --- the end

    def stop(self) -> None:
        """Close this process's connections and tell the head to end, with its pilots."""
        session: Any
        for session in list(current._sessions):
            if session.site.directory == self.directory:
                session._tasks.is_open = False
                session._connection.close()
        if self.head_pid:
            with contextlib.suppress(PilotError):
                self._request(lambda n: m.Command(n, "stop"))

    def end(self) -> list[Process]:
        """Stop, wait, and kill what is left; returns what had to be killed."""
        left: list[Process] = []
        try:
            self.stop()
            wait_until(lambda: not self.processes(), END_S, "the site's processes to end")
        except AssertionError:
            left = self.processes()
        finally:
            self._kill_all()
        return left

    def _kill_all(self) -> None:
        def gone() -> bool:
            left = self.processes()
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            return not left

        wait_until(gone, END_S, "killed processes to be gone")

    def remove(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.home, ignore_errors=True)


def _read(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _started(pid: int) -> str:
    """When a process has started, in ticks since the boot."""
    return "".join(_read(pid, "stat").rpartition(")")[2].split()[19:20])


def _state(pid: int) -> str:
    stat = _read(pid, "stat")
    return stat[stat.rindex(")") + 2] if stat else "X"


def head_settings(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The section ``head`` of a site file; ``$PILOT_TEST_TRANSPORT`` says by which way pilots reach
    it, where a test does not."""
    settings = dict(settings or {})
    transport = os.environ.get("PILOT_TEST_TRANSPORT")
    if transport and not settings.keys() & {"address", "port"}:
        settings.setdefault("transport", transport)
    return settings


def local_template(cores: int = 2, **changes: Any) -> dict[str, Any]:
    """The site file of a local site with quick timers."""
    batch = changes.get("batch", "local")
    if head := head_settings(changes.get("head")):
        changes["head"] = head
    return {
        "batch": "local",
        # A busy machine may stop a head for seconds: it must not take that for a lost lease.
        "lease": {"renew": "500ms", "expire": "10s"},
        batch: {"poll_interval": "200ms"},
        "data": {"patience": "200ms"},
        "pools": {"main": {"cores_per_node": cores, "walltime": "1h", "idle_time": "1m"}},
        **changes,
    }


@contextlib.contextmanager
def site_under_test(
    template: dict[str, Any], parent: Path | None = None
) -> Iterator[SiteUnderTest]:
    """A site for one test or module; fails where its processes do not end by themselves."""
    site = SiteUnderTest(parent or Path(tempfile.gettempdir()), template)
    home = os.environ.get("PILOT_HOME")
    os.environ["PILOT_HOME"] = str(site.home)  # the command line calls it "local"
    try:
        yield site
        left = site.end()
        said = _last_words(site) if left else ""
        assert not left, f"these did not end: {left}\n{said}"
    except BaseException:
        print(_last_words(site), file=sys.stderr)
        site.end()
        raise
    finally:
        if home is None:
            del os.environ["PILOT_HOME"]
        else:
            os.environ["PILOT_HOME"] = home
        site.remove()


def _last_words(site: SiteUnderTest) -> str:
    """The ends of the logs of a site whose test has failed."""
    texts = []
    for path in [*site.site.logs.glob("*.log"), *site.site.jobs.glob("*.out")]:
        lines = path.read_text(errors="replace").splitlines()[-40:]
        texts.append("\n".join([f"--- {path.name}", *lines]))
    return "\n".join(texts)
