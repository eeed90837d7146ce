"""Every supported configuration says what transformers says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CONFIGURATIONS, load
from compare import built, engine_logits, torch_logits


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_equal_transformers(checkpoint: Callable[[str], Path], tmp_path: Path, name: str, target: str) -> None:
    """A checkpoint that transformers saved, built and served in float32: prefill in chunks, then decode, in company; in
    the paged engine, and in the slots of the ONNX graph that TensorRT compiles."""
    folder = checkpoint(name)
    expected = torch_logits(load(folder))
    assert expected.std() > 0.5  # else a small difference would mean nothing
    found = engine_logits(built(folder, tmp_path, target=target))
    print(f"{name}: {np.abs(found - expected).max():.1e} of {expected.std():.2f}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
