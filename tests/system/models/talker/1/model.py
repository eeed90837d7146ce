"""A text model of somebody else's: says each text of its batch again, character by character, and ends with an empty
final response."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton loads."""

    def execute(self, requests):
        """Answers each request before it returns."""
        for request in requests:
            sender = request.get_response_sender()
            texts = [each.decode() for each in pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()]
            for place in range(max(map(len, texts), default=0)):
                if sender.is_cancelled():
                    break
                pieces = np.array([text[place : place + 1].encode() for text in texts], dtype=object)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", pieces)]))
                time.sleep(0.002)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
