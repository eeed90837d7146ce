"""Prints what the named extras of pyproject.toml need, one requirement a line: ``requirements.py gateway pinyin``.

The images install requirements and copy source, so a change of source leaves the layer of packages as it is.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OWN = re.compile(r"tidegate\[([a-z, -]+)\]")


def requirements(extras: list[str], declared: dict[str, list[str]]) -> list[str]:
    """Sorted and without repeats; an extra that names another of this project is followed."""
    found: set[str] = set()
    for extra in extras:
        for line in declared[extra]:
            own = OWN.fullmatch(line)
            found |= set(requirements(own[1].replace(" ", "").split(","), declared)) if own else {line}
    return sorted(found)


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.stdout.write("\n".join(requirements(sys.argv[1:], project["optional-dependencies"])) + "\n")
