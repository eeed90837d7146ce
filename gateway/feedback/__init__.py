"""What people think of answers: a score, once a request, joined to the model's version that answered.

``rated`` remembers answers, ``sqlite_answers`` and ``redis_answers`` are where, ``comments`` keeps what people write.
"""

from gateway.feedback.comments import CommentFile, FeedbackError
from gateway.feedback.opening import open_rated
from gateway.feedback.rated import Given, RatedAnswers

__all__ = ["CommentFile", "FeedbackError", "Given", "RatedAnswers", "open_rated"]
