"""Generation inside Triton's Python backend.

Copied whole into every published model version as the package ``tidegate_backend``, so code and weights
roll forward and back together. It knows neither the builder nor the gateway: relative imports, numpy,
openvino and tokenizers only.
"""
