"""A model without text: doubles numbers. A negative first number waits so many seconds before it answers."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton loads."""

    def execute(self, requests):
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "values").as_numpy()
        if values.size and values.flat[0] < 0:
            until = time.monotonic() - float(values.flat[0])
            while time.monotonic() < until and not request.is_cancelled():
                time.sleep(0.01)
            if request.is_cancelled():
                return pb_utils.InferenceResponse(error=pb_utils.TritonError("left", pb_utils.TritonError.CANCELLED))
        return pb_utils.InferenceResponse([pb_utils.Tensor("doubled", values * 2)])
