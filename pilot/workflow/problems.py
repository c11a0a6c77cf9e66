"""The findings about a workflow file: collected, so that a user sees all of them at once.

Code that checks one thing raises `Wrong` with the place in the file; `Problems` knows the lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pilot.site_configs.yamlfile import Finding, YamlFile, YamlPath
from pilot.workflow.schema import WorkflowFileError


class Wrong(Exception):
    """A mistake at a place of the file."""

    def __init__(self, path: YamlPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


class Problems:
    """The findings about one file."""

    def __init__(self, file: YamlFile[Any]) -> None:
        self._file = file
        self._found: dict[tuple[int, str], None] = {}
        self._paths: set[YamlPath] = set()
        #: Keys that were left out, as they do not fit.
        self.left_out: set[YamlPath] = set()

    def add(self, path: YamlPath, message: str) -> None:
        """Note a finding; the same one is noted once."""
        line = self._file.line_of(*path)
        self._paths.update(path[:length] for length in range(len(path) + 1))
        self._found[(line, str(self._file.error(*path, message=message)))] = None

    def take(self, findings: Iterable[Finding]) -> None:
        """Add the findings about values that do not fit the file's type, and were left out."""
        for finding in findings:
            self.add(finding.path, finding.message)
            self.left_out.add(finding.left_out)

    def are_at(self, *path: str | int) -> bool:
        """Tell whether there is a finding at a place of the file, or inside of it."""
        return path in self._paths

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a `Wrong` that is raised in the block, and go on after it."""
        try:
            yield
        except Wrong as wrong:
            self.add(wrong.path, wrong.message)

    def raise_if_any(self) -> None:
        """Raise all findings as one error, in the order of lines.

        Raises
        ------
        WorkflowFileError
            There are findings.
        """
        if self._found:
            ordered = sorted(self._found, key=lambda found: found[0])
            raise WorkflowFileError("\n".join(text for _, text in ordered))


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean …? Known: …``, for a word that is not among the known ones."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    shown = names if len(names) <= 20 else [*names[:20], "…"]
    return hint + (f"Known: {', '.join(shown)}" if names else "there are none")
