"""How functions travel: as they are at each submission, small or large, and what is refused."""

from __future__ import annotations

import functools
import gc
import random
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import pilot
from pilot.client import functions
from pilot.client.arguments import decode_function, encode_arguments
from pilot.client.child_tasks import ChildFuture
from pilot.client.function_watch import watch
from pilot.client.functions import encode_function
from pilot.client.future import Future, PartFuture
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.client.task import Task
from pilot.errors import EncodingError, SubmissionError
from pilot.site import Site, create_site

SCRIPT = """
import abc, math

scale, items, table, array = 1, [1], {"a": 1}, numpy.ones(3)
text = "t"

def deep(x):
    return x + scale

def helper(x):
    return deep(x) * 2

class Base: pass
class Other: pass
class Shape(abc.ABC): pass

class Plain(Base):
    "How it was."
    noted: int
    factor = 1
    def method(self):
        return (self.factor, scale)

    @staticmethod
    def static():
        return helper(1)

    @property
    def prop(self):
        return len(text)

def uses_all(x, default=1, *, keyword=2):
    return (
        scale, list(items), dict(table), array.tolist(), helper(x), default, keyword, math.pi
    )

def uses_constants(x, default=1, *, keyword=2):
    def nested(y):
        return y * scale
    return (nested(x), helper(x), text, default, keyword)

def uses_class(x):
    return (Plain().method(), Plain.static(), Plain().prop, isinstance(Plain(), Shape))

def recursive(n):
    return scale if n == 0 else recursive(n - 1) + other(n)

def other(n):
    return recursive(n - 1) if n > 1 else scale

def outer():
    held, kept = 1, [1]

    def bump():
        nonlocal held
        held += 1

    def inner(x):
        return (held, x)

    def inner_list(x):
        return (list(kept), x)

    return inner, inner_list, bump, kept

decorated = functools.wraps(uses_constants)(lambda x: uses_constants(x))
task = pilot.task(uses_constants)
lazy = lambda x: (scale, task(x))
"""


class World:
    """A script, and what workers are sent of it."""

    def __init__(self, site: Site) -> None:
        self.names: dict[str, Any] = {
            "__name__": "__main__",
            "numpy": np,
            "functools": functools,
            "pilot": pilot,
        }
        exec(SCRIPT, self.names)
        self.site = site
        self.submitter = Submitter(7, site)
        self.functions: dict[bytes, bytes] = {}
        self.templates: dict[int, Any] = {}
        #: The digest of what was sent last.
        self.last = b""

    def send(self, function: Any, count: int = 1) -> Any:
        """The function as a worker has it."""
        loaded, _ = decode_function(self.payload(function, count), self.site.directory)
        return loaded.function if isinstance(loaded, Task) else loaded

    def payload(self, function: Any, count: int = 1) -> bytes:
        """What workers are sent of a function."""
        submission = Submission()
        task = self.submitter.task(function)
        self.submitter.add(submission, task, [((1,), {})] * count, range(count))
        self.functions.update((one.digest, one.payload) for one in submission.functions)
        self.templates.update((one.id, one) for one in submission.templates)
        template = self.templates[submission.tasks[-1].template]
        self.last = template.function
        return self.functions[template.function]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return create_site(tmp_path_factory.mktemp("functions") / "site", "local")


@pytest.fixture
def world(site: Site) -> World:
    return World(site)


def _edit_helper(names: dict[str, Any], n: int) -> None:
    exec(f"def helper(x): return deep(x) + {n}", names)


def _edit_class(names: dict[str, Any], n: int) -> None:
    exec(f"class Plain(Plain):\n def method(self): return ({n}, scale)", names)


def _edit_code(names: dict[str, Any], n: int) -> None:
    """As IPython's autoreload does."""
    edited: dict[str, Any] = {}
    exec(f"def deep(x): return x - {n}", edited)
    names["deep"].__code__ = edited["deep"].__code__


EDITS: dict[str, Callable[[dict[str, Any], int], Any]] = {
    "rebound": lambda names, n: names.update(scale=n),
    "rebound text": lambda names, n: names.update(text="t" * n),
    "of another type": lambda names, n: names.update(scale=[n][0] + 0.5),
    "appended": lambda names, n: names["items"].append(n),
    "set in a dict": lambda names, n: names["table"].update(a=n),
    "set in an array": lambda names, n: names["array"].fill(n),
    "helper": _edit_helper,
    "class": _edit_class,
    "code": _edit_code,
    "class attribute": lambda names, n: setattr(names["Plain"], "factor", n),
    "new class attribute": lambda names, n: setattr(names["Plain"], f"also_{n}", n),
    "in a class attribute": lambda names, n: setattr(names["Plain"], "factor", [n]),
    "bases": lambda names, n: setattr(
        names["Plain"].__mro__[-3], "__bases__", (names["Other" if n % 2 else "Base"],)
    ),
    "registered": lambda names, n: names["Shape"].register(names["Other"]),
    "annotation": lambda names, n: setattr(names["Plain"], "__annotations__", {"noted": float}),
    "in the annotations": lambda names, n: names["Plain"].__annotations__.update({f"n{n}": int}),
    "documentation": lambda names, n: setattr(names["Plain"], "__doc__", f"How it is {n}."),
    "name": lambda names, n: setattr(names["Plain"], "__name__", f"Plain{n}"),
    "default": lambda names, n: setattr(names["uses_constants"], "__defaults__", (n,)),
    "keyword": lambda names, n: names["uses_constants"].__kwdefaults__.update(keyword=n),
    "keywords": lambda names, n: setattr(names["uses_constants"], "__kwdefaults__", {"keyword": n}),
}
USERS = ["uses_all", "uses_constants", "uses_class", "recursive", "decorated", "task", "lazy"]


@given(st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.integers(1, 9)), max_size=6))
def test_a_submission_has_what_the_names_mean_at_that_moment(
    site: Site, edits: list[tuple[str, int]]
) -> None:
    world = World(site)
    for edit, n in [("rebound", 1), *edits]:
        EDITS[edit](world.names, n)
        for user in USERS:
            function = world.names[user]
            if user == "uses_class":
                world.payload(function)  # here the class would be what it was made of in any case
            else:
                assert world.send(function)(2) == function(2), (edit, user)
            fresh = encode_function(world.submitter.task(function), 1 << 16)
            assert world.last == fresh.digest, (edit, user)


def test_closures_are_seen_as_they_are(world: World) -> None:
    inner, inner_list, bump, kept = world.names["outer"]()
    assert world.send(inner)(0) == (1, 0)
    bump()
    assert world.send(inner)(0) == (2, 0)
    assert world.send(inner_list)(0) == ([1], 0)
    kept.append(2)
    assert world.send(inner_list)(0) == ([1, 2], 0)


def test_objects_of_methods_and_partials_are_seen_as_they_are(world: World) -> None:
    model = Model([1])
    assert world.send(model.run)(0) == 1
    model.weights[0] = 5
    assert world.send(model.run)(0) == 5
    items = [1]
    partial = functools.partial(world.names["deep"], 1)
    assert world.send(partial)() == 2
    world.names["scale"] = 10
    assert world.send(partial)() == 11
    both = functools.partial(lambda one, two: (list(one), two), items)
    assert world.send(both)(0) == ([1], 0)
    items.append(2)
    assert world.send(both)(0) == ([1, 2], 0)


def test_what_has_not_changed_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled: list[object] = []
    monkeypatch.setattr(
        "pilot.client.submitter.encode_function",
        lambda *arguments: pickled.append(arguments[0]) or encode_function(*arguments),
    )
    inner, *_ = world.names["outer"]()
    constant = [*map(world.names.get, ["task", "recursive", "decorated", "lazy"]), inner, pow]
    for function in [*constant, *constant]:
        world.send(function)
    assert len(pickled) == len(constant)
    assert len(world.functions) == len(world.templates) == len(constant)
    # What might change is looked at each time, once for however many calls.
    made = world.names["Plain"]()
    for _ in range(3):
        world.send(world.names["uses_all"], 5)
        world.payload(made.method, 5)
    assert len(pickled) == len(constant) + 6
    assert len(world.functions) == len(world.templates) == len(constant) + 2


def test_nothing_of_a_users_data_is_kept(world: World) -> None:
    class Data:
        def __init__(self) -> None:
            self.large = np.ones(1000)

        def method(self) -> None: ...

    def closed(data: Data) -> Callable[[], Data]:
        return lambda: data

    data = Data()
    gone = weakref.ref(data)
    for make in ("method", "partial", "closure"):
        function = {"method": data.method, "partial": functools.partial(print, data)}.get(make)
        world.submitter.add(
            Submission(), world.submitter.task(function or closed(data)), [((), {})], [1]
        )
    del data, function
    gc.collect()
    assert gone() is None


def test_a_refused_call_takes_nothing_with_it(world: World) -> None:
    function = world.names["uses_constants"]
    submission = Submission()
    generator: Any = (x for x in "a")
    with pytest.raises(pilot.PilotError, match="generator"):
        world.submitter.add(submission, world.submitter.task(function), [((generator,), {})], [1])
    assert (submission.functions, submission.templates, submission.tasks) == ([], [], [])
    assert world.send(function)(2) == function(2)


# --- large data -----------------------------------------------------------------------------------


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def run(self, x: float) -> float:
        return float(self.weights[-1] + x)


LARGE = 200_000


def _large(world: World) -> dict[str, Callable[[Any], Any]]:
    names = world.names
    names["large"] = np.arange(LARGE, dtype=float)
    exec("def global_array(x): return float(large[-1] + x)", names)
    names["blob"] = bytes(LARGE)
    exec("def global_bytes(x): return len(blob) + x", names)
    closed_over = np.arange(LARGE, dtype=float)
    return {
        "global array": names["global_array"],
        "global bytes": names["global_bytes"],
        "method": Model(np.arange(LARGE, dtype=float)).run,
        "partial": functools.partial(Model.run, Model(np.arange(LARGE, dtype=float))),
        "closure": lambda x: float(closed_over[-1] + x),
        "callable": functools.partial(Model(list(range(LARGE))).run),
    }


def test_large_data_of_functions_go_into_segments(world: World, site: Site) -> None:
    for name, function in _large(world).items():
        before = len(list(site.results.rglob("*.h5")))
        for _ in range(3):
            assert world.send(function)(1) == function(1), name
        assert len(list(site.results.rglob("*.h5"))) == before + 1, name
    assert max(map(len, world.functions.values())) < 1000


def test_who_submits_the_same_large_data_again_and_again_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.client.submitter._SLOW_BYTES", 100_000)
    function = _large(world)["global array"]
    for _ in range(4):
        world.payload(function)
    with pytest.warns(UserWarning, match=r"the global 'large' of 1.6 MB.*session.put") as caught:
        world.payload(function)
    assert caught[0].filename == __file__
    world.payload(function)


def test_a_change_in_large_data_is_seen(world: World) -> None:
    model = Model(np.zeros(LARGE))
    assert world.send(model.run)(1) == 1
    model.weights[-1] = 5
    assert world.send(model.run)(1) == 6


def test_what_is_too_large_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "FUNCTION_BYTES", 100_000)
    named = {
        "global bytes": r"global_bytes uses the global 'blob' of 200 kB",
        "callable": r"the attribute 'weights' .* of .* MB",
    }
    for name, function in _large(world).items():
        if name in named:
            with pytest.raises(SubmissionError, match=f"{named[name]}.*session.put"):
                world.send(function)
        else:
            assert world.send(function)(1) == function(1)


def test_a_default_that_is_too_large_is_refused_by_name(world: World) -> None:
    large = pilot.task(on_failure="ignore", default=bytes(2_000_000))(abs)
    with pytest.raises(
        SubmissionError, match=r"'abs' was not submitted: its option default.*bytes"
    ):
        world.send(large)
    with pytest.raises(SubmissionError, match=r"option default.*generator"):
        world.send(pilot.task(on_failure="ignore", default=(x for x in "a"))(abs))
    named = pilot.task(returns=["r" * 2_000_000])(abs)
    with pytest.raises(SubmissionError, match="option returns has 2 MB"):
        world.send(named)


# --- random generators ----------------------------------------------------------------------------


def test_who_reaches_a_random_generator_is_warned_once(world: World) -> None:
    names = world.names
    names["rng"] = np.random.default_rng(1)
    exec("def draw(x): return rng.random()\ndef through(x): return draw(x)", names)
    generator = random.Random(1)
    warned = {
        "draw .* the global 'rng' .numpy.random.Generator": names["draw"],
        "through .* the global 'rng'": names["through"],
        "normal .* the object of the method": names["rng"].normal,
        "'generator', which it closes over .random.Random": lambda x: generator.random(),
        "RandomState": np.random.RandomState(1).rand,
        "the attribute 'weights' of the object": Model(np.random.default_rng()).run,
    }
    for text, function in warned.items():
        with pytest.warns(UserWarning, match=text) as caught:
            world.send(function)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            world.send(function)


def test_the_generators_of_the_libraries_go_by_name(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functions: list[Any] = [random.random, np.random.rand, np.random.normal]
        for function in functions:
            assert world.send(function).__self__ is function.__self__
        bound: Any = random.uniform
        assert world.send(functools.partial(bound, 1)).func.__self__ is bound.__self__


def test_a_watch_is_not_had_of_what_may_change_in_itself(world: World) -> None:
    names = world.names
    for name in ("uses_constants", "uses_class", "recursive", "task", "lazy", "decorated"):
        assert watch(names[name]) is not None, name
    assert watch(names["uses_all"]) is None
    names["Plain"].factor = [1]
    assert watch(names["uses_class"]) is None
    assert watch(print) is not None and watch([].append) is None and watch(np.sin) is not None


def _error_of(function: Any) -> str:
    with pytest.raises(SubmissionError) as caught:
        encode_function(pilot.task(function), 1 << 20)
    return str(caught.value)


def test_what_cannot_be_sent_with_a_function_is_named() -> None:
    names: dict[str, Any] = {"lock": threading.Lock(), "__name__": "__main__"}
    exec(
        "def helper(x):\n    with lock: return x\n"
        "def uses(x): return helper(x)\n"
        "def has_default(x, opened=lock): return x\n",
        names,
    )
    assert "the global 'lock' (of type _thread.lock) cannot be pickled" in _error_of(names["uses"])
    assert "a default value (of type _thread.lock) cannot be pickled" in _error_of(
        names["has_default"]
    )

    items = {"a": [1, (n for n in range(3))]}
    text = _error_of(lambda: items)
    assert "(of type generator) cannot be pickled" in text and "Give a list of its items" in text
    assert "module beside the script" not in text


def test_a_future_in_a_closure_is_to_be_an_argument() -> None:
    future: Future[int] = Future(cast("Any", types.SimpleNamespace(origin=None)), 1)
    text = _error_of(lambda: future.result())
    assert "'future', which it closes over (of type pilot.Future)" in text
    part = PartFuture(future, 0)
    child = ChildFuture(cast("Any", types.SimpleNamespace(has_ended=False, origin=None)), 1, (), 1)

    class Slots:
        __slots__ = ("held",)

    slots: Any = Slots()
    slots.held = part
    names: dict[str, Any] = {"table": {"a": [part]}, "__name__": "__main__"}
    exec("def uses(): return table['a'][0].result()", names)
    for function in (
        lambda: future.result(),
        lambda: part.result(),
        lambda: child.task_id,
        lambda: slots.held,
        functools.partial(print, [child]),
        names["uses"],
    ):
        text = _error_of(function)
        assert "Give the future itself as an argument" in text and "lock" not in text


def test_the_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(EncodingError, match=r"^argument 2 \(of type generator\).*Give a list"):
        encode_arguments((1, (n for n in "abc")), {})
    deep = {"a": [threading.Lock()]}
    with pytest.raises(EncodingError, match=r"^the argument x, its part \['a'\]\[0\] \(of type"):
        encode_arguments((), {"x": deep})
