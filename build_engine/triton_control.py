"""Triton's control side over gRPC: which versions it has, load, unload, and one question to a model.

A candidate is loaded under a name of its own without a file in the repository: Triton takes its configuration and a
small ``model.py`` from the load request, and that file opens the version's folder. So whatever kills the rollout, a
Triton that starts again finds only the served version."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from build_engine.errors import Refused, TritonError

PROBE_SECONDS = 10.0
FAMILIES = (socket.AF_INET, socket.AF_INET6)
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED)
CANDIDATE = '''"""A version under trial, opened where it lies."""

import runpy
from pathlib import Path

VERSION = Path({version!r})
_Model = runpy.run_path(str(VERSION / "model.py"))["TritonPythonModel"]


class TritonPythonModel(_Model):
    def initialize(self, args):
        super().initialize({{**args, "model_repository": str(VERSION.parent), "model_version": VERSION.name}})
'''
KINDS = {"text_input": "BYTES", "max_tokens": "INT32", "stream": "BOOL", "add_special_tokens": "BOOL"}


def addresses(names: Iterable[str], look_up: Callable[..., Any] = socket.getaddrinfo) -> list[str]:
    """Every address that each ``host:port`` stands for, IPv6 only where there is no other: a name may be several
    Tritons. What is no ``host:port`` stays as it is. Raises :class:`TritonError` for a name that nobody knows."""
    found: dict[str, None] = {}
    for name in names:
        host, _, port = name.rpartition(":")
        if not port.isdigit():
            found[name] = None
            continue
        try:
            answers = look_up(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            raise TritonError(f"Triton at {name}: {error.strerror}") from None
        by_family = {family: [each[4][0] for each in answers if each[0] == family] for family in FAMILIES}
        found |= {f"{each}:{port}": None for each in sorted(by_family[socket.AF_INET])} or {
            f"[{each}]:{port}": None for each in sorted(by_family[socket.AF_INET6])
        }
    return list(found)


@dataclass(frozen=True)
class Reply:
    """A whole answer. ``seconds`` is all of it, ``first_seconds`` to the first response."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    version: str
    first_seconds: float
    seconds: float


class Triton:
    """The Triton at ``address`` (host:port of its gRPC). ``load_seconds`` is how long a version may take to load. Every
    method raises :class:`TritonError` when Triton cannot be reached."""

    def __init__(self, address: str, load_seconds: float) -> None:
        self.address = address
        self._load_seconds = load_seconds
        self._channel = grpc.insecure_channel(address, options=(("grpc.max_receive_message_length", 64 << 20),))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def states(self, model: str) -> dict[int, str]:
        """The versions that Triton knows of, each with its state (``READY``, ``LOADING``, ``UNLOADING``,
        ``UNAVAILABLE: why``)."""
        index = self._call("RepositoryIndex", pb.RepositoryIndexRequest())
        return {
            int(each.version): f"{each.state}: {each.reason}" if each.reason else each.state
            for each in index.models
            if each.name == model and each.version
        }

    def serving(self, model: str) -> int | None:
        """The version that answers who names none: the highest that is ready."""
        return max((version for version, state in self.states(model).items() if state == "READY"), default=None)

    def manifest_of(self, model: str) -> str:
        """The hash of the manifest of the version that serves, as it says itself; empty when none does."""
        if self.serving(model) is None:
            return ""
        config = self._call("ModelConfig", pb.ModelConfigRequest(name=model)).config
        return str(config.parameters["manifest_sha256"].string_value)

    def is_ready(self, model: str) -> bool:
        """Whether a model answers."""
        return bool(self._call("ModelReady", pb.ModelReadyRequest(name=model)).ready)

    def load(self, model: str, config: Any) -> None:
        """Load ``model`` with this configuration, whatever its ``config.pbtxt`` says. Triton loads beside what it has,
        and lets that go when the new is ready. Raises :class:`Refused` when it does not load."""
        self._load(model, config, {})

    def load_candidate(self, model: str, config: Any, version: Path) -> None:
        """Load the folder ``version`` (as Triton sees it) under the name ``model``. Raises :class:`Refused`."""
        self._load(model, config, {"file:1/model.py": CANDIDATE.format(version=str(version)).encode()})

    def unload(self, model: str, seconds: float = 60.0) -> None:
        """Take a model away, if it is there, and wait until it is gone."""
        self._call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model))
        deadline = time.monotonic() + seconds
        while self.is_ready(model) and time.monotonic() < deadline:
            time.sleep(0.05)

    def ask(self, model: str, values: Mapping[str, str | int | bool], seconds: float) -> Reply:
        """One answer, at temperature 0. Raises :class:`Refused` when the model answers with an error, with something
        else than an answer, or not in time."""
        request = pb.ModelInferRequest(model_name=model)
        for name, value in values.items():
            request.inputs.add(name=name, datatype=KINDS[name], shape=[1, 1])
            request.raw_input_contents.append(_raw(KINDS[name], value))
        began = time.monotonic()
        try:
            parts = [(time.monotonic(), part) for part in self._parts(request, seconds)]
            last = parts[-1][1]
            return Reply(
                text="".join(_text(part["text_output"]) for _, part in parts),
                finish_reason=_text(last["finish_reason"]),
                prompt_tokens=struct.unpack("<i", last["prompt_tokens"])[0],
                completion_tokens=struct.unpack("<i", last["completion_tokens"])[0],
                version=str(last["version"].decode()),
                first_seconds=parts[0][0] - began,
                seconds=time.monotonic() - began,
            )
        except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
            raise Refused(f"what {model} answers is not an answer: {error!r}") from None

    def _parts(self, request: Any, seconds: float) -> Iterator[dict[str, bytes]]:
        try:
            # To the very end: Triton 2.51 keeps a version for ever whose call is dropped behind its last response.
            for message in self._stub.ModelStreamInfer(iter((request,)), timeout=seconds):
                if message.error_message:
                    raise Refused(f"{request.model_name} answers with an error: {_one_line(message.error_message)}")
                response = message.infer_response
                if response.outputs:
                    raw = zip(response.outputs, response.raw_output_contents, strict=True)
                    parts = {output.name: content for output, content in raw}
                    yield parts | {"version": response.model_version.encode()}
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Refused(f"{request.model_name} did not answer within {seconds:g} s") from None
            raise self._gone(error) from None

    def _load(self, model: str, config: Any, files: Mapping[str, bytes]) -> None:
        request = pb.RepositoryModelLoadRequest(model_name=model)
        as_json = json_format.MessageToJson(config, preserving_proto_field_name=True)
        request.parameters["config"].string_param = as_json
        for name, content in files.items():
            request.parameters[name].bytes_param = content
        try:
            self._stub.RepositoryModelLoad(request, timeout=self._load_seconds)
        except grpc.RpcError as error:
            if error.code() in AWAY:
                raise self._gone(error) from None
            raise Refused(f"{model} does not load: {_one_line(error.details())}") from None

    def _call(self, name: str, request: Any) -> Any:
        try:
            return getattr(self._stub, name)(request, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            raise self._gone(error) from None

    def _gone(self, error: Any) -> TritonError:
        return TritonError(f"Triton at {self.address}: {error.code().name}, {_one_line(error.details())}")


def _raw(kind: str, value: str | int | bool) -> bytes:
    if kind == "BYTES":
        encoded = str(value).encode()
        return struct.pack("<I", len(encoded)) + encoded
    return struct.pack("<?" if kind == "BOOL" else "<i", value)


def _text(raw: bytes) -> str:
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode()


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())[:500]
