"""Small random LoRA adapters, made and saved by peft itself on a saved checkpoint."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from checkpoints import load

SCALE = 0.1
EXPECTED_WARNINGS = (
    "Model has `tie_word_embeddings=True`",
    "Setting `save_embedding_layers`",
    "fan_in_fan_out is set to True",
    "Input and output embeddings are no longer tied",
    "`is_gradient_checkpointing` is deprecated",  # of transformers, to peft
)


def save(base: Path, folder: Path, *, seed: int = 1, **settings: Any) -> Path:
    """A LoRA adapter on ``base`` whose every tensor is random, so that it changes the logits."""
    torch.manual_seed(seed)
    with expected_warnings():
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | settings)
        model = peft.get_peft_model(load(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, SCALE)
                elif "modules_to_save" in name:
                    parameter.add_(torch.randn_like(parameter) * SCALE)
        model.save_pretrained(folder)
    return folder


def applied(base: Path, adapter: Path) -> Any:
    """Peft's own reading of an adapter, not merged: base and adapter side by side, as in training."""
    with expected_warnings():
        return peft.PeftModel.from_pretrained(load(base), adapter).eval()


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Lets pass what peft says of tied ends and stored embeddings, which are the very subject here."""
    with warnings.catch_warnings():
        for start in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=start)
        yield
