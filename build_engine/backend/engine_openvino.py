"""The CPU engine: packed rows and a paged KV cache, in OpenVINO.

The published graph holds one ``PagedAttentionExtension`` node a layer. OpenVINO can write that node but not
read it back, so the file is read with a stand-in class of the same name, and each stand-in is replaced by
the real node. What the node needs beside its inputs (``rt_info``) is not saved either and comes from
``engine.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino.op import _PagedAttentionExtension

from .engine import EngineError, Logits, Row
from .paged_cache import PagedCache, pack

_CACHE_DTYPES: dict[str, type[np.generic]] = {"u8": np.uint8, "f32": np.float32}


class PagedAttentionExtension(ov.Op):  # type: ignore[misc]
    """Stands in for the real node while the file is read; the class name is the name in the file."""

    def __init__(self, inputs: list[Any] | None = None) -> None:
        super().__init__(self)
        if inputs is not None:
            self.set_arguments(inputs)
            self.constructor_validate_and_infer_types()

    def validate_and_infer_types(self) -> None:
        """The attention's output has the query's shape; the two score outputs are of no interest."""
        self.set_output_size(3)
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))
        for port in (1, 2):
            self.set_output_type(port, self.get_input_element_type(0), ov.PartialShape([-1]))

    def clone_with_new_inputs(self, inputs: list[Any]) -> PagedAttentionExtension:
        """Called by OpenVINO when it copies the graph."""
        return PagedAttentionExtension(inputs)

    def visit_attributes(self, visitor: Any) -> bool:
        """The node has no attribute that the engine sets."""
        return True


@dataclass(frozen=True)
class GraphFacts:
    """``engine.json``: what the graph's file does not carry itself."""

    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    kv_cache_precision: str
    block_size: int
    activation_group: int
    """Features that share a scale when activations are quantised at run time; 0: they are not."""

    @classmethod
    def read(cls, path: Path) -> GraphFacts:
        """Raises EngineError when the file is missing, lacks a key or names another kind of engine."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["kind"] != "openvino" or facts["kv_cache_precision"] not in _CACHE_DTYPES:
                raise EngineError(f"{path}: kind {facts['kind']!r} with {facts['kv_cache_precision']!r} is unknown")
            return cls(**{name: facts[name] for name in cls.__dataclass_fields__})
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise EngineError(f"{path} cannot be used: {error!r}") from error


def read_graph(core: ov.Core, path: Path, facts: GraphFacts) -> ov.Model:
    """The graph with real attention nodes. Raises RuntimeError (from OpenVINO)."""
    core.add_extension(PagedAttentionExtension)
    model = core.read_model(path)
    stand_ins = [node for node in model.get_ops() if node.get_type_name() == "PagedAttentionExtension"]
    if len(stand_ins) != facts.layers:
        raise EngineError(f"{path} has {len(stand_ins)} attention nodes, engine.json says {facts.layers} layers")
    for stand_in in stand_ins:
        node = _PagedAttentionExtension(stand_in.input_values())
        node.set_friendly_name(stand_in.get_friendly_name())
        info = node.get_rt_info()
        for side in ("k", "v"):
            info[f"num_{side}_heads"] = facts.kv_heads
            info[f"{side}_head_size"] = facts.head_dim
        for port in range(stand_in.get_output_size()):
            stand_in.output(port).replace(node.output(port))
    return model


class OpenVinoEngine:
    """An :class:`~.engine.Engine` on the CPU. Made by :func:`open_engine`."""

    def __init__(self, compiled: ov.CompiledModel, facts: GraphFacts, cache: PagedCache, step_tokens: int) -> None:
        self.vocab_size = facts.vocab_size
        self.context_length = facts.context_length
        self.max_sequences = cache.max_sequences
        self.max_step_tokens = step_tokens
        self.max_row_tokens = step_tokens
        self._block_size = facts.block_size
        self._cache = cache
        self._request = compiled.create_infer_request()
        self._tensors = self._bind_cache(compiled, facts, cache.total_tokens // facts.block_size)

    def _bind_cache(self, compiled: ov.CompiledModel, facts: GraphFacts, blocks: int) -> list[ov.Tensor]:
        """Allocate every layer's keys and values once. The plug-in decides a block's shape: quantised
        caches carry their scales inside the block.
        """
        dtype = _CACHE_DTYPES[facts.kv_cache_precision]
        tensors = []
        for port in compiled.inputs:
            name = port.get_any_name()
            if name.startswith(("key_cache.", "value_cache.")):
                block = [port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3)]
                tensors.append(ov.Tensor(np.zeros([blocks, *block], dtype), shared_memory=True))
                self._request.set_tensor(name, tensors[-1])
        return tensors

    def open(self, max_tokens: int) -> int | None:
        """See :meth:`Engine.open`. Raises ValueError for more tokens than the engine could ever hold."""
        if not 0 < max_tokens <= min(self.context_length, self.total_tokens()):
            raise ValueError(f"a sequence of {max_tokens} tokens never fits")
        return self._cache.open(max_tokens)

    def close(self, sequence: int) -> None:
        """See :meth:`Engine.close`."""
        self._cache.close(sequence)

    def step(self, rows: Sequence[Row]) -> Logits:
        """See :meth:`Engine.step`."""
        spans = [self._cache.span(row, self.vocab_size) for row in rows]
        tokens = sum(row.tokens.size for row in rows)
        if not 0 < tokens <= self.max_step_tokens:
            raise EngineError(f"a step takes 1 to {self.max_step_tokens} tokens, not {tokens}")
        try:
            for name, value in pack(rows, spans, self._block_size).items():
                self._request.set_tensor(name, ov.Tensor(value))
            self._request.infer()
            logits: npt.NDArray[np.float32] = self._request.get_tensor("logits").data
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in a step: {error}") from error
        for row, span in zip(rows, spans, strict=True):
            span.past += row.tokens.size
        return logits[: sum(row.sample for row in rows)]

    def free_tokens(self) -> int:
        """See :meth:`Engine.free_tokens`."""
        return self._cache.free_tokens

    def total_tokens(self) -> int:
        """See :meth:`Engine.total_tokens`."""
        return self._cache.total_tokens


def open_engine(
    version_dir: Path, *, threads: int, cache_tokens: int, step_tokens: int, max_sequences: int
) -> OpenVinoEngine:
    """Load ``<version_dir>/engine/openvino.xml``. Raises EngineError when it cannot be loaded.

    ``cache_tokens`` is rounded down to whole blocks. Activations stay float32: a lower hint is not faster
    on the CPUs this was tried on and changes the text.
    """
    folder = version_dir / "engine"
    facts = GraphFacts.read(folder / "engine.json")
    blocks = cache_tokens // facts.block_size
    if blocks < 1 or step_tokens < 1 or max_sequences < 1 or threads < 1:
        raise EngineError("threads, step_tokens and max_sequences start at 1, cache_tokens at one block")
    core = ov.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": facts.kv_cache_precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": facts.activation_group,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = core.compile_model(read_graph(core, folder / "openvino.xml", facts), "CPU", options)
        cache = PagedCache(blocks, facts.block_size, max_sequences)
        return OpenVinoEngine(compiled, facts, cache, step_tokens)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot load {folder}: {error}") from error
