"""Two tables from elsewhere, read from the text files beside this one, and the command that made them.

* ``traditional.txt``: a traditional Chinese character and the simplified one, from OpenCC (Apache-2.0).
* ``lookalikes.txt``: a character and the ASCII letter or digit that it looks like, from Unicode's ``confusables.txt``
  (Unicode License v3), from the names of the Unicode Character Database, and a dozen of our own.

``python -m gateway.policy.tables`` writes them again; it needs the extra ``dev``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent


@lru_cache(maxsize=2)
def read_table(name: str) -> dict[str, str]:
    """Character to character; lines are pairs of characters, ``#`` starts a comment."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {line[0]: line[1] for line in lines if line and not line.startswith("# ")}
