"""Every error a client can meet. Each class owns its status and its code.

GlasshouseError
├── BadRequest            400  not an image, malformed JSON
├── NotFound              404  unknown path or id
├── MethodNotAllowed      405
├── TooLarge              413  too many bytes or pixels
├── UnsupportedMediaType  415
├── InvalidValue          422  a value out of range; `field` names it
├── Overloaded            429  + Retry-After; refused at the door, no work was done
├── InternalError         500  ours; the message says nothing of the cause, the log line does
├── Unavailable           503  + Retry-After; shutting down
├── NotKept               503  + Retry-After; the record cannot be made durable
└── DeadlineExceeded      504  admitted, but not answered in time
"""

import math
from http import HTTPStatus
from typing import ClassVar


class GlasshouseError(Exception):
    """An answer that is an error.

    Args:
        message: For people; says what to do where there is something to do.
        code: Overrides the class's `code` (snake_case, for programs).
        field: The request's field at fault, when there is one.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.field = field

    @property
    def headers(self) -> dict[str, str]:
        """Extra response headers."""
        return {}

    def body(self, request_id: str) -> dict[str, dict[str, str]]:
        """Return the JSON object that the client receives."""
        error = {"code": self.code, "message": self.message, "request_id": request_id}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}


class BadRequest(GlasshouseError):
    """The body is not what the route takes."""

    status = HTTPStatus.BAD_REQUEST
    code = "bad_request"


class NotFound(GlasshouseError):
    """There is nothing at this path."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class MethodNotAllowed(GlasshouseError):
    """The path exists, the method does not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"


class TooLarge(GlasshouseError):
    """More bytes or pixels than the limits of `serve_config.yaml`."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "too_large"


class UnsupportedMediaType(GlasshouseError):
    """The Content-Type is not one that the route takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class InvalidValue(GlasshouseError):
    """A value is out of range, unknown, or of the wrong type."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_value"


class InternalError(GlasshouseError):
    """Our fault; what happened is in the log under the same request id."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"


class Retryable(GlasshouseError):
    """An error that goes away by waiting.

    Args:
        message: For people.
        retry_after_s: Seconds until trying again makes sense, > 0.
        code: Overrides the class's code.
    """

    def __init__(self, message: str, *, retry_after_s: float, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, at least 1 (RFC 9110 §10.2.3)."""
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class Overloaded(Retryable):
    """Refused at the door: the queue is full, or would make the answer late."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "overloaded"


class Unavailable(Retryable):
    """The replica cannot answer now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"


class NotKept(Retryable):
    """The record cannot be made durable, so there is no answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_durable"


class DeadlineExceeded(GlasshouseError):
    """Admitted, but not answered within `admission.deadline_s`."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "deadline_exceeded"
