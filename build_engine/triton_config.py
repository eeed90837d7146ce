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
    "logprobs": "TYPE_INT32",
    "logit_bias_tokens": "TYPE_INT32",
    "logit_bias_values": "TYPE_FP32",
    "json_schema": "TYPE_STRING",
}
OUTPUTS = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "prompt_tokens": "TYPE_INT32",
    "completion_tokens": "TYPE_INT32",
    "token_logprobs": "TYPE_STRING",
}
VARIABLE_LENGTH = frozenset({"stop", "logit_bias_tokens", "logit_bias_values"})


def config_pbtxt(name: str, parameters: Mapping[str, str], priority_levels: int = 0) -> str:
    """The text of ``config.pbtxt``. ``max_batch_size`` is 1: Triton's queue hands over one request at a time. With
    ``priority_levels`` it has so many, and who asks for none waits in the middle one."""
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=1)
    config.model_transaction_policy.decoupled = True
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    # Present but empty unless levels are asked for: any queue policy (a limit, priorities, time-outs) makes this Triton
    # look for a free instance only when a request arrives or every 500 ms, which a stream's first token then waits for.
    config.dynamic_batching.SetInParent()
    if priority_levels:
        config.dynamic_batching.priority_levels = priority_levels
        config.dynamic_batching.default_priority_level = (priority_levels + 1) // 2
    for tensor, kind in INPUTS.items():
        dims = [-1 if tensor in VARIABLE_LENGTH else 1]
        config.input.add(name=tensor, data_type=kind, dims=dims, optional=tensor != "text_input")
    for tensor, kind in OUTPUTS.items():
        config.output.add(name=tensor, data_type=kind, dims=[1])
    for key in sorted(parameters):
        config.parameters[key].string_value = parameters[key]
    return str(text_format.MessageToString(config, as_utf8=True))
