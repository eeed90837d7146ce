"""A classifier's scores are those of transformers, in a batch of different lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from build_engine.classifier_proof import open_session
from build_engine.emit_encoder import EncoderPlan, emit
from build_engine.encoder import encoder_config
from build_engine.source_hf import read_all_headers, read_json, read_tensor


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_scores_are_those_of_transformers(tmp_path: Path, activation: str) -> None:
    """Within 1e-4, padding or not."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = BertConfig(
        vocab_size=120, max_position_embeddings=40, num_labels=4, hidden_act=activation, initializer_range=0.4, **sizes
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "source")
    raw, tensors = read_json(tmp_path / "source/config.json"), read_all_headers(tmp_path / "source")
    emit(encoder_config(raw), lambda name: read_tensor(tensors[name]), EncoderPlan(), tmp_path)
    ids = np.random.default_rng(1).integers(4, 120, (5, 33))
    mask = np.arange(33) < np.array([33, 2, 17, 9, 30])[:, None]
    (scores,) = open_session(tmp_path).run(["scores"], {"input_ids": np.where(mask, ids, 0), "mask": mask})
    with torch.no_grad():
        wanted = model(torch.tensor(np.where(mask, ids, 0)), attention_mask=torch.tensor(mask)).logits.softmax(1)
    assert np.abs(scores - wanted.numpy()).max() < 1e-4
    assert scores.std(axis=0).max() > 0.05  # the texts differ, or nothing was compared
