"""Makes ``smollm2.json``: the reference text of SmolLM2-135M-Instruct by transformers, fp32, greedy.

Run it in an environment of its own, which nothing else here needs:

    pip install torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate safetensors==0.8.0
    python tests/goldens/make_smollm2.py PATH_TO_GGUF

The prompts are text as the tokenizer gets it, special tokens included; nothing is added to them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import transformers

NEW_TOKENS = 48
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    CHAT.format("What is the capital of France?"),
    CHAT.format("Name three primary colours."),
    CHAT.format("Write a short poem about the sea."),
    CHAT.format("Explain in one sentence what a hash table is."),
    CHAT.format("Translate 'good morning' into Spanish."),
    CHAT.format("How many legs does a spider have?"),
    CHAT.format("请用一句话介绍北京。"),
    CHAT.format("Give me a recipe for pancakes, as a list. 🥞"),
    "The quick brown fox",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a small village at the foot of a mountain, there lived",
    "1, 1, 2, 3, 5, 8,",
    "The three laws of motion are:\n1.",
    "Water boils at",
    "Dear Sir or Madam,\n\nI am writing to you because the bicycle that I bought in your shop last Tuesday",
    "A list of the planets of the solar system, in their order from the sun: Mercury, Venus,",
]


def main(gguf: Path) -> None:
    """Generate and write the goldens beside this file."""
    torch.manual_seed(0)
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
                eos_token_id=model.generation_config.eos_token_id, pad_token_id=0,
            )  # fmt: skip
        new = out[0, ids.shape[1] :].tolist()
        text = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cases.append({"prompt": prompt, "prompt_ids": ids[0].tolist(), "completion_ids": new, "text": text})
    goldens = {
        "model_sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, greedy",
        "max_tokens": NEW_TOKENS,
        "eos_token_id": model.generation_config.eos_token_id or tokenizer.eos_token_id,
        "cases": cases,
    }
    Path(__file__).with_name("smollm2.json").write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
