"""The registries without a log pass the suite: in memory, behind HTTP, and replayed from their records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.registry_confluent import ConfluentRegistry
from headrace.contracts.registry_memory import MemoryRegistry, MemoryStore
from headrace.contracts.registry_store import StoredRegistry
from headrace.testing.registry_conformance import RegistryConformance
from headrace.testing.registry_service import RegistryService


class TestMemoryRegistry(RegistryConformance):
    @pytest.fixture
    def registry(self) -> MemoryRegistry:
        return MemoryRegistry()


class TestConfluentRegistry(RegistryConformance):
    @pytest.fixture
    def registry(self) -> Iterator[ConfluentRegistry]:
        with RegistryService(MemoryRegistry()) as service:
            yield ConfluentRegistry(service.url)


class TestStoredRegistryFollower(RegistryConformance):
    """Every answer comes from a second registry that has seen nothing but the records."""

    @pytest.fixture
    def registry(self) -> _Follower:
        return _Follower()


class _Follower:
    """Writes with one registry, reads with a new one each time."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self._writer = StoredRegistry(self._store)

    def register(self, subject: str, schema: AvroSchema) -> Any:
        return self._writer.register(subject, schema)

    def set_compatibility(self, subject: str, mode: CompatibilityMode) -> None:
        self._writer.set_compatibility(subject, mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(StoredRegistry(self._store), name)
