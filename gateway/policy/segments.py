"""Sentences out of a text that comes in pieces, for judges that need a whole thought.

A segment ends behind ``。！？；…!?;`` and the closing quotes and brackets that follow, behind a line end, and behind a
full stop before white space. A longer one than the limit is cut at its last comma or blank. Segments joined are the
text, and they do not depend on how it was cut.
"""

from __future__ import annotations

ENDS = frozenset("。！？；…!?;\n\r\u2028\u2029")
CLOSERS = frozenset("”’\"')）]】」』》")
BREAKS = frozenset("，、,：: \t　")
LONGEST = 400


class Segmenter:
    """One text. ``longest`` is in characters."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._text = ""
        self._ended = False

    @property
    def pending(self) -> str:
        """What is not a whole segment yet."""
        return self._text

    def feed(self, piece: str) -> list[str]:
        """Read on; returns the segments that are whole now."""
        found: list[str] = []
        for character in piece:
            after_stop = self._text.endswith(".") and character.isspace()
            if self._ended and character not in ENDS and character not in CLOSERS:
                self._cut(found, len(self._text))
            self._text += character
            self._ended = character in ENDS or after_stop or (self._ended and character in CLOSERS)
            if len(self._text) >= self._longest:
                places = [place for place, each in enumerate(self._text, 1) if each in BREAKS or each in ENDS]
                self._cut(found, places[-1] if places and not self._ended else len(self._text))
        return found

    def finish(self) -> list[str]:
        """Nothing follows: the rest, if there is any."""
        found: list[str] = []
        if self._text:
            self._cut(found, len(self._text))
        return found

    def _cut(self, found: list[str], end: int) -> None:
        found.append(self._text[:end])
        self._text, self._ended = self._text[end:], False
