"""A command's own directory: what is brought there, and what is taken from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pilot.client.staging import COPY, LINK, Scratch, around
from pilot.errors import CommandError, WorkflowError
from pilot.workflow.load import load_workflow


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


def test_inputs_are_there_under_their_last_names(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "leaf").write_text("leaf")
    (tmp_path / "file").write_text("text")
    inputs = {"a": tmp_path / "file", "b": tmp_path / "tree"}
    made = Scratch(scratch, inputs, {"c": tmp_path / "out"}, COPY)
    assert made.names == {"a": "file", "b": "tree", "c": "out"}
    assert not (scratch / "file").is_symlink() and (scratch / "tree/sub/leaf").read_text() == "leaf"
    assert sorted(path.name for path in scratch.iterdir()) == ["file", "tree"]


def test_links_lead_to_the_files_themselves(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "file").write_text("text")
    Scratch(scratch, {"a": tmp_path / "file"}, {}, LINK)
    assert (scratch / "file").readlink() == tmp_path / "file"


def test_outputs_come_whole_and_in_place_of_earlier_ones(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "old").write_text("")
    outputs = {"a": tmp_path / "file", "b": tmp_path / "tree", "c": tmp_path / "none"}
    made = Scratch(scratch, {}, outputs, COPY)
    (scratch / "file").write_text("new")
    (scratch / "tree").mkdir()
    (scratch / "tree" / "new").write_text("")
    made.take_back()
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "scratch", "tree"]


def test_an_output_that_cannot_be_brought_leaves_no_part(tmp_path: Path, scratch: Path) -> None:
    made = Scratch(scratch, {}, {"a": tmp_path / "gone" / "file"}, COPY)
    (scratch / "file").write_text("new")
    with pytest.raises(OSError, match="gone"):
        made.take_back()
    assert not (tmp_path / "gone").exists()


def test_files_of_one_name_are_refused(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(CommandError, match="a and b are both called 'x'"):
        Scratch(scratch, {"a": tmp_path / "x"}, {"b": tmp_path / "other" / "x"}, COPY)


@pytest.mark.parametrize(
    ("prolog", "words", "epilog", "status", "said"),
    [
        ("A=1; export A", ["sh", "-c", "echo $A"], "", 0, "1\n"),
        ("false", ["echo", "never"], "echo never", 1, ""),
        ("", ["sh", "-c", "exit 3"], "echo $PILOT_STATUS; exit 5", 3, "3\n"),
        ("", ["true"], "exit 5", 5, ""),
        ("", ["echo", "a  b", "$A"], "", 0, "a  b $A\n"),
    ],
)
def test_what_is_around_a_command(
    prolog: str, words: list[str], epilog: str, status: int, said: str
) -> None:
    argv, env = around(words, {"PATH": "/usr/bin:/bin"}, prolog, epilog)
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, said)


def test_workflow_files_have_the_same_keys(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    text = "tasks:\n  a:\n    run: cat {x}\n    inputs: {x: data}\n    prolog: export B=${{HOME}}\n"
    file.write_text(text + "    scratch: link\n")
    load_workflow(file)
    file.write_text(text + "    scratch: move\n")
    with pytest.raises(WorkflowError, match="scratch"):
        load_workflow(file)
    file.write_text("tasks:\n  a:\n    python: math:sqrt\n    args: [2]\n    epilog: date\n")
    with pytest.raises(WorkflowError, match="'epilog' goes with 'run' only"):
        load_workflow(file)
