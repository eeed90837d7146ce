"""On a GPU: a classifier's plan says what its graph says on the CPU. Without one it is skipped, by name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from build_engine.classifier_pipeline import build_classifier
from build_engine.classifier_recipe import ClassifierRecipe
from build_engine.recipe import RTX_CAPABILITIES
from build_engine.tensorrt_api import MODULES
from tests.build_engine.encoders import TOKENS, write_encoder

from .test_parity import capability

ASK = """
import sys, numpy as np
from pathlib import Path
from tidegate_classifier.classifier_backend.runner import open_runner
feed = np.load(sys.argv[1])
np.save(sys.argv[2], open_runner(Path("engine"), 1).run(feed["input_ids"], feed["mask"]))
"""


def scores(version: Path, folder: Path) -> Any:
    """Of a ragged batch, by the code and the engine that the version carries."""
    lengths = np.array([20, 3, 11, 7])
    mask = np.arange(20) < lengths[:, None]
    ids = np.where(mask, np.random.default_rng(1).integers(4, len(TOKENS), mask.shape), 0)
    np.savez(folder / "feed.npz", input_ids=ids, mask=mask)
    command = [sys.executable, "-c", ASK, str(folder / "feed.npz"), str(folder / "scores.npy")]
    subprocess.run(command, check=True, cwd=version)
    return np.load(folder / "scores.npy")


@pytest.mark.parametrize("target", MODULES)
def test_scores_are_those_of_the_graph(tmp_path: Path, target: str) -> None:
    """Within what fp16 rounds."""
    found = capability()
    try:
        importlib.import_module(MODULES[target])
    except ImportError as error:
        pytest.skip(str(error))
    if target == "tensorrt-rtx" and found not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX has no kernels for compute capability {found}")
    source = write_encoder(tmp_path / "source")
    asked: dict[str, Any] = {"compute_capabilities": (found,)} if target == "tensorrt-rtx" else {}
    recipe = ClassifierRecipe(source, "gpu", tmp_path / "r/repository", tmp_path / "work", precision="fp16")
    for name, fields in (("cpu", {}), ("gpu", {"target": target, **asked})):
        build_classifier(ClassifierRecipe(**{**vars(recipe), "name": name, "max_tokens": 20, **fields}))
    on = [scores(tmp_path / f"r/repository/{name}/1", tmp_path) for name in ("cpu", "gpu")]
    np.testing.assert_allclose(on[1], on[0], atol=5e-3)
