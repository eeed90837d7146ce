"""What every engine promises to the scheduler, run against each of them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine
from tiny_model import Tiny, reference, write
from tiny_onnx import gpu_for, write_plan
from tiny_onnx import write as write_onnx

from build_engine.backend.engine import Engine, EngineError, Row
from build_engine.backend.engines import open_engine, warm_up

POISON = 25
Make = Callable[..., Engine]


def _fake(*, cache_tokens: int = 1024, max_sequences: int = 8) -> Engine:
    engine = FakeEngine(cache_tokens=cache_tokens, max_sequences=max_sequences, step_tokens=256, row_tokens=256)
    engine.poison = POISON
    return engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model for each kind of engine, OpenVINO's with an exact and with a quantised cache."""
    root = tmp_path_factory.mktemp("tiny")
    plans = {f"{target} fp16": write_plan(root / target, target) for target in TENSORRT if gpu_for(target)}
    paged = {f"openvino {kv}": write(root / kv, Tiny(), kv_precision=kv, poison=POISON) for kv in ("f32", "u8")}
    return (
        paged
        | plans
        | {
            f"slots {precision}": write_onnx(root / precision, precision=precision, poison=POISON)
            for precision in ("fp32", "fp16")
        }
    )


TENSORRT = ("tensorrt-rtx", "tensorrt")
KINDS = ["openvino f32", "openvino u8", "slots fp32", "slots fp16", *(f"{target} fp16" for target in TENSORRT)]


def opened_from(folder: Path, kind: str, *, cache_tokens: int = 1024, max_sequences: int = 8) -> Engine:
    """A slot always has the whole context: 128 tokens asked for are one slot."""
    if not kind.startswith("openvino"):
        max_sequences = min(max_sequences, cache_tokens // 128)
        cache_tokens = max_sequences * 512
    return open_engine(folder, threads=2, cache_tokens=cache_tokens, step_tokens=256, max_sequences=max_sequences)


@pytest.fixture(params=["fake", *KINDS])
def make(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Make:
    """Opens a fresh engine, of 1024 cached tokens and 8 sequences unless told otherwise."""
    if request.param == "fake":
        return _fake
    if request.param not in folders:
        pytest.skip("no GPU here that this TensorRT builds for")
    return partial(opened_from, folders[request.param], request.param)


@pytest.fixture(params=["openvino f32", "slots fp32"])
def exact(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Engine:
    """The tiny model with a float32 cache."""
    return opened_from(folders[request.param], request.param)


def tokens(seed: int, size: int) -> np.ndarray:
    """Random tokens that every engine here knows and none is poisoned by."""
    return np.random.default_rng(seed).integers(0, POISON, size)


def opened(engine: Engine, size: int) -> int:
    """A sequence that there is room for."""
    sequence = engine.open(size)
    assert sequence is not None
    return sequence


def _one_by_one(engine: Engine, sequence: int, parts: list[np.ndarray]) -> list[np.ndarray]:
    """Logits behind each part, with nobody else in the engine; the sequence is closed then."""
    lines = [engine.step([Row(sequence, part, sample=True)])[0].copy() for part in parts]
    engine.close(sequence)
    return lines


def alone(engine: Engine, prompt: np.ndarray, follow: np.ndarray) -> np.ndarray:
    """Logits behind the prompt and behind each token that follows, with nobody else in the engine."""
    return np.array(_one_by_one(engine, opened(engine, prompt.size + follow.size), [prompt, *follow[:, None]]))


def test_logits_have_one_line_for_each_sampled_row_in_order(make: Make) -> None:
    """Rows that do not sample have no line; the lines of the others stand in the order of the rows."""
    engine = make()
    prompts = [tokens(seed, 20 + seed) for seed in range(3)]
    expected = [alone(engine, prompt, tokens(0, 0))[0] for prompt in prompts]
    ids = [opened(engine, 64) for _ in prompts]
    rows = [Row(i, prompt, sample=k != 1) for k, (i, prompt) in enumerate(zip(ids, prompts, strict=True))]
    logits = engine.step(rows)
    assert logits.dtype == np.float32
    assert logits.shape == (2, engine.vocab_size)
    np.testing.assert_allclose(logits, [expected[0], expected[2]], rtol=0, atol=1e-4)


def test_a_step_that_samples_nothing_returns_no_lines(make: Make) -> None:
    """A first prefill chunk asks for no logits and gets none."""
    engine = make()
    logits = engine.step([Row(opened(engine, 40), tokens(1, 30), sample=False)])
    assert logits.shape == (0, engine.vocab_size)


def test_a_decode_row_is_the_same_alone_and_in_company(make: Make) -> None:
    """Neighbours in a step change a row's logits by no more than float32 rounding."""
    engine = make()
    prompt, follow = tokens(3, 37), tokens(4, 5)
    expected = alone(engine, prompt, follow)
    others = [opened(engine, 100) for _ in range(4)]
    engine.step([Row(i, tokens(10 + i, 30 + i), sample=False) for i in others])
    sequence = opened(engine, 50)
    found = [engine.step([Row(sequence, prompt, sample=True)])[0].copy()]
    for token in follow:
        rows = [Row(i, tokens(20 + i, 1), sample=True) for i in others]
        rows.insert(2, Row(sequence, token[None], sample=True))
        found.append(engine.step(rows)[2].copy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reused", [False, True])
def test_a_prompt_between_two_that_decode_is_the_same_alone_and_in_company(make: Make, reused: bool) -> None:
    """Its chunks and its first tokens, in steps in which both neighbours decode, say what they say with nobody else;
    so do the neighbours. Also in the room of a sequence that has left."""
    engine = make()
    parts = [[tokens(30, 20), *tokens(40, 6)[:, None]] for _ in range(3)]
    parts[1] = [tokens(31, 9), tokens(32, 21), *tokens(41, 5)[:, None]]
    parts[2] = [tokens(33, 26), *tokens(42, 6)[:, None]]
    expected = [_one_by_one(engine, opened(engine, 60), each) for each in parts]
    first, between, last = (opened(engine, 60) for _ in range(3))
    if reused:
        engine.step([Row(between, tokens(50, 50), sample=False)])
        engine.close(between)
        between = opened(engine, 60)
    found = [[line.copy()] for line in engine.step([Row(first, parts[0][0], True), Row(last, parts[2][0], True)])]
    found.insert(1, [])
    for turn in range(6):
        turns = ((first, parts[0][turn + 1]), (between, parts[1][turn]), (last, parts[2][turn + 1]))
        logits = engine.step([Row(sequence, part, sample=True) for sequence, part in turns])
        for lines, line in zip(found, logits, strict=True):
            lines.append(line.copy())
    for lines, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(lines, wanted[: len(lines)], rtol=0, atol=1e-4)


def test_reserved_room_comes_back(make: Make) -> None:
    """Closing gives back exactly what opening took, and what lay there before does not matter."""
    engine = make()
    expected = alone(engine, tokens(5, 90), tokens(6, 3))
    before = engine.free_tokens()
    for seed in range(30):
        alone(engine, tokens(seed, 100), tokens(seed, 1))
    assert engine.free_tokens() == before == engine.total_tokens()
    np.testing.assert_array_equal(alone(engine, tokens(5, 90), tokens(6, 3)), expected)


def test_no_room_is_none_and_not_an_error(make: Make) -> None:
    """A full cache and a full table both answer None until somebody leaves."""
    engine = make(cache_tokens=256)
    first, second = opened(engine, 128), opened(engine, 128)
    assert engine.free_tokens() == 0
    assert engine.open(1) is None
    engine.close(first)
    assert engine.free_tokens() >= 128
    assert engine.open(128) is not None
    assert engine.open(128) is None
    engine.close(second)
    few = make(max_sequences=1)
    only = opened(few, 1)
    assert few.open(1) is None
    few.close(only)
    assert few.open(1) is not None


def test_what_can_never_fit_is_refused(make: Make) -> None:
    """Waiting for room that will never be is a defect of the caller, and said so."""
    engine = make(cache_tokens=256)
    for size in (0, min(engine.context_length, engine.total_tokens()) + 1):
        with pytest.raises(ValueError, match="never fits"):
            engine.open(size)


def test_a_failed_step_does_not_poison_the_engine(make: Make, request: pytest.FixtureRequest) -> None:
    """After a step failed in the engine's own code, its sequences close and everything else goes on as
    before.
    """
    if "tensorrt" in request.node.name:
        pytest.skip("nothing in a plan can be made to fail without taking the process along")
    engine = make()
    prompt, follow = tokens(7, 40), tokens(8, 4)
    expected = alone(engine, prompt, follow)
    bystander = opened(engine, 60)
    engine.step([Row(bystander, prompt, sample=False)])
    lost = opened(engine, 60)
    with pytest.raises(EngineError):
        engine.step([Row(lost, np.array([1, POISON]), sample=True)])
    engine.close(lost)
    found = [engine.step([Row(bystander, token[None], sample=True)])[0].copy() for token in follow]
    np.testing.assert_array_equal(found, expected[1:])
    engine.close(bystander)
    assert engine.free_tokens() == engine.total_tokens()


@pytest.mark.parametrize(
    ("size", "bad"),
    [(33, "reservation"), (0, "nothing"), (2, "vocabulary"), (2, "closed")],
)
def test_a_row_outside_its_contract_is_an_engine_error(make: Make, size: int, bad: str) -> None:
    """Writing past the reservation, an empty row, an unknown token and a closed sequence never reach the
    cache.
    """
    engine = make()
    sequence = opened(engine, 32)
    row = tokens(9, size)
    if bad == "vocabulary":
        row[1] = engine.vocab_size
    if bad == "closed":
        engine.close(sequence)
    with pytest.raises(EngineError):
        engine.step([Row(sequence, row, sample=True)])


def test_too_many_tokens_in_a_step_are_an_engine_error(make: Make) -> None:
    """The step's budget is the engine's to enforce."""
    engine = make()
    rows = [Row(opened(engine, 200), tokens(1, 200), sample=True) for _ in range(2)]
    with pytest.raises(EngineError):
        engine.step(rows)


def test_openvino_agrees_with_numpy(folders: dict[str, Path]) -> None:
    """The paged graph, read back from its file, computes the same decoder as thirty lines of numpy."""
    prompt, follow = tokens(11, 70), tokens(12, 6)
    exact = opened_from(folders["openvino f32"], "openvino f32")
    expected = reference(Tiny(), [*prompt.tolist(), *follow.tolist()])
    np.testing.assert_allclose(alone(exact, prompt, follow), expected[69:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 32, 33, 100])
def test_a_prompt_in_chunks_is_the_prompt_in_one(exact: Engine, chunk: int) -> None:
    """In float32, cutting a prompt into chunks changes nothing but rounding."""
    prompt = tokens(13, 101)
    whole = alone(exact, prompt, tokens(0, 0))[0]
    sequence = opened(exact, 101)
    for start in range(0, 101, chunk):
        logits = exact.step([Row(sequence, prompt[start : start + chunk], sample=start + chunk >= 101)])
    np.testing.assert_allclose(logits[0], whole, rtol=0, atol=1e-4)


def test_opening_while_a_step_runs_is_safe(exact: Engine) -> None:
    """Submitters open sequences while the loop's thread is inside a step; the step's result does not
    change.
    """
    prompt, follow = tokens(14, 200), tokens(15, 3)
    expected = alone(exact, prompt, follow)
    sequence = opened(exact, 203)
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            other = exact.open(40)
            if other is not None:
                exact.close(other)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        found = [exact.step([Row(sequence, part, sample=True)])[0].copy() for part in (prompt, *follow[:, None])]
    finally:
        ended.set()
        thread.join()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["openvino f32", "slots fp32"])
@pytest.mark.parametrize("damage", ["no facts", "other kind", "no graph", "layers", "no cache"])
def test_an_unusable_version_is_an_engine_error(
    folders: dict[str, Path], tmp_path: Path, kind: str, damage: str
) -> None:
    """A version that cannot be loaded says why, with the file's name, instead of failing in its first step."""
    folder = tmp_path / "version"
    shutil.copytree(folders[kind], folder)
    facts = json.loads((folder / "engine/engine.json").read_text())
    facts |= {"other kind": {"kind": "abacus"}, "layers": {"layers": 3}}.get(damage, {})
    (folder / "engine/engine.json").write_text("{}" if damage == "no facts" else json.dumps(facts))
    if damage == "no graph":
        next(file for file in (folder / "engine").iterdir() if file.suffix in (".xml", ".onnx")).unlink()
    cache = 31 if damage == "no cache" else 256
    with pytest.raises(EngineError, match=r"engine|cache_tokens"):
        open_engine(folder, threads=2, cache_tokens=cache, step_tokens=64, max_sequences=4)


def test_warming_up_leaves_no_trace(make: Make) -> None:
    """A prompt and a token behind it have run, and everything that was reserved is free again."""
    engine = make()
    free = engine.free_tokens()
    prompt = tokens(3, 20)
    before = alone(engine, prompt, tokens(4, 2))
    warm_up(engine)
    assert engine.free_tokens() == free
    np.testing.assert_array_equal(alone(engine, prompt, tokens(4, 2)), before)


def test_an_engine_that_cannot_step_does_not_warm_up() -> None:
    """Neither one whose logits are not numbers nor one that fails: the version is never ready, and keeps no room."""
    for spoilt in ("spoil", "poison"):
        engine = FakeEngine()
        setattr(engine, spoilt, 0)
        free = engine.free_tokens()
        with pytest.raises(EngineError, match=r"not a number|poisoned"):
            warm_up(engine)
        assert engine.free_tokens() == free
