"""Which schema wrote a value: from ids and GUIDs to resolved steps, remembered.

Owns the cache between a registry and a codec.

- A schema is asked of the registry once; one that it does not know is asked again in the next batch.
- A writer's schema that cannot be resolved fails its rows, not the batch.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence

from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.native_reader import NO_NUMBER, NativeReader
from headrace.contracts.binary.reading import Writer, open_writer
from headrace.contracts.binary.resolution import CannotResolve, resolve
from headrace.contracts.registry import Registry, UnknownSchemaId
from headrace.contracts.shape import Shape

WRITERS_MAX = 1_000
"""Writers' schemas remembered; a topic has a handful, so more come from garbage."""

WriterId = int | uuid.UUID


def schema_id(writer: WriterId) -> int | None:
    """The id of a writer that is known by one."""
    return writer if isinstance(writer, int) else None


class WriterSchemas:
    """How each writer's records become columns of `shape`."""

    def __init__(
        self,
        reader: AvroSchema,
        shape: Shape,
        registry: Registry,
        columns: Sequence[str] | None,
        native: NativeReader | None,
    ) -> None:
        self._reader, self._shape, self._registry, self._columns = reader, shape, registry, columns
        self._native = native
        self._known: OrderedDict[WriterId, Writer | tuple[str, str]] = OrderedDict()

    def writer(self, writer: WriterId) -> Writer | tuple[str, str]:
        """How to read the writer's records, or the code and message that all rows of this writer fail with.

        Raises `RegistryUnavailable`.
        """
        if writer in self._known:
            self._known.move_to_end(writer)
            return self._known[writer]
        try:
            by_id = self._registry.by_id(writer) if isinstance(writer, int) else self._registry.by_guid(writer)
        except UnknownSchemaId:
            return "decode.unknown_schema_id", f"the registry has no schema {writer}"
        if len(self._known) >= WRITERS_MAX:
            self._make_room()
        found = self._known[writer] = self._resolved(writer, by_id)
        return found

    def _make_room(self) -> None:
        if self._native is None:
            self._known.popitem(last=False)
            return
        # The compiled reader does not tell which writers it met last.
        self._known.clear()
        self._native.forget()

    def _resolved(self, writer: WriterId, schema: AvroSchema) -> Writer | tuple[str, str]:
        try:
            steps = resolve(schema, self._reader, self._columns)
            number = self._native.learn(steps, schema_id(writer)) if self._native else NO_NUMBER
            return open_writer(steps, self._shape, number)
        except CannotResolve as error:
            return "decode.schema_resolution", f"schema {writer} cannot be read as {self._reader.fullname}: {error}"
