"""The Python and packages of a program are compared with those of the pilots."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilot.client.comparison import Comparison
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.client.task import as_task
from pilot.data.pickling_by_value import INTERPRETER
from pilot.errors import SubmissionError
from pilot.head.clients import Clients
from pilot.head.pilots_installation import PilotsInstallation
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.installed import installed
from pilot.model.installation import Installation, difference, package_of
from pilot.site import create_site
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Welcome

OTHER = "Python 3.99.1 (/opt/python)"
NEAR = f"Python {sys.version_info[0]}.{sys.version_info[1]}.99 (/opt/python)"


@pytest.mark.parametrize(
    ("record", "package"),
    [
        ("numpy-1.26.4.dist-info", ("numpy", "1.26.4")),
        ("Scikit_Learn-1.5.0rc1.dist-info", ("scikit-learn", "1.5.0rc1")),
        ("torch-2.1.0+cu121.dist-info", ("torch", "2.1.0+cu121")),
        ("PyYAML-6.0.egg-info", ("pyyaml", "6.0")),
        ("zope.interface-5.5-py3.11.egg-info", ("zope-interface", "5.5")),
        ("zope.interface-5.5-py3.11-linux-x86_64.egg-info", ("zope-interface", "5.5")),
        ("numpy", None),
        ("old.egg-info", None),
        ("~umpy-1.26.4.dist-info", None),  # what pip leaves when it is killed
    ],
)
def test_records_name_packages(record: str, package: tuple[str, str] | None) -> None:
    assert package_of(record) == package


def test_the_first_directory_that_has_a_package_counts(tmp_path: Path) -> None:
    for place, version in (("a", "2.0"), ("b", "1.0")):
        (tmp_path / place / f"thing-{version}.dist-info").mkdir(parents=True)
    path = [str(tmp_path / name) for name in ("none", "a", "b", "a")]
    assert installed(path) == {"thing": "2.0"}
    assert "msgspec" in installed()


def test_packages_count_that_the_program_has_loaded_and_both_have() -> None:
    here = Installation("", {"numpy": "2.1", "scikit-learn": "1.5", "xarray": "1", "only": "1"})
    there = Installation("", {"numpy": "1.24", "scikit-learn": "1.4", "xarray": "2", "no": "1"})
    modules = ["numpy", "numpy.linalg", "sklearn.svm", "only", "no", "os"]
    assert difference(here, there, modules) == "numpy 2.1 (1.24), scikit-learn 1.5 (1.4)"
    assert difference(here, here, modules) == ""
    many = [f"p{number}" for number in range(10)]
    one, other = (Installation("", dict.fromkeys(many, version)) for version in "12")
    assert difference(one, other, many).endswith(" and 2 more")
    one, other = (Installation("", {"cloudpickle": version}) for version in "12")
    assert difference(one, other, []), "functions are pickled by it"


class Told(logging.Handler):
    """What users are told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def told() -> Iterator[list[str]]:
    handler, logger = Told(), logging.getLogger("pilot")
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)


def test_a_session_is_told_once_of_what_differs(told: list[str]) -> None:
    comparison = Comparison()
    comparison.tell(1)
    assert not told, "nothing is known yet"
    comparison.learn(Installation(NEAR, {"msgspec": "0.0.1"}))
    assert len(told) == 1 and "session 1" in told[0] and NEAR in told[0]
    assert "msgspec" in told[0] and "(0.0.1)" in told[0]
    for session in (1, 2, 2):
        comparison.tell(session)
    assert ["session 2" in text for text in told] == [False, True]
    same = Comparison()
    same.learn(Installation(NEAR, installed()))
    same.tell(3)
    same.learn(Installation(INTERPRETER, {"msgspec": "0.0.1"}))
    same.tell(3)
    assert len(told) == 2, "another place of the same Python is nothing to be told"


def test_another_minor_version_is_named_for_what_goes_by_name(told: list[str]) -> None:
    comparison = Comparison()
    comparison.learn(Installation(OTHER, {}))
    comparison.tell(1)
    assert INTERPRETER in told[0] and OTHER in told[0]


def test_functions_are_what_counts_and_not_commands(tmp_path: Path, told: list[str]) -> None:
    import pilot

    site = create_site(tmp_path / "site", "local")
    comparison = Comparison()
    comparison.learn(Installation(OTHER, {}))
    submitter = Submitter(7, site, comparison=comparison)
    submitter.add(Submission(), pilot.shell("true"), [((), {})], [1])
    assert not told
    with pytest.raises(SubmissionError, match=r"(?s)Python 3\.99\.1"):
        submitter.add(Submission(), as_task(lambda: 1), [((), {})], [2])
    submitter.add(Submission(), as_task(pow), [((1, 2), {})], [3])
    assert len(told) == 1


class Head:
    """The head's side of clients, and what it sends."""

    def __init__(self, path: Path, setting: str) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.store = Store(path)
        shell = Shell(self.store, self._send, (), lambda: None, lambda _: 0)
        self.installation = PilotsInstallation(self.store, setting)
        self.clients = Clients(shell, 1, lambda: None, self.installation)

    def _send(self, to: bytes, what: Any) -> None:
        self.sent.append((to, what))

    def greet(self, peer: bytes, python: str) -> list[Any]:
        self.sent.clear()
        hello = m.ClientHello(PROTOCOL, "1", True, [], python)
        self.clients.handlers[m.ClientHello](peer, hello, 1000.0)
        return [what for _, what in self.sent]


def test_clients_hear_what_pilots_tell_and_the_next_head_knows(tmp_path: Path) -> None:
    open_head = partial(Head, tmp_path / "tasks.db")
    head, there = open_head("/opt/python"), Installation(OTHER, {"numpy": "1.24"})
    (welcome,) = head.greet(b"a", INTERPRETER)
    assert isinstance(welcome, Welcome) and welcome.python == ""
    head.greet(b"same", OTHER)
    head.greet(b"gone", INTERPRETER)
    head.clients.gone(b"gone")
    head.sent.clear()
    for _ in range(2):
        head.clients.learn_installation(there)
    assert head.sent == [(b"a", m.PilotsInstallation(there))]
    head.store.close()
    head = open_head("/opt/python")
    welcome, more = head.greet(b"b", INTERPRETER)
    assert welcome.python == OTHER and more == m.PilotsInstallation(there)
    head.store.close()
    head = open_head("/opt/another")
    assert [what.python for what in head.greet(b"c", INTERPRETER)] == [""]
    head.store.close()


def test_where_the_site_names_no_python_it_is_the_heads(tmp_path: Path) -> None:
    head = Head(tmp_path / "tasks.db", "auto")
    (welcome,) = head.greet(b"a", INTERPRETER)
    assert welcome.python == INTERPRETER
    _, more = head.greet(b"b", OTHER)
    assert more.installation == Installation(INTERPRETER, installed())
    head.clients.learn_installation(Installation(OTHER, {}))
    assert head.installation.python == INTERPRETER
    head.store.close()
