"""The text of a YAML file, and the errors about it.

Each start of a process reads a file, and most need no YAML: nothing here imports PyYAML.
"""

from __future__ import annotations

from pathlib import Path

from pilot.regular_files import read_regular_text


class YamlError(ValueError):
    """An error in a YAML file. The message opens with ``file:line:``."""


class SiteFileError(YamlError):
    """An error in a site file. The message opens with ``file:line:``."""


def read_yaml_text(path: Path, name: str, *, error_type: type[YamlError]) -> str:
    """Read the text of a YAML file.

    Raises
    ------
    YamlError
        As `error_type`: the file cannot be read.
    """
    try:
        return read_regular_text(path)
    except OSError as error:
        raise error_type(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise error_type(f"{name}: is not UTF-8 text; save it as UTF-8") from error
