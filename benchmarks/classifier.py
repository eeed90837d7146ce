"""Dynamic batching on a classifier: ``python -m benchmarks.classifier``, about two minutes.

A BERT of MiniLM's size (6 layers of 384, random weights, 22 million parameters) is built with batches, for several
queue delays, and without (``--max-batch-size 1``), and served in one real Triton. Clients ask in a closed loop; the
rate at a 95th percentile of at most the limit is compared, A B A B. Then ONNX Runtime alone says what a batch could win
at all here. The tables in docs/classifiers.md are made from it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import struct
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from tokenizers import Tokenizer, models, pre_tokenizers
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks import harness
from build_engine.classifier_pipeline import build_classifier
from build_engine.classifier_recipe import ClassifierRecipe
from build_engine.encoder import encoder_config, expected_tensors
from deploy.local import stack as local
from deploy.local.triton_server import Ports

CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"], "vocab_size": 30522, "hidden_size": 384,
    "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512,
    "type_vocab_size": 2, "id2label": {"0": "no", "1": "yes"},
}  # fmt: skip
TEXT = " ".join(["word"] * 32)  # as many tokens
ROUNDS, SECONDS, CLIENTS = 3, 2.0, (1, 4, 8, 16)
DELAYS = (0, 1000, 4000)
PAGE = harness.ROOT / "docs" / "classifiers.md"


def write_checkpoint(folder: Path) -> Path:
    """Random weights in bfloat16 and a tokenizer of one word."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    draw, header, offset = np.random.default_rng(1), {}, 0
    wanted = expected_tensors(encoder_config(CONFIG))
    for name, shape in wanted.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in wanted.items():
            values = np.full(shape, "LayerNorm.weight" in name, np.float32)
            if len(shape) == 2:
                values = draw.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
            file.write((values.view(np.uint32) >> 16).astype("<u2").data)
    return folder


async def load(url: str, model: str, clients: int) -> tuple[float, float]:
    """Requests a second and the 95th percentile of their time in milliseconds, ``clients`` in a closed loop."""
    encoded = TEXT.encode()
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="scores")
    request.raw_input_contents.append(struct.pack("<I", len(encoded)) + encoded)
    times: list[float] = []
    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        end = time.monotonic() + SECONDS

        async def client() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                await stub.ModelInfer(request)
                times.append(time.monotonic() - began)

        await asyncio.gather(*(client() for _ in range(clients)))
    return len(times) / SECONDS, 1000 * statistics.quantiles(times, n=20)[-1]


def alone(folder: Path, threads: int) -> dict[str, float]:
    """Milliseconds a text in ONNX Runtime, by batch size, with the backend's own session options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "engine/model.onnx"), options, ["CPUExecutionProvider"])
    found = {}
    for size in (1, 2, 4, 8, 16, 32):
        feed = {"input_ids": np.full((size, 32), 2), "mask": np.ones((size, 32), bool)}
        session.run(["scores"], feed)
        times = []
        for _ in range(25):
            began = time.perf_counter()
            session.run(["scores"], feed)
            times.append(time.perf_counter() - began)
        found[str(size)] = 1000 * statistics.median(times) / size
    return found


def measure(url: str) -> list[dict[str, Any]]:
    """Every number of clients, all models in turn, the median of the rounds."""
    rows = []
    for clients in CLIENTS:
        seen: dict[str, list[tuple[float, float]]] = {"single": [], **{f"delay_{delay}": [] for delay in DELAYS}}
        for _ in range(ROUNDS):
            for model, results in seen.items():
                results.append(asyncio.run(load(url, model, clients)))
        row: dict[str, Any] = {"clients": clients}
        for model, results in seen.items():
            row[model] = {
                "requests_per_second": statistics.median(rate for rate, _ in results),
                "p95_ms": statistics.median(p95 for _, p95 in results),
            }
        rows.append(row)
        print(row)
    return rows


def best(rows: list[dict[str, Any]], model: str, limit_ms: float) -> float:
    """The highest rate whose 95th percentile is within the limit."""
    return max((row[model]["requests_per_second"] for row in rows if row[model]["p95_ms"] <= limit_ms), default=0.0)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best rates at 4 and at 8 times the 95th percentile of a lone client without batches."""
    limits = (factor * rows[0]["single"]["p95_ms"] for factor in (4, 8))
    models = [model for model in rows[0] if model != "clients"]
    return [{"p95_limit_ms": limit, **{model: best(rows, model, limit) for model in models}} for limit in limits]


def tables(record: dict[str, Any]) -> str:
    """Markdown: rates at equal 95th percentiles, the price for a lone client, and what ONNX Runtime alone could win."""
    delays = [f"delay_{delay}" for delay in DELAYS]
    heads = " | ".join(f"waiting {delay} µs" for delay in DELAYS)
    lines = [f"| 95th percentile at most | without batches | {heads} |", "|---|---|" + "---|" * len(DELAYS)]
    for factor, row in zip((4, 8), record["at_equal_p95"], strict=True):
        cells = " | ".join(f"{row[delay]:.0f} ({row[delay] / row['single']:.2f}x)" for delay in delays)
        lines.append(f"| {row['p95_limit_ms']:.0f} ms ({factor} times a lone one) | {row['single']:.0f}/s | {cells} |")
    for row in record["rows"]:
        cells = " | ".join(
            f"{row[delay]['requests_per_second']:.0f}, {row[delay]['p95_ms']:.1f} ms" for delay in delays
        )
        alone_ = f"{row['single']['requests_per_second']:.0f}/s, {row['single']['p95_ms']:.1f} ms"
        lines.append(
            f"| {row['clients']} client{'s' if row['clients'] > 1 else ''}, whatever it takes | {alone_} | {cells} |"
        )
    found = record["onnxruntime_ms_per_text_by_threads_and_batch"]
    sizes = list(next(iter(found.values())))
    lines += [
        "",
        f"| ONNX Runtime alone, ms a text | {' | '.join(f'batch of {size}' for size in sizes)} | most to win |",
    ]
    lines.append("|---|" + "---|" * (len(sizes) + 1))
    for threads, times in found.items():
        cells = " | ".join(f"{times[size]:.2f}" for size in sizes)
        name = f"{threads} thread{'s' if threads != '1' else ''}"
        lines.append(f"| {name} | {cells} | {times['1'] / min(times.values()):.2f}x |")
    return "\n".join(lines)


def serve_and_measure(folder: Path) -> dict[str, Any]:
    """Build every variant, serve all in one Triton, ask; then ONNX Runtime without it."""
    source, repository = write_checkpoint(folder / "source"), folder / "models/repository"
    recipe = ClassifierRecipe(source, "single", repository, folder / "work", precision="fp32")
    build_classifier(replace(recipe, max_batch_size=1, preferred_batch_sizes=(1,), queue_delay_microseconds=0))
    for delay in DELAYS:
        build_classifier(replace(recipe, name=f"delay_{delay}", queue_delay_microseconds=delay))
    ports = free_ports(4)
    stack = local.Stack(repository, folder / "run", ports[0], Ports(*ports[1:]))
    try:
        local.start_triton(stack)
        rows = measure(f"127.0.0.1:{ports[2]}")
    finally:
        local.stop(stack)
    per_text = {str(threads): alone(repository / "single/1", threads) for threads in (1, 2)}
    return {
        "rows": rows,
        "at_equal_p95": compare(rows),
        "onnxruntime_ms_per_text_by_threads_and_batch": per_text,
    }


def main() -> None:
    """Measure, save, renew the page."""
    with tempfile.TemporaryDirectory(prefix="tidegate-classifier-") as name:
        found = serve_and_measure(Path(name))
    harness.save("classifier", found)
    harness.renew(PAGE, tables(found))


if __name__ == "__main__":
    main()
