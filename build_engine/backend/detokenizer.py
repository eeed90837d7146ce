"""Text out of tokens, one token at a time, and the stop sequences that end it.

A character's bytes may lie in several tokens, and a stop sequence may too. Both are held back until they
are decided, so joining what was streamed gives the same text as decoding everything at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_UNDECIDED = "\ufffd"
_PATIENCE = 64
"""Tokens that may end in an undecodable byte before they are taken as they are. A character has at most
four.
"""


class Detokenizer:
    """Incremental decoding. Special tokens have no text.

    Each token decodes a short window: the tokens of the last piece of text, because some tokenizers drop
    the space in front of whatever comes first, and those which have not become text yet. The cost does not
    grow with the sequence.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids
        self._window: list[int] = []
        self._known = 0
        self._known_text = ""

    def push(self, token: int) -> str:
        """The text that ``token`` completes; "" while a character is still open."""
        if token in self._special:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._known
        if len(text) <= len(self._known_text) or (text.endswith(_UNDECIDED) and pending < _PATIENCE):
            return ""
        piece = text[len(self._known_text) :]
        self._window = self._window[self._known :]
        self._known = len(self._window)
        self._known_text = self._decode(self._window)
        return piece

    def finish(self) -> str:
        """What is left at the end: bytes that never became a character, as U+FFFD."""
        piece = self._decode(self._window)[len(self._known_text) :]
        self._window, self._known, self._known_text = [], 0, ""
        return piece

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class StopMatcher:
    """Finds the stop sequence that is completed first, wherever the text is cut (Knuth-Morris-Pratt, one
    automaton a sequence). Of those completed by the same character the longest counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that no stop sequence can claim any more, and whether one has been completed. Nothing may be
        pushed after that; the sequence itself and what follows it are never given out.
        """
        if not self._stops:
            return text, False
        held = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            done = self._advance(character)
            if done:
                self._held = ""
                return held[: end - done], True
        keep = max(self._matched)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """The held text, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Length of the longest stop sequence that ``character`` completes, or 0."""
        done = 0
        for index, (stop, borders) in enumerate(self._stops):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            matched += stop[matched] == character
            self._matched[index] = matched
            if matched == len(stop):
                done = max(done, matched)
        return done


def _borders(stop: str) -> list[int]:
    """For each prefix of ``stop``: the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[matched] != stop[index]:
            matched = borders[matched - 1]
        matched += stop[matched] == stop[index]
        borders[index] = matched
    return borders


class TextStream:
    """Detokenizer and stop sequences of one request."""

    def __init__(self, tokenizer: Tokenizer, special_ids: frozenset[int], stops: Sequence[str]) -> None:
        self._detokenizer, self._special = Detokenizer(tokenizer, special_ids), special_ids
        self._stops = StopMatcher(stops)
        self.decoded = 0
        """Whole characters so far, before stop sequences hold or take any."""

    def is_special(self, token: int) -> bool:
        """Whether ``token`` has no text."""
        return token in self._special

    def push(self, token: int) -> tuple[str, bool]:
        """Text to emit now, and whether a stop sequence ended the text."""
        piece = self._detokenizer.push(token)
        self.decoded += len(piece)
        return self._stops.push(piece) if piece else ("", False)

    def finish(self) -> tuple[str, bool]:
        """The rest of the text. True when the rest completed a stop sequence."""
        piece = self._detokenizer.finish()
        self.decoded += len(piece)
        text, stopped = self._stops.push(piece)
        return (text, True) if stopped else (text + self._stops.finish(), False)
