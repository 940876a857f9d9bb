"""Why the gateway refuses a request, or a record of one.

Owns the errors of this room, each with the HTTP status that it is answered with.

- A refusal names topic and field, never a value, and nothing of a token.
- `Fault.RETRY` means that the same request may be made again, after `retry_after_s`.
"""

from __future__ import annotations

from typing import ClassVar

from headrace.errors import Fault
from headrace.ingress.violations import IngressError

RETRY_AFTER_S = 1


class Refusal(IngressError):
    """A request that is answered with an error."""

    code: ClassVar[str] = "ingress.refusal"
    fault = Fault.ROW
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, cure: str = "", retry_after_s: int | None = None) -> None:
        self.retry_after_s = RETRY_AFTER_S if retry_after_s is None and self.fault is Fault.RETRY else retry_after_s
        super().__init__(message, cure=cure)


class RequestMalformed(Refusal):
    """A request or record that cannot be read."""

    code = "ingress.request_malformed"


class Unauthenticated(Refusal):
    """No token, or one that nobody has."""

    code, status = "ingress.unauthenticated", 401


class TopicForbidden(Refusal):
    """A topic that the token may not write."""

    code, status = "ingress.topic_forbidden", 403


class RequestSlow(Refusal):
    """A body that takes too long."""

    code, status = "ingress.request_slow", 408


class KeyInFlight(Refusal):
    """The idempotency key of a request that has no answer yet."""

    code, status, fault = "ingress.key_in_flight", 409, Fault.RETRY


class RequestTooLarge(Refusal):
    """A body, or a number of records, above the limit."""

    code, status = "ingress.request_too_large", 413


class MediaTypeUnknown(Refusal):
    """A content type or coding that the gateway does not read."""

    code, status = "ingress.media_type_unknown", 415


class KeyReused(Refusal):
    """An idempotency key that came before with something else."""

    code, status = "ingress.key_reused", 422


class RateLimited(Refusal):
    """More than the token may send."""

    code, status, fault = "ingress.rate_limited", 429, Fault.RETRY


class Overloaded(Refusal):
    """More waits than the gateway holds, or it is about to end. Nothing of the request was published."""

    code, status, fault = "ingress.overloaded", 503, Fault.RETRY


class OutcomeUnknown(Refusal):
    """The log did not answer in time: the records may be there."""

    code, status, fault = "ingress.outcome_unknown", 503, Fault.RETRY
