"""Every failure that a person or a client sees, and the HTTP status each one has.

Knows nothing about HTTP libraries, engines or models. Invariant: the class alone decides status, type and
default code, so that the mapping from exception to answer is this one table.

    PenstockError
    ├── InvalidRequest          400 invalid_request_error
    │   ├── ContextLengthExceeded   400 context_length_exceeded
    │   ├── ModelNotFound       404 model_not_found
    │   ├── NotFound            404 not_found
    │   ├── MethodNotAllowed    405 method_not_allowed
    │   ├── PayloadTooLarge     413 payload_too_large
    │   ├── UnsupportedMedia    415 unsupported_media_type
    │   └── HeadersTooLarge     431 headers_too_large
    ├── Unauthorized            401 authentication_error
    ├── Forbidden               403 permission_error
    ├── Conflict                409 conflict
    ├── QueueFull               429 rate_limit_error
    ├── ServerError             500 server_error
    │   ├── InvalidLogits       500 invalid_logits
    │   ├── Overloaded          503 overloaded
    │   ├── Draining            503 draining
    │   ├── Loading             503 loading
    │   ├── EngineUnavailable   503 engine_unavailable
    │   └── DeadlineExceeded    504 deadline_exceeded
    ├── ModelFileError          a checkpoint that is corrupt, truncated, mismatched or unknown
    └── ConfigError             a flag, environment variable or file that cannot be used
"""

from __future__ import annotations


class PenstockError(Exception):
    """A failure with the value, the limit and a hint in one line.

    Args:
        message: what is wrong, naming the value and the limit; never contains prompt text, keys or paths that a
            client did not send.
        param: the request field at fault, or None.
        code: a machine-readable string; the class's own by default.
        hint: what to do about it; appended to the text as "hint: ...".
        retry_after_s: seconds after which a retry makes sense, or None.
        should_retry: False adds `x-should-retry: false` to the answer.
    """

    status: int = 500
    type: str = "server_error"
    default_code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry

    def __str__(self) -> str:
        return f"{self.message} hint: {self.hint}" if self.hint else self.message

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object of the error contract: message, type, param and code, all four always present."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(PenstockError):
    """The request can never be served as it is."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and max_tokens, cannot fit."""

    default_code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No model of that name is served here."""

    status = 404
    default_code = "model_not_found"


class NotFound(InvalidRequest):
    """No such route or object."""

    status = 404
    default_code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The route exists, the method does not."""

    status = 405
    default_code = "method_not_allowed"


class PayloadTooLarge(InvalidRequest):
    """The body is larger than the limit."""

    status = 413
    default_code = "payload_too_large"


class UnsupportedMedia(InvalidRequest):
    """The body's content type or encoding is not taken."""

    status = 415
    default_code = "unsupported_media_type"


class HeadersTooLarge(InvalidRequest):
    """Too many header fields or too many header bytes."""

    status = 431
    default_code = "headers_too_large"


class Unauthorized(PenstockError):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(PenstockError):
    """The caller may not do this (also: a foreign Host or Origin on a loopback bind)."""

    status = 403
    type = "permission_error"
    default_code = "forbidden"


class Conflict(PenstockError):
    """The state does not allow it now."""

    status = 409
    type = "conflict"
    default_code = "conflict"


class QueueFull(PenstockError):
    """The bounded queue is full; carries a computed retry_after_s."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class ServerError(PenstockError):
    """Our fault; the message is generic, details go to the log."""


class InvalidLogits(ServerError):
    """The forward pass gave NaN or infinity for this request; it alone fails."""

    default_code = "invalid_logits"


class Overloaded(ServerError):
    """A resource other than the queue is exhausted for now."""

    status = 503
    default_code = "overloaded"


class Draining(ServerError):
    """The server is shutting down and takes nothing new."""

    status = 503
    default_code = "draining"


class Loading(ServerError):
    """The model is not ready yet."""

    status = 503
    default_code = "loading"


class EngineUnavailable(ServerError):
    """The engine died or is being restarted."""

    status = 503
    default_code = "engine_unavailable"


class DeadlineExceeded(ServerError):
    """The request's deadline passed."""

    status = 504
    default_code = "deadline_exceeded"


class ModelFileError(PenstockError):
    """A model file is corrupt, truncated, mismatched, missing or of an unknown kind; names the file and the reason."""

    exit_code = 78


class ConfigError(PenstockError):
    """A setting cannot be used; names the setting, the value and the limit."""

    exit_code = 2


def one_line(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would obey: names come out of strangers' files."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in " ".join(text.split()))
