"""The cheapest OpenAI-style upstream, for a proxy to stand before: ``uvicorn benchmarks.openai_fake:app``."""

from __future__ import annotations

import json
from typing import Any

USAGE = {"prompt_tokens": 8, "completion_tokens": 16, "total_tokens": 24}
BASE = {"id": "chatcmpl-1", "created": 1, "model": "generate"}
WHOLE = {
    **BASE,
    "object": "chat.completion",
    "choices": [
        {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "word " * 16}},
    ],
    "usage": USAGE,
}


def _chunk(delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = json.dumps({**BASE, "object": "chat.completion.chunk", "choices": [choice]})
    return f"data: {body}\n\n".encode()


WORD, LAST = _chunk({"role": "assistant", "content": "word "}, None), _chunk({}, "length")
BODY = json.dumps(WHOLE).encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: one answer, or ``max_tokens`` chunks."""
    if scope["type"] != "http":
        return
    content, more = b"", True
    while more:
        message = await receive()
        content, more = content + message.get("body", b""), message.get("more_body", False)
    asked = json.loads(content) if content else {}
    kind = b"text/event-stream" if asked.get("stream") else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if not asked.get("stream"):
        await send({"type": "http.response.body", "body": BODY})
        return
    for _ in range(asked["max_tokens"] - 1):
        await send({"type": "http.response.body", "body": WORD, "more_body": True})
    await send({"type": "http.response.body", "body": WORD + LAST + b"data: [DONE]\n\n"})
