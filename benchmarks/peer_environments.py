"""Peers run in environments of their own under ``.build/peers``, so that nothing of theirs is installed beside ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import harness

PEERS = {
    "daachorse": ("daachorse==0.5.0",),
    "pyahocorasick": ("pyahocorasick==2.3.1",),
    "gorget": ("--no-deps", "gorget==0.5.0"),
    "better_profanity": ("better-profanity==0.7.0",),
    "litellm": ("--no-deps", "litellm==1.109.1"),
    "litellm_proxy": ("litellm[proxy]==1.106.2",),
}
NEEDS = {
    "gorget": ("structlog",),
    "litellm": (
        "openai", "httpx", "h2", "pydantic", "pydantic-settings", "tiktoken", "tokenizers", "jinja2", "jsonschema",
        "click", "importlib-metadata", "aiohttp", "python-dotenv", "fastapi", "orjson", "pyyaml", "fastuuid",
    ),
}  # fmt: skip


def environment(peer: str) -> Path:
    """The Python of a peer's environment, made when it is not there."""
    folder = harness.ROOT / ".build" / "peers" / peer
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in (PEERS[peer], NEEDS.get(peer, ())):
            if packages:
                subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "ready").touch()
    return python
