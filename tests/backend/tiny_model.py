"""A tiny random Llama: written as an engine folder, and computed in numpy to compare with.

Not the product's emitter: about the smallest graph that has every port the engine binds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops
from openvino.op import _PagedAttentionExtension

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tiny:
    """Shape of the model; small enough to compile in a fraction of a second."""

    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab_size: int = 96
    context_length: int = 512
    ffn: int = 64

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.heads * self.head_dim


def weights(tiny: Tiny, seed: int = 0) -> dict[str, Float32]:
    """All matrices ``[out, in]``, by name."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Float32:
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    kv = tiny.kv_heads * tiny.head_dim
    found = {"embed": matrix(tiny.vocab_size, tiny.width) * 8}
    for layer in range(tiny.layers):
        shapes = {"q": (tiny.width, tiny.width), "k": (kv, tiny.width), "v": (kv, tiny.width)}
        shapes |= {
            "o": (tiny.width, tiny.width),
            "up": (tiny.ffn, tiny.width),
            "down": (tiny.width, tiny.ffn),
        }
        found |= {f"{name}.{layer}": matrix(*shape) for name, shape in shapes.items()}
    return found


def _norm(x: ov.Output) -> ov.Node:
    mean = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1]), keep_dims=True)
    return ops.multiply(x, ops.divide(np.float32(1), ops.sqrt(ops.add(mean, np.float32(1e-5)))))


def _linear(x: ov.Output, weight: Float32) -> ov.Node:
    return ops.matmul(x, ops.constant(weight), False, True)


def _rope(x: ov.Output, heads: int, tiny: Tiny, cos: ov.Output, sin: ov.Output) -> ov.Node:
    split = ops.reshape(x, np.array([-1, heads, 1, tiny.head_dim]), False)
    half = tiny.head_dim // 2
    low, high = ops.variadic_split(split, np.int64(3), np.array([half, half])).outputs()
    turned = ops.concat([ops.multiply(high, np.float32(-1)), low], 3)
    mixed = ops.add(ops.multiply(split, cos), ops.multiply(turned, sin))
    return ops.reshape(mixed, np.array([-1, heads * tiny.head_dim]), False)


def _empty(dtype: type[np.generic], rank: int = 1) -> ov.Node:
    return ops.constant(np.zeros([0] * rank, dtype))


def _attention(parts: list[ov.Output], caches: list[ov.Node], small: dict[str, ov.Node], tiny: Tiny) -> ov.Output:
    zero = np.int32(0)
    ports = [*parts, *caches]
    ports += [small[n] for n in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")]
    ports += [ops.constant(np.float32(tiny.head_dim**-0.5)), ops.constant(zero), _empty(np.float32)]
    ports += [small["max_context_len"], *(_empty(np.int32) for _ in range(3))]
    ports += [_empty(np.float32), _empty(np.float32), ops.constant(zero), ops.constant(zero)]
    ports += [_empty(np.float32, 4), ops.constant(zero), *(_empty(np.int32) for _ in range(4))]
    ports += [_empty(np.uint8), _empty(np.int32)]
    return _PagedAttentionExtension([p.output(0) if isinstance(p, ov.Node) else p for p in ports]).output(0)


def _poison(x: ov.Output, ids: ov.Output, token: int, width: int) -> ov.Node:
    """Fails at run time, in the engine's own code, when ``token`` is in the step: the reshape does not work
    out.
    """
    hit = ops.reduce_max(ops.convert(ops.equal(ids, np.int64(token)), "i64"), np.array([0]), keep_dims=True)
    shape = ops.concat([ops.shape_of(ids), ops.add(hit, np.array([width]))], 0)
    return ops.reshape(x, shape, False)


def emit(tiny: Tiny, found: dict[str, Float32], poison: int | None) -> ov.Model:
    """The graph, with the ports that a published one has."""
    names = {"input_ids": "i64", "position_ids": "i64", "past_lens": "i32", "subsequence_begins": "i32"}
    names |= {"block_indices": "i32", "block_indices_begins": "i32", "sampled_tokens_indices": "i64"}
    small = {name: ops.parameter([-1], getattr(ov.Type, dtype), name=name) for name, dtype in names.items()}
    small["max_context_len"] = ops.parameter([], ov.Type.i32, name="max_context_len")
    caches = {
        f"{side}_cache.{layer}": ops.parameter([-1, -1, -1, -1], ov.Type.dynamic, name=f"{side}_cache.{layer}")
        for layer in range(tiny.layers)
        for side in ("key", "value")
    }
    angles = ops.multiply(
        ops.reshape(ops.convert(small["position_ids"], "f32"), np.array([-1, 1, 1, 1]), False),
        _frequencies(tiny).reshape(1, 1, 1, -1),
    )
    angles = ops.concat([angles, angles], 3)
    cos, sin = ops.cos(angles), ops.sin(angles)
    x = ops.gather(ops.constant(found["embed"]), small["input_ids"], np.int64(0))
    if poison is not None:
        x = _poison(x, small["input_ids"], poison, tiny.width)
    for layer in range(tiny.layers):
        h = _norm(x)
        q = _rope(_linear(h, found[f"q.{layer}"]), tiny.heads, tiny, cos, sin).output(0)
        k = _rope(_linear(h, found[f"k.{layer}"]), tiny.kv_heads, tiny, cos, sin).output(0)
        v = _linear(h, found[f"v.{layer}"]).output(0)
        mixed = _attention([q, k, v], [caches[f"key_cache.{layer}"], caches[f"value_cache.{layer}"]], small, tiny)
        x = ops.add(x, _linear(mixed, found[f"o.{layer}"]))
        x = ops.add(x, _linear(ops.swish(_linear(_norm(x), found[f"up.{layer}"])), found[f"down.{layer}"]))
    x = _norm(ops.gather(x, small["sampled_tokens_indices"], np.int64(0)))
    logits = _linear(x, found["embed"])
    logits.output(0).set_names({"logits"})
    parameters = [*small.values(), *caches.values()]
    for parameter in parameters:
        parameter.output(0).set_names({parameter.get_friendly_name()})
    return ov.Model([logits.output(0)], parameters, "tiny")


def _frequencies(tiny: Tiny) -> Float32:
    return (10000.0 ** (-np.arange(0, tiny.head_dim, 2) / tiny.head_dim)).astype(np.float32)


def write(folder: Path, tiny: Tiny, *, kv_precision: str = "f32", poison: int | None = None) -> Path:
    """Write ``<folder>/engine``. A step that carries the token ``poison`` fails inside OpenVINO."""
    engine = folder / "engine"
    engine.mkdir(parents=True)
    ov.save_model(emit(tiny, weights(tiny), poison), engine / "openvino.xml", compress_to_fp16=False)
    facts = asdict(tiny) | {"kind": "openvino", "precision": "fp32", "kv_cache_precision": kv_precision}
    (engine / "engine.json").write_text(json.dumps(facts | {"block_size": 32, "activation_group": 0}))
    return folder


def reference(tiny: Tiny, tokens: list[int]) -> Float32:
    """Logits behind every token, ``[n, vocab_size]``, in numpy and float64 inside."""
    found = weights(tiny)
    x = found["embed"][tokens].astype(np.float64)
    for layer in range(tiny.layers):
        h = _np_norm(x)
        q, k, v = (_heads(h @ found[f"{name}.{layer}"].T, tiny) for name in "qkv")
        q, k = _np_rope(q, tiny), _np_rope(k, tiny)
        repeat = tiny.heads // tiny.kv_heads
        k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
        scores = q @ k.transpose(0, 2, 1) * tiny.head_dim**-0.5
        scores[:, np.triu(np.ones((len(tokens), len(tokens)), bool), 1)] = -np.inf
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(len(tokens), -1) @ found[f"o.{layer}"].T
        up = _np_norm(x) @ found[f"up.{layer}"].T
        x = x + (up / (1 + np.exp(-up))) @ found[f"down.{layer}"].T
    return (_np_norm(x) @ found["embed"].T).astype(np.float32)


def _np_norm(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def _heads(x: npt.NDArray[np.float64], tiny: Tiny) -> npt.NDArray[np.float64]:
    return x.reshape(len(x), -1, tiny.head_dim).transpose(1, 0, 2)


def _np_rope(x: npt.NDArray[np.float64], tiny: Tiny) -> npt.NDArray[np.float64]:
    angles = np.arange(x.shape[1])[:, None] * _frequencies(tiny)[None].astype(np.float64)
    cos, sin = np.cos(np.hstack([angles, angles])), np.sin(np.hstack([angles, angles]))
    half = tiny.head_dim // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin
