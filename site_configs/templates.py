"""The site files shipped with the package, as text to copy. Nothing here checks them.

Invariant: the first line of each is a comment that describes it.
"""

from __future__ import annotations

# To import importlib.resources takes long, and few processes need it: it is imported late.


def templates() -> dict[str, str]:
    """Return the shipped site files: their names, sorted, and what each one is, in a line."""
    from importlib import resources

    files = sorted(resources.files(__package__).iterdir(), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".yaml"): _first_line(entry.read_text(encoding="utf-8"))
        for entry in files
        if entry.name.endswith(".yaml")
    }


def template_text(name: str) -> str:
    """Return the shipped site file `name` as YAML text.

    Raises
    ------
    KeyError
        No such file is shipped; the message names those that are.
    """
    from importlib import resources

    if name not in templates():
        raise KeyError(f"no template is named {name!r}; there are {', '.join(templates())}")
    return (resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")


def _first_line(text: str) -> str:
    return text.partition("\n")[0].removeprefix("#").strip().rstrip(".")
