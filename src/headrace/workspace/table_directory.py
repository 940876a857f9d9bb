"""The tables of a workspace by name, and where the rows of a key lie.

Owns the names, the types of keys, and the choice of partitions.

- A topic's name comes before `<pipeline>.<step>`; of two pipelines that hold one topic the first one answers.
- Where a producer chose the partition, the place is a hint: who finds nothing there asks everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.contracts.avro import AvroField, AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.polars_types import avro_to_dtype, from_frame
from headrace.contracts.registry import Registry
from headrace.contracts.shape import Kind, record_shape
from headrace.engine import repartition
from headrace.engine.build import user_schema
from headrace.engine.held_tables import HeldTable, NotHeld, PlacedBy, tables_of
from headrace.engine.queries import EVERYWHERE, key_schema
from headrace.flow.plan import CompiledPipeline, Plan
from headrace.flow.steps import RepartitionStep
from headrace.log.partitioner import partition_for
from headrace.log.port import Log
from headrace.workspace.errors import did_you_mean
from headrace.workspace.load import Workspace
from headrace.workspace.table_errors import TableAway, TableNotHeld, TableUnknown
from headrace.workspace.table_keys import KeyColumn, key_columns, key_frame


@dataclass(frozen=True, slots=True)
class Listed:
    """A table that can be asked, and its pipeline."""

    name: str
    plan: Plan
    table: HeldTable
    key: tuple[KeyColumn, ...]
    maps: tuple[str, ...]
    """Columns that hold maps, which Polars has as lists of records."""

    @property
    def is_windowed(self) -> bool:
        return self.table.window_start is not None


class TableDirectory:
    """The tables of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._listed: dict[str, Listed] = {}
        self._not_held: dict[str, NotHeld] = {}
        for pipeline in workspace.pipelines:
            self._add(pipeline)

    def _add(self, pipeline: CompiledPipeline) -> None:
        plan = pipeline.plan
        for name, table in tables_of(plan).items():
            if isinstance(table, NotHeld):
                self._not_held.setdefault(name, table)
            else:
                self._listed.setdefault(name, Listed(name, plan, table, _key(plan, table), _maps(plan, table)))

    def find(self, name: str) -> Listed:
        """The table of this name. Raises `TableUnknown`, `TableNotHeld`."""
        found = self._listed.get(name)
        if found is not None:
            return found
        away = self._not_held.get(name)
        if away is not None:
            raise TableNotHeld(
                f"table {name!r} cannot be asked: {away.reason}",
                cure="read its topic, or ask a step that holds the rows; /tables lists them",
            )
        known = [listed.table.name for listed in self._listed.values()]
        raise TableUnknown(f"no pipeline has a table {name!r}", cure=did_you_mean(name, known))

    def all(self) -> list[Listed]:
        """Every table once for each of its names, by name."""
        return [self._listed[name] for name in sorted(self._listed)]


def _key(plan: Plan, table: HeldTable) -> tuple[KeyColumn, ...]:
    return key_columns(table.key, plan.step(table.step).columns, table.held_key, key_schema(plan, table))


def _maps(plan: Plan, table: HeldTable) -> tuple[str, ...]:
    columns = [column for column in plan.step(table.step).columns if column.name in table.columns]
    schema = AvroSchema.record("Row", [AvroField(name=column.name, type=column.type) for column in columns])
    return tuple(child.name for child in record_shape(schema).children if child.shape.kind is Kind.MAP)


class Places:
    """In which partitions rows lie. Thread-safe; asks log and registry, so not for an event loop."""

    def __init__(self, log: Log, registry: Registry, contracts: Mapping[str, Contract]) -> None:
        self._log, self._registry, self._contracts = log, registry, contracts
        self._counts: dict[str, int] = {}
        self._codecs: dict[str, KeyCodec] = {}
        self._lock = threading.Lock()

    def all_of(self, listed: Listed) -> tuple[int, ...]:
        """All partitions of a table. Raises `TableAway`, `LogError`."""
        table = listed.table
        if table.holder.is_broadcast:
            return (EVERYWHERE,)
        reads = next(each.reads for each in listed.plan.subtopologies if each.index == table.holder.subtopology)
        return tuple(range(max(self._count(topic) for topic in reads)))

    def of_key(self, listed: Listed, key: Mapping[str, Any]) -> int | None:
        """Where a key's rows should be; None: anywhere. Raises `TableAway`, `LogError`, `RegistryError`."""
        placed = listed.table.placed_by
        if placed is None:
            return None
        partitions = self._count(placed.topic)
        step = listed.plan.step(placed.step)
        types = user_schema(step)
        given = key_frame(listed.key, key).select(
            pl.col(held).cast(types[name]).alias(name) for held, name in zip(placed.columns, placed.names, strict=True)
        )
        like = placed.topic
        if isinstance(step, RepartitionStep):
            if step.like is None:
                return int(repartition.own_partitions(given, placed.names, partitions)[0])
            like = step.like
        return self._as_producers_do(like, placed, given, partitions)

    def _as_producers_do(self, topic: str, placed: PlacedBy, given: pl.DataFrame, partitions: int) -> int | None:
        contract = self._contracts[topic]
        types = {field.name: avro_to_dtype(field.type) for field in contract.schema.fields}
        keys = given.select(
            pl.col(name).cast(types[theirs]).alias(theirs)
            for name, theirs in zip(placed.names, contract.key, strict=True)
        )
        with self._lock:  # A codec is one thread's.
            if topic not in self._codecs:
                self._codecs[topic] = open_key_codec(contract, self._registry)
            encoded = self._codecs[topic].encode(from_frame(keys))
        chosen = int(partition_for(encoded.values, partitions)[0])
        return chosen if chosen >= 0 else None

    def _count(self, topic: str) -> int:
        with self._lock:
            if topic not in self._counts:
                admin = self._log.admin()
                try:
                    self._counts = {name: each.partitions for name, each in admin.topics(internal=True).items()}
                finally:
                    admin.close()
            if topic not in self._counts:
                raise TableAway(f"topic {topic!r} is not there yet", cure="run `headrace apply`")
            return self._counts[topic]
