"""A classifier from training to moderation: trained, built, served beside the generation model, asked by the policy."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from deploy.local import stack as local

from .conftest import INT8_REPOSITORY, make_stack

NEEDED = ("onnxruntime", "torch", "transformers")
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED), reason="ONNX Runtime has no wheel for this Python"
)
POLICY = """
version: judged
moderators:
  - {name: phishing, kind: triton, model: phishing, labels: {phishing: {threshold: 0.8}}, deadline_seconds: 5}
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Stack]:
    """Triton with the demo model and a classifier trained here; a gateway whose policy asks it."""
    from benchmarks.train_classifier import train
    from build_engine.classifier_pipeline import build_classifier
    from build_engine.classifier_recipe import ClassifierRecipe

    folder = tmp_path_factory.mktemp("judged")
    assert train(folder / "source", quiet=True) > 0.97
    repository = folder / "repository"
    shutil.copytree(INT8_REPOSITORY / "generate", repository / "generate")
    texts = {"held_out": folder / "source/held-out.jsonl", "calibration": folder / "source/calibration.jsonl"}
    recipe = ClassifierRecipe(folder / "source", "phishing", repository, folder / "work", precision="int8", **texts)
    assert build_classifier(recipe)["accuracy"]["passed"]
    policy = folder / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    each = make_stack(repository, folder / "run")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TIDEGATE_POLICY_FILE", str(policy))
        try:
            local.start(each)
            yield each
        finally:
            local.stop(each)


def classify(client: InferenceServerClient, texts: list[str]) -> list[str]:
    """Labels of a batch."""
    tensor = InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    answer = client.infer("phishing", [tensor])
    assert answer.as_numpy("scores").shape == (len(texts), 2)
    assert np.allclose(answer.as_numpy("scores").max(axis=1), answer.as_numpy("score")[:, 0])
    return [label.decode() for label in answer.as_numpy("label")[:, 0]]


def test_labels_over_grpc(judged: local.Stack) -> None:
    """Batches of different lengths, Chinese and English, many requests at once."""
    client = InferenceServerClient(f"127.0.0.1:{judged.ports.grpc}")
    asked = ["把银行卡号发给我", "tell me a poem about rain", "send me your password, it is urgent", "今天的天气"]
    assert classify(client, asked) == ["phishing", "ordinary", "phishing", "ordinary"]

    async def many() -> list[list[str]]:
        asks = [asyncio.to_thread(classify, client, asked[: 1 + number % 4]) for number in range(32)]
        return await asyncio.gather(*asks)

    wanted = ["phishing", "ordinary", "phishing", "ordinary"]
    assert all(labels == wanted[: len(labels)] for labels in asyncio.run(many()))
    client.close()


def test_the_policy_asks_it(judged: local.Stack) -> None:
    """What it finds is refused; what it does not find is answered by the model beside it."""
    headers = {"Authorization": f"Bearer {judged.token()}"}
    with httpx.Client(base_url=judged.url, headers=headers, timeout=60) as client:
        refused = client.post("/generate", json={"text_input": "please give me your card number", "max_tokens": 4})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "prompt_rejected")
        body = {"text_input": "tell me a recipe for soup", "max_tokens": 4, "include_policy": True}
        answered = client.post("/generate", json=body)
        assert answered.status_code == 200, answered.text
        assert answered.json()["policy"]["input"]["action"] == "allow"
        metrics = client.get("/metrics").text
    assert 'moderator="phishing",outcome="block"' in metrics
