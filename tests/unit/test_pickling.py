"""By value, there and back: what a script defines goes to another process and comes again."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import pilot
from pilot.client.comparison import Comparison
from pilot.client.functions import encode_function
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.client.task import OptionError, as_task
from pilot.data import pickling_by_value
from pilot.data.pickles import decode, encode, encode_within
from pilot.data.pickling_by_value import INTERPRETER, minor_version
from pilot.errors import EncodingError, SubmissionError
from pilot.site import create_site

SCRIPT = """
import dataclasses, enum, functools, sys, subprocess, typing
from pilot.data.pickles import decode, encode

factor = 2

class Slots:
    __slots__ = ("a", "__private", "__weakref__")
    def __init__(self): self.a, self.__private = 1, 2
    def told(self): return (self.a, self._Slots__private)

class OneSlot(Slots):
    __slots__ = "c"

class WithDict(Slots):
    def __init__(self): super().__init__(); self.more = 3
    def told(self): return (*super().told(), self.more)

@dataclasses.dataclass(slots=True)
class Data:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
    def told(self): return (self.x, self.y)

@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int = 1
    def told(self): return self.x

class Named(typing.NamedTuple):
    x: int = 1
    def told(self): return (self.x, self)

class NamedWithMore(Named):
    __slots__ = ()
    def told(self): return (2, *super().told())

class Planet(enum.Enum):
    EARTH = (5.97, 6.37)
    WORLD = EARTH
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius

class Cached:
    @functools.cached_property
    def one(self): return 1
    @functools.cached_property
    def two(self): return self.one + 1
    def told(self): return (self.one, self.two)

@functools.lru_cache(maxsize=100, typed=True)
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@functools.cache
def scaled(x): return x * factor

class Methods:
    @functools.lru_cache
    def method(self, x): return x + 1

# It has imported what it needs, and forks for each call, which finds what a new process would.
CHILD = '''
import os, sys
from pilot.data.pickles import decode, encode
while size := sys.stdin.buffer.read(8):
    payload = sys.stdin.buffer.read(int.from_bytes(size, "big"))
    child = os.fork()
    if not child:
        function, arguments = decode(payload)
        answer = encode(function(*arguments))
        sys.stdout.buffer.write(len(answer).to_bytes(8, "big") + answer)
        sys.stdout.buffer.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not status, status
'''
child = subprocess.Popen(
    [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)

def there(function, *arguments):
    payload = encode((function, arguments))
    child.stdin.write(len(payload).to_bytes(8, "big") + payload)
    child.stdin.flush()
    return decode(child.stdout.read(int.from_bytes(child.stdout.read(8), "big")))

for kind in (Slots, OneSlot, WithDict, Data, Frozen, Named, NamedWithMore, Cached):
    made = there(kind)
    assert type(made) is kind and made.told() == kind().told(), kind
    made = there(lambda it: it, kind())
    assert type(made) is kind and made.told() == kind().told(), kind
    assert there(lambda it: it.told(), kind()) == kind().told(), kind
    assert there(lambda: [kind().told() for _ in range(2)]) == [kind().told()] * 2, kind
assert not there(lambda: hasattr(Named(), "__dict__"))
assert there(lambda planet: (planet.mass, planet.radius), Planet.EARTH) == (5.97, 6.37)
assert there(lambda: (Planet.WORLD, Planet["WORLD"].radius)) == (Planet.EARTH, 6.37)
assert there(fibonacci, 50) == 12586269025
assert there(lambda: fibonacci(50)) == 12586269025
assert there(lambda: fibonacci.cache_parameters()) == {"maxsize": 100, "typed": True}
assert there(lambda: (fibonacci.__name__, fibonacci.cache_info().currsize)) == ("fibonacci", 0)
assert there(scaled, 2) == 4
factor = 3
assert there(scaled, 2) == 6
assert there(Methods().method, 1) == 2

class Counted:
    count = 0
    def scale(self): return factor

class Color(enum.Enum):
    RED = 1
    def scale(self): return factor

def bump():
    Counted.count += 1
    return Counted(), Color.RED, Counted.count

methods = Counted.scale, Color.scale
factor = 4
made, color, count = there(bump)
assert (type(made), color, count) == (Counted, Color.RED, 1)
# What comes back changes nothing here: not what a class has, and not what its methods see.
assert Counted.count == 0 and (Counted.scale, Color.scale) == methods
factor = 5
assert made.scale() == Color.RED.scale() == there(lambda: Counted().scale()) == 5
Counted.count = 7
assert there(bump)[2] == 8 and Counted.count == 7

TWICE = '''
import sys
from pilot.data.pickles import decode, encode
first, second = decode(sys.stdin.buffer.read())
before = decode(first)()
sys.stdout.buffer.write(encode((before, decode(second)(), decode(first)())))
'''
def told(): return Counted.count, Counted().scale()
first = encode(told)
Counted.count, factor = 9, 6
second = encode(told)
done = subprocess.run(
    [sys.executable, "-c", TWICE], input=encode((first, second)), capture_output=True, check=True
)
# Where a class came from elsewhere it is what came last.
assert decode(done.stdout) == ((7, 5), (9, 6), (7, 5))
child.communicate()
assert not child.returncode
print("all came back")
"""


def test_what_a_script_defines_goes_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.stdout == "all came back\n", done.stderr


def _of_the_script(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(text, names)
    return names


FUNCTION = "def f(x):\n    def g(): return [y for y in range(x)]\n    return g()"


def test_code_of_another_python_is_refused_before_it_is_a_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = _of_the_script(FUNCTION)["f"]
    with monkeypatch.context() as patch:
        patch.setattr(pickling_by_value, "_VERSION", (3, 99))
        patch.setattr(pickling_by_value, "INTERPRETER", "Python 3.99.1 (/opt/python)")
        for there in (function, [1, {"a": function}], function.__code__):
            payload = encode(there)
            assert callable(decode(payload)) or decode(payload)
            with monkeypatch.context() as here:
                here.setattr(pickling_by_value, "_VERSION", sys.version_info[:2])
                here.setattr(pickling_by_value, "INTERPRETER", "Python 3 (/here)")
                with pytest.raises(EncodingError) as raised:
                    decode(payload)
            for word in ("3.99.1 (/opt/python)", "Python 3 (/here)", "pilot head stop", "3.99"):
                assert word in str(raised.value)
    assert decode(encode(function))(3) == [0, 1, 2]


def test_code_is_refused_at_its_submission_where_the_pilots_have_another_python(
    tmp_path: Path,
) -> None:
    site = create_site(tmp_path / "site", "local")
    there = "Python 3.99.1 (/opt/python)"
    comparison = Comparison()
    comparison.python = there
    submitter = Submitter(7, site, comparison=comparison)
    function = _of_the_script(FUNCTION)["f"]
    with pytest.raises(SubmissionError) as raised:
        submitter.add(Submission(), as_task(function), [((1,), {})], [1])
    for word in (
        "f was not submitted",
        there,
        INTERPRETER,
        "pilot head stop",
        "environment.python",
    ):
        assert word in str(raised.value)
    submitter.add(Submission(), as_task(pow), [((1, 2), {})], [1])  # by name
    comparison.python = ""  # the head does not know
    submitter.add(Submission(), as_task(function), [((1,), {})], [1])
    comparison.python = INTERPRETER
    submitter.add(Submission(), as_task(lambda: 1), [((), {})], [1])
    assert [minor_version(t) for t in ("", "Python", "Python x.y", "Python 3.11.7 (/p)")] == [
        *3 * [(0, 0)],
        (3, 11),
    ]


def test_by_name_nothing_is_said_of_versions() -> None:
    assert b"code_of" not in encode(test_by_name_nothing_is_said_of_versions)
    assert b"code_of" in encode(lambda: None) and b"code_of" in encode_within(lambda: None, 10_000)


def test_what_cannot_be_sent_is_told_with_the_remedy() -> None:
    names = _of_the_script(
        "import functools\n@functools.singledispatch\ndef f(x): return x\ndef g(): return lock"
    )
    names["lock"] = threading.Lock()
    for name in "fg":
        with pytest.raises(SubmissionError, match=r"defined in a module beside the script"):
            encode_function(as_task(names[name]), 1000)


def test_what_went_by_its_name_in_the_script_is_told_with_the_remedy() -> None:
    payload = b"c__main__\nthere_is_no_such_name\n."
    with pytest.raises(EncodingError, match=r"by its name in the script.*define it in a module"):
        decode(payload)
    with pytest.raises(EncodingError, match="beside the script"):
        decode(b"cno_such_module\nname\n.")


def test_a_coroutine_function_is_refused_whatever_it_is_wrapped_in() -> None:
    import functools

    async def function() -> None: ...

    for given in (function, functools.partial(function)):
        with pytest.raises(OptionError, match="coroutine function"):
            as_task(given)


class Model:
    """A class with a task among its methods."""

    factor = 3

    @pilot.task(retries=2)
    def scaled(self, x: int) -> int:
        return self.factor * x


def test_a_method_can_be_a_task() -> None:
    model = Model()
    assert model.scaled(2) == 6 and Model.scaled(model, 2) == 6
    bound = model.scaled
    assert bound.task_options.retries == 2 and bound.__name__ == "scaled"
    assert not isinstance(bound.function, FunctionType)
    sent = pickle.loads(encode_function(bound, 10_000).payload)
    assert sent(2) == 6

    class Commands:
        command = pilot.shell("true")

    assert Commands().command is Commands.command


def test_code_of_a_script_has_its_file_for_tracebacks(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text("def outer():\n    def inner():\n        return 1 / 0\n    return inner\n")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.read_text(), str(script), "exec"), names)
    outer = pickle.loads(pickling_by_value.dumps(names["outer"]))
    inner = pickle.loads(pickling_by_value.dumps(names["outer"]()))
    assert outer.__code__.co_filename == inner.__code__.co_filename == str(script)
    with pytest.raises(ZeroDivisionError) as raised:
        inner()
    assert raised.traceback[-1].lineno == 2


def test_a_class_that_is_forgotten_while_it_comes_again_is_whole() -> None:
    names = _of_the_script("class Counted:\n    count = 1\n")
    sent = pickling_by_value.dumps(names.pop("Counted"))
    program = (
        "import gc, pickle, sys\n"
        "from pilot.data import pickling_by_value as pickling\n"
        "sent = sys.stdin.buffer.read()\n"
        "gc.set_threshold(1)\n"
        "print(all(pickle.loads(sent).count == 1 for _ in range(300)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, check=False
    )
    assert done.stdout == b"True\n", done.stderr.decode()
