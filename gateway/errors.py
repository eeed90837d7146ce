"""Everything the gateway can answer instead of text, drawn once.

    GatewayError                     HTTP  gRPC                 code
    ├── InvalidJson                   400  INVALID_ARGUMENT     invalid_json
    ├── InvalidRequest                400  INVALID_ARGUMENT     invalid_request
    │   └── PromptTooLong             400  INVALID_ARGUMENT     prompt_too_long
    ├── Unauthenticated               401  UNAUTHENTICATED      invalid_token
    │   ├── MissingToken              401  UNAUTHENTICATED      missing_token
    │   ├── TokenExpired              401  UNAUTHENTICATED      token_expired
    │   └── TokenRevoked              401  UNAUTHENTICATED      token_revoked
    ├── Forbidden                     403  PERMISSION_DENIED    insufficient_scope
    │   └── PromptRejected            403  PERMISSION_DENIED    prompt_rejected
    ├── NotFound                      404  NOT_FOUND            not_found
    │   ├── ModelNotFound             404  NOT_FOUND            model_not_found
    │   └── RequestNotFound           404  NOT_FOUND            request_not_found
    ├── MethodNotAllowed              405  UNIMPLEMENTED        method_not_allowed
    ├── FeedbackExists                409  ALREADY_EXISTS       feedback_exists
    ├── BodyTooLarge                  413  RESOURCE_EXHAUSTED   body_too_large
    ├── InvalidField                  422  INVALID_ARGUMENT     invalid_field
    ├── TooManyRequests               429  RESOURCE_EXHAUSTED   too_many_requests
    ├── QuotaExceeded                 429  RESOURCE_EXHAUSTED   quota_exceeded
    ├── HeadersTooLarge               431  RESOURCE_EXHAUSTED   headers_too_large
    ├── ClientClosed                  499  CANCELLED            client_closed
    ├── InternalError                 500  INTERNAL             internal
    ├── UpstreamError                 502  INTERNAL             upstream_error
    ├── IdentityUnavailable           503  UNAVAILABLE          identity_unavailable
    ├── TritonUnavailable             503  UNAVAILABLE          triton_unavailable
    │   ├── Overloaded                503  UNAVAILABLE          overloaded
    │   ├── ShuttingDown              503  UNAVAILABLE          shutting_down
    │   └── TooManyConnections        503  UNAVAILABLE          too_many_connections
    ├── QuotaUnavailable              503  UNAVAILABLE          quota_unavailable
    ├── FeedbackUnavailable           503  UNAVAILABLE          feedback_unavailable
    ├── RecordUnavailable             503  UNAVAILABLE          record_unavailable
    ├── RequestTimeout                408  DEADLINE_EXCEEDED    request_timeout
    └── DeadlineExceeded              504  DEADLINE_EXCEEDED    deadline_exceeded

``message`` is for a person: it names the field, the limit and the way out, and never repeats what the client sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class GatewayError(Exception):
    """A refusal or failure with its statuses. ``retry_after_seconds`` becomes ``Retry-After``; the class has the usual
    one, an instance may know better."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "internal"
    default_message: ClassVar[str] = "the gateway failed; the request id finds it in the log"
    retry_after_seconds: int | None = None

    def __init__(
        self, message: str | None = None, *, field: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        self.message = message or self.default_message
        self.field = field
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


class InvalidJson(GatewayError):
    """The body is not JSON."""

    http_status, grpc_status, code = 400, "INVALID_ARGUMENT", "invalid_json"
    default_message = "the body is not JSON"


class InvalidRequest(GatewayError):
    """The request cannot be served as it is."""

    http_status, grpc_status, code = 400, "INVALID_ARGUMENT", "invalid_request"


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for one token."""

    code = "prompt_too_long"


class Unauthenticated(GatewayError):
    """The token does not hold."""

    http_status, grpc_status, code = 401, "UNAUTHENTICATED", "invalid_token"
    default_message = "the bearer token is not valid here"


class MissingToken(Unauthenticated):
    """No token at all."""

    code = "missing_token"
    default_message = "send the header 'Authorization: Bearer <token>'"


class TokenExpired(Unauthenticated):
    """A token of the past."""

    code = "token_expired"
    default_message = "the bearer token has expired; get a new one"


class TokenRevoked(Unauthenticated):
    """A token, subject or tenant that was taken back."""

    code = "token_revoked"
    default_message = "the credential has been revoked; ask whoever gave it"


class Forbidden(GatewayError):
    """The token is good, but not for this."""

    http_status, grpc_status, code = 403, "PERMISSION_DENIED", "insufficient_scope"


class PromptRejected(Forbidden):
    """The policy refuses what is asked. ``policy`` says what it found, for a client that wants to know."""

    code = "prompt_rejected"
    default_message = "the policy of this service does not allow this prompt; rephrase it"

    def __init__(self, *, field: str, policy: Mapping[str, Any] | None = None) -> None:
        super().__init__(field=field)
        self.policy = policy


class NotFound(GatewayError):
    """No such path."""

    http_status, grpc_status, code = 404, "NOT_FOUND", "not_found"
    default_message = "there is nothing here; /docs lists the paths"


class ModelNotFound(NotFound):
    """Triton has no such model."""

    code = "model_not_found"
    default_message = "there is no such model here; GET /v1/models lists those there are"


class RequestNotFound(NotFound):
    """No answer to this subject has such a request id, or not any more."""

    code = "request_not_found"
    default_message = "no answer of yours has this request id, or it was too long ago"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    http_status, grpc_status, code = 405, "UNIMPLEMENTED", "method_not_allowed"
    default_message = "this path does not take this method; /docs lists them"


class FeedbackExists(GatewayError):
    """The answer has been rated."""

    http_status, grpc_status, code = 409, "ALREADY_EXISTS", "feedback_exists"
    default_message = "this answer has been rated already; the first score counts"


class BodyTooLarge(GatewayError):
    """More bytes than the limit."""

    http_status, grpc_status, code = 413, "RESOURCE_EXHAUSTED", "body_too_large"


class InvalidField(GatewayError):
    """A field of the body is out of its range or unknown."""

    http_status, grpc_status, code = 422, "INVALID_ARGUMENT", "invalid_field"


class TooManyRequests(GatewayError):
    """The gateway's own bound on concurrent requests."""

    http_status, grpc_status, code = 429, "RESOURCE_EXHAUSTED", "too_many_requests"
    default_message = "too many requests at once; retry after a moment"
    retry_after_seconds = 1


class QuotaExceeded(GatewayError):
    """The tenant has used what it may. ``headers`` are the RateLimit fields."""

    http_status, grpc_status, code = 429, "RESOURCE_EXHAUSTED", "quota_exceeded"
    default_message = "the tenant's quota is used up"

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.headers = dict(headers or {})


class HeadersTooLarge(GatewayError):
    """More bytes before the body than the limit."""

    http_status, grpc_status, code = 431, "RESOURCE_EXHAUSTED", "headers_too_large"


class ClientClosed(GatewayError):
    """The client left; nobody reads this answer, the log does."""

    http_status, grpc_status, code = 499, "CANCELLED", "client_closed"
    default_message = "the client closed the connection"


class InternalError(GatewayError):
    """A defect of the gateway."""


class UpstreamError(GatewayError):
    """Triton answered with a failure."""

    http_status, grpc_status, code = 502, "INTERNAL", "upstream_error"
    default_message = "the model failed on this request; it may be retried"


class IdentityUnavailable(GatewayError):
    """What tokens are checked with could not be read yet, so nobody knows whether this one is good."""

    http_status, grpc_status, code = 503, "UNAVAILABLE", "identity_unavailable"
    default_message = "tokens cannot be checked at the moment; retry later with the same token"
    retry_after_seconds = 2


class TritonUnavailable(GatewayError):
    """Triton or the model cannot be reached."""

    http_status, grpc_status, code = 503, "UNAVAILABLE", "triton_unavailable"
    default_message = "the model is not reachable at the moment; retry later"
    retry_after_seconds = 2


class Overloaded(TritonUnavailable):
    """Too many wait already: the answer would come too late."""

    code = "overloaded"
    default_message = "so many requests wait that this one would not be answered in its time; retry later"


class ShuttingDown(TritonUnavailable):
    """The gateway was told to stop, and the request's time of grace is over."""

    code = "shutting_down"
    default_message = "this gateway is shutting down; send the request again"
    retry_after_seconds = 1


class TooManyConnections(TritonUnavailable):
    """The gateway's own bound on connections."""

    code = "too_many_connections"
    default_message = "too many connections at once; retry after a moment"
    retry_after_seconds = 1


class RequestTimeout(GatewayError):
    """The request itself did not arrive in time."""

    http_status, grpc_status, code = 408, "DEADLINE_EXCEEDED", "request_timeout"
    default_message = "the body did not arrive within the request's time; send it again"


class QuotaUnavailable(GatewayError):
    """Nobody can say what the tenant has used, and it was decided to refuse then."""

    http_status, grpc_status, code = 503, "UNAVAILABLE", "quota_unavailable"
    default_message = "quotas cannot be checked at the moment; retry after a moment"
    retry_after_seconds = 1


class FeedbackUnavailable(GatewayError):
    """Nobody can say which answers there were."""

    http_status, grpc_status, code = 503, "UNAVAILABLE", "feedback_unavailable"
    default_message = "feedback cannot be taken at the moment; retry after a moment"
    retry_after_seconds = 2


class RecordUnavailable(GatewayError):
    """What was decided cannot be recorded, and it was decided to refuse then."""

    http_status, grpc_status, code = 503, "UNAVAILABLE", "record_unavailable"
    default_message = "decisions cannot be recorded at the moment, so nothing is answered; retry later"
    retry_after_seconds = 2


class DeadlineExceeded(GatewayError):
    """The request's time is over."""

    http_status, grpc_status, code = 504, "DEADLINE_EXCEEDED", "deadline_exceeded"
    default_message = "the request's time (X-Request-Timeout-Seconds) is over; ask for fewer tokens or more time"


def failures_of_ours() -> set[str]:
    """The codes that spend the error budget: every status from 500 on, and a gateway that is full."""
    found, left = {TooManyRequests.code}, [GatewayError]
    while left:
        each = left.pop()
        left += each.__subclasses__()
        found |= {each.code} if each.http_status >= 500 else set()
    return found
