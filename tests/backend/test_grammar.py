"""Text that keeps to a schema, also when the model would rather not, and schemas that nothing can keep to."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from fakes import Collector, LastTotals
from tokenizers import Tokenizer, decoders, models

from build_engine.backend.detokenizer import TextStream
from build_engine.backend.engine import Logits, Row
from build_engine.backend.grammar import GrammarFailed, Grammars, SchemaError, open_grammars
from build_engine.backend.sampling import RowSampler, SamplingParams, sample
from build_engine.backend.scheduler import Scheduler, Sequence

LETTERS = '{}[]":,.- abcdefghijklmnopqrstuvwxyz0123456789'
END = len(LETTERS)
VOCAB_SIZE = END + 9
"""More than the tokenizer has, as in models whose embedding is padded."""
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token for each letter, and one that ends the text."""
    alphabet = {("\u0120" if letter == " " else letter): token for token, letter in enumerate(LETTERS)}
    made = Tokenizer(models.BPE({**alphabet, "<end>": END}, []))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    """As the backend makes them."""
    opened = open_grammars(tokenizer, [END], VOCAB_SIZE)
    assert opened is not None, "the extra `triton` brings llguidance"
    return opened


class Babbler:
    """An engine that wants something else at every step, and never anything in particular."""

    vocab_size, context_length, max_sequences, max_step_tokens, max_row_tokens = VOCAB_SIZE, 512, 8, 64, 64

    def __init__(self) -> None:
        self._random = np.random.default_rng(5)

    def open(self, max_tokens: int) -> int | None:
        return 0

    def close(self, sequence: int) -> None:
        pass

    def step(self, rows: list[Row]) -> Logits:
        return self._random.normal(size=(sum(row.sample for row in rows), VOCAB_SIZE)).astype(np.float32)

    def free_tokens(self) -> int:
        return 512

    def total_tokens(self) -> int:
        return 512


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_whatever_the_model_wants_the_text_keeps_to_the_schema(
    tokenizer: Tokenizer, grammars: Grammars, temperature: float
) -> None:
    """Greedy and sampled; the answer ends by itself, with the reason `stop`, as soon as it is whole."""
    scheduler = Scheduler(Babbler(), LastTotals())
    prompt = np.array([1])
    for seed in range(10):
        sink, params = Collector(), SamplingParams(temperature=temperature, seed=seed)
        sampler = RowSampler(params, prompt, grammars.begin(json.dumps(PERSON)))
        text = TextStream(tokenizer, frozenset([END]), [])
        scheduler.submit(Sequence(prompt, 400, sampler, text, frozenset([END]), sink))
        assert sink.done.wait(5)
        person = json.loads(sink.text)
        assert (set(person), sink.reason) == ({"name", "age"}, "stop")
        assert len(person["name"]) <= 8
        assert 0 <= person["age"] <= 99
    scheduler.stop()


def test_a_grammar_masks_its_own_row_only(grammars: Grammars) -> None:
    """Beside it a greedy row is chosen as ever; the row itself is not written to."""
    logits = np.zeros((2, VOCAB_SIZE), np.float32)
    logits[:, 11] = 5
    before = logits.copy()
    samplers = [
        RowSampler(SamplingParams(), np.array([1]), grammars.begin('{"type": "object"}')),
        RowSampler(SamplingParams(), np.array([1])),
    ]
    assert sample(logits, samplers) == [LETTERS.index("{"), 11]
    assert (logits == before).all()


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ("{", "JSON schema"),
        ("[1]", "JSON schema"),
        ('{"uniqueItems": true, "type": "array"}', "uniqueItems"),
        ('{"not": {}}', "not"),
        ('{"type": "string", "pattern": "(?=x)y"}', "look-around"),
        ('{"type": "secretword"}', "types"),
        ('{"type": "string", "format": "secretword"}', "format"),
        ('{"$ref": "https://secretword.example/x"}', "$ref"),
        ('{"items":' * 200 + "{}" + "}" * 200, "nested too deep"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(grammars: Grammars, schema: str, named: str) -> None:
    """The refusal says what is wrong in its own words, not in the client's."""
    with pytest.raises(SchemaError) as refused:
        grammars.begin(schema)
    assert named in str(refused.value)
    assert "secretword" not in str(refused.value)


def test_a_grammar_that_allows_nothing_ends_its_own_sequence(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """A schema that refers to nothing but itself compiles; the request is told, the next one served."""
    grammar = grammars.begin('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}')
    with pytest.raises(GrammarFailed):
        grammar.allowed()
    scheduler = Scheduler(Babbler(), LastTotals())
    prompt = np.array([1])
    for each, code in ((grammar, "invalid_input"), (None, None)):
        sink, sampler = Collector(), RowSampler(SamplingParams(), prompt, each)
        scheduler.submit(Sequence(prompt, 3, sampler, TextStream(tokenizer, frozenset(), []), frozenset(), sink))
        assert sink.done.wait(5)
        assert (sink.failure[0] if sink.failure else None) == code
    scheduler.stop()


HOSTILE: dict[str, Any] = {
    "patterns": {"properties": {f"p{n}": {"type": "string", "pattern": f"[a-z]{{3,{n + 3}}}"} for n in range(500)}},
    "nested repeats": {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    "exponential": {"type": "string", "pattern": "(a|b)*a(a|b){200}"},
    "alternatives": {
        "anyOf": [{"type": "object", "properties": {f"k{n}": {"const": n}}, "required": [f"k{n}"]} for n in range(400)]
    },
    "values": {"enum": [f"x{n}" for n in range(3000)]},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_schema_takes_seconds_at_most_and_stops_nobody(grammars: Grammars, kind: str) -> None:
    """While it is compiled other threads run; a step of it is short, or the sequence ends."""
    schema = json.dumps(HOSTILE[kind])
    ticks, over = [], threading.Event()

    def tick() -> None:
        while not over.wait(0.001):
            ticks.append(time.monotonic())

    beside = threading.Thread(target=tick)
    beside.start()
    began = time.process_time()
    grammar = grammars.begin(schema)
    compiled = time.process_time() - began
    over.set()
    beside.join()
    began = time.process_time()
    try:
        for _ in range(20):
            grammar.accept(int(grammar.allowed().argmax()))
    except GrammarFailed:
        pass
    assert compiled < 3
    assert time.process_time() - began < 3
    assert len(ticks) >= int(compiled / 0.1)


def test_a_schema_is_compiled_once_and_few_are_remembered(grammars: Grammars) -> None:
    """Two sequences of one schema do not share their place; the oldest schema is forgotten."""
    schema = '{"type": "boolean"}'
    first, second = grammars.begin(schema), grammars.begin(schema)
    first.accept(LETTERS.index("t"))
    assert first.allowed()[LETTERS.index("r")]
    assert not second.allowed()[LETTERS.index("r")]
    assert grammars.remembers(schema)
    for number in range(16):
        grammars.begin(f'{{"const": {number}}}')
    assert not grammars.remembers(schema)
