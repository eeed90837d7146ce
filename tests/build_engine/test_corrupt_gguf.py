"""A GGUF file that contradicts itself is refused; it never crashes the builder and never keeps it busy."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from build_engine.errors import BuildError, CorruptSource
from build_engine.pipeline import open_source

from .checkpoints import Shape, gguf_name, raw, weights, write_directory, write_gguf
from .conftest import Builder

SHAPE = Shape(layers=1)
SLOW = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file's content."""
    return write_gguf(tmp_path_factory.mktemp("whole") / "model.gguf", SHAPE).read_bytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where damaged content is written to."""
    return tmp_path_factory.mktemp("damaged") / "model.gguf"


def data_begins(whole: bytes) -> int:
    """Where the header ends: at the first tensor's bytes, which are the embedding's."""
    return whole.index(raw(weights(SHAPE)["model.embed_tokens.weight"], "F32")[:64])


def read_all(path: Path) -> None:
    """Everything a build reads of a source, within a second or two."""
    began = time.monotonic()
    try:
        source = open_source(path)
        for name in source.shapes:
            source.finite(name)
    finally:
        assert time.monotonic() - began < 20


@SLOW
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_corrupt(whole: bytes, file: Path, where: float) -> None:
    """In its metadata, in a name, in the last tensor: every cut is found. What the writer pads the end with is not."""
    size = int(where * (len(whole) - 32))
    file.write_bytes(whole[:size])
    with pytest.raises(CorruptSource, match=r"model\.gguf"):
        open_source(file)


@SLOW
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_is_never_a_crash(whole: bytes, file: Path, where: float, bit: int) -> None:
    """Counts, lengths, types and texts: either a refusal of ours, or a model that can be read."""
    damaged = bytearray(whole)
    damaged[int(where * data_begins(whole))] ^= 1 << bit
    file.write_bytes(damaged)
    with contextlib.suppress(BuildError):
        read_all(file)


@SLOW
@given(where=st.floats(0, 1, exclude_max=True), content=st.binary(min_size=1, max_size=16))
def test_rubbish_in_the_header_is_never_a_crash(whole: bytes, file: Path, where: float, content: bytes) -> None:
    """The same with more than a bit."""
    damaged = bytearray(whole)
    at = int(where * data_begins(whole))
    damaged[at : at + len(content)] = content
    file.write_bytes(damaged)
    with contextlib.suppress(BuildError):
        read_all(file)


@SLOW
@given(content=st.binary(max_size=200), begin=st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0"]))
def test_rubbish_is_corrupt(file: Path, content: bytes, begin: bytes) -> None:
    """A file of another kind, a picture or a pickle, is no model."""
    file.write_bytes(begin + content)
    with pytest.raises(BuildError):
        open_source(file)


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("what", ["token_type", "tokens", "merges"])
def test_an_endless_array_is_refused_at_once(file: Path, what: str, shift: int) -> None:
    """One byte in the length of an array whose numbers end exactly where the file does made the reader loop until
    memory was full; one of four shifts brings that about."""
    whole = write_gguf(file, SHAPE, general__name="x" * shift).read_bytes()
    damaged = bytearray(whole)
    key = f"tokenizer.ggml.{what}".encode()
    length = whole.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 8
    damaged[length + 6] = 1
    file.write_bytes(damaged)
    with pytest.raises(CorruptSource, match="truncated"):
        read_all(file)


def test_an_endless_count_is_refused_at_once(whole: bytes, file: Path) -> None:
    """Of tensors as of metadata."""
    for at in (8, 16):
        damaged = bytearray(whole)
        damaged[at + 7] = 1
        file.write_bytes(damaged)
        with pytest.raises(CorruptSource, match="truncated"):
            read_all(file)


def test_a_missing_tensor_is_named(whole: bytes, file: Path) -> None:
    """Under the name that every message uses."""
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        theirs = gguf_name(name).encode()
        file.write_bytes(whole.replace(theirs, b"x" * len(theirs)))
        with pytest.raises(CorruptSource, match=r"is missing"):
            open_source(file)


def test_weights_that_are_no_numbers_stop_the_build(
    whole: bytes, file: Path, publish_from: Builder, repository: Path
) -> None:
    """The file and the tensor are named, as for safetensors."""
    damaged = bytearray(whole)
    damaged[data_begins(whole) : data_begins(whole) + 4] = np.float32(np.inf).tobytes()
    file.write_bytes(damaged)
    with pytest.raises(CorruptSource, match=r"model\.gguf: tensor model.embed_tokens.weight holds values"):
        publish_from(file)
    assert not repository.exists()


def test_a_safetensors_file_is_not_taken_for_gguf(tmp_path: Path) -> None:
    """Its directory is the model, and the file alone is refused."""
    source = write_directory(tmp_path / "source", SHAPE)
    with pytest.raises(CorruptSource, match="not a readable GGUF file"):
        open_source(source / "model.safetensors")
