"""A registry in memory: for tests, and for looking at schemas without a log.

Owns `MemoryRegistry`; its rules are those of the built-in registry.

- It lives and dies with the process.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contracts.registry_store import StoredRecord, StoredRegistry


class MemoryStore:
    """A `SchemaStore` as a list."""

    def __init__(self) -> None:
        self._records: list[StoredRecord] = []

    def append(self, key: bytes, value: bytes) -> None:
        self._records.append(StoredRecord(len(self._records), key, value))

    def read_from(self, position: int) -> tuple[Sequence[StoredRecord], int]:
        records = self._records[position:]
        return records, position + len(records)

    def close(self) -> None:
        """Nothing to free."""


class MemoryRegistry(StoredRegistry):
    """A `Registry` of this process alone."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
