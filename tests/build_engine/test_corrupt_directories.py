"""A Hugging Face directory that contradicts itself is refused with the file and the tensor, never half read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from build_engine.errors import BuildError, CorruptSource, UnsupportedModel
from build_engine.pipeline import open_source

from .checkpoints import Shape, weights, write_directory, write_raw_safetensors, write_safetensors
from .conftest import Builder

SHAPE = Shape(layers=1)
NORM = "model.norm.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def parts(file: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory in one file, of one layer."""
    return write_directory(tmp_path / "source", SHAPE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for what damages it a hundred times."""
    return write_directory(tmp_path_factory.mktemp("whole") / "source", SHAPE)


def read_all(path: Path) -> None:
    """Everything a build reads of a source."""
    opened = open_source(path)
    for name in opened.shapes:
        opened.finite(name)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F16"}, "takes 256 bytes, its shape"),
        ({"dtype": "I64"}, "is I64; F32, F16 and BF16 can be read"),
        ({"dtype": "F8_E4M3"}, "is F8_E4M3"),
        ({"dtype": None}, "is None"),
        ({"shape": [63]}, "takes 256 bytes, its shape"),
        ({"shape": [-64]}, "malformed"),
        ({"shape": [64.0]}, "malformed"),
        ({"shape": 64}, "malformed"),
        ({"shape": [2, 32]}, r"has shape \[2, 32\], the configuration says \[64\]"),
        ({"data_offsets": [0, 256]}, "overlap"),
        ({"data_offsets": [256, 0]}, "takes -256 bytes"),
        ({"data_offsets": [-256, 0]}, "malformed"),
        ({"data_offsets": [0]}, "malformed"),
        ({"data_offsets": "ab"}, "malformed"),
        ({"data_offsets": [10**12, 10**12 + 256]}, "is truncated: tensor .* ends at byte"),
    ],
)
def test_a_header_that_lies_is_caught(source: Path, entry: dict[str, Any], words: str) -> None:
    """Type, shape and place of a tensor are checked against one another and against the file."""
    file = source / "model.safetensors"
    header, data = parts(file)
    header[NORM] |= entry
    write_raw_safetensors(file, header, data)
    with pytest.raises((CorruptSource, UnsupportedModel), match=words) as refusal:
        open_source(source)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("header", [[], None, 5, {NORM: 5}, {NORM: []}, {NORM: {}}, {}])
def test_a_header_of_another_kind_is_corrupt(source: Path, header: object) -> None:
    """JSON, but not a table of tensors."""
    write_raw_safetensors(source / "model.safetensors", header, b"")
    with pytest.raises(CorruptSource):
        open_source(source)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b"\x00" * 8])
def test_a_header_that_is_no_json_is_corrupt(source: Path, text: bytes) -> None:
    """Cut, binary, nested without end, or with a number of 5000 digits."""
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CorruptSource, match=r"model\.safetensors"):
        open_source(source)


@pytest.mark.parametrize("length", [0, 7, 2**63, 2**64 - 1, 10**8])
def test_a_header_longer_than_its_file_is_truncation(source: Path, length: int) -> None:
    """The length is not believed, so nobody allocates it."""
    (source / "model.safetensors").write_bytes(struct.pack("<Q", length)[: 8 if length else 4] + b"{}")
    with pytest.raises(CorruptSource, match="truncated"):
        open_source(source)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_json_beside_the_weights_that_cannot_be_read_is_corrupt(source: Path, name: str, text: str) -> None:
    """Every JSON file is read the same way, with its name in the message."""
    (source / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CorruptSource, match=name.replace(".", r"\.")):
        open_source(source)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_folder_where_a_file_should_be_is_refused(source: Path, publish_from: Builder, name: str) -> None:
    """A refusal like any other, and no traceback."""
    (source / name).unlink()
    (source / name).mkdir()
    with pytest.raises(BuildError, match=name.replace(".", r"\.")):
        publish_from(source)


@pytest.mark.parametrize("name", [NORM, GATE, "model.embed_tokens.weight", "lm_head.weight"])
def test_a_missing_tensor_is_named(source: Path, name: str) -> None:
    """Without it nothing could be emitted."""
    tensors = weights(SHAPE)
    del tensors[name]
    write_safetensors(source / "model.safetensors", tensors)
    with pytest.raises(CorruptSource, match=f"tensor {name} is missing"):
        open_source(source)


def test_a_transposed_tensor_is_named_with_both_shapes(source: Path) -> None:
    """The same bytes in another shape are another matrix."""
    tensors = weights(SHAPE)
    write_safetensors(source / "model.safetensors", tensors | {GATE: tensors[GATE].T})
    with pytest.raises(CorruptSource, match=rf"{GATE} has shape \[64, 96\], the configuration says \[96, 64\]"):
        open_source(source)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [NORM, GATE])
def test_weights_that_are_no_numbers_stop_the_build(
    source: Path, publish_from: Builder, repository: Path, name: str, value: float, dtype: str
) -> None:
    """One of them is enough; in int8 it would silently become a weight of zero or a row of noise."""
    tensors = weights(SHAPE)
    tensors[name].reshape(-1)[-3] = value
    write_safetensors(source / "model.safetensors", tensors, dtype)
    with pytest.raises(CorruptSource, match=f"tensor {name} holds values that are infinite or not a number"):
        publish_from(source, precision="int8")
    assert not repository.exists()


def test_an_index_that_names_a_missing_shard(tmp_path: Path) -> None:
    """A shard that was not downloaded is named."""
    source = write_directory(tmp_path / "source", SHAPE, shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CorruptSource, match=r"model-00002-of-00003\.safetensors does not exist, but the index names it"
    ):
        open_source(source)


@pytest.mark.parametrize("weight_map", [None, [], 5, {NORM: 5}, {}])
def test_an_index_of_another_kind_is_corrupt(tmp_path: Path, weight_map: object) -> None:
    """An index without a usable map names nothing."""
    source = write_directory(tmp_path / "source", SHAPE, shards=2)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CorruptSource):
        open_source(source)


def test_an_index_that_puts_a_tensor_into_another_shard(tmp_path: Path) -> None:
    """Index and shards must agree, tensor by tensor."""
    source = write_directory(tmp_path / "source", SHAPE, shards=2)
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first, second = sorted(set(content["weight_map"].values()))
    content["weight_map"][NORM] = second if content["weight_map"][NORM] == first else first
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptSource, match=f"tensor {NORM} is missing, but model.safetensors.index.json says"):
        open_source(source)


def test_an_index_cannot_point_outside_its_directory(tmp_path: Path) -> None:
    """A shard's name is a name and not a path."""
    source = write_directory(tmp_path / "source", SHAPE, shards=2)
    other = write_directory(tmp_path / "other", SHAPE) / "model.safetensors"
    index = {"weight_map": dict.fromkeys(weights(SHAPE), f"../other/{other.name}")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptSource, match="does not exist"):
        open_source(source)


def test_a_tensor_in_two_files_without_an_index_is_refused(tmp_path: Path) -> None:
    """Which of the two is meant cannot be known."""
    source = write_directory(tmp_path / "source", SHAPE, shards=2)
    (source / "model.safetensors.index.json").unlink()
    (source / "model-00001-of-00002.safetensors").rename(source / "a.safetensors")
    (source / "b.safetensors").write_bytes((source / "a.safetensors").read_bytes())
    with pytest.raises(CorruptSource, match=r"lies in a\.safetensors too"):
        open_source(source)


@SLOW
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_corrupt(whole: Path, where: float) -> None:
    """Every truncation is found before a weight is read, wherever it happened."""
    file = whole / "model.safetensors"
    content = file.read_bytes()
    try:
        file.write_bytes(content[: int(where * len(content))])
        with pytest.raises(CorruptSource, match=r"model\.safetensors"):
            open_source(whole)
    finally:
        file.write_bytes(content)


@SLOW
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.0, bit=7)
def test_a_flipped_bit_in_a_header_is_never_a_crash(whole: Path, where: float, bit: int) -> None:
    """Either the model still says the same, or the refusal is one of ours."""
    file = whole / "model.safetensors"
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[int(where * (8 + struct.unpack_from("<Q", content)[0]))] ^= 1 << bit
    try:
        file.write_bytes(damaged)
        read_all(whole)
    except BuildError:
        pass
    finally:
        file.write_bytes(content)


@SLOW
@given(file=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]), data=st.data())
def test_a_flipped_bit_in_json_is_never_a_crash(whole: Path, file: str, data: st.DataObject) -> None:
    """The same for every other file of the directory."""
    content = (whole / file).read_bytes()
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        (whole / file).write_bytes(damaged)
        read_all(whole)
    except BuildError:
        pass
    finally:
        (whole / file).write_bytes(content)
