"""How far the builds are from the reference: ``python -m benchmarks.accuracy``.

fp32: greedy text of 16 prompts against the stored transformers goldens, one after another and 16 at once, through a
real Triton. int8: perplexity against fp32 on the docstrings of the standard library's modules, which chose nothing in
this project. The perplexity runs through the serving engine itself, one token a step with the KV cache it serves with.
"""

from __future__ import annotations

import ast
import asyncio
import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import tritonclient.grpc.aio as triton

from benchmarks import harness
from build_engine.backend.engine import Row
from build_engine.backend.engine_openvino import open_engine

WINDOWS, LENGTH = 48, 192
GOLDENS = harness.ROOT / "tests" / "goldens" / "smollm2.json"


def version_dir(repository: Path) -> Path:
    """The newest published version."""
    return max((repository / "generate").glob("[0-9]*"), key=lambda path: int(path.name))


def windows(tokenizer: tokenizers.Tokenizer) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Evaluation tokens ``[WINDOWS, LENGTH]``, spread evenly over the text."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    docstrings = (ast.get_docstring(ast.parse(module.read_bytes())) for module in modules)
    text = "\n\n".join(docstring for docstring in docstrings if docstring)
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    starts = np.linspace(0, len(ids) - LENGTH, WINDOWS).astype(int)
    return np.stack([ids[start : start + LENGTH] for start in starts])


def score(repository: Path, batch: int = 16) -> tuple[float, np.ndarray[Any, np.dtype[np.int64]]]:
    """Perplexity of a build and its top-1 tokens ``[WINDOWS, LENGTH - 1]``."""
    version = version_dir(repository)
    tokenizer = tokenizers.Tokenizer.from_file(str(version / "tokenizer" / "tokenizer.json"))
    tokens = windows(tokenizer)
    engine = open_engine(version, threads=2, cache_tokens=batch * (LENGTH + 64), step_tokens=128, max_sequences=batch)
    losses, best = [], []
    for first in range(0, WINDOWS, batch):
        part = tokens[first : first + batch]
        sequences = [engine.open(LENGTH) for _ in part]
        for position in range(LENGTH - 1):
            rows = [
                Row(sequence, part[index, position : position + 1], True)
                for index, sequence in enumerate(sequences)
                if sequence is not None
            ]
            logits = engine.step(rows).astype(np.float64)
            peak = logits.max(axis=1, keepdims=True)
            log_sum = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
            losses.append(log_sum - logits[np.arange(len(rows)), part[:, position + 1]])
            best.append((first, position, logits.argmax(axis=1)))
        for sequence in sequences:
            if sequence is not None:
                engine.close(sequence)
    top1 = np.zeros((WINDOWS, LENGTH - 1), np.int64)
    for first, position, choice in best:
        top1[first : first + len(choice), position] = choice
    return float(np.exp(np.mean(np.concatenate(losses)))), top1


async def goldens_equal(address: str, at_once: int) -> int:
    """How many of the golden texts come out letter by letter."""
    goldens = json.loads(GOLDENS.read_text())
    gate = asyncio.Semaphore(at_once)
    async with triton.InferenceServerClient(address) as client:

        async def one(case: dict[str, Any]) -> bool:
            async with gate:
                _, text = await harness.ask_triton(client, case["prompt"], goldens["max_tokens"], stream=True)
            return bool(text == case["text"])

        return sum(await asyncio.gather(*(one(case) for case in goldens["cases"])))


def main() -> None:
    """Measure and save."""
    with harness.running_stack(harness.FP32_REPOSITORY) as stack:
        address = f"127.0.0.1:{stack.ports.grpc}"
        alone, together = (asyncio.run(goldens_equal(address, at_once)) for at_once in (1, 16))
    reference, reference_top1 = score(harness.FP32_REPOSITORY)
    quantised, quantised_top1 = score(harness.INT8_REPOSITORY)
    figures = {
        "fp32_goldens": {"prompts": 16, "tokens": 48, "equal_alone": alone, "equal_16_at_once": together},
        "positions": WINDOWS * (LENGTH - 1),
        "fp32_perplexity": reference,
        "int8_perplexity": quantised,
        "int8_perplexity_ratio": quantised / reference,
        "int8_top1_agreement": float((reference_top1 == quantised_top1).mean()),
    }
    harness.save("accuracy", figures)


if __name__ == "__main__":
    main()
