"""The lowest versions that setup.cfg allows of each requirement, printed for pip.

Usage: lowest.py [--newest] FILE [EXTRA …]. With --newest, each as setup.cfg has it. A package that
an extra names again has the higher of the two bounds.
"""

from __future__ import annotations

import configparser
import re
import sys

_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)\s*(?:>=\s*([0-9.]+))?(?:,\s*!=\s*[0-9.]+)*")


def requirements(text: str, extras: list[str]) -> dict[str, str]:
    """Return the lower bounds by package; an empty text for none."""
    config = configparser.ConfigParser()
    config.read_string(text)
    sections = [config["options"]["install_requires"]]
    sections += [config["options.extras_require"][extra] for extra in extras]
    found: dict[str, str] = {}
    for line in "\n".join(sections).splitlines():
        if match := _REQUIREMENT.fullmatch(line.strip()):
            package, bound = match[1], match[2] or ""
            found[package] = max(found.get(package, ""), bound, key=_order)
        elif line.strip() and not line.strip().startswith("#"):
            raise SystemExit(f"setup.cfg: {line.strip()!r}: expected NAME >= VERSION")
    return found


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]


def main() -> None:
    """Print one line for each package."""
    arguments = sys.argv[1:]
    sign = "=="
    if arguments[:1] == ["--newest"]:
        sign = ">="
        del arguments[0]
    with open(arguments[0], encoding="utf-8") as file:
        found = requirements(file.read(), arguments[1:])
    for package, bound in found.items():
        print(f"{package}{sign}{bound}" if bound else package)


if __name__ == "__main__":
    main()
