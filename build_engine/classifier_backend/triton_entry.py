"""Triton loads this file as ``<version>/model.py``; everything else lies in the package beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tidegate_classifier.classifier_backend.model import TritonPythonModel  # type: ignore[import-not-found]

__all__ = ["TritonPythonModel"]
