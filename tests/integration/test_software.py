"""Tasks in environments of their own: virtual ones, variables, modules, and what pip makes."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sites import SiteUnderTest

import pilot
from pilot import Session

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def wheel(directory: Path, version: str) -> Path:
    """Make a package of one module and one program."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"tiny_pkg-{version}.dist-info"
    path = directory / f"tiny_pkg-{version}-py3-none-any.whl"
    parts = {
        "tiny_pkg.py": f"VERSION = {version!r}\n\n\ndef main():\n    print('tiny', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-pkg\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ntiny = tiny_pkg:main\n",
    }
    record = "".join(f"{name},,\n" for name in parts) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in {**parts, f"{info}/RECORD": record}.items():
            file.writestr(name, text)
    return directory


def seen(name: str) -> tuple[str | None, str, str]:
    """What a task sees: a module's version, its Python's prefix, and a variable."""
    import importlib

    try:
        version = importlib.import_module("tiny_pkg").VERSION
    except ImportError:
        version = None
    return version, sys.prefix, os.environ.get(name, "")


def process(_: int) -> int:
    return os.getpid()


def test_pip_builds_an_environment_once_for_functions_and_commands(
    session: Session, shared_site: SiteUnderTest
) -> None:
    links = wheel(shared_site.scratch / "wheels", "1.5")
    environment = {
        "pip": ["tiny-pkg"],
        "pip_options": ["--no-index", "--find-links", links],
        "variables": {"MINE": "yes"},
    }
    task = pilot.task(seen) if False else pilot.task(environment=environment)(seen)
    first, second = session.submit(task, "MINE"), session.submit(task, "MINE")
    version, prefix, mine = first.result(DEADLINE_S)
    assert (version, mine) == ("1.5", "yes")
    assert Path(prefix).parent == shared_site.directory / "environments"
    assert second.result(DEADLINE_S) == (version, prefix, mine)
    assert len(list((shared_site.directory / "environments").iterdir())) == 1
    told = session.submit(pilot.shell("tiny; echo $MINE", environment=environment))
    assert told.result(DEADLINE_S).stdout == "tiny 1.5\nyes\n"
    # Others see nothing of it.
    assert session.submit(seen, "MINE").result(DEADLINE_S)[0] is None
    children = session.submit(pilot.task(environment=environment)(with_child))
    assert children.result(DEADLINE_S)[0] == "1.5"


def with_child() -> Any:
    """Run a child in the environment of this task, which is there already."""
    return pilot.context().session.submit(
        pilot.task(environment={"venv": sys.prefix})(seen), "MINE"
    )


def test_a_failed_build_is_told_where_it_was_asked_for(
    session: Session, shared_site: SiteUnderTest
) -> None:
    bad = pilot.task(environment={"pip": ["not-there"], "pip_options": ["--no-index"]})(seen)
    with pytest.raises(pilot.SubmissionError, match=r"(?s)pip cannot install not-there.*ERROR"):
        session.submit(bad, "A")


def test_a_virtual_environment_is_another_process_of_the_same_python(
    session: Session, tmp_path: Path
) -> None:
    place = tmp_path / "v e"
    venv.create(place, with_pip=False)
    library = place / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    (library / "tiny_pkg.py").write_text("VERSION = 'mine'\n")
    task = pilot.task(environment={"venv": place})
    version, prefix, _ = session.submit(task(seen), "A").result(DEADLINE_S)
    assert (version, prefix) == ("mine", str(place))
    # Warm: one process for tasks one after the other, and another one for those without.
    pids = {session.submit(task(process), n).result(DEADLINE_S) for n in range(3)}
    assert len(pids) == 1
    assert session.submit(process, 0).result(DEADLINE_S) not in pids


def test_modules_reach_functions_and_what_they_start(session: Session, tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text(
        'module() { [ "$2" != none ] && export MINE="$MINE$2" LD_LIBRARY_PATH=/x/$2; }\n'
    )
    with Session(session.site, variables={"MODULESHOME": str(tmp_path)}) as mine:
        modules = pilot.task(environment={"modules": ["gcc"]})
        assert mine.submit(modules(seen), "MINE").result(DEADLINE_S)[2] == "gcc"
        loader = pilot.shell("echo $LD_LIBRARY_PATH", environment={"modules": ["gcc"]})
        assert mine.submit(loader).result(DEADLINE_S).stdout == "/x/gcc\n"
        bad = pilot.task(environment={"modules": ["none"]}, max_crashes=0)
        error = mine.submit(bad(seen), "A").exception(DEADLINE_S)
        assert isinstance(error, pilot.TaskCrashed)
        assert "module load none has failed" in str(error)
        # The node is at no fault.
        assert mine.submit(seen, "A").result(DEADLINE_S)


def test_an_environment_that_is_gone_fails_its_task(session: Session, tmp_path: Path) -> None:
    place = tmp_path / "v"
    venv.create(place, with_pip=False)
    task = pilot.task(environment={"venv": place}, max_crashes=1)(seen)
    subprocess.run(["rm", "-r", str(place)], check=True)
    error = session.submit(task, "A").exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskCrashed) and "there is no environment" in str(error)


def test_a_program_is_told_where_the_pilots_packages_differ(
    make_site: Callable[..., SiteUnderTest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "pilots"
    venv.create(place, with_pip=False)
    library = place / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    own = [path for path in sys.path if path and Path(path).is_dir()]
    (library / "own.pth").write_text("\n".join(own))
    (library / "msgspec-0.0.1.dist-info").mkdir()
    # Its directories come last otherwise, and the first that has a package counts.
    (library / "sitecustomize.py").write_text(f"import sys; sys.path.insert(0, {str(library)!r})")
    site = make_site(environment={"python": str(place / "bin" / "python")})
    with caplog.at_level("WARNING", "pilot"), site.session() as session:
        assert session.submit(pilot.shell("true")).result(DEADLINE_S).returncode == 0
        assert not [text for text in caplog.messages if "msgspec" in text], "of commands nothing"
        session.submit(seen, "A").result(DEADLINE_S)
        session.submit(process, 1).result(DEADLINE_S)
        (told,) = [text for text in caplog.messages if "msgspec" in text]
        assert "(0.0.1)" in told and str(place) in told
