"""What a larger model needs to be built: ``python -m benchmarks.scale`` (``make bench-scale``), about fifteen minutes.

Synthetic checkpoints with the configurations of Qwen2.5-0.5B and DeepSeek-R1-Distill-Qwen-1.5B (bfloat16, random
weights) are built by the command a user would type, each in a process of its own, whose memory is read ten times a
second: anonymous memory, which a machine must have, apart from pages of mapped files, which it may drop.

int8 (W8A8) is fitted and compiled by :mod:`benchmarks.scale_fit`, and not judged. ``python -m benchmarks.scale --build
tensorrt-rtx:int8`` renews some of the rows and leaves the others.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from benchmarks import harness

PAGE, RESULT = harness.ROOT / "docs" / "scale.md", harness.RESULTS / "scale.json"
SHARED = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MODELS = {
    "Qwen2.5-0.5B": SHARED
    | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "rope_theta": 1000000.0},
    "DeepSeek-R1-Distill-Qwen-1.5B": SHARED
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": False, "rope_theta": 10000.0},
}
SEVEN_B: dict[str, Any] = SHARED | {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
"""Qwen2.5-7B, which is not built here."""
FITTED = ("tensorrt-rtx", "int8")
BUILDS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("onnxruntime", "int8-weight-only"),
    ("tensorrt-rtx", "fp16"),
    ("tensorrt-rtx", "int8-weight-only"),
    FITTED,
)


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Qwen2 checkpoint, ``[out, in]``."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            found[f"{base}.self_attn.{name}_proj.weight"] = (rows, hidden)
            found[f"{base}.self_attn.{name}_proj.bias"] = (rows,)
        found[f"{base}.self_attn.o_proj.weight"] = (hidden, hidden)
        found[f"{base}.mlp.gate_proj.weight"] = found[f"{base}.mlp.up_proj.weight"] = (inner, hidden)
        found[f"{base}.mlp.down_proj.weight"] = (hidden, inner)
        found[f"{base}.input_layernorm.weight"] = found[f"{base}.post_attention_layernorm.weight"] = (hidden,)
    return found


def write_checkpoint(folder: Path, config: dict[str, Any]) -> int:
    """A Hugging Face directory, written tensor by tensor; returns its parameters."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={each: number for number, each in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": alphabet[0], "eos_token": alphabet[1], "chat_template": "{{ messages[0].content }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    header, offset = {}, 0
    wanted = shapes(config)
    for name, shape in wanted.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    draw = np.random.default_rng(20261124)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tqdm(wanted.values(), desc="checkpoint", unit=" tensors"):
            if len(shape) == 1:
                values = np.ones(shape, np.float32)
            else:
                values = draw.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
            file.write((values.view(np.uint32) >> 16).astype("<u2").data)
    return offset // 2


def build(source: Path, target: str, precision: str, folder: Path) -> dict[str, Any]:
    """One build: its facts, and the peaks of its memory in bytes."""
    folder.mkdir()
    command = [sys.executable, "-m", "build_engine", "build", "--source", str(source), "--name", "scale"]
    command += ["--target", target, "--precision", precision, "--slots", "4", "--sequence-length", "512"]
    command += ["--repository", str(folder / "repository"), "--work-dir", str(folder / "work")]
    if (target, precision) == FITTED:
        command = [sys.executable, "-m", "benchmarks.scale_fit", str(source), str(folder)]
    manifest, samples = measured(command)
    shutil.rmtree(folder)
    return {
        "target": target,
        "precision": precision,
        "stages": manifest["build_seconds"],
        "seconds": samples[-1][0],
        "anonymous_bytes": max(anonymous for _, anonymous, _ in samples),
        "resident_bytes": max(resident for _, _, resident in samples),
        "engine_bytes": manifest["total_bytes"],
        **({"window_seconds": manifest["window_seconds"]} if "window_seconds" in manifest else {}),
    }


def measured(command: list[str]) -> tuple[dict[str, Any], list[tuple[float, int, int]]]:
    """The last line of a command as JSON, and its seconds, anonymous and resident bytes, ten times a second."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)
    samples: list[tuple[float, int, int]] = []
    while child.poll() is None:
        samples.append((time.monotonic() - began, *_memory(child.pid)))
        time.sleep(0.1)
    assert child.stdout is not None
    output = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {child.returncode}")
    return json.loads(output.splitlines()[-1]), samples


def _memory(process: int) -> tuple[int, int]:
    """Anonymous and all resident memory of a process, in bytes; zeros once it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    found = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if name in ("RssAnon", "VmRSS")
    }
    return found.get("RssAnon", 0), found.get("VmRSS", 0)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = "| model | target | precision | anonymous memory | with mapped files | seconds | of it | published |"
    lines = [
        f"| {row['model']} | {row['target']} | {row['precision']} | {gigabytes(row['anonymous_bytes'])} "
        f"| {gigabytes(row['resident_bytes'])} | {row['seconds']:.0f} | {stages(row)} "
        f"| {gigabytes(row['engine_bytes'])} |"
        for row in rows
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *lines])


def stages(row: dict[str, Any]) -> str:
    """The stages that take a second or more."""
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in row["stages"].items() if seconds >= 1)


def gigabytes(size: float) -> str:
    """With two digits behind the point below ten."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"


def paper(rows: list[dict[str, Any]]) -> str:
    """What a 7B needs, worked out from the rows of the largest model that was measured, with the arithmetic."""
    base = [row for row in rows if row["parameters"] == max(each["parameters"] for each in rows)]
    by = {(row["target"], row["precision"]): row for row in base}
    parameters = sum(int(np.prod(shape)) for shape in shapes(SEVEN_B).values())
    largest = 4 * max(int(np.prod(shape)) for shape in shapes(SEVEN_B).values())
    grown, ends = parameters / base[0]["parameters"], 2 * SEVEN_B["vocab_size"] * SEVEN_B["hidden_size"]
    sizes = {"fp16": 2 * parameters, "int8-weight-only": parameters + ends, "int8": parameters + ends}
    lines = ["| step | memory | time on 2 cores | on disk |", "|---|---|---|---|"]
    lines.append(f"| source (bfloat16) | | | 2 x {parameters / 1e9:.2f} billion = {gigabytes(2 * parameters)} |")
    for (target, precision), row in by.items():
        if precision not in sizes:
            continue
        seconds = " + ".join(f"{each:.0f}" for each in row["stages"].values() if each >= 1)
        total = sum(each for each in row["stages"].values() if each >= 1) * grown
        factor = row["anonymous_bytes"] / row["largest_tensor_bytes"]
        memory = f"{factor:.1f} x {largest / 1e9:.2f} = {gigabytes(factor * largest)}"
        if target != "onnxruntime":
            memory = f"{gigabytes(row['anonymous_bytes'])} x {grown:.1f} = {gigabytes(row['anonymous_bytes'] * grown)}"
            memory += f", with mapped files {gigabytes(row['resident_bytes'] * grown)}"
        lines.append(
            f"| {target} {precision} | {memory} | ({seconds}) s x {grown:.1f} = {total / 60:.0f} min "
            f"| {gigabytes(sizes[precision])} |"
        )
    if FITTED in by:
        lines.append(fitting(by[FITTED], parameters, grown))
    return "\n".join(lines)


def fitting(row: dict[str, Any], parameters: int, grown: float) -> str:
    """What a whole fit takes, from the seconds of a window: the builder observes 32 windows, then runs 4 of them once
    exactly and once for each activation. Judging comes on top."""
    window = row["window_seconds"]
    windows = f"32 + 4 x (1 + {4 * SEVEN_B['num_hidden_layers']})"
    count = 32 + 4 * (1 + 4 * SEVEN_B["num_hidden_layers"])
    return (
        f"| of int8: the whole fit on the user's text | fp32 weights, 4 x {parameters / 1e9:.2f} billion = "
        f"{gigabytes(4 * parameters)}, twice while it is judged | ({windows}) windows x {window:.1f} s x {grown:.1f} = "
        f"{count * window * grown / 3600:.1f} h | |"
    )


def main() -> None:
    """Build, save, renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where checkpoints and builds go; needs 20 GB")
    parser.add_argument(
        "--build", choices=[":".join(each) for each in BUILDS], help="the rows to renew; all if not given"
    )
    options = parser.parse_args()
    asked = [each for each in BUILDS if options.build in (None, ":".join(each))]
    known = {(row["model"], row["target"], row["precision"]): row for row in json.loads(RESULT.read_text())["rows"]}
    with tempfile.TemporaryDirectory(prefix="tidegate-scale-", dir=options.folder) as name:
        for model, config in MODELS.items():
            source = Path(name) / model
            parameters = write_checkpoint(source, config)
            largest = 4 * max(int(np.prod(shape)) for shape in shapes(config).values())
            for target, precision in asked:
                sys.stderr.write(f"{model} {target} {precision}\n")
                row = build(source, target, precision, Path(name) / "build")
                facts = {"model": model, "parameters": parameters, "largest_tensor_bytes": largest}
                known[model, target, precision] = facts | row
                keys = [(model, *each) for model in MODELS for each in BUILDS]
                save([known[key] for key in keys if key in known])
            shutil.rmtree(source)


def save(rows: list[dict[str, Any]]) -> None:
    """Results and page."""
    harness.save("scale", {"rows": rows})
    harness.renew(PAGE, table(rows))
    harness.renew(PAGE, paper(rows), "paper")


if __name__ == "__main__":
    main()
