"""Functions of a script end to end: as they are at each submission, with large data, and errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot

DEADLINE_S = 60.0


def run_script(site: SiteUnderTest, text: str, *options: str) -> list[str]:
    """Run a program that submits what it defines itself; returns the lines that it printed."""
    script = site.scratch / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, *options, script, site.directory],
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
    )
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


CHANGES = """
import functools, random, sys, warnings
import numpy as np, pilot

scale, items, array = 1, [1], np.ones(2)
def helper(x): return x + scale
def uses(x): return (scale, len(items), float(array.sum()), helper(x), Plain().factor)
class Plain:
    factor = 1
@pilot.task
def decorated(x): return x * scale

def outer():
    held = 1
    def bump():
        nonlocal held
        held += 1
    return lambda: held, bump

@functools.lru_cache
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

class Slots:
    __slots__ = ("x",)
    def __init__(self): self.x = 7

rng = np.random.default_rng(1)
def draw(): return rng.random()
warnings.simplefilter("always")

with pilot.Session(site=sys.argv[1]) as session:
    def now(function, *arguments): return session.submit(function, *arguments).result(60)
    print(now(uses, 1), now(decorated, 1))
    scale = 10; items.append(2); array[0] = 5; Plain.factor = 3
    def helper(x): return -x
    print(now(uses, 1), now(decorated, 1), pilot.gather(session.submit_many(decorated, [(2,)])))
    inner, bump = outer()
    before = now(inner); bump(); print(before, now(inner))
    print(now(fibonacci, 30), now(Slots).x, now(lambda slots: slots.x, Slots()))
    print(len(set(pilot.gather([session.submit(random.random) for _ in range(40)]))))
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3): now(draw)
    print(len(caught), "the global 'rng'" in str(caught[0].message))
"""


def test_a_submission_has_what_the_script_means_at_that_moment(shared_site: SiteUnderTest) -> None:
    assert run_script(shared_site, CHANGES) == [
        "(1, 1, 2.0, 2, 1) 1",
        "(10, 2, 6.0, -1, 3) 10 [20]",
        "1 2",
        "832040 7 7",
        "40",
        "1 True",
    ]


CLASSES = """
import sys
import pilot

class Settings:
    alpha = 0

def alone(i): return Settings.alpha
def given(settings, i): return (Settings.alpha, settings.alpha)
def make(): return Settings()

with pilot.Session(site=sys.argv[1]) as session:
    made = session.submit(make)
    futures = []
    for alpha in range(4):
        Settings.alpha = alpha
        for i in range(12):
            # Other priorities: they do not run in the order in which they were submitted.
            futures.append((alpha, session.submit(pilot.task(priority=i % 3)(alone), i)))
        futures += [((alpha, alpha), session.submit(given, Settings(), i)) for i in range(6)]
        futures += [((alpha, alpha), session.submit(given, made, i)) for i in range(6)]
    print(sum(future.result(60) != wanted for wanted, future in futures), "of", len(futures))
    print(Settings.alpha)
"""


def test_a_class_is_what_it_was_when_each_of_its_tasks_was_submitted(
    shared_site: SiteUnderTest,
) -> None:
    assert run_script(shared_site, CLASSES) == ["0 of 96", "3"]


IN_PLACE = """
import abc, collections.abc, dataclasses, enum, functools, sys, typing
import pilot

T = typing.TypeVar("T")
class One:
    def who(self): return "one"
class Other:
    def who(self): return "other"
class Both(One, Other): pass
class Rebased(One): pass
class Below(Rebased): pass
class Generic(typing.Generic[T], One): pass
class First(type): tag = "first"
class Second(type): tag = "second"
class Made(metaclass=First): pass
class Bare: extra = 1
class Child(Bare): extra = 2
class Shape(abc.ABC): pass
class Square: pass
class Slots:
    __slots__ = ("x", "y")
    def __init__(self): self.x, self.y = 1, 2
@dataclasses.dataclass
class Data: x: int = 1
class Named(typing.NamedTuple): x: int = 1
class Color(enum.Enum): RED = 1
def decorate(kind):
    kind.decorated = getattr(kind, "decorated", 0) + 1
    return kind

def bases(): return Rebased().who(), isinstance(Below(), Other), Below.__mro__[2].__name__
def generic(): return Generic().who()
def metaclass(): return Made.tag
def attribute(): return Child.extra, "extra" in vars(Child)
def registry(): return isinstance(Square(), Shape)
def slots(): return Slots().x, Slots.__slots__, hasattr(Slots(), "__dict__")
def data(): return Data().__dict__, Data().decorated, len(dataclasses.fields(Data))
def named(): return Named()._fields, Named(1) == (1,)
def color(): return [(one.name, one.value) for one in Color]
def name(): return Bare.__name__, Bare.__qualname__, Bare.__doc__
def is_one(it): return isinstance(it, One), isinstance(it, Rebased)
def make(): return Rebased()
users = [bases, generic, metaclass, attribute, registry, slots, data, named, color, name]

def change(round):
    global Data, Named, Color
    Rebased.__bases__ = (Other,) if round % 2 else (One,)
    Generic.__bases__ = (typing.Generic, Other if round % 2 else One)
    Made.__class__ = Second if round % 2 else First
    if round % 2: del Child.extra
    else: Child.extra = round
    if round == 1: Shape.register(Square)
    if round == 2: Slots.x = property(lambda self: 42, lambda self, value: None)
    if round == 3: Slots.__slots__ = ("x",)
    if round == 2:
        @dataclasses.dataclass
        class Data: x: int = 1; y: int = 2
        class Named(typing.NamedTuple): y: int = 1; x: int = 2
        class Color(enum.Enum): BLUE = 1; RED = 2
    if round == 3:
        Data.z: int = 3
        Data.__annotations__["z"] = int
        dataclasses.dataclass(Data)
    decorate(Data)
    Bare.__name__ = Bare.__qualname__ = Bare.__doc__ = f"Bare{round}"

with pilot.Session(site=sys.argv[1]) as session:
    decorate(Data)
    futures, made = [], session.submit(make)
    for round in range(4):
        if round: change(round)
        for i in range(3):
            # Other priorities: they do not run in the order in which they were submitted.
            for user in users:
                futures.append((user(), session.submit(pilot.task(priority=i)(user))))
            future = session.submit(pilot.task(priority=i)(is_one), made)
            futures.append((is_one(Rebased()), future))
    for wanted, future in futures:
        if future.result(60) != wanted: print(future.name, "is", future.result(), "not", wanted)
    print(len(futures))
"""


def test_classes_that_are_changed_in_place_are_what_they_were_at_each_submission(
    shared_site: SiteUnderTest,
) -> None:
    assert run_script(shared_site, IN_PLACE) == ["132"]


CHANGED_ENUM = """
import enum, sys
import pilot

class Color(enum.Enum): RED = 1
def names(): return [one.name for one in Color]
def echo(it): return it

with pilot.Session(site=sys.argv[1]) as session:
    print(session.submit(names).result(60), session.submit(echo, Color.RED).result(60))
    blue = object.__new__(Color)
    blue._name_, blue._value_, blue.__objclass__, blue._sort_order_ = "BLUE", 2, Color, 1
    Color._member_map_["BLUE"] = Color._value2member_map_[2] = blue
    Color._member_names_.append("BLUE")
    type.__setattr__(Color, "BLUE", blue)
    for submit in (lambda: session.submit(names), lambda: session.submit(echo, Color.RED)):
        try:
            submit()
        except pilot.PilotError as error:
            print("the enumeration Color were changed" in str(error), "anew" in str(error))
    class Color(enum.Enum): RED = 1; BLUE = 2
    print(session.submit(names).result(60), session.submit(echo, Color.BLUE).result(60))
"""


def test_an_enumeration_whose_members_were_changed_in_place_is_refused(
    shared_site: SiteUnderTest,
) -> None:
    assert run_script(shared_site, CHANGED_ENUM) == [
        "['RED'] Color.RED",
        "True True",
        "True True",
        "['RED', 'BLUE'] Color.BLUE",
    ]


PLUGINS = """
made = []
class Base:
    def __init_subclass__(cls): made.append(cls)
"""

REGISTERING = """
import sys
import pilot, plugins

class Derived(plugins.Base): pass
def count(it): return len(plugins.made)

with pilot.Session(site=sys.argv[1]) as session:
    print({session.submit(count, Derived()).result(60) for _ in range(10)})
"""


def test_a_class_that_is_there_is_not_made_again(shared_site: SiteUnderTest) -> None:
    (shared_site.scratch / "plugins.py").write_text(PLUGINS)
    assert run_script(shared_site, REGISTERING) == ["{1}"]


LARGE = """
import os, resource, sys
import numpy as np, pilot

class Model:
    def __init__(self): self.weights, self.number = np.zeros(125_000), 0
    def run(self, x): return (self.number, x, self.weights.size)

blob = bytes(70_000_000)
def uses_blob(): return len(blob)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

model = Model()
with pilot.Session(site=sys.argv[1]) as session:
    session.submit(pow, 2, 2).result(60)
    session.submit(model.run, 0).result(60)
    before = resident()
    futures = []
    for number in range(60):
        model.number = number // 2  # each state twice
        futures.append(session.submit(model.run, number))
    assert pilot.gather(futures) == [(n // 2, n, 125_000) for n in range(60)]
    grown = resident() - before
    print(grown < 40 or grown)
    try:
        session.submit(uses_blob)
    except pilot.SubmissionError as error:
        print("the global 'blob' of 70 MB" in str(error) and "session.put" in str(error))
    print(session.submit(pow, 2, 5).result(60))
"""


def test_large_data_of_functions_pass_the_head_by(local_site: SiteUnderTest) -> None:
    assert run_script(local_site, LARGE) == ["True", "True", "32"]
    database = sum(path.stat().st_size for path in local_site.directory.glob("tasks.db*"))
    assert database < 10_000_000
    segments = list((local_site.directory / "results").rglob("*.h5"))
    assert len(segments) <= 31


# --- errors ---------------------------------------------------------------------------------------


class Holding(Exception):
    held: bytes


def fail(kind: str) -> None:
    name = os.fsdecode(b"m\xfcller.dat")
    if kind == "long":
        raise ValueError("begin" + "x" * 5_000_000 + "end")
    if kind == "large":
        error = Holding("it holds much")
        error.held = bytes(50_000_000)
        raise error
    if kind == "name":
        raise ValueError(f"bad record in {name}")
    raise OSError(2, "No such file", name)


def test_any_error_arrives_after_one_attempt(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        futures = {kind: session.submit(fail, kind) for kind in ("long", "large", "name", "file")}
        errors: dict[str, Any] = {k: f.exception(DEADLINE_S) for k, f in futures.items()}
        assert type(errors["long"]) is type(errors["large"]) is pilot.TaskError
        assert "ValueError: begin" in str(errors["long"]) and str(errors["long"]).endswith("end")
        assert "Holding: it holds much" in str(errors["large"])
        assert type(errors["name"]) is ValueError and "\udcfc" in str(errors["name"])
        assert type(errors["file"]) is FileNotFoundError
        assert max(map(len, map(str, errors.values()))) < 20_000
        assert {row["attempts"] for row in session.tasks()} == {1}
        assert len(session.why(futures["long"])) < 4096
        command = pilot.shell("cat {p}").options(max_crashes=0)
        failed = session.submit(command, p=os.fsdecode(b"no m\xfcller.dat")).exception(DEADLINE_S)
        assert type(failed) is pilot.CommandFailed


# --- files that come late -------------------------------------------------------------------------


def test_files_that_come_late_are_waited_for(make_site: Any, tmp_path: Path) -> None:
    # Without the store of the node, in which a large result is as well.
    site = make_site(data={"patience": "60s", "node_store": 0})
    with site.session() as session:
        read = pilot.shell("cat {x}", inputs=["x"])
        late = session.submit(read, x=tmp_path / "input")
        made = session.submit(
            pilot.shell("(sleep 0.3; echo hi > {out}) > /dev/null 2>&1 &", outputs=["out"]),
            out=tmp_path / "output",
        )
        wait_until(late.running, DEADLINE_S, "the task to run")
        (tmp_path / "input").write_text("hi")
        assert late.result(DEADLINE_S).stdout == "hi"
        assert made.result(DEADLINE_S)["out"].read_text() == "hi\n"
        large = session.submit(bytes, 300_000)
        wait_until(large.done, DEADLINE_S, "the result")
        (segment,) = (site.directory / "results").rglob("*.h5")
        hidden = segment.with_suffix(".away")
        segment.rename(hidden)
        needs = session.submit(len, large)
        wait_until(needs.running, DEADLINE_S, "the task to run")
        reader: list[int] = []
        thread = threading.Thread(target=lambda: reader.append(len(large.result())))
        thread.start()
        hidden.rename(segment)
        thread.join(DEADLINE_S)
        assert reader == [300_000] and needs.result(DEADLINE_S) == 300_000
