"""Feedback from settings."""

from __future__ import annotations

from pathlib import Path

from gateway.feedback.comments import FeedbackError
from gateway.feedback.rated import AnswerStore, RatedAnswers, RatedObserver, StoreError
from gateway.feedback.sqlite_answers import SqliteAnswers


def open_rated(
    observer: RatedObserver,
    *,
    seconds: float,
    most: int,
    redis_url: str | None = None,
    directory: Path | None = None,
    workers: int = 1,
) -> RatedAnswers | None:
    """Answers may be rated for ``seconds``; None if that is 0. They are kept in Redis if there is a URL, else at most
    ``most`` of them in ``directory`` or, without one, in this process. Raises :class:`FeedbackError`."""
    if not seconds:
        return None
    if redis_url is not None:
        return RatedAnswers(_redis(redis_url, seconds), observer)
    if directory is None and workers > 1:
        raise FeedbackError(
            f"{workers} workers would not know each other's answers: set TIDEGATE_FEEDBACK_DIRECTORY to a folder of "
            "this host, or TIDEGATE_REDIS_URL; TIDEGATE_FEEDBACK_SECONDS=0 does without feedback"
        )
    try:
        return RatedAnswers(SqliteAnswers(directory, seconds, most), observer)
    except StoreError as error:
        raise FeedbackError(f"TIDEGATE_FEEDBACK_DIRECTORY cannot be used: {error}") from None


def _redis(url: str, seconds: float) -> AnswerStore:
    try:
        from gateway.feedback.redis_answers import RedisAnswers  # noqa: PLC0415 - only the extra has it

        return RedisAnswers(url, seconds)
    except ImportError:
        raise FeedbackError("TIDEGATE_REDIS_URL needs the extra: pip install 'tidegate[redis]'") from None
    except ValueError:
        raise FeedbackError("TIDEGATE_REDIS_URL is no URL of a Redis: redis://, rediss://, unix://") from None
