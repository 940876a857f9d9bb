"""What can be wrong with a source database.

Owns the errors of change data capture.
"""

from __future__ import annotations

from typing import ClassVar

from headrace.errors import Fault
from headrace.ingress.violations import IngressError


class SourceInvalid(IngressError):
    """The source does not fit its configuration or contracts."""

    code: ClassVar[str] = "ingress.source_invalid"


class SourceUnavailable(IngressError):
    """The source cannot be read or written just now."""

    code: ClassVar[str] = "ingress.source_unavailable"
    fault = Fault.RETRY


class CaptureMissing(IngressError):
    """The triggers are not there, or not those of today's contracts: changes would be missed."""

    code: ClassVar[str] = "ingress.capture_missing"


class PositionLost(IngressError):
    """The source does not hold what comes after the committed position: it is another database, or an older copy."""

    code: ClassVar[str] = "ingress.position_lost"
