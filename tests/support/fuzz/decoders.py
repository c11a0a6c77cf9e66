"""All that decodes, in this process: nothing raises but what callers expect."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pilot.data.checkpoint import Checkpoint
from pilot.data.segments import SegmentWriter
from pilot.data.storing import announceable, load
from pilot.errors import PilotError
from pilot.head.lease_files import read_lease
from pilot.model.values import Value
from pilot.scheduler.batch.base import BatchError
from pilot.scheduler.batch.slurm.answers import (
    SEPARATOR,
    parse_accounting,
    parse_queue,
    parse_submitted,
)
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist
from pilot.site_configs import SiteFileError, load_site_file, template_text, templates
from pilot.wire.channel import _Reader, encode
from pilot.wire.discovery import read_address
from pilot.wire.messages import client as m
from pilot.workflow import graph_data, graph_text, load_workflow
from pilot.workflow.expression import ExpressionError, parse
from support.directions import DIRECTIONS
from support.fuzz.samples import Samples

#: Nothing that is decoded here may take longer, in seconds.
LIMIT_S = 30
ADDRESS = {
    "epoch": 1,
    "host": "h",
    "pid": 1,
    "started": 4,
    "endpoints": {"boot": "b", "local": "unix:///x", "remote": "tcp://h:1"},
    "version": "1",
}
LEASE = {"host": "h", "pid": 1, "started": 2, "boot": "b", "epoch": 3, "counter": 4}
WORKFLOW = """\
name: a
lists:
  x: [1, 2, 3]
tasks:
  t:
    run: echo {a} ${index}
    foreach: {i: {from: 0, to: 3}}
    with: {a: 1}
  u:
    needs: ${tasks.t}
    run: echo
results:
  z: ${tasks.t[0].stdout}
"""
TOKENS = (
    *("&a", "*a", "<<: *a", "!!python/object/apply:os.system ['id']", "!!binary x", "- ", "? "),
    *("[", "{", "}", "]", "|\n", ">\n", ": ", "0x", "1e999", "~", "---\n", "...\n", "\t", "\0"),
    *("%YAML 9.9\n", "\x85", "\ufeff", "${", "${tasks.", "}", "$${", "{a}", "{{", "{a.b}"),
    *("{a[0]}", "{:>9999999999}", "9" * 40, "-1", "[a=1]", "[[[[", "from: 0\n", "to: 1e9\n"),
    *("foreach: ", "\n  ", "'", '"', "\\", "#", "time: 1d\n", "$(id)", "`id`"),
)


class Decoders:
    """Each takes one sample a time; what is wrong is an AssertionError that names it.

    Parameters
    ----------
    seed
        Of the samples.
    directory
        For files.
    """

    def __init__(self, seed: int, directory: Path) -> None:
        self.samples = Samples(random.Random(seed))
        self.random = self.samples.random
        self._file = directory / "sample"
        self._readers: dict[str, _Reader[Any]] = {
            name: _Reader(union) for name, union in DIRECTIONS.items()
        }
        self._sites = [template_text(name) for name in templates()]
        self._segment, self._value = _segment(directory)
        self._saved = _saved(directory / "checkpoint")
        self.all: dict[str, Callable[[], None]] = {
            "messages": self._messages,
            "texts": self._texts,
            "head.json": self._address,
            "lease": self._lease,
            "site file": self._site_file,
            "workflow": self._workflow,
            "expression": self._expression,
            "slurm": self._slurm,
            "segment": self._read_segment,
            "checkpoint": self._checkpoint,
        }

    def run(self, name: str, count: int) -> None:
        """Give so many samples to one."""
        for _ in range(count):
            self.all[name]()

    @contextlib.contextmanager
    def _only(self, sample: object, *expected: type[BaseException]) -> Iterator[None]:
        """Nothing else may be raised, and not after long."""
        try:
            with _limit():
                yield
        except expected:
            pass
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}: {sample!r:.2000}") from error

    def _messages(self) -> None:
        name = self.random.choice(list(DIRECTIONS))
        frame = self.samples.frame(self.random.choice(list(DIRECTIONS.values())))
        with self._only(frame):
            reader = self._readers[name]
            read = reader.read([(b"", frame)])
            assert len(read) + len(reader.take_unreadable()) == 1

    def _texts(self) -> None:
        data = self.samples.value(Any)
        text = self.random.choice(("caf\udce9", "\ud800\udc00", "\x1b", "a"))
        with self._only(data):
            encode(m.Reply(1, [data, text], text))

    def _json(self, content: dict[str, Any]) -> bytes:
        changed = {**content}
        if self.random.random() < 0.5:
            name = self.random.choice(list(content))
            changed[name] = self.samples.random.choice(
                (None, -1, 2**70, "x", [], {}, 1e400, {"": 1})
            )
        data = json.dumps(changed).encode()
        return self.samples.damaged(data) if self.random.random() < 0.7 else data

    def _address(self) -> None:
        data = self._json(ADDRESS)
        self._file.write_bytes(data)
        with self._only(data):
            if address := read_address(self._file):
                address.is_dead()
                address.endpoints.choose()

    def _lease(self) -> None:
        data = self._json(LEASE)
        self._file.write_bytes(data)
        with self._only(data):
            read_lease(self._file)

    def _mutated(self, text: str) -> str:
        changed = list(text)
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(changed) + 1)
            match self.random.randrange(4):
                case 0:
                    del changed[at : at + self.random.randrange(1, 40)]
                case 1:
                    changed[at:at] = self.random.choice(TOKENS)
                case 2:
                    other = self.random.randrange(len(changed) + 1)
                    changed[at:at] = changed[other : other + self.random.randrange(200)]
                case _:
                    changed[at : at + 1] = chr(self.random.randrange(1, 0x3000))
        return "".join(changed)

    def _site_file(self) -> None:
        text = self._mutated(self.random.choice(self._sites))
        self._file.write_text(text, errors="replace")
        with self._only(text, SiteFileError):
            load_site_file(self._file)

    def _workflow(self) -> None:
        text = self._mutated(WORKFLOW)
        self._file.write_text(text, errors="replace")
        with self._only(text, PilotError):
            workflow = load_workflow(self._file)
            graph_text(workflow.graph())
            graph_data(workflow.graph())

    def _expression(self) -> None:
        signs = [*TOKENS, *"abc.[]='\"0123 -_"]
        text = "".join(self.random.choices(signs, k=self.random.randrange(30)))
        with self._only(text, ExpressionError):
            parse(text)

    def _slurm(self) -> None:
        fields = (
            "1",
            "RUNNING",
            "None",
            "2026-01-31T12:00:00",
            "N/A",
            "0",
            "0:15",
            "n[1-3,07]",
            "p-1",
        )
        line = SEPARATOR.join(self.random.choice(fields) for _ in range(11))
        text = self._mutated("\n".join([line, line, "123;cluster"]))
        for decode in (parse_queue, parse_accounting, parse_submitted):
            with self._only(text, BatchError):
                decode(text)
        nodes = self._mutated("a[1-3,7,09-11]b,c[1-2][3-4]")
        with self._only(nodes, ValueError):
            expand_nodelist(nodes)

    def _read_segment(self) -> None:
        data = self.samples.damaged(self._segment)
        path = self._file.parent / self._value.path
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        with self._only("a damaged segment", PilotError):
            load(self._value, self._file.parent)

    def _checkpoint(self) -> None:
        path = self._saved
        before = path.read_bytes()
        path.write_bytes(self.samples.damaged(before))
        try:
            with warnings.catch_warnings(), self._only("a damaged checkpoint", PilotError):
                warnings.simplefilter("ignore")  # it tells which one it cannot read
                Checkpoint(self._file.parent / "checkpoint", attempt=2).load()
        finally:
            if path.parent.exists():
                path.unlink(missing_ok=True)
                path.write_bytes(before)
            else:
                self._saved = _saved(self._file.parent / "checkpoint")


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def late(_number: int, _frame: types.FrameType | None) -> None:
        raise TimeoutError(f"it takes longer than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _segment(directory: Path) -> tuple[bytes, Value]:
    """A segment's bytes, and the value in it."""
    with SegmentWriter(directory, "fuzz") as writer:
        result = writer.add("1", "f", "1.1", 0, {"a": np.arange(1000.0), "b": "text"})
    value = announceable(result)
    return (directory / value.path).read_bytes(), value


def _saved(directory: Path) -> Path:
    """The only part of a checkpoint."""
    Checkpoint(directory, attempt=1).save(3, {"a": np.arange(100.0), "b": "text"})
    (part,) = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return part
