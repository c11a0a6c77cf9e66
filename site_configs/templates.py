"""The site files shipped with the package, as text to copy. Nothing here checks them."""

from __future__ import annotations

# To import importlib.resources takes long, and few processes need it: it is imported late.


def templates() -> list[str]:
    """Return the names of the shipped site files, sorted."""
    from importlib import resources

    files = (entry.name for entry in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


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
