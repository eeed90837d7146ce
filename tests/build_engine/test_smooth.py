"""SmoothQuant's folding is exact, and it does what it is for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.smooth import int8_rows, output_error, scale_of, sites, smoothed

CONFIG = DecoderConfig(
    architecture="Qwen2ForCausalLM", vocab_size=13, hidden_size=8, intermediate_size=12, layers=2, heads=4, kv_heads=2,
    head_dim=4, rms_eps=1e-6, context_length=32, tie_embeddings=True, rope_theta=1e4, qkv_bias=True,
)  # fmt: skip
RNG = np.random.default_rng(0)
TENSORS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in expected_tensors(CONFIG).items()}


def layer(read: dict[str, FloatArray], x: FloatArray, number: int = 0) -> FloatArray:
    """A layer whose attention lets each position see only itself, so that it is the v rows: enough to tell whether a
    fold is exact. ``x [n, hidden]``."""
    base = f"model.layers.{number}"

    def norm(values: FloatArray, name: str) -> FloatArray:
        root = np.sqrt((values**2).mean(axis=1, keepdims=True) + CONFIG.rms_eps)
        return np.asarray(values / root * read[f"{base}.{name}.weight"], np.float32)

    h = norm(x, "input_layernorm")
    q, k, v = (h @ read[f"{base}.self_attn.{p}_proj.weight"].T + read[f"{base}.self_attn.{p}_proj.bias"] for p in "qkv")
    seen = np.repeat(v.reshape(-1, CONFIG.kv_heads, CONFIG.head_dim), CONFIG.heads // CONFIG.kv_heads, axis=1)
    x = x + seen.reshape(len(x), -1) @ read[f"{base}.self_attn.o_proj.weight"].T + (q.sum() + k.sum())
    h = norm(x, "post_attention_layernorm")
    gate, up = h @ read[f"{base}.mlp.gate_proj.weight"].T, h @ read[f"{base}.mlp.up_proj.weight"].T
    return np.asarray(x + (gate / (1 + np.exp(-gate)) * up) @ read[f"{base}.mlp.down_proj.weight"].T, np.float32)


def random_scales(seed: int) -> dict[str, FloatArray]:
    """A scale for every site, as ``scale_of`` shapes them."""
    rng = np.random.default_rng(seed)
    found = {}
    for site in sites(CONFIG):
        channels = TENSORS[site.readers[0]].shape[1]
        activation, weight = (rng.uniform(0.1, 50, channels).astype(np.float32) for _ in range(2))
        found[site.name] = scale_of(site, CONFIG.head_dim, activation, weight, alpha=0.8)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_folding_changes_no_output(seed: int) -> None:
    """Whatever the scales: norms, columns, v rows with their bias and up rows cancel out."""
    folded = smoothed(CONFIG, TENSORS.__getitem__, random_scales(seed))
    x = np.random.default_rng(seed).standard_normal((5, 8)).astype(np.float32)
    for number in range(CONFIG.layers):
        exact, same = layer(TENSORS, x, number), layer({name: folded(name) for name in TENSORS}, x, number)
        np.testing.assert_allclose(same, exact, rtol=2e-4, atol=2e-4)


def test_every_projection_is_read_at_one_site() -> None:
    """None is forgotten, none is scaled twice."""
    readers = [name for site in sites(CONFIG) for name in site.readers]
    projections = {name for name in TENSORS if name.endswith("_proj.weight")}
    assert sorted(readers) == sorted(projections)


def test_heads_that_share_v_share_a_scale() -> None:
    """The scale can be folded into one v row only if every query head that reads it has the same."""
    for site in sites(CONFIG):
        if site.repeats > 1:
            scale = random_scales(1)[site.name].reshape(CONFIG.kv_heads, site.repeats, CONFIG.head_dim)
            assert (scale == scale[:, :1]).all()


def test_dead_channels_stay_finite() -> None:
    """A channel that is always zero, or that nobody reads, is left alone."""
    site = sites(CONFIG)[0]
    zero: npt.NDArray[np.float32] = np.zeros(8, np.float32)
    one = np.ones(8, np.float32)
    assert (scale_of(site, 4, zero, one, 0.8) == 1).all()
    assert (scale_of(site, 4, one, zero, 0.8) == 1).all()


def test_smoothing_lowers_the_error_of_an_outlier_channel() -> None:
    """One channel 200 times larger than the others: what SmoothQuant is for."""
    sample = RNG.standard_normal((64, 8)).astype(np.float32)
    sample[:, 3] *= 200
    weight = RNG.standard_normal((16, 8)).astype(np.float32)
    largest = np.abs(sample).max(axis=0)
    scale = scale_of(sites(CONFIG)[0], 4, largest, np.abs(weight).max(axis=0), alpha=0.8)
    before = output_error(sample, float(largest.max()), weight)
    after = output_error(sample / scale, float((largest / scale).max()), weight * scale)
    assert after < before
    assert np.abs(sample / scale).max() < np.abs(sample).max() / 10


def test_int8_rows_are_the_nearest_values() -> None:
    """Each weight is off by at most half a step of its row."""
    weight = TENSORS["model.layers.0.mlp.up_proj.weight"]
    values, scale = int8_rows(weight)
    assert values.dtype == np.int8
    assert np.abs(values).max() == 127
    assert (np.abs(values * scale[:, None] - weight) <= scale[:, None] * 0.5001).all()


def test_a_row_of_zeros_has_a_step_that_fp16_can_say() -> None:
    """Zero or almost: the step is a normal number of the graph's type, and what the values were divided by."""
    weight = TENSORS["model.layers.0.mlp.up_proj.weight"].copy()
    weight[0], weight[1], weight[2] = 0, weight[1] * 1e-8, weight[2] * 1e-3
    values, step = int8_rows(weight, np.float16)
    assert step.dtype == np.float16
    assert (step >= np.finfo(np.float16).tiny).all()
    assert not values[:2].any()
    stored = step.astype(np.float32)[:, None]
    assert (np.abs(values * stored - weight) <= stored * 0.5001).all()
