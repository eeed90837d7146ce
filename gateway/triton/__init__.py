"""The only code that speaks gRPC to Triton."""

from gateway.triton.classifier import TritonClassifier
from gateway.triton.client import TritonClient
from gateway.triton.contract import Delta, ModelInfo, TokenLogprob

__all__ = ["Delta", "ModelInfo", "TokenLogprob", "TritonClassifier", "TritonClient"]
