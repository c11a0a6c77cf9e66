"""Batch systems stand behind their interface: no code elsewhere has a word of one of them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pilot", "scheduler", "launchers", "site_configs")
#: Where each batch system is at home.
HOME = ROOT / "scheduler" / "batch"
#: A word of Slurm, also as a part of a name: `SlurmBatch`, `SLURM_JOB_ID`, `run_srun`.
WORD = re.compile(
    r"(?<![A-Za-z])(?:slurm|sbatch|squeue|scontrol|scancel|sinfo|sacct|salloc|srun)"
    r"|(?<![A-Z])(?:SLURM|SBATCH|SQUEUE|SRUN)|(?:Slurm|Sbatch|Squeue|Srun)(?![a-z])"
)
#: Files that have such words: which (empty: any), and why.
EXCEPTIONS: dict[str, tuple[str, str]] = {
    "launchers/srun.py": ("", "the launcher of Slurm"),
    "launchers/__init__.py": (r"srun|SrunLauncher", "the names of all launchers"),
    "launchers/mpirun.py": (r"\^slurm", "a part of Open MPI that tasks are to do without"),
    "launchers/identity.py": (r"SLURM_\w*", "a process can be a rank of any launcher"),
    "pilot/client/shell_command.py": (r"sbatch", "programs that take input for a shell script"),
    "pilot/client/shell_places.py": (r"sbatch", "programs that take input for a shell script"),
    "pilot/compat/compss/enqueueing.py": (r"sbatch_options", "the key that flags of COMPSs make"),
    "pilot/compat/compss/several_nodes.py": (r"SLURM_\w*", "variables that COMPSs sets for tasks"),
    "pilot/site.py": (r"slurm", "the names of the templates"),
}
MODULES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if HOME not in path.parents
)


def code_words(source: str) -> Iterator[tuple[int, str]]:
    """Names and texts of a module that are no docstrings, each with its line."""
    documentation = {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped and token.start not in documentation:
            yield token.start[0], token.string


def found_in(path: Path) -> list[str]:
    allowed, _ = EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), (None, ""))
    source = path.read_text()
    if allowed == "" or not WORD.search(source):
        return []
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:80]}"
        for line, text in code_words(source)
        if WORD.search(text if allowed is None else re.sub(allowed, "", text))
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_outside_has_a_word_of_a_batch_system(path: Path) -> None:
    assert not found_in(path), "ask the `BatchKind` of the site's configuration instead"


def test_every_exception_is_needed() -> None:
    for name in EXCEPTIONS:
        words = [text for _, text in code_words((ROOT / name).read_text())]
        assert any(map(WORD.search, words)), f"{name} has none any more: take it off the list"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    'Slurm.'\n    # sbatch\n    return attemptsRunning", False),
        ("class AttemptsRunning: '''As srun.'''", False),
        ("kind = 'a slurm'", True),
        ("os.environ['SLURM_JOB_ID']", True),
        ("config.slurm.cluster", True),
        ("class SlurmBatch: pass", True),
        ("f'{x} of squeue'", True),
        ("call(SrunLauncher)", True),
        ("run_sbatch()", True),
    ],
)
def test_the_search_finds_words_in_code_alone(source: str, found: bool) -> None:
    assert any(WORD.search(text) for _, text in code_words(source)) is found
