"""Lays out a model repository with the instant model."""

from __future__ import annotations

import shutil
from pathlib import Path

from build_engine.triton_config import config_pbtxt

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def instant_repository(folder: Path, *, service_ms: float = 0, places: float = 1, pace_ms: float = 0) -> Path:
    """``folder`` with a model ``generate``; see :mod:`benchmarks.instant.model`."""
    version = folder / "generate" / "1"
    version.mkdir(parents=True)
    parameters = {
        "tidegate_format": "1",
        "chat_template": TEMPLATE,
        "bos_token": "",
        "eos_token": "<end>",
        "special_tokens": '["<end>"]',
        "context_length": "4096",
        "service_ms": str(service_ms),
        "pace_ms": str(pace_ms),
        "places": str(int(places)),
    }
    (version.parent / "config.pbtxt").write_text(config_pbtxt("generate", parameters), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("model.py"), version / "model.py")
    return folder
