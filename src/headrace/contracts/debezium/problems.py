"""Why a record of a Debezium topic is not a change.

Owns `Reason`, the codes, and `Unreadable`, which carries one out of the depths of a value.

- A code is stable; the text behind it names the place and never shows a value.
- `NOT_CHANGES` are records that are as they should be and mean something else; all other codes are records that are
  broken.
"""

from __future__ import annotations

TOMBSTONE = "cdc.tombstone"
HEARTBEAT = "cdc.heartbeat"
TRANSACTION = "cdc.transaction"
SCHEMA_CHANGE = "cdc.schema_change"
SIGNAL = "cdc.signal"
NOTIFICATION = "cdc.notification"
NOT_DEBEZIUM = "cdc.not_debezium"

INVALID_JSON = "cdc.invalid_json"
INVALID_AVRO = "cdc.invalid_avro"
INVALID_SCHEMA = "cdc.invalid_schema"
UNKNOWN_SCHEMA = "cdc.unknown_schema"
INVALID_VALUE = "cdc.invalid_value"
INVALID_ENVELOPE = "cdc.invalid_envelope"
INVALID_KEY = "cdc.invalid_key"
INVALID_SOURCE = "cdc.invalid_source"
UNKNOWN_OPERATION = "cdc.unknown_operation"
MISSING_ROW = "cdc.missing_row"
MISSING_KEY = "cdc.missing_key"

NOT_CHANGES = frozenset({TOMBSTONE, HEARTBEAT, TRANSACTION, SCHEMA_CHANGE, SIGNAL, NOTIFICATION, NOT_DEBEZIUM})


class Unreadable(Exception):
    """A record that cannot be read as what it claims to be. Never leaves `ChangeReader`."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code}: {reason}")
