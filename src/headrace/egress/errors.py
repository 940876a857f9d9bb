"""What can go wrong on the way out.

Owns the errors of the egress room, those that connectors raise among them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import ClassVar

from headrace.errors import Fault, HeadraceError, Where

RETRY_AFTER_MAX_S = 300.0
"""A target that asks for more is asked again sooner: it may have meant a date that its clock has wrong."""


class EgressError(HeadraceError):
    """Something about what goes out."""

    code = "egress.error"


class EgressInvalid(EgressError):
    """An egress that cannot run as it is configured."""

    code: ClassVar[str] = "egress.invalid"


class ConnectorUnknown(EgressError):
    """No installed package has this connector."""

    code: ClassVar[str] = "egress.connector_unknown"

    def __init__(self, name: str, known: Sequence[str], *, where: Where | None = None) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        cure = (
            f"did you mean {near[0]!r}?"
            if near
            else f"install headrace-{name}; installed: {', '.join(known) or 'none'}"
        )
        super().__init__(f"no connector {name!r}", where=where, cure=cure)


class TargetUnavailable(EgressError):
    """The target cannot be reached, is busy or locked. Try again.

    `retry_after_s`: how long the target asks to be left alone; the runner waits at least so long, up to
    `RETRY_AFTER_MAX_S`.
    """

    code: ClassVar[str] = "egress.target_unavailable"
    fault = Fault.RETRY

    def __init__(self, message: str, *, where: Where | None = None, cure: str = "", retry_after_s: float = 0) -> None:
        super().__init__(message, where=where, cure=cure)
        self.retry_after_s = min(max(0.0, retry_after_s), RETRY_AFTER_MAX_S)


class PositionMoved(EgressError):
    """The target's position is not where this process left it: another one delivers the same partition.

    The runner opens the connector again and goes on from the target's position.
    """

    code: ClassVar[str] = "egress.position_moved"
    fault = Fault.RETRY


class TargetInvalid(EgressError):
    """The target is not what the contract or the options ask for; somebody must change one of them."""

    code: ClassVar[str] = "egress.target_invalid"


class DriftRefused(TargetInvalid):
    """The contract changed in a way that the drift policy does not allow, or that the target cannot follow."""

    code: ClassVar[str] = "egress.drift_refused"


class TargetAhead(EgressError):
    """The target holds more than the topic has: the topic was made anew, or it is another one."""

    code: ClassVar[str] = "egress.target_ahead"


class ConnectorFailed(EgressError):
    """A connector raised what no connector should: a mistake in it. `error` is what it raised."""

    code: ClassVar[str] = "egress.connector_failed"
    fault = Fault.RETRY

    def __init__(self, connector: str, call: str, error: Exception) -> None:
        self.error = error
        cure = "report it to the connector's makers"
        super().__init__(f"connector {connector!r} raised {type(error).__name__} in {call}: {error}", cure=cure)


class BreakerOpen(EgressError):
    """So many attempts failed in a row that the target is left alone for a while."""

    code: ClassVar[str] = "egress.breaker_open"
    fault = Fault.RETRY


class GaveUp(EgressError):
    """A delivery failed as often as the configuration allows."""

    code: ClassVar[str] = "egress.gave_up"
