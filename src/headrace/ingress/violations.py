"""What can be wrong with a record that a service wants to publish.

Owns the errors of the ingress room that are about records and topics.

- A violation names the topic and the field, never the value: it may be secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from headrace.errors import Fault, HeadraceError


class IngressError(HeadraceError):
    """Something about what comes in."""

    code = "ingress.error"


class IngressInvalid(IngressError):
    """An ingress that cannot run as it is configured."""

    code: ClassVar[str] = "ingress.invalid"


class ContractViolation(IngressError):
    """A record that does not fit its topic's contract. The other records of its batch are not concerned."""

    code: ClassVar[str] = "ingress.contract_violation"
    fault = Fault.ROW

    def __init__(self, *, topic: str, field: str, reason: str, cure: str = "") -> None:
        self.topic, self.field, self.reason = topic, field, reason
        place = f"{topic}: field {field!r}" if field else topic
        super().__init__(f"{place} {reason}", cure=cure or "see the contract with `headrace schema show " + topic + "`")


class KeyMissing(ContractViolation):
    """A record without the key that its contract asks for."""

    code = "ingress.key_missing"


class EventTimeInvalid(ContractViolation):
    """A null or absurd event time: it would be dropped by every window, or close them all."""

    code = "ingress.event_time_invalid"


class UnknownContract(IngressError):
    """A topic that no contract describes."""

    code = "ingress.unknown_contract"

    def __init__(self, topic: str, known: Iterable[str]) -> None:
        self.topic = topic
        near = difflib.get_close_matches(topic, sorted(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"add contracts/{topic}.yaml"
        super().__init__(f"topic {topic!r} has no contract", cure=hint)


class NotPublishable(IngressError):
    """A topic that only headrace itself writes."""

    code = "ingress.not_publishable"


class QueueFull(IngressError):
    """Records are sent faster than the log takes them."""

    code = "ingress.queue_full"
    fault = Fault.RETRY


class PublisherClosed(IngressError):
    """The publisher is not open."""

    code = "ingress.publisher_closed"
