"""Three places name the tensors of a generation model: the published ``config.pbtxt``, the backend that reads them in
Triton, and the gateway that sends them. None imports another; here they are held to one another."""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from build_engine import backend
from build_engine.backend.request import parse
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from gateway.triton import contract
from tests.build_engine.checkpoints import CHAT_TEMPLATE, SPECIAL_TOKENS, write_directory

MODEL = Path(backend.__file__).parent / "model.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pb.ModelConfig:
    """A published ``config.pbtxt``, read back through Triton's own message."""
    folder = tmp_path_factory.mktemp("contract")
    repository = folder / "models/repository"
    build(Recipe(write_directory(folder / "source"), "generate", repository, folder / "work"), quiet=True)
    return text_format.Parse((repository / "generate/config.pbtxt").read_text(), pb.ModelConfig())


def kinds(tensors: Any) -> dict[str, str]:
    """Types by name, in the words of the KServe protocol: what ``config.pbtxt`` calls a string goes as BYTES."""
    found = {tensor.name: pb.DataType.Name(tensor.data_type).removeprefix("TYPE_") for tensor in tensors}
    return {name: "BYTES" if kind == "STRING" else kind for name, kind in found.items()}


class Asked(Mapping[str, np.ndarray]):
    """One tensor, and a memory of every name that was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.add(name)
        if name == "text_input":
            return np.array([b"x"], dtype=object)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return name == "text_input"

    def __iter__(self) -> Iterator[str]:
        return iter(["text_input"])

    def __len__(self) -> int:
        return 1


def test_the_backend_reads_what_the_configuration_declares() -> None:
    """``model.py`` fetches by a list of its own, and ``request.py`` reads by name: no tensor is in one only."""
    asked = Asked()
    parse(asked)
    (listed,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(MODEL.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INPUTS"
    )
    assert asked.names == set(listed)


def test_the_configuration_declares_what_the_backend_reads(config: pb.ModelConfig) -> None:
    """Every input by name; only the text is required."""
    asked = Asked()
    parse(asked)
    assert {tensor.name for tensor in config.input} == asked.names
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["text_input"]


def test_the_backend_answers_with_the_declared_outputs(config: pb.ModelConfig) -> None:
    """Names and types of the tensors that ``TritonSink.emit`` makes."""
    emit = next(node for node in ast.walk(ast.parse(MODEL.read_text())) if getattr(node, "name", "") == "emit")
    made = {}
    for call in (node for node in ast.walk(emit) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) in ("_bytes_tensor", "pb_utils.Tensor"):
            kind = "INT32" if "np.int32" in ast.unparse(call) else "BYTES"
            made[ast.literal_eval(call.args[0])] = kind
    assert made == kinds(config.output)


def test_the_gateway_sends_what_is_declared(config: pb.ModelConfig) -> None:
    """Each tensor that it knows, under the declared name and type; it need not know them all."""
    declared = kinds(config.input)
    assert {name: declared.get(name) for name in contract.INPUTS} == contract.INPUTS
    assert kinds(config.output) == contract.OUTPUTS


def test_only_stop_takes_several(config: pb.ModelConfig) -> None:
    """Everything else is one value behind the batch dimension, and the model streams."""
    assert {tensor.name: list(tensor.dims) for tensor in config.input if list(tensor.dims) != [1]} == {"stop": [-1]}
    assert config.max_batch_size == 1
    assert config.model_transaction_policy.decoupled
    assert config.backend == "python"
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching == pb.ModelDynamicBatching()


def decoded(request: service_pb2.ModelInferRequest) -> dict[str, np.ndarray]:
    """A request's tensors as Triton hands them to Python."""
    found = {}
    for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            values, at = [], 0
            while at < len(content):
                (size,) = struct.unpack_from("<I", content, at)
                values.append(content[at + 4 : at + 4 + size])
                at += 4 + size
            found[tensor.name] = np.array(values, dtype=object).reshape(list(tensor.shape))
        else:
            kind = triton_to_np_dtype(tensor.datatype)
            found[tensor.name] = np.frombuffer(content, kind).reshape(list(tensor.shape))
    return found


def test_what_the_gateway_sends_is_what_the_backend_understands() -> None:
    """Every value through the wire's bytes and back, extremes included."""
    values: dict[str, contract.Value] = {
        "text_input": "你好 <|x|>",
        "max_tokens": 2**31 - 1,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 3,
        "seed": 2**64 - 1,
        "stop": ["ß", "end of it"],
        "stream": False,
        "ignore_eos": True,
        "add_special_tokens": False,
    }
    assert values.keys() == contract.INPUTS.keys()
    asked = parse(decoded(contract.infer_request("generate", "id", values)))
    assert (asked.text_input, asked.max_tokens, asked.stop) == (values["text_input"], 2**31 - 1, ("ß", "end of it"))
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k) == (0.5, 0.25, 3)
    assert asked.sampling.seed == 2**64 - 1
    assert (asked.stream, asked.ignore_eos, asked.add_special_tokens) == (False, True, False)


def test_the_gateway_understands_what_the_model_says_about_itself(config: pb.ModelConfig) -> None:
    """Template, special tokens and context length, out of the parameters."""
    info = contract.model_info(service_pb2.ModelConfigResponse(config=config))
    assert info == contract.ModelInfo(CHAT_TEMPLATE, "<|begin|>", "<|end|>", SPECIAL_TOKENS, 256)


def test_the_backend_finds_the_numbers_it_reads(config: pb.ModelConfig) -> None:
    """Each parameter that ``model.py`` takes out of ``config.pbtxt`` is there, as a number."""
    read = {
        ast.literal_eval(node.value.slice)
        for node in ast.walk(ast.parse(MODEL.read_text()))
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "'string_value'"
        if isinstance(node.value, ast.Subscript)
    }
    assert read == {"threads", "kv_cache_tokens", "step_tokens", "max_sequences"}
    assert all(int(config.parameters[name].string_value) >= 0 for name in read)
