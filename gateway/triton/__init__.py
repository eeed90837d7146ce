"""The only code that speaks gRPC to Triton."""

from gateway.triton.channel import open_channel
from gateway.triton.classifier import TritonClassifier
from gateway.triton.client import TritonClient
from gateway.triton.contract import Delta, ModelInfo, TokenLogprob
from gateway.triton.described import Describer, Description
from gateway.triton.endings import ENDING_SECONDS
from gateway.triton.forward import Forwarder, Upstream

__all__ = [
    "ENDING_SECONDS",
    "Delta",
    "Describer",
    "Description",
    "Forwarder",
    "ModelInfo",
    "TokenLogprob",
    "TritonClassifier",
    "TritonClient",
    "Upstream",
    "open_channel",
]
