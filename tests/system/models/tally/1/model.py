"""A model with state: the sum of a sequence so far."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args):
        """Nothing counted yet."""
        self._sums = {}

    def execute(self, requests):
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        name = request.correlation_id()
        if pb_utils.get_input_tensor_by_name(request, "START").as_numpy().flat[0]:
            self._sums[name] = 0
        value = pb_utils.get_input_tensor_by_name(request, "value").as_numpy().flat[0]
        self._sums[name] += int(value)
        return pb_utils.InferenceResponse([pb_utils.Tensor("sum", np.array([self._sums[name]], np.int32))])
