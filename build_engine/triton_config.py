"""``config.pbtxt`` of a generation model, written through Triton's own protobuf message."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

INPUTS = {
    "text_input": "TYPE_STRING",
    "max_tokens": "TYPE_INT32",
    "temperature": "TYPE_FP32",
    "top_p": "TYPE_FP32",
    "top_k": "TYPE_INT32",
    "min_p": "TYPE_FP32",
    "seed": "TYPE_UINT64",
    "frequency_penalty": "TYPE_FP32",
    "presence_penalty": "TYPE_FP32",
    "repetition_penalty": "TYPE_FP32",
    "stop": "TYPE_STRING",
    "stream": "TYPE_BOOL",
    "ignore_eos": "TYPE_BOOL",
    "add_special_tokens": "TYPE_BOOL",
}
OUTPUTS = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "prompt_tokens": "TYPE_INT32",
    "completion_tokens": "TYPE_INT32",
}
VARIABLE_LENGTH = frozenset({"stop"})
PRIORITY_LEVELS, DEFAULT_PRIORITY = 3, 2


def config_pbtxt(name: str, max_queue_size: int, parameters: Mapping[str, str]) -> str:
    """The text of ``config.pbtxt``. ``max_batch_size`` is 1: Triton's queue hands over one request at a time."""
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=1)
    config.model_transaction_policy.decoupled = True
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    batching = config.dynamic_batching
    batching.priority_levels, batching.default_priority_level = PRIORITY_LEVELS, DEFAULT_PRIORITY
    batching.default_queue_policy.timeout_action = pb.ModelQueuePolicy.REJECT
    batching.default_queue_policy.allow_timeout_override = True
    batching.default_queue_policy.max_queue_size = max_queue_size
    for tensor, kind in INPUTS.items():
        dims = [-1 if tensor in VARIABLE_LENGTH else 1]
        config.input.add(name=tensor, data_type=kind, dims=dims, optional=tensor != "text_input")
    for tensor, kind in OUTPUTS.items():
        config.output.add(name=tensor, data_type=kind, dims=[1])
    for key in sorted(parameters):
        config.parameters[key].string_value = parameters[key]
    return str(text_format.MessageToString(config, as_utf8=True))
