"""The accuracy gate: its numbers are those of the definitions, its refusals name what is wrong."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from build_engine import report, texts
from build_engine.backend.engine import EngineError, Row
from build_engine.errors import AccuracyError, TextError
from build_engine.source import TokenizerFiles
from build_engine.template import rendered
from build_engine.verify import GATES, Gate, compare
from gateway import template as gateway_template

VOCABULARY = 11


class TableEngine:
    """An engine whose logits behind a sequence are a random table's line, picked by the last two tokens."""

    vocab_size, context_length, max_sequences, max_step_tokens, max_row_tokens = VOCABULARY, 64, 4, 64, 64

    def __init__(self, noise: float) -> None:
        rng = np.random.default_rng(1)
        self.table = 3 * rng.standard_normal((VOCABULARY, VOCABULARY, VOCABULARY)).astype(np.float32)
        self.table += noise * np.random.default_rng(2).standard_normal(self.table.shape).astype(np.float32)
        self.open_sequences: dict[int, int] = {}
        self.sizes: list[list[int]] = []

    def open(self, max_tokens: int) -> int | None:
        number = next(number for number in range(99) if number not in self.open_sequences)
        self.open_sequences[number] = 0
        return number

    def close(self, sequence: int) -> None:
        del self.open_sequences[sequence]

    def step(self, rows: Sequence[Row]) -> Any:
        lines = []
        self.sizes.append([row.tokens.size for row in rows])
        assert sum(self.sizes[-1]) <= self.max_step_tokens
        for row in rows:
            for token in row.tokens:
                before, self.open_sequences[row.sequence] = self.open_sequences[row.sequence], int(token)
            lines.append(self.table[before, self.open_sequences[row.sequence]])
        return np.stack(lines)

    def free_tokens(self) -> int:
        return 1000

    def total_tokens(self) -> int:
        return 1000


MEASURED = [[3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [0, 1, 2, 3, 7], [0, 1, 2, 3, 7]]
"""Of windows of 9 tokens, four at once: where a row of a step ends, with one chunk for the first or the second half."""


def by_definition(tokens: np.ndarray[Any, Any], wanted: TableEngine, got: TableEngine) -> dict[str, float]:
    """Perplexity, agreement and divergence, position by position, in plain Python."""
    losses, divergences, agree = [], [], []
    for number, window in enumerate(tokens):
        for position in MEASURED[number % 4]:
            previous = window[position - 1] if position else 0
            p, q = (np.exp(np.float64(engine.table[previous, window[position]])) for engine in (wanted, got))
            p, q = p / p.sum(), q / q.sum()
            losses.append(-np.log(q[window[position + 1]]))
            divergences.append(float(np.sum(p * np.log(p / q))))
            agree.append(int(np.argmax(p)) == int(np.argmax(q)))
    return {"ppl": float(np.exp(np.mean(losses))), "kl": float(np.mean(divergences)), "top1": float(np.mean(agree))}


@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
def test_the_numbers_are_those_of_the_definitions(noise: float) -> None:
    """Of more windows than a batch takes."""
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, (12, 9))
    reference, candidate = TableEngine(0.0), TableEngine(noise)
    agreement = compare(reference, candidate, tokens)
    wanted = by_definition(tokens, reference, candidate)
    assert agreement.positions == 60
    assert agreement.perplexity == pytest.approx(wanted["ppl"], rel=1e-6)
    assert agreement.kl_mean == pytest.approx(wanted["kl"], rel=1e-5, abs=1e-9)
    assert agreement.top1 == wanted["top1"]
    assert not reference.open_sequences
    assert not candidate.open_sequences


def test_a_gate_says_what_it_misses() -> None:
    """Equal engines pass every gate; a noisy one is told each number and its limit."""
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, (4, 9))
    same = compare(TableEngine(0.0), TableEngine(0.0), tokens)
    assert all(not same.failures(gate) for gate in GATES.values())
    noisy = compare(TableEngine(0.0), TableEngine(2.0), tokens)
    failures = noisy.failures(Gate(perplexity_ratio=0.001, top1=0.999, kl=1e-6))
    assert [line.split()[0] for line in failures] == ["perplexity", "top-1", "mean"]
    assert all("at most" in line or "at least" in line for line in failures)


def test_half_of_every_window_is_prefilled_beside_others_that_decode() -> None:
    """As engines are served: chunks in pairs of different size, in steps in which other sequences take one token."""
    engine = TableEngine(0.0)
    agreement = compare(TableEngine(0.0), engine, np.random.default_rng(3).integers(0, VOCABULARY, (6, 49)))
    first, last = engine.sizes[0], engine.sizes[-1]
    assert [size > 1 for size in first] == [True, True, False, False] == [size == 1 for size in first[2:] + first[:2]]
    assert first[0] != first[1]
    assert sum(sum(step) for step in engine.sizes) == 6 * 48
    chunks = sum(size for step in engine.sizes for size in step if size > 1)
    assert chunks == 6 * 24
    assert agreement.positions == sum(len(step) for step in engine.sizes)
    assert len(last) == 2


def test_logits_that_are_no_numbers_are_told_whose_they_are() -> None:
    """NaN compares false with every limit; it must not slip through one. A candidate may be followed by another, a
    reference that fails ends the proof; neither keeps a sequence."""
    broken, sound = TableEngine(0.0), TableEngine(0.0)
    broken.table[:] = np.nan
    with pytest.raises(EngineError, match="not a number"):
        compare(sound, broken, np.zeros((2, 5), np.int64))
    with pytest.raises(AccuracyError, match=r"in the reference's precision already: .* not a number"):
        compare(broken, sound, np.zeros((2, 5), np.int64))
    assert not broken.open_sequences
    assert not sound.open_sequences


def tokenizer(chat_template: str = "") -> TokenizerFiles:
    """Words to numbers."""
    found = Tokenizer(models.WordLevel({"[unk]": 0, **{str(n): n + 1 for n in range(99)}}, unk_token="[unk]"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TokenizerFiles(found.to_str(), None, "", (), "<end>", (), chat_template)


def test_texts_and_conversations_are_read(tmp_path: Path) -> None:
    """A conversation is rendered by the model's own template; blank lines do not count."""
    file = tmp_path / "held_out.jsonl"
    lines = [{"text": "一 two"}, {"messages": [{"role": "user", "content": "hi"}]}]
    file.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    assert texts.read_texts(file, tokenizer(template)) == ["一 two", "<user>hi<end>"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"text": "a"}\nplain words\n', "line 2: not JSON"),
        (b'["text"]', "line 1: not a JSON object"),
        (b'{"prompt": "a"}', "line 1: neither text"),
        (b'{"text": 5}', "line 1: neither text"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', "no chat template"),
        (b"\xff\xfe{", "cannot be read"),
        (b'{"text": "a"}\n{"text": "\\ud800"}', "line 2: half a surrogate pair"),
        (b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
        (b"[" * 100_000, "line 1: nested too deeply"),
        (b'{"messages": [{"role": "user", "content": null}]}', r"line 1: messages\[0\]\.content must be a string"),
        (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', r"messages\[0\]\.content must be"),
        (b'{"messages": [{"content": "hi"}]}', r"messages\[0\]\.role must be a string"),
        (b'{"messages": ["hi"]}', r"messages\[0\]\.role must be a string"),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Never a traceback, never silently fewer texts."""
    file = tmp_path / "calibration.jsonl"
    file.write_bytes(content)
    with pytest.raises(TextError, match=message) as raised:
        texts.read_texts(file, tokenizer())
    assert "calibration.jsonl" in str(raised.value)


def test_a_text_may_hold_any_separator_of_lines(tmp_path: Path) -> None:
    """JSON has only one: others stand in a text as they are."""
    file = tmp_path / "held_out.jsonl"
    file.write_text('{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}\n', encoding="utf-8")
    assert texts.read_texts(file, tokenizer()) == ["a\u2028b\u0085c", "d"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Named by its path."""
    with pytest.raises(TextError, match=r"nowhere\.jsonl"):
        texts.read_texts(tmp_path / "nowhere.jsonl", tokenizer())


def test_a_template_cannot_reach_out() -> None:
    """A model's template is somebody else's code."""
    nasty = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(TextError, match="chat template refuses"):
        rendered("f, line 1", [], tokenizer(nasty))


@pytest.mark.parametrize("fault", ["{{ 1 + 'a' }}", "{{ messages.nothing.at_all }}", "{{ 1 // 0 }}", "{% if %}"])
def test_a_template_that_fails_is_a_text_error(fault: str) -> None:
    """Whatever it raises, in one line."""
    with pytest.raises(TextError, match="f, line 1: the chat template refuses these messages: ") as raised:
        rendered("f, line 1", [], tokenizer(fault))
    assert "\n" not in str(raised.value)


def test_both_halves_render_a_template_alike() -> None:
    """The builder and the gateway have the same filters, functions and tags, and never import each other."""
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}: {{ m | tojson }}\n"
        "{% if loop.last %}{% break %}{% endif %}\n{% endfor %}\n{{ strftime_now('%Y') }}{{ bos_token }}{{ eos_token }}"
        "{% if add_generation_prompt %}<me>{% endif %}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "héllo 你"}]
    ours = rendered("f, line 1", messages, tokenizer(template), ask=True)
    assert ours == gateway_template.render(template, messages, "", "<end>")
    assert "héllo 你" in ours


def test_held_out_text_that_calibration_saw_is_refused() -> None:
    """Also with other spaces around it."""
    texts.refuse_overlap(["a", "b"], ["c"])
    with pytest.raises(TextError, match="text 2 stands in --calibration too"):
        texts.refuse_overlap(["a", "b"], ["c", " b\n"])


def test_windows_are_spread_over_the_text() -> None:
    """The first and the last tokens take part; too little text is refused with the number that is needed."""
    numbers = [str(n % 99) for n in range(5000)]
    file, words = Path("mine.jsonl"), tokenizer()
    found = texts.windows(file, [" ".join(numbers[:2500]), " ".join(numbers[2500:])], words, length=100, most=8)
    assert found.shape == (8, 100)
    assert found[0, 0] == 1
    assert found[-1, -1] == 4999 % 99 + 1
    assert len(texts.windows(file, [" ".join(numbers)], words, length=100, most=99)) == 50
    with pytest.raises(TextError, match=r"mine\.jsonl has 3 tokens; at least 1024"):
        texts.windows(file, ["1 2 3"], words, length=100, most=8)


def test_a_tokenizer_that_was_saved_with_truncation_reads_the_whole_text() -> None:
    """What training had set says nothing about the user's text."""
    saved = Tokenizer.from_str(tokenizer().json)
    saved.enable_truncation(512)
    saved.enable_padding(length=5000)
    files = replace(tokenizer(), json=saved.to_str())
    found = texts.windows(Path("f"), [" ".join(str(n % 99) for n in range(2000))], files, length=100, most=99)
    assert found.shape == (20, 100)
    assert found[-1, -1] == 1999 % 99 + 1


class WellFormed(html.parser.HTMLParser):
    """Counts that every element that was opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def page_of(changes: dict[str, Any] | None = None, **accuracy: Any) -> str:
    """A report, checked for what every report promises: well-formed, and nothing that it would have to fetch."""
    manifest = {
        "name": "<b>mine</b>", "architecture": "LlamaForCausalLM", "target": "openvino", "precision": "int8",
        "created": "2026-01-01T00:00:00+00:00", "source": {"name": "model & co"}, "peak_memory_bytes": 2_000_000_000,
        "files": {"engine/openvino.bin": {"bytes": 7_000_000}, "model.py": {"bytes": 100}},
        "build_seconds": {"emit": 21.5, "assemble": 2.0},
    }  # fmt: skip
    found = {"asked": "int8", "passed": False, "held_out": {"file": "h.jsonl", "sha256": "ab" * 32, "positions": 32}}
    page = report.render(manifest | (changes or {}), found | accuracy)
    parser = WellFormed()
    parser.feed(page)
    assert parser.stack == []
    assert {"table", "svg", "rect"} <= parser.seen
    assert not parser.seen & {"script", "link", "img", "iframe"}
    assert "http" not in page
    assert "<b>mine" not in page
    assert "&lt;b&gt;mine" in page
    assert "model &amp; co" in page
    return page


def test_the_report_is_one_page_that_needs_nothing_else() -> None:
    """What was tried and by how much of its gate it failed, which layers were kept and at what cost, sizes and times:
    drawn, each with its number."""
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, (4, 9))
    agreement = compare(TableEngine(0.0), TableEngine(1.0), tokens)
    failures = agreement.failures(GATES["int8"])
    attempt = {"what": "int8", "precision": "int8", "text": "held-out", "gate": vars(GATES["int8"]), "seconds": 20.0}
    attempt |= {"agreement": agreement.as_json(), "failures": failures}
    layers = [
        {"name": f"model.layers.{layer}.mlp.{kind}_proj.weight", "error": error, "kl": error / 9, "kept": error > 0.1}
        for layer, kind, error in ((0, "up", 0.5), (0, "down", 0.01), (1, "up", 0.0), (1, "down", 0.02))
    ]
    failed = attempt | {"what": "int8 <worse>", "agreement": None, "failures": ["it says <nothing>"]}
    page = page_of(attempts=[failed, attempt], layers=layers, calibration_seconds=1.25)
    assert "it says &lt;nothing&gt;" in page
    assert "at least 0.95" in page
    assert "1 of 4 (orange) were kept" in page
    for said in ("layer 0, up: 0.5", "layer 1, down: 0.02", "engine/openvino.bin: 7 MB", "· calibration: 1.25 s"):
        assert f"<title>{said}</title>" in page
    share = (1 - agreement.top1) / 0.05
    assert f"<title>top-1 disagreement: {share:.0%}</title>" in page


def test_a_classifier_has_a_report_too() -> None:
    """Its gate is about labels."""
    attempt = {"precision": "int8", "gate": {"label_agreement": 0.99}, "label_agreement": 0.985, "seconds": 2.0}
    attempt |= {"largest_score_difference": 0.25, "batch_ms": 3.0, "reference_batch_ms": 4.0, "passed": False}
    attempt |= {"failure": "98.50% of the labels agree, at least 99%"}
    held_out = {"file": "h.jsonl", "sha256": "ab" * 32, "texts": 200}
    failed = attempt | {"label_agreement": None, "failure": "scores are not a number"}
    page = page_of({"task": "text-classification"}, attempts=[failed, attempt], held_out=held_out)
    assert "on 200 texts" in page
    assert "<title>labels that differ: 150%</title>" in page
    assert "98.50% of the labels agree, at least 99%" in page
    assert "scores are not a number" in page
