"""Answers that keep to a JSON schema: which tokens may come next. llguidance does the work, where it is installed.

A schema is compiled once and remembered; every sequence gets a copy of its beginning. Limits on size, lexer and parser
keep a hostile schema from costing more than a slow one.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

MAX_SCHEMA_BYTES = 32_768
REMEMBERED = 16
LIMITS = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 50_000,
    "max_items_in_row": 1_000,
}
"""Of llguidance's ``LLParserLimits``; about a tenth of its defaults."""
BETWEEN = "[ ]?"
"""White space between JSON's tokens. Free white space lets a small model write blank lines to its last token."""
KEYWORDS = (
    "not uniqueItems contains minContains maxContains if then else dependentSchemas dependentRequired propertyNames "
    "unevaluatedItems unevaluatedProperties multipleOf minProperties maxProperties patternProperties oneOf allOf anyOf "
    "$ref $dynamicRef $anchor format pattern type const enum"
)
"""What a refusal may name: words of JSON Schema, never words of the client's own."""

_TOO_DEEP = "is nested too deep; use fewer levels"


class SchemaError(Exception):
    """The schema cannot be kept to; the text is for a person."""


class GrammarFailed(Exception):
    """While text is made, a grammar became too complex, or allows nothing. Only its own sequence is lost."""


class Grammar:
    """One sequence's place in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, bool ``[vocab_size]``; at least one. Raises :class:`GrammarFailed`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
        if self._matcher.is_error() or not mask.any():
            raise GrammarFailed
        return mask

    def accept(self, token: int) -> None:
        """``token``, one of the allowed ones, has been chosen. Raises :class:`GrammarFailed`."""
        if not self._matcher.consume_token(token):
            raise GrammarFailed

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return bool(self._matcher.is_stopped())


class Grammars:
    """Compiles schemas for one tokenizer. ``library`` is the module llguidance. Safe to use from several threads."""

    def __init__(self, library: Any, tokenizer: Tokenizer, stop_ids: Iterable[int], vocab_size: int) -> None:
        self._library, self._vocab_size = library, vocab_size
        self._tokenizer = library.LLTokenizer(
            tokenizer.to_str(),
            n_vocab=vocab_size,
            eos_token=sorted(stop_ids) or None,
            slices=library.LLTokenizer.json_slices(),
        )
        self._limits = library.LLParserLimits(verbose_errors=False, **LIMITS)
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def remembers(self, schema: str) -> bool:
        """Whether :meth:`begin` would be quick."""
        with self._lock:
            return schema in self._compiled

    def begin(self, schema: str) -> Grammar:
        """A grammar at its beginning, for ``schema`` as JSON. Compiling drops the interpreter's lock. Raises
        :class:`SchemaError`."""
        with self._lock:
            known = self._compiled.get(schema)
            if known is not None:
                self._compiled.move_to_end(schema)
        if known is None:
            known = self._compile(schema)
            with self._lock:
                self._compiled[schema] = known
                while len(self._compiled) > REMEMBERED:
                    self._compiled.popitem(last=False)
        return Grammar(known.deep_copy(), self._vocab_size)

    def _compile(self, schema: str) -> Any:
        matchers = self._library.LLMatcher
        try:
            grammar = matchers.grammar_from_json_schema(schema, overrides={"whitespace_pattern": BETWEEN})
        except ValueError as error:
            deep = "recursion limit" in str(error)
            raise SchemaError(_TOO_DEEP if deep else "is not a JSON schema; send an object or a boolean") from None
        matcher = matchers(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise SchemaError(_reason(matcher.get_error()))
        return matcher


def _reason(error: str) -> str:
    """What the library says, in words that are not the client's."""
    named = sorted(word for word in KEYWORDS.split() if f'"{word}"' in error)
    if error.startswith("Unimplemented keys") and named:
        return f"uses {', '.join(named)}, which cannot be kept to while text is made; leave it out"
    if "regex" in error:
        return "has a pattern that cannot be used: no look-around, no back references; simplify it"
    if error.startswith("Unknown format"):
        return "has a format that is not known; leave it out, or write it as a pattern"
    if "recursion limit" in error:
        return _TOO_DEEP
    if "limit" in error or "too large" in error or "too complex" in error:
        return "is too complex; make it smaller"
    return "cannot be kept to; check its types and references (only $ref inside the schema works) or simplify it"


def open_grammars(tokenizer: Tokenizer, stop_ids: Iterable[int], vocab_size: int) -> Grammars | None:
    """None where llguidance is not installed."""
    if importlib.util.find_spec("llguidance") is None:
        return None
    return Grammars(importlib.import_module("llguidance"), tokenizer, stop_ids, vocab_size)
