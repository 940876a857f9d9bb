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


class SlotLost(IngressError):
    """The replication slot is gone, or the server no longer keeps what it stands for: changes were missed."""

    code: ClassVar[str] = "ingress.slot_lost"


class SlotInUse(IngressError):
    """Another connection reads from the slot."""

    code: ClassVar[str] = "ingress.slot_in_use"
    fault = Fault.RETRY


class SlotTaken(IngressError):
    """Another connection has read from the slot for longer than one of ours that died could."""

    code: ClassVar[str] = "ingress.slot_taken"


class LogPurged(IngressError):
    """The server no longer keeps its binary log from the committed position on: changes were missed."""

    code: ClassVar[str] = "ingress.log_purged"


class SourceUnguarded(IngressError):
    """The database would keep its log for ever while nobody reads it, and fill its disk."""

    code: ClassVar[str] = "ingress.source_unguarded"


class TableTruncated(IngressError):
    """A captured table was emptied, and the ingress is told to stop then."""

    code: ClassVar[str] = "ingress.table_truncated"


class ProtocolBroken(IngressError):
    """The server sent what is no message of its protocol."""

    code: ClassVar[str] = "ingress.protocol_broken"
