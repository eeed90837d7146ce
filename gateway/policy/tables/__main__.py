"""Write the tables again from their sources."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from importlib.resources import files
from pathlib import Path

from gateway.policy.tables import FOLDER

# Letters that people take for others and Unicode's table does not name: the small forms of capitals that it does, and
# what a hurried eye reads.
OTHERS = dict(zip("кмтвнκηχτωεβƅϲϹ", "kmtbhknxtwebbcc", strict=True))
TURNED = re.compile(r"LATIN (?:SMALL|CAPITAL) LETTER (?:TURNED|REVERSED|INVERTED) ([A-Z])$")
NAMED = (
    re.compile(r"LATIN LETTER SMALL CAPITAL ([A-Z])$"),
    re.compile(r"LATIN (?:SMALL|CAPITAL) LETTER ([A-Z]) WITH "),
    re.compile(r"LATIN (?:SMALL|CAPITAL) LETTER (?:OPEN|SCRIPT|DOTLESS|LONG) ([A-Z])$"),
    re.compile(
        r"(?:NEGATIVE )?(?:CIRCLED|SQUARED|PARENTHESIZED|CROSSED NEGATIVE SQUARED) LATIN CAPITAL LETTER ([A-Z])$"
    ),
    re.compile(r"REGIONAL INDICATOR SYMBOL LETTER ([A-Z])$"),
    re.compile(r"MODIFIER LETTER (?:SMALL|CAPITAL) ([A-Z])$"),
    TURNED,
)


def traditional() -> dict[str, str]:
    """Every character that OpenCC's ``t2s`` maps, alone, to another one character."""
    from opencc import OpenCC  # noqa: PLC0415 - only this command needs it

    convert = OpenCC("t2s").convert
    found = {}
    for code in [*range(0x3400, 0xA000), *range(0xF900, 0xFB00), *range(0x20000, 0x323B0)]:
        simplified = convert(chr(code))
        if simplified != chr(code) and len(simplified) == 1:
            found[chr(code)] = simplified
    return found


def lookalikes() -> dict[str, str]:
    """Letters that are neither ASCII nor folded by NFKC, accents or case, and the ASCII letter that they look like."""
    package = files("confusable_homoglyphs")
    confusables = json.loads(Path(str(package / "confusables.json")).read_text(encoding="utf-8"))
    found = {}
    for code in range(0x80, 0x20000):
        character = chr(code)
        if unicodedata.category(character) in ("Cn", "Cs", "Co") or _plain(character):
            continue
        letter = _named(character) or _confused(character, confusables)
        if letter:
            found[character] = letter
    return found | {source: target for source, target in OTHERS.items() if source not in found}


def _plain(character: str) -> str:
    folded = unicodedata.normalize("NFKD", character)[:1].casefold()
    return folded if folded.isascii() else ""


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    matches = (pattern.match(name) for pattern in NAMED)
    return next((match.group(1).lower() for match in matches if match), "")


def _confused(character: str, confusables: dict[str, list[dict[str, str]]]) -> str:
    """The one ASCII letter or digit among what Unicode finds confusable; a letter must stand for a letter."""
    kind = unicodedata.category(character)[0]
    others = {each["c"].casefold() for each in confusables.get(character, ()) if len(each["c"]) == 1}
    letters = sorted(each for each in others if each.isascii() and each.isalnum())
    if kind not in "LN" or not letters or character == "〇":  # a Chinese zero stands in Chinese numbers
        return ""
    return next((each for each in letters if each.isalpha()), letters[0])


def main() -> int:
    """Write both files beside this one."""
    heads = {
        "traditional": "# Traditional to simplified Chinese, character by character. From OpenCC 1.4, Apache-2.0.",
        "lookalikes": "# Letters that look like ASCII ones. From Unicode's confusables and names, Unicode License v3.",
    }
    for name, table in (("traditional", traditional()), ("lookalikes", lookalikes())):
        lines = [heads[name], *(f"{source}{target}" for source, target in sorted(table.items()))]
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(table)} characters", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
