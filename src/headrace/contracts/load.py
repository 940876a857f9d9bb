"""Contract files to contracts.

Owns the keys of a contract file and what they must fit.

- A contract that is returned is whole: its schema is valid, its key and time are columns of fitting types.
- All problems of a file, and of all files of a folder, are raised together; nothing is returned beside them.
- A topic has one contract.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from headrace.contracts.avro import AvroField, AvroSchema, AvroType, SchemaInvalid, logical_type
from headrace.contracts.contract import (
    EVENT_TIME_AHEAD_MAX_MS,
    RECORD_TIMESTAMP,
    Contract,
    KeyEncoding,
    TopicKind,
    ValueFormat,
)
from headrace.contracts.contract_errors import ContractInvalid, ContractsInvalid, Problems
from headrace.contracts.duration import DurationInvalid, parse_duration_ms
from headrace.contracts.field_forms import FieldForms
from headrace.contracts.record_name import nested_namespace, record_name
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.yaml_source import YamlInvalid, YamlMap, closest, parse_yaml, plain, read_yaml
from headrace.errors import Where

__all__ = ["ContractInvalid", "ContractsInvalid", "contract_of", "load_contract", "load_contracts"]

KEYS = (
    "topic",
    "owner",
    "description",
    "kind",
    "key",
    "key_encoding",
    "format",
    "time",
    "compatibility",
    "retention",
    "partitions",
    "fields",
    "schema",
    "tags",
    "units",
)

PARTITIONS_MAX = 100_000
"""More than any Kafka cluster holds."""

SYSTEM_PREFIX = "__"
"""Columns of the engine begin so; a user's may not."""

FOREVER = "forever"

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}\Z", re.ASCII)
_RESERVED_TOPICS = frozenset({".", "..", "_schemas"})
_KEY_TYPES = frozenset({"boolean", "int", "long", "string", "bytes", "enum", "fixed"})
_STRING_KEY_TYPES = frozenset({"string", "enum"})
_INDEX = re.compile(r"\[\d+\]")
_TIME_LOGICAL = re.compile(r"(local-)?timestamp-(millis|micros|nanos)|date")

Member = TypeVar("Member", bound=enum.Enum)


def load_contract(path: Path) -> Contract:
    """The contract in a file. Raises `YamlInvalid` or `ContractInvalid`, which holds every problem found."""
    return _ContractFile(read_yaml(path), path.parent).contract()


def contract_of(text: str, name: str) -> Contract:
    """The contract in a text; `name` stands for its file in errors. Raises as `load_contract`."""
    return _ContractFile(parse_yaml(text, name), Path()).contract()


def load_contracts(folder: Path) -> Mapping[str, Contract]:
    """The contracts of all `.yaml` and `.yml` files in a folder, by topic; empty for a missing folder."""
    problems = Problems()
    found: dict[str, Contract] = {}
    for path in sorted(each for each in folder.glob("*") if each.suffix in (".yaml", ".yml")):
        try:
            contract = load_contract(path)
        except (YamlInvalid, ContractInvalid) as error:
            problems.take(error)
            continue
        first = found.setdefault(contract.topic, contract)
        if first is not contract:
            problems.add(
                f"topic {contract.topic!r} has a contract in {first.where} already", contract.where, "keep one of them"
            )
    problems.raise_if_any()
    return found


class _ContractFile:
    """One file on its way to a contract."""

    def __init__(self, source: YamlMap, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._problems = Problems()
        self._tags: dict[str, tuple[str, ...]] = {}
        self._units: dict[str, str] = {}

    def contract(self) -> Contract:
        self._check_keys()
        topic = self._topic()
        schema = self._schema(topic)
        kind = self._choice("kind", TopicKind, TopicKind.EVENT)
        key = self._key(schema, kind)
        time, ahead_max_ms = self._time(schema)
        encoding = self._key_encoding(schema, key)
        written = self._format(kind)
        compatibility = self._choice("compatibility", CompatibilityMode, CompatibilityMode.BACKWARD)
        retention_ms, partitions = self._retention(), self._partitions()
        owner, description = self._text("owner"), self._text("description")
        self._annotations(schema)
        self._problems.raise_if_any()
        assert schema is not None, "a file without a schema has a problem"
        return Contract(
            topic=topic,
            schema=schema,
            owner=owner,
            description=description,
            kind=kind,
            key=key,
            key_encoding=encoding,
            format=written,
            time=None if time == RECORD_TIMESTAMP else time,
            record_time=time == RECORD_TIMESTAMP,
            time_ahead_max_ms=ahead_max_ms,
            compatibility=compatibility,
            retention_ms=retention_ms,
            partitions=partitions,
            tags=self._tags,
            units=self._units,
            where=self._source.where("topic"),
        )

    def _add(self, message: str, key: str | None = None, cure: str = "") -> None:
        self._problems.add(message, self._source.where(key), cure)

    def _check_keys(self) -> None:
        for unknown in self._source.unknown_keys(KEYS):
            cure = unknown.cure or f"use {', '.join(KEYS)}"
            self._problems.add(f"unknown key {unknown.key!r}", unknown.where, cure)

    def _topic(self) -> str:
        topic = self._source.get("topic")
        if topic is None:
            self._add("no 'topic'", None, "add the topic's name, such as topic: orders.placed")
        elif not isinstance(topic, str) or not _TOPIC.match(topic):
            self._add(
                f"topic {plain(topic)!r} is not a topic's name",
                "topic",
                "use up to 249 letters, digits, '.', '_' and '-'",
            )
        elif topic in _RESERVED_TOPICS:
            self._add(f"topic {topic!r} is reserved", "topic", "choose another name")
        else:
            return topic
        return "unknown"

    def _text(self, key: str) -> str:
        value = self._source.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._add(f"{key!r} is not a text", key, "quote it")
            return ""
        return value.strip()

    def _choice(self, key: str, members: type[Member], default: Member) -> Member:
        value = self._source.get(key)
        if value is None:
            return default
        names = [str(member.value) for member in members]
        if isinstance(value, str) and value.lower().replace("-", "_") in names:
            return members(value.lower().replace("-", "_"))
        guess = closest(value, names) if isinstance(value, str) else None
        cure = f"did you mean {guess!r}?" if guess else f"use one of {', '.join(names)}"
        self._add(f"{key!r} is {plain(value)!r}", key, cure)
        return default

    # --- schema

    def _schema(self, topic: str) -> AvroSchema | None:
        """The record of the rows; None when there is a problem with it."""
        if ("fields" in self._source) == ("schema" in self._source):
            both = "fields" in self._source
            self._add(
                "both 'fields' and 'schema'" if both else "no 'fields' and no 'schema'",
                "schema" if both else None,
                "keep one" if both else "add the fields, or the path of an .avsc file as 'schema'",
            )
            return None
        schema = self._inline(topic) if "fields" in self._source else self._from_file()
        if schema is not None:
            self._check_columns(schema)
        return schema

    def _inline(self, topic: str) -> AvroSchema | None:
        forms = self._source.get("fields")
        if not isinstance(forms, YamlMap):
            self._add("'fields' is not a mapping of names to types", "fields", "write lines such as amount: double")
            return None
        before = len(self._problems)
        name = record_name(topic)
        builder = FieldForms(self._problems, nested_namespace(topic), self._tags, self._units)
        builder.names[name.rpartition(".")[2]] = name
        record: dict[str, Any] = {"type": "record", "name": name}
        description = self._source.get("description")
        if isinstance(description, str):
            record["doc"] = description.strip()
        record["fields"] = builder.fields(forms)
        if len(self._problems) > before:
            return None
        try:
            return AvroSchema.parse(record)
        except SchemaInvalid as error:
            where = _nearest(error.path, builder.places) or self._source.where("fields")
            self._problems.add(error.message, where, error.cure)
            return None

    def _from_file(self) -> AvroSchema | None:
        name = self._source.get("schema")
        if not isinstance(name, str):
            self._add("'schema' is not the path of an .avsc file", "schema", "fields can be written under 'fields'")
            return None
        path = self._folder / name
        try:
            schema = AvroSchema.parse(path.read_text(encoding="utf-8"), where=Where(str(path)))
        except OSError as error:
            self._add(f"schema {name!r} cannot be read: {error.strerror}", "schema", "the path starts at this file")
            return None
        except UnicodeDecodeError:
            self._add(f"schema {name!r} is not UTF-8 text", "schema")
            return None
        except SchemaInvalid as error:
            self._problems.add(error.message, error.where, error.cure)
            return None
        if schema.type != "record":
            self._add(f"schema {name!r} is a {schema.type}, a topic's rows need a record", "schema")
            return None
        self._annotate_from(schema)
        return schema

    def _annotate_from(self, schema: AvroSchema) -> None:
        """`tags` and `unit` beside a field's type in an .avsc file mean the same as in a contract file."""
        root = schema.resolved
        assert isinstance(root, dict)
        for node in root["fields"]:
            tags = node.get("tags")
            if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
                self._tags[node["name"]] = tuple(tags)
            if isinstance(node.get("unit"), str):
                self._units[node["name"]] = node["unit"]

    def _check_columns(self, schema: AvroSchema) -> None:
        inside = "fields" if "fields" in self._source else "schema"
        if not schema.fields:
            self._add("the record has no fields", inside, "add at least one")
        forms = self._source.get("fields")
        for column in schema.fields:
            if column.name.startswith(SYSTEM_PREFIX):
                where = forms.where(column.name) if isinstance(forms, YamlMap) else self._source.where(inside)
                self._problems.add(
                    f"field {column.name!r} begins with {SYSTEM_PREFIX!r}, which is kept for the engine",
                    where,
                    "choose another name",
                )

    def _annotations(self, schema: AvroSchema | None) -> None:
        """`tags` and `units` of the whole file, by column."""
        for key in ("tags", "units"):
            given = self._source.get(key)
            if given is None:
                continue
            if not isinstance(given, YamlMap):
                self._add(f"{key!r} is not a mapping of columns", key, f"write {key}: {{column: ...}}")
                continue
            for column, value in given.items():
                if schema is not None and column.partition(".")[0] not in {each.name for each in schema.fields}:
                    self._unknown_column(key, column, schema, given.where(column))
                self._annotate(key, column, plain(value), given.where(column))

    def _annotate(self, key: str, column: str, value: Any, where: Where) -> None:
        if key == "units" and isinstance(value, str):
            self._units[column] = value
            return
        texts = [value] if isinstance(value, str) else value
        if key == "tags" and isinstance(texts, list) and all(isinstance(each, str) for each in texts):
            self._tags[column] = tuple(dict.fromkeys((*self._tags.get(column, ()), *texts)))
            return
        self._problems.add(f"{key!r} of {column!r} is {value!r}, not text", where)

    # --- key

    def _key(self, schema: AvroSchema | None, kind: TopicKind) -> tuple[str, ...]:
        given = plain(self._source.get("key"))
        names = [given] if isinstance(given, str) else given or []
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            self._add("'key' is not a field or a list of fields", "key", "write key: order_id or key: [a, b]")
            return ()
        if kind is TopicKind.TABLE and not names:
            self._add("a topic of kind table needs a 'key'", "kind", "name the fields that identify a row")
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                self._add(f"key field {name!r} stands twice", "key")
            if schema is not None:
                self._check_key_field(schema, name)
        return tuple(names)

    def _check_key_field(self, schema: AvroSchema, name: str) -> None:
        column = _column(schema, name)
        if column is None:
            self._unknown_column("key", name, schema, self._source.where("key"))
            return
        branches = _not_null(column.type)
        kind = _kind(branches[0]) if len(branches) == 1 else "union"
        if kind not in _KEY_TYPES:
            self._add(
                f"key field {name!r} is of type {kind}, which cannot be a key",
                "key",
                "use text, whole numbers, times, decimals, enums or bytes",
            )

    def _key_encoding(self, schema: AvroSchema | None, key: tuple[str, ...]) -> KeyEncoding:
        encoding = self._choice("key_encoding", KeyEncoding, KeyEncoding.AVRO)
        if encoding is KeyEncoding.AVRO or schema is None:
            return encoding
        if len(key) != 1:
            self._add("key_encoding 'string' needs exactly one key field", "key_encoding", "use avro for several")
            return encoding
        column = _column(schema, key[0])
        branches = _not_null(column.type) if column else []
        if column and not (len(branches) == 1 and _kind(branches[0]) in _STRING_KEY_TYPES):
            self._add(f"key_encoding 'string' needs a text key, {key[0]!r} is none", "key_encoding", "use avro")
        return encoding

    def _format(self, kind: TopicKind) -> ValueFormat:
        written = self._choice("format", ValueFormat, ValueFormat.AVRO)
        if written is ValueFormat.AVRO:
            return written
        if kind is not TopicKind.CHANGE:
            self._add("a topic that Debezium writes is of kind change", "format", "write kind: change")
        if written is ValueFormat.DEBEZIUM_JSON and self._source.get("key_encoding") is not None:
            self._add("keys of debezium-json are JSON, and have no 'key_encoding'", "key_encoding", "leave it out")
        return written

    # --- time, retention, partitions

    def _time(self, schema: AvroSchema | None) -> tuple[str | None, int]:
        given = self._source.get("time")
        ahead_max_ms = EVENT_TIME_AHEAD_MAX_MS
        where = self._source.where("time")
        if isinstance(given, YamlMap):
            for unknown in given.unknown_keys(("field", "ahead_max")):
                self._problems.add(f"unknown key {unknown.key!r} in 'time'", unknown.where, unknown.cure)
            if given.get("ahead_max") is not None:
                ahead_max_ms = self._duration(given["ahead_max"], given.where("ahead_max"), ahead_max_ms)
            where, given = given.where("field"), given.get("field")
            if given is None:
                self._problems.add("'time' has no 'field'", where, "name the field with the event time")
        if given is None:
            return None, ahead_max_ms
        if not isinstance(given, str):
            self._problems.add("'time' is not a field", where, "write time: created_at")
            return None, ahead_max_ms
        if schema is not None and given != RECORD_TIMESTAMP:
            self._check_time_field(schema, given, where)
        return given, ahead_max_ms

    def _check_time_field(self, schema: AvroSchema, name: str, where: Where) -> None:
        column = _column(schema, name)
        if column is None:
            self._unknown_column("time", name, schema, where)
            return
        branches = _not_null(column.type)
        logical = logical_type(branches[0]) if len(branches) == 1 else None
        plain_long = len(branches) == 1 and _kind(branches[0]) == "long" and logical is None
        if not plain_long and not (logical and _TIME_LOGICAL.fullmatch(logical)):
            shown = logical or (_kind(branches[0]) if len(branches) == 1 else "union")
            self._problems.add(
                f"time field {name!r} is of type {shown}",
                where,
                "use a timestamp, a date, or a long with milliseconds since 1970",
            )

    def _retention(self) -> int | None:
        given = self._source.get("retention")
        if given is None or given == FOREVER:
            return None
        retention_ms = self._duration(given, self._source.where("retention"), 1, f" or {FOREVER!r}")
        if retention_ms == 0:
            self._add("a retention of nothing would lose every record", "retention", f"use {FOREVER!r} to keep all")
        return retention_ms

    def _duration(self, given: Any, where: Where, fallback: int, other: str = "") -> int:
        try:
            return parse_duration_ms(plain(given), where=where)
        except DurationInvalid as error:
            self._problems.add(error.message, where, f"{error.cure}{other}")
            return fallback

    def _partitions(self) -> int | None:
        given = self._source.get("partitions")
        if given is None:
            return None
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= PARTITIONS_MAX:
            self._add(f"'partitions' is {plain(given)!r}, not a number from 1 to {PARTITIONS_MAX}", "partitions")
            return None
        return given

    def _unknown_column(self, key: str, name: str, schema: AvroSchema, where: Where) -> None:
        names = [each.name for each in schema.fields]
        guess = closest(name, names)
        cure = f"did you mean {guess!r}?" if guess else f"the fields are {', '.join(names)}"
        self._problems.add(f"{key!r} names {name!r}, which is not a field", where, cure)


def _column(schema: AvroSchema, name: str) -> AvroField | None:
    return next((each for each in schema.fields if each.name == name), None)


def _not_null(avro_type: AvroType) -> list[AvroType]:
    branches = avro_type if isinstance(avro_type, list) else [avro_type]
    return [branch for branch in branches if branch != "null"]


def _kind(avro_type: AvroType) -> str:
    if isinstance(avro_type, list):
        return "union"
    return avro_type if isinstance(avro_type, str) else str(avro_type["type"])


def _nearest(path: str, places: Mapping[str, Where]) -> Where | None:
    """The line of the innermost field on a schema path; the path begins with the record's name."""
    path = _INDEX.sub("", path.partition(".")[2])
    while path:
        if path in places:
            return places[path]
        path = path.rpartition(".")[0]
    return None
