"""The suite that every schema registry passes.

Owns the promises of `headrace.contracts.registry.Registry` as tests.

- A registry's test class inherits `RegistryConformance` and brings a fixture `registry` that gives an empty one.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import CompatibilityMode, Registry, SchemaIncompatible, UnknownSchemaId
from headrace.contracts.registry_store import EVERY_SUBJECT


def record(*names: str, **more: Any) -> AvroSchema:
    """A record of int fields; a name ending in `=` has a default."""
    fields: list[dict[str, Any]] = [
        {"name": name.rstrip("="), "type": "int"} | ({"default": 0} if name.endswith("=") else {}) for name in names
    ]
    return AvroSchema.parse({"type": "record", "name": "x.R", "fields": fields, **more})


class RegistryConformance:
    """What every registry keeps to."""

    def test_registering_gives_ids_and_versions(self, registry: Registry) -> None:
        """Versions count from 1 in each subject; different schemas have different ids."""
        first, second = registry.register("a-value", record("a")), registry.register("a-value", record("a", "b="))
        assert (first.subject, first.version, second.version) == ("a-value", 1, 2)
        assert first.id != second.id
        assert first.guid != second.guid
        assert first.schema == record("a")

    def test_registering_again_changes_nothing(self, registry: Registry) -> None:
        """The version that is there comes back, even when a newer one came meanwhile."""
        first = registry.register("a-value", record("a"))
        registry.register("a-value", record("a", "b="))
        assert registry.register("a-value", record("a")) == first
        assert len(registry.versions("a-value")) == 2

    def test_equal_schemas_share_their_id(self, registry: Registry) -> None:
        """One id and GUID in all subjects, whatever the writing of the JSON."""
        one = registry.register("a-value", record("a"))
        other = registry.register(
            "b-value",
            AvroSchema.parse('{"name":"R", "namespace":"x", "fields":[{"type":"int","name":"a"}], "type":"record"}'),
        )
        assert (one.id, one.guid) == (other.id, other.guid)

    def test_schemas_are_found_by_id_and_guid(self, registry: Registry) -> None:
        """With everything that counts: docs, defaults, logical types, non-ASCII text."""
        schema = AvroSchema.parse(
            {
                "type": "record",
                "name": "R",
                "doc": "Größe ✈",
                "fields": [{"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0}],
            }
        )
        made = registry.register("a-value", schema)
        assert registry.by_id(made.id) == schema
        assert registry.by_guid(made.guid) == schema

    def test_unknown_ids_are_refused(self, registry: Registry) -> None:
        """A row with a garbage id fails alone, so the error says which id."""
        with pytest.raises(UnknownSchemaId, match="4711"):
            registry.by_id(4711)
        guid = uuid.uuid4()
        with pytest.raises(UnknownSchemaId, match=str(guid)):
            registry.by_guid(guid)

    def test_unknown_subjects_are_empty(self, registry: Registry) -> None:
        """Asking is not an error and makes nothing."""
        assert registry.latest("nobody") is None
        assert list(registry.versions("nobody")) == []
        assert list(registry.subjects()) == []

    def test_latest_and_versions_are_in_order(self, registry: Registry) -> None:
        """Oldest first; the latest is the last."""
        made = [registry.register("a-value", record("a", *[f"b{n}=" for n in range(count)])) for count in range(4)]
        assert list(registry.versions("a-value")) == made
        assert registry.latest("a-value") == made[-1]

    def test_subjects_are_listed(self, registry: Registry) -> None:
        """Sorted; names with slashes, spaces and signs included."""
        names = ["a-value", "b/c-value", "ö ?#%-key"]
        for name in names:
            registry.register(name, record("a"))
        assert list(registry.subjects()) == sorted(names)
        assert all(registry.latest(name) is not None for name in names)

    def test_an_incompatible_schema_is_refused_with_reasons(self, registry: Registry) -> None:
        """Backward by default; every reason is told, and nothing is registered."""
        registry.register("a-value", record("a"))
        with pytest.raises(SchemaIncompatible) as caught:
            registry.register("a-value", record("a", "b", "c"))
        assert len(caught.value.reasons) == 2
        assert "field b" in caught.value.reasons[0]
        assert "version 1" in caught.value.reasons[0]
        assert "a-value" in str(caught.value)
        assert len(registry.versions("a-value")) == 1

    def test_the_mode_of_a_subject_decides(self, registry: Registry) -> None:
        """Set for one subject, it leaves others alone."""
        assert registry.compatibility("a-value") is CompatibilityMode.BACKWARD
        registry.set_compatibility("a-value", CompatibilityMode.FORWARD)
        assert registry.compatibility("a-value") is CompatibilityMode.FORWARD
        assert registry.compatibility("b-value") is CompatibilityMode.BACKWARD
        for subject in ("a-value", "b-value"):
            registry.register(subject, record("a"))
        registry.register("a-value", record("a", "b"))
        with pytest.raises(SchemaIncompatible):
            registry.register("b-value", record("a", "b"))

    @pytest.mark.parametrize("mode", CompatibilityMode)
    def test_every_mode_is_kept(self, registry: Registry, mode: CompatibilityMode) -> None:
        """All seven can be set and read back."""
        registry.set_compatibility("a-value", mode)
        assert registry.compatibility("a-value") is mode

    def test_a_mode_for_every_subject(self, registry: Registry) -> None:
        """It holds where a subject has none of its own."""
        registry.set_compatibility("a-value", CompatibilityMode.FULL)
        registry.set_compatibility(EVERY_SUBJECT, CompatibilityMode.NONE)
        assert registry.compatibility("a-value") is CompatibilityMode.FULL
        assert registry.compatibility("b-value") is CompatibilityMode.NONE

    def test_any_avro_schema_can_be_registered(self, registry: Registry) -> None:
        """Keys are often plain strings."""
        made = registry.register("a-key", AvroSchema.parse("string"))
        assert registry.by_id(made.id) == AvroSchema.parse("string")

    def test_threads_may_share_it(self, registry: Registry) -> None:
        """Many register the same few schemas at once: each schema ends with one id and one version."""
        schemas = [record("a", f"b{n}=") for n in range(4)]
        registry.set_compatibility("a-value", CompatibilityMode.NONE)
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda n: registry.register("a-value", schemas[n % 4]), range(32)))
        assert len({(each.id, each.version) for each in made}) == 4
        assert [each.version for each in registry.versions("a-value")] == [1, 2, 3, 4]
