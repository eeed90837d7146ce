"""Sample the shipped texts again."""

from __future__ import annotations

import gzip
import random
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

from gateway.policy.benign import FILES, FOLDER

REVIEWS, PARAGRAPHS, LONGEST = 2000, 600, 240


def reviews(folder: Path) -> list[str]:
    """Reviews, praise and complaint alike."""
    lines: set[str] = set()
    for file in sorted(folder.rglob("sentiment/*.txt")):
        lines |= {line.strip() for line in file.read_text(encoding="utf-8").splitlines()}
    return sorted(line for line in lines if 12 <= len(line) <= LONGEST)


def prose() -> list[str]:
    """Paragraphs without code."""
    paragraphs = {" ".join(part.split()) for text in topics.values() for part in re.split(r"\n\s*\n", text)}
    return sorted(each for each in paragraphs if 40 <= len(each) <= 2 * LONGEST and each[0].isupper())


def main(folder: Path) -> int:
    """Write both files beside this one; the same texts every time."""
    draw = random.Random(20261124)  # noqa: S311 - a sample, not a secret
    for name, texts, count in ((FILES[0], reviews(folder), REVIEWS), (FILES[1], prose(), PARAGRAPHS)):
        chosen = draw.sample(texts, min(count, len(texts)))
        packed = gzip.compress(("\n".join(chosen) + "\n").encode(), mtime=0)
        (FOLDER / name).write_bytes(packed)
        print(f"{name}: {len(chosen)} of {len(texts)} texts, {len(packed)} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
