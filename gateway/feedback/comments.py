"""What people write beside a score: JSON lines in a file that is the gateway's own, and nowhere else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from gateway.feedback.rated import Given


class FeedbackError(Exception):
    """Feedback cannot be kept; the message names the setting."""


class CommentFile:
    """Appended to by every worker, a whole line at a time, and opened for each: it may be moved away and rotated.
    Raises :class:`FeedbackError` if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(self._opened())
        except OSError as error:
            raise FeedbackError(f"TIDEGATE_FEEDBACK_FILE: {path} cannot be written: {error.strerror}") from None

    def add(self, tenant: str, request_id: str, given: Given, score: int, comment: str | None) -> None:
        """A line. Raises OSError."""
        fields = {
            "time": round(time.time(), 3),
            "tenant": tenant,
            "request_id": request_id,
            "model": given.model,
            "model_version": given.version,
            "score": score,
            "comment": comment,
        }
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        file = self._opened()
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
