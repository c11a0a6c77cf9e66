"""Asking ``pilot why``, as people and programs do; what it prints is printed (``pytest -rP``)."""

from __future__ import annotations

import json
import sys
from typing import Any

from click.testing import CliRunner

from pilot.cli import cli
from support.waiting import wait_until

DEADLINE_S = 90.0


class Asking:
    """Who asks, on the site that the environment names."""

    def __call__(self, *subject: object) -> str:
        """What the command prints."""
        arguments = ["why", *map(str, subject)]
        result = CliRunner().invoke(cli, arguments, prog_name="pilot")
        print("$ pilot", *arguments, file=sys.stderr)
        print(result.output, file=sys.stderr)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, subject: object) -> dict[str, Any]:
        """The answer for programs."""
        found = CliRunner().invoke(cli, ["why", str(subject), "--json"], prog_name="pilot")
        assert found.exit_code == 0, (found.output, found.exception)
        data: dict[str, Any] = json.loads(found.stdout)
        return data

    def until(self, subject: object, kind: str, words: str = "") -> str:
        """What the command prints once the cause is of this kind, and told in these words."""
        last: list[dict[str, Any]] = []

        def there() -> bool:
            last[:] = [self.json(subject)]
            return last[0]["kind"] == kind and words in last[0]["answer"]

        try:
            wait_until(there, DEADLINE_S, f"{kind!r} to be why")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from None
        return self(subject)
