"""The sides of MongoDB's envelopes.

Owns the reading of documents, which stand as text in extended JSON, and of what an update did to one.
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.debezium.change import DocumentPatch, Row
from headrace.contracts.debezium.extended_json import from_extended, read_document
from headrace.contracts.debezium.payloads import Payload
from headrace.contracts.debezium.problems import INVALID_ENVELOPE, INVALID_VALUE, Unreadable


class DocumentRows:
    """Reads documents."""

    def row(self, side: Payload, name: str) -> tuple[Row | None, tuple[str, ...]]:
        """A document, of which everything is known. Raises `Unreadable`."""
        return _document(side.value, name), ()

    def patch(self, envelope: Payload) -> DocumentPatch | None:
        """What an update changed; None where the connector does not tell. Raises `Unreadable`."""
        described = envelope.field("updateDescription").value
        if described is None:
            return self._former_patch(envelope.field("patch").value)
        if not isinstance(described, dict):
            raise Unreadable(INVALID_ENVELOPE, "updateDescription is no object")
        updated = _document(described.get("updatedFields"), "updateDescription.updatedFields")
        removed = described.get("removedFields") or []
        truncated = described.get("truncatedArrays") or []
        if not isinstance(removed, list) or not isinstance(truncated, list):
            raise Unreadable(INVALID_VALUE, "updateDescription has fields that are no lists")
        try:
            sizes = tuple((str(each["field"]), int(each["size"])) for each in truncated)
        except (KeyError, TypeError, ValueError):
            raise Unreadable(INVALID_VALUE, "updateDescription.truncatedArrays has no field or size") from None
        return DocumentPatch(updated or {}, tuple(str(each) for each in removed), sizes)

    def _former_patch(self, given: Any) -> DocumentPatch | None:
        """The form of connectors that read the oplog (before 2.0)."""
        block = _document(given, "patch")
        if block is None:
            return None
        updated, removed = block.get("$set", {}), block.get("$unset", {})
        if "$set" not in block and "$unset" not in block:
            updated = {name: each for name, each in block.items() if not name.startswith("$")}
        return DocumentPatch(dict(updated), tuple(removed))


def _document(value: Any, name: str) -> dict[str, Any] | None:
    if value is None:
        return None
    found = _patch_or_document(value, name)
    if not isinstance(found, dict):
        raise Unreadable(INVALID_VALUE, f"{name} is no document")
    return found


def _patch_or_document(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return read_document(value, name)
    return from_extended(value, name)
