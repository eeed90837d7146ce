"""Sampling draws from exactly the distribution that was asked for, and from nothing else's random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engine.backend import sampling
from build_engine.backend.engine import EngineError
from build_engine.backend.sampling import RowSampler, SamplingParams, candidates, draw, largest, sample

NOBODY = np.zeros(0, np.int64)


def logits(seed: int, size: int = 3000, spread: float = 3.0) -> np.ndarray:
    """One random row."""
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def naive(row: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """The distribution, written down word for word from its definition."""
    order = sorted(range(row.size), key=lambda i: (-row[i], i))
    if params.top_k:
        order = order[: params.top_k]
    weight = {i: math.exp((float(row[i]) - float(row.max())) / params.temperature) for i in order}
    total, mass, kept = sum(weight.values()), 0.0, []
    for i in order:
        kept.append(i)
        mass += weight[i]
        if params.top_p < 1 and mass >= params.top_p * total:
            break
    kept = [i for i in kept if weight[i] >= params.min_p]
    total = sum(weight[i] for i in kept)
    return {i: weight[i] / total for i in kept}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.001, 0.5, 3.0, 20.0]),
    temperature=st.sampled_from([0.05, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 50, 2000, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_candidates_are_those_of_the_definition(
    seed: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """The kept tokens and their probabilities equal a naive reference, for flat rows (where the prefilter
    is too small and everything is sorted after all) as for steep ones.
    """
    row = logits(seed, spread=spread)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = naive(row, params)
    ids, weights = candidates(row, params)
    assert set(ids.tolist()) == set(expected)
    found = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    for token, share in expected.items():
        assert found[token] == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99])
def test_the_prefilter_changes_nothing(monkeypatch: pytest.MonkeyPatch, top_p: float) -> None:
    """A prefilter of four tokens, which always falls back, keeps the very tokens and weights of a full
    sort.
    """
    row = logits(5)
    params = SamplingParams(temperature=1.0, top_p=top_p)
    ids, weights = candidates(row, params)
    monkeypatch.setattr(sampling, "PREFILTER", 4)
    again, same = candidates(row, params)
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_array_equal(weights, same)


def test_equal_logits_are_cut_by_token_id() -> None:
    """Where equal logits meet a limit, the lower ids stay: nothing depends on a sort's whims."""
    row = np.zeros(2000, np.float32)
    assert candidates(row, SamplingParams(temperature=1.0, top_k=3))[0].tolist() == [0, 1, 2]
    assert candidates(row, SamplingParams(temperature=1.0, top_p=0.01))[0].tolist() == list(range(20))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.8),
        SamplingParams(temperature=1.3, top_k=8),
        SamplingParams(temperature=1.0, top_p=0.7),
        SamplingParams(temperature=1.0, min_p=0.2),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    """20,000 draws fit the naive distribution (chi-squared, fixed seed, far inside the 0.1 % bound)."""
    row = logits(9, size=12, spread=1.5)
    expected = naive(row, params)
    rng = np.random.default_rng(42)
    count = 20_000
    drawn = np.bincount([draw(row, params, rng.random()) for _ in range(count)], minlength=12)
    assert set(np.flatnonzero(drawn)) <= set(expected)
    chi = sum((drawn[i] - count * share) ** 2 / (count * share) for i, share in expected.items())
    degrees = len(expected) - 1
    assert chi < degrees + 3.3 * math.sqrt(2 * degrees) + 4


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_a_token_of_no_weight_is_never_drawn(uniform: float) -> None:
    """Neither end of the random range reaches a token whose probability is zero."""
    row = np.array([-np.inf, 1.0, 2.0, -np.inf], np.float32)
    assert draw(row, SamplingParams(temperature=1.0), uniform) in (1, 2)


def test_greedy_takes_the_first_of_the_largest() -> None:
    """Temperature zero is argmax, whatever top-k or top-p say."""
    row = np.array([[0, 5, 5, 1]], np.float32)
    for params in (SamplingParams(), SamplingParams(top_k=2, top_p=0.1)):
        assert sample(row, [RowSampler(params, NOBODY)]) == [1]


def run(seed: int, company: int, place: int, steps: int = 30) -> list[int | EngineError]:
    """One seeded row's tokens, at ``place`` among ``company`` other rows."""
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=seed, frequency_penalty=0.5)
    others = [RowSampler(SamplingParams(temperature=1.0, seed=100 + i), NOBODY) for i in range(company)]
    samplers = [*others[:place], RowSampler(params, NOBODY), *others[place:]]
    tokens = []
    for step in range(steps):
        rows = np.stack([logits(1000 + step) if i == place else logits(step * 50 + i) for i in range(company + 1)])
        tokens.append(sample(rows, samplers)[place])
    return tokens


def test_a_seed_repeats_the_text_in_any_company() -> None:
    """Same seed and same logits give the same tokens, alone or anywhere in a batch; another seed gives
    others.
    """
    alone = run(7, 0, 0)
    assert run(7, 5, 0) == alone
    assert run(7, 5, 3) == alone
    assert run(8, 0, 0) != alone


def test_without_a_seed_no_two_requests_agree() -> None:
    """A missing seed is real randomness."""
    row = np.zeros((1, 50_000), np.float32)
    pair = [RowSampler(SamplingParams(temperature=1.0), NOBODY) for _ in range(2)]
    first, second = ([sample(row, [one])[0] for _ in range(8)] for one in pair)
    assert first != second


def test_penalties_follow_their_formulas() -> None:
    """Repetition divides or multiplies what prompt or completion hold; frequency and presence subtract from
    what the completion holds, by times and once.
    """
    row = np.array([4.0, 3.9, -1.0, 3.5], np.float32)
    sampler = RowSampler(SamplingParams(repetition_penalty=2.0), np.array([0, 2]))
    assert [sampler.choose(row) for _ in range(3)] == [1, 3, 0]
    sampler = RowSampler(SamplingParams(frequency_penalty=0.3), np.array([0, 1]))
    assert [sampler.choose(row) for _ in range(5)] == [0, 1, 0, 1, 3]
    sampler = RowSampler(SamplingParams(presence_penalty=0.3), NOBODY)
    assert [sampler.choose(row) for _ in range(4)] == [0, 1, 0, 0]


def test_the_engines_logits_are_left_alone() -> None:
    """Penalties work on a copy."""
    row = logits(3)
    before = row.copy()
    params = SamplingParams(temperature=1.0, repetition_penalty=1.5, presence_penalty=1, top_p=0.9)
    sampler = RowSampler(params, np.arange(100))
    for _ in range(3):
        sampler.choose(row)
    np.testing.assert_array_equal(row, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9)], ids=str)
def test_a_row_that_is_not_finite_is_an_error_of_that_row_only(value: float, params: SamplingParams) -> None:
    """A NaN or infinite logit fails its own row and no other."""
    rows = np.stack([logits(1), logits(2), np.full(3000, -np.inf, np.float32), logits(3)])
    rows[1, 17] = value
    good, bad, empty, also_good = sample(rows, [RowSampler(params, NOBODY) for _ in range(4)])
    assert isinstance(bad, EngineError)
    assert isinstance(empty, EngineError)
    assert isinstance(good, int)
    assert isinstance(also_good, int)


@pytest.mark.parametrize("size", [5, 64, 1000, 49_152])
@pytest.mark.parametrize("count", [1, 3, 5, 64, 900])
@pytest.mark.parametrize("levels", [2, 10_000])
def test_the_largest_are_found_whatever_the_size(size: int, count: int, levels: int) -> None:
    """As a full sort finds them, ties and minus infinity included."""
    row = np.random.default_rng(size).integers(0, levels, size).astype(np.float32)
    row[::3] = -np.inf
    order = np.argsort(-row, kind="stable")
    floor = row[order[min(count, size) - 1]]
    assert largest(row, count).tolist() == order[row[order] >= floor].tolist()
