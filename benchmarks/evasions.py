"""What people do to a word so that a filter does not find it: one function a family.

Each takes a word (and chance) and gives what stands in its place, or an empty text if the word has nothing to change.
``CHARACTERS`` are the families that the policy promises to find, ``OTHERS`` those that it does not.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

Evasion = Callable[[str, random.Random], str]
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff")
DIRECTIONS = ("\u202a", "\u202d", "\u202e", "\u202c", "\u2066", "\u2069", "\u200e", "\u200f")
EMOJI = ("😀", "🔥", "💣", "❤️", "👍", "🀄", "✨")
MARKS = ("\u0301", "\u0308", "\u0332", "\u0336", "\u0323", "\u0489", "\u20dd")
SOFT = ("*", "-", "_", ".", "·", "~", "#", "^", "&", "=", "/", "\\", "`", "+")
PHRASE = ("，", "。", "！", "；", "、", "：", ",", ";", "\n", "?")
CYRILLIC = dict(zip("aceijopsxyhk", "асеіјорѕхуһк", strict=True))
GREEK = dict(zip("aiknopuvx", "αικηορυνχ", strict=True))
LATIN_ALIKE = dict(zip("abcdefghilnostuz", "ɑƅϲԁҽƒɡһıłոօꜱτսʐ", strict=True))
LEET_DIGITS = {"o": "0", "i": "1", "l": "1", "z": "2", "e": "3", "a": "4", "s": "5", "t": "7", "b": "8", "g": "9"}
LEET_SIGNS = {"a": "@", "s": "$", "i": "!", "l": "|", "t": "+", "e": "€", "c": "¢"}
SMALL_CAPITALS = dict(zip("abcdefghijklmnoprstuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", strict=True))
RAISED = dict(zip("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True))
UPSIDE_DOWN = dict(zip("aehmrtvwy", "ɐǝɥɯɹʇʌʍʎ", strict=True))
PARTS = {
    "好": "女子", "明": "日月", "林": "木木", "听": "口斤", "加": "力口", "如": "女口",
    "和": "禾口", "他": "亻也", "妈": "女马", "们": "亻门", "作": "亻乍", "你": "亻尔",
    "但": "亻旦", "体": "亻本", "位": "亻立", "时": "日寸", "种": "禾中", "吗": "口马",
    "吃": "口乞", "的": "白勺", "很": "彳艮", "得": "彳导", "信": "亻言", "话": "讠舌",
}  # fmt: skip


def each_gap(choices: tuple[str, ...], most: int = 1) -> Evasion:
    """One of ``choices`` (or up to ``most`` of them) between all letters."""

    def change(word: str, draw: random.Random) -> str:
        gaps = ["".join(draw.choices(choices, k=draw.randint(1, most))) for _ in word[1:]]
        return word[0] + "".join(gap + letter for gap, letter in zip(gaps, word[1:], strict=True))

    return change


def one_gap(choices: tuple[str, ...]) -> Evasion:
    """At one place only."""

    def change(word: str, draw: random.Random) -> str:
        place = draw.randrange(1, len(word))
        return word[:place] + draw.choice(choices) + word[place:]

    return change


def behind_each(choices: tuple[str, ...], most: int = 1) -> Evasion:
    """Behind all letters, the last one too."""

    def change(word: str, draw: random.Random) -> str:
        return "".join(letter + "".join(draw.choices(choices, k=draw.randint(1, most))) for letter in word)

    return change


def letters(table: dict[str, str], most: float = 1.0, keep: int = 0) -> Evasion:
    """Letters by a table: a share of those that can be changed, at least one, so that ``keep`` stay as they are."""

    def change(word: str, draw: random.Random) -> str:
        places = [place for place, letter in enumerate(word) if letter in table]
        draw.shuffle(places)
        count = min(max(1, round(most * len(places))), len(word) - keep)
        chosen = set(places[: max(0, count)])
        return "".join(table[letter] if place in chosen else letter for place, letter in enumerate(word)) * bool(chosen)

    return change


def alphabet(first: int, other: dict[str, str] | None = None, capitals: bool = False) -> Evasion:
    """The letters of another row of Unicode, with its exceptions."""
    table = {chr(97 + place): chr(first + place) for place in range(26)} | (other or {})
    return lambda word, _: "".join(table.get(each, "") for each in (word if not capitals else word.lower()))


def repeated(least: int, most: int) -> Evasion:
    """One letter or two of them, written that often."""

    def change(word: str, draw: random.Random) -> str:
        chosen = draw.sample(range(len(word)), draw.randint(1, 2))
        return "".join(each * (draw.randint(least, most) if place in chosen else 1) for place, each in enumerate(word))

    return change


def accented(word: str, draw: random.Random) -> str:
    """Every letter that has an accented form in one code point."""
    return "".join(unicodedata.normalize("NFC", each + draw.choice("\u0301\u0308\u0302\u0300")) for each in word)


def converted(configuration: str, share: float = 1.0) -> Evasion:
    """Traditional characters, by OpenCC; it is needed only to make the set."""

    def change(word: str, draw: random.Random) -> str:
        from opencc import OpenCC  # noqa: PLC0415

        other = OpenCC(configuration).convert(word)
        if len(other) != len(word) or other == word:
            return ""
        return "".join(new if draw.random() < share else old for old, new in zip(word, other, strict=True))

    return change


def compatible(first: int, last: int) -> Evasion:
    """Code points that Unicode calls another form of a character."""
    table: dict[str, str] = {}
    for code in range(first, last):
        table.setdefault(unicodedata.normalize("NFKC", chr(code)), chr(code))
    return letters(table)


def pinyin(share: str) -> Evasion:
    """Syllables: all, one, or the first letters."""

    def change(word: str, draw: random.Random) -> str:
        from pypinyin import lazy_pinyin  # noqa: PLC0415

        syllables = lazy_pinyin(word)
        if share == "initials":
            return "".join(each[0] for each in syllables)
        place = draw.randrange(len(word))
        return "".join(syllables) if share == "all" else word[:place] + syllables[place] + word[place + 1 :]

    return change


def homophone(word: str, draw: random.Random) -> str:
    """Another character that sounds the same, for one."""
    from pypinyin import lazy_pinyin  # noqa: PLC0415

    place = draw.randrange(len(word))
    syllable = lazy_pinyin(word)[place]
    others = [chr(code) for code in range(0x4E00, 0x9FA6) if lazy_pinyin(chr(code)) == [syllable]]
    return (
        word[:place]
        + draw.choice([each for each in others if each != word[place]] or [word[place]])
        + word[place + 1 :]
    )


def swapped(word: str, draw: random.Random) -> str:
    """Two letters change places."""
    place = draw.randrange(1, len(word) - 1) if len(word) > 2 else 0
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def masked(word: str, draw: random.Random) -> str:
    """A star for a letter within."""
    place = draw.randrange(1, len(word) - 1)
    return word[:place] + "*" + word[place + 1 :]


def mixed_case(word: str, draw: random.Random) -> str:
    """Upper and lower by chance."""
    return "".join(each.upper() if draw.random() < 0.5 else each for each in word)


def dressed(word: str, draw: random.Random) -> str:
    """Digits for letters, mixed case and full stops at once."""
    return each_gap((".",))(mixed_case(letters(LEET_DIGITS, 0.5, 3)(word, draw) or word, draw), draw)


CHINESE: dict[str, Evasion] = {
    "plain": lambda word, _: word,
    "traditional": converted("s2t"),
    "traditional, Taiwan": converted("s2tw"),
    "traditional in part": converted("s2t", 0.5),
    "blanks": each_gap((" ",)),
    "several blanks": each_gap((" ",), 4),
    "full-width blanks": each_gap(("\u3000",)),
    "tabs": each_gap(("\t",)),
    "stars": each_gap(("*",)),
    "at signs": each_gap(("@",)),
    "other signs": each_gap(("$", "|", "+"), 1),
    "middle dots": each_gap(("·", "•", "・")),
    "soft punctuation": each_gap(SOFT, 2),
    "one sign at one place": one_gap(SOFT),
    "emoji": each_gap(EMOJI),
    "zero width": each_gap(ZERO_WIDTH, 2),
    "direction marks": each_gap(DIRECTIONS),
    "combining marks": behind_each(MARKS, 2),
    "variation selectors": behind_each(("\ufe00", "\ufe0f", "\U000e0100")),
    "radicals": compatible(0x2F00, 0x2FD6),
    "compatibility ideographs": compatible(0xF900, 0xFAD9),
    "blanks and zero width": each_gap((" ", "\u200b", "*\u200b"), 3),
}
LONGER_CHINESE: dict[str, Evasion] = {
    "line ends, three letters or more": each_gap(("\n",)),
    "phrase punctuation, three letters or more": each_gap(PHRASE),
}
LATIN: dict[str, Evasion] = {
    "plain": lambda word, _: word,
    "upper case": lambda word, _: word.upper(),
    "mixed case": mixed_case,
    "full width": alphabet(0xFF41),
    "full width, upper case": alphabet(0xFF21),
    "mathematical bold": alphabet(0x1D41A),
    "mathematical script": alphabet(0x1D4EA),
    "mathematical fraktur": alphabet(0x1D586),
    "monospace": alphabet(0x1D68A),
    "circled": alphabet(0x24D0),
    "squared": alphabet(0x1F130),
    "in parentheses": alphabet(0x249C),
    "regional indicators": alphabet(0x1F1E6),
    "small capitals": letters(SMALL_CAPITALS),
    "raised": letters(RAISED),
    "turned": letters(UPSIDE_DOWN),
    "Cyrillic": letters(CYRILLIC),
    "Greek": letters(GREEK),
    "other letters alike": letters(LATIN_ALIKE),
    "accents": accented,
    "combining marks": behind_each(MARKS, 1),
    "many combining marks": behind_each(MARKS, 5),
    "zero width": each_gap(ZERO_WIDTH, 2),
    "soft hyphens": each_gap(("\u00ad",)),
    "direction marks": each_gap(DIRECTIONS),
    "blanks": each_gap((" ",)),
    "full stops": each_gap((".",)),
    "hyphens": each_gap(("-",)),
    "stars": each_gap(("*",)),
    "underscores": each_gap(("_",)),
    "emoji": each_gap(EMOJI),
    "soft punctuation": each_gap(SOFT[:-1]),
    "one hyphen": one_gap(("-", "_", "*", ".")),
    "digits for letters": letters(LEET_DIGITS, 0.6, 2),
    "signs for letters": letters(LEET_SIGNS, 0.6, 2),
    "digits, case and full stops": dressed,
    "letters three to six times": repeated(3, 6),
    "letters seven to thirty times": repeated(7, 30),
}
OTHER_CHINESE: dict[str, Evasion] = {
    "pinyin": pinyin("all"),
    "one syllable in pinyin": pinyin("one"),
    "pinyin initials": pinyin("initials"),
    "homophone": homophone,
    "parts of characters": letters(PARTS),
    "letters between": each_gap(("a", "x", "Q")),
    "reversed": lambda word, _: word[::-1] if word[::-1] != word else "",
    "one letter left out": lambda word, draw: word[: (place := draw.randrange(1, len(word)))] + word[place + 1 :],
}
SHORT_CHINESE: dict[str, Evasion] = {"phrase punctuation, two letters": each_gap(PHRASE)}
OTHER_LATIN: dict[str, Evasion] = {
    "a star for a letter": masked,
    "letters twice": repeated(2, 2),
    "one blank": one_gap((" ",)),
    "two letters swapped": swapped,
    "one letter left out": lambda word, draw: word[: (place := draw.randrange(1, len(word)))] + word[place + 1 :],
    "vowels left out": lambda word, _: word[0] + "".join(each for each in word[1:] if each not in "aeiou"),
    "reversed": lambda word, _: word[::-1] if word[::-1] != word else "",
    "ph for f": lambda word, _: word.replace("f", "ph") if "f" in word else "",
}
LATER_CHINESE: dict[str, Evasion] = {
    "one line end": one_gap(("\n",)),
    "more than eight blanks at one place": lambda word, draw: one_gap((" " * draw.randint(9, 20),))(word, draw),
}
LATER_LATIN: dict[str, Evasion] = {
    "more than eight blanks at each place": lambda word, draw: (" " * draw.randint(9, 20)).join(word),
    "a digit before or behind": lambda word, draw: draw.choice(["{1}{0}", "{0}{1}"]).format(word, draw.randint(0, 9)),
}
"""Families that the set did not have at first; neither is promised."""
