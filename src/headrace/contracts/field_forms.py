"""The fields of a contract file as Avro.

Owns the meaning of field forms: `name: type`, `name: {type: ..., doc: ...}`, nested records, raw Avro.

- Every problem goes to the collector with the line of its key; building goes on, so that one run shows all.
- What comes out still has to pass `AvroSchema.parse`; `places` tells which line a path came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from headrace.contracts.avro import PRIMITIVES, AvroType
from headrace.contracts.avro_logical import DURATION_SIZE_BYTES, UNDERLYING, UUID_SIZE_BYTES, decimal_precision_max
from headrace.contracts.contract_errors import Problems
from headrace.contracts.record_name import pascal_case
from headrace.contracts.type_text import TypeText, TypeTextInvalid, parse_type_text
from headrace.contracts.yaml_source import YamlList, YamlMap, closest, plain
from headrace.errors import Where

KEYS = frozenset({"type", "doc", "tags", "unit", "default", "aliases", "avro"})
"""Keys of every field form."""

TYPE_KEYS = {
    "record": frozenset({"fields", "name"}),
    "enum": frozenset({"symbols", "fallback", "name"}),
    "fixed": frozenset({"size", "name"}),
    "duration": frozenset({"name"}),
    "decimal": frozenset({"size", "name"}),
    "uuid": frozenset({"size", "name"}),
    "array": frozenset({"items"}),
    "list": frozenset({"items"}),
    "map": frozenset({"values"}),
}
"""Further keys that a type brings."""

_ALL_KEYS = sorted(KEYS.union(*TYPE_KEYS.values()))
_PLAIN_LOGICAL = {
    name: base[0] for name, base in UNDERLYING.items() if name not in ("decimal", "uuid", "duration", "big-decimal")
}
TYPE_NAMES = sorted(PRIMITIVES | _PLAIN_LOGICAL.keys() | TYPE_KEYS.keys())
_FAMILIAR = {
    "bool": "boolean",
    "str": "string",
    "text": "string",
    "varchar": "string",
    "integer": "int",
    "int32": "int",
    "int64": "long",
    "bigint": "long",
    "float32": "float",
    "float64": "double",
    "real": "float",
    "number": "double",
    "datetime": "timestamp-micros",
    "timestamp": "timestamp-millis",
    "time": "time-millis",
    "binary": "bytes",
    "numeric": "decimal",
    "struct": "record",
    "object": "record",
}
"""Names from other worlds, for suggestions."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_TYPE_CURE = 'write a type such as string, "long?", array<int> or "decimal(12,2)"'

MISSING: Any = object()


@dataclass(slots=True)
class FieldForms:
    """Builds the fields of one contract. `namespace` is that of the named types inside its record."""

    problems: Problems
    namespace: str
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tags by field path."""
    units: dict[str, str] = field(default_factory=dict)
    places: dict[str, Where] = field(default_factory=dict)
    """Where each field path stands."""
    names: dict[str, str] = field(default_factory=dict)
    """Full names of the types defined so far, by short name."""

    def fields(self, forms: YamlMap, path: str = "") -> list[dict[str, Any]]:
        """The Avro fields of a `fields:` mapping."""
        return [self._field(name, form, _join(path, name), forms.where(name)) for name, form in forms.items()]

    def _field(self, name: str, form: Any, path: str, where: Where) -> dict[str, Any]:
        self.places[path] = where
        if not _NAME.match(name):
            cure = "use letters, digits and '_', not starting with a digit"
            self.problems.add(f"{name!r} cannot be the name of a field", where, cure)
        if isinstance(form, YamlMap):
            return self._long_form(name, form, path)
        avro_type = self._short_form(form, path, where)
        return {"name": name, "type": avro_type} | ({"default": None} if _starts_with_null(avro_type) else {})

    def _short_form(self, form: Any, path: str, where: Where) -> AvroType:
        text = self._type_text(form, path, where)
        return self._type(text, _Form({}, where), path) if text else "null"

    def _long_form(self, name: str, form: YamlMap, path: str) -> dict[str, Any]:
        keys = _Form(dict(form.items()), form.where(), form)
        made: dict[str, Any] = {"name": name, "type": self._form_type(keys, path)}
        doc = keys.take("doc")
        if doc is not None:
            made["doc"] = str(doc)
        aliases = self._texts(keys, "aliases", path)
        if aliases:
            made["aliases"] = list(aliases)
        tags = self._texts(keys, "tags", path)
        if tags:
            self.tags[path] = tags
        unit = keys.take("unit")
        if unit is not None:
            self.units[path] = str(unit)
        self._default(made, keys, path)
        self._left_over(keys, path)
        return made

    def _form_type(self, keys: _Form, path: str) -> AvroType:
        """The type of a mapping form: raw Avro, a type's text, or what the keys imply."""
        raw = keys.take("avro")
        if raw is not None:
            if "type" in keys.values:
                self.problems.add(f"field {path!r} has both 'type' and 'avro'", keys.place("avro"), "keep one")
                keys.take("type")
            return _raw_avro(plain(raw))
        given = keys.take("type", MISSING)
        if given is MISSING:
            given = "record" if "fields" in keys.values else "enum" if "symbols" in keys.values else MISSING
        if given is MISSING:
            self.problems.add(f"field {path!r} has no 'type'", keys.where, "add one, such as type: string")
            keys.give_up()
            return "null"
        if isinstance(given, YamlMap):
            inner = _Form(dict(given.items()), given.where(), given)
            avro_type = self._form_type(inner, path)
            self._left_over(inner, path)
            return avro_type
        text = self._type_text(given, path, keys.place("type"))
        if text is None:
            keys.give_up()
            return "null"
        return self._type(text, keys, path)

    def _type_text(self, given: Any, path: str, where: Where) -> TypeText | None:
        if given is None:
            return TypeText("null")  # YAML reads the word null as nothing.
        if not isinstance(given, str):
            self.problems.add(
                f"field {path!r}: a type is a text such as string, not {_shown(given)}",
                where,
                "write raw Avro under 'avro'" if isinstance(given, YamlList) else "",
            )
            return None
        try:
            return parse_type_text(given)
        except TypeTextInvalid as error:
            self.problems.add(
                f"field {path!r}: {given!r} is not a type: {error}",
                where,
                f'quote it: "{given},2)"' if "(" in given and ")" not in given else _TYPE_CURE,
            )
            return None

    def _type(self, text: TypeText, keys: _Form, path: str) -> AvroType:
        made = self._not_null(text, keys, path)
        if not text.nullable:
            return made
        return made if isinstance(made, list) else ["null", made]

    def _not_null(self, text: TypeText, keys: _Form, path: str) -> AvroType:
        name = text.name
        self._check_shape(text, path, keys)
        if name in PRIMITIVES:
            return name
        if name in _PLAIN_LOGICAL:
            return {"type": _PLAIN_LOGICAL[name], "logicalType": name}
        if name in ("array", "list", "map"):
            return self._container(text, keys, path)
        if name in TYPE_KEYS:
            return self._named_or_logical(text, keys, path)
        if name in self.names or name in self.names.values():
            return self.names.get(name, name)
        self._unknown_type(name, keys, path)
        return "null"

    def _unknown_type(self, name: str, keys: _Form, path: str) -> None:
        guess = closest(name, [*TYPE_NAMES, *self.names, *_FAMILIAR])
        guess = _FAMILIAR.get(guess, guess) if guess else None
        cure = f"did you mean {guess!r}?" if guess else f"use one of {', '.join(TYPE_NAMES)}"
        self.problems.add(f"field {path!r}: unknown type {name!r}", keys.place("type"), cure)
        keys.give_up()

    def _check_shape(self, text: TypeText, path: str, keys: _Form) -> None:
        numbers = {"decimal": (1, 2), "fixed": (0, 1), "duration": (0, 1)}.get(text.name, (0, 0))
        if not numbers[0] <= len(text.numbers) <= numbers[1]:
            cure = "write decimal(precision,scale)" if text.name == "decimal" else "leave the numbers out"
            self.problems.add(f"field {path!r}: wrong numbers after {text.name!r}", keys.place("type"), cure)
        if text.inner is not None and text.name not in ("array", "list", "map"):
            self.problems.add(f"field {path!r}: {text.name!r} takes no type in < >", keys.place("type"))

    def _container(self, text: TypeText, keys: _Form, path: str) -> AvroType:
        kind, member = ("map", "values") if text.name == "map" else ("array", "items")
        if text.inner is not None:
            return {"type": kind, member: self._type(text.inner, keys, path)}
        where = keys.place(member)
        form = keys.take(member, MISSING)
        if form is MISSING:
            cure = f"write {text.name}<string>, or a form under {member!r}"
            self.problems.add(f"field {path!r}: what does the {text.name} hold?", keys.place("type"), cure)
            return {"type": kind, member: "null"}
        if isinstance(form, YamlMap):
            inner = _Form(dict(form.items()), form.where(), form)
            made = self._form_type(inner, path)
            self._left_over(inner, path)
            return {"type": kind, member: made}
        return {"type": kind, member: self._short_form(form, path, where)}

    def _named_or_logical(self, text: TypeText, keys: _Form, path: str) -> AvroType:
        if text.name == "record":
            return self._record(keys, path)
        if text.name == "enum":
            return self._enum(keys, path)
        size = keys.take("size")
        if text.name == "fixed":
            size = text.numbers[0] if text.numbers else size
            return {"type": "fixed", "name": self._name(keys, path), "size": size}
        if text.name == "duration":
            made = {"type": "fixed", "name": self._name(keys, path), "size": DURATION_SIZE_BYTES}
            return {**made, "logicalType": "duration"}
        base: dict[str, Any] = {"type": "string" if text.name == "uuid" else "bytes"}
        if size is not None:
            base = {"type": "fixed", "name": self._name(keys, path), "size": size}
        if text.name == "decimal":
            return base | self._decimal(text, size, path, keys)
        if size not in (None, UUID_SIZE_BYTES):
            self.problems.add(f"field {path!r}: a uuid has {UUID_SIZE_BYTES} bytes, not {size}", keys.place("size"))
        return base | {"logicalType": "uuid"}

    def _decimal(self, text: TypeText, size: Any, path: str, keys: _Form) -> dict[str, Any]:
        precision = text.numbers[0] if text.numbers else 0
        scale = text.numbers[1] if len(text.numbers) > 1 else 0
        if text.numbers and not (precision >= 1 and scale <= precision):
            self.problems.add(
                f"field {path!r}: decimal({precision},{scale}) has no room for its digits",
                keys.place("type"),
                "write decimal(precision,scale) with scale at most precision",
            )
        if isinstance(size, int) and precision > decimal_precision_max(size):
            self.problems.add(
                f"field {path!r}: {size} bytes always hold {decimal_precision_max(size)} digits, not {precision}",
                keys.place("type"),
                "leave 'size' out or make it larger",
            )
        return {"logicalType": "decimal", "precision": precision, "scale": scale}

    def _record(self, keys: _Form, path: str) -> AvroType:
        where, name = keys.place("fields"), self._name(keys, path)
        forms = keys.take("fields")
        if not isinstance(forms, YamlMap):
            self.problems.add(f"field {path!r}: a record needs 'fields', a mapping", where)
            return {"type": "record", "name": name, "fields": []}
        return {"type": "record", "name": name, "fields": self.fields(forms, path)}

    def _enum(self, keys: _Form, path: str) -> AvroType:
        made: dict[str, Any] = {"type": "enum", "name": self._name(keys, path)}
        if "symbols" not in keys.values:
            self.problems.add(f"field {path!r}: an enum needs 'symbols', a list", keys.place("type"))
        made["symbols"] = list(self._texts(keys, "symbols", path))
        fallback = keys.take("fallback")
        if fallback is not None:
            made["default"] = fallback
        return made

    def _name(self, keys: _Form, path: str) -> str:
        """The type's full name: as given, else from the field's path. Known to the fields that follow."""
        parent, _, last = path.rpartition(".")
        given = keys.take("name")
        short = str(given) if given is not None else pascal_case(last)
        namespace = _join(self.namespace, parent)
        full = short if "." in short or not namespace else f"{namespace}.{short}"
        self.names[short.rpartition(".")[2]] = full
        return full

    def _texts(self, keys: _Form, key: str, path: str) -> tuple[str, ...]:
        """A list of texts, or one text."""
        where, given = keys.place(key), keys.take(key)
        if given is None:
            return ()
        found = [given] if isinstance(given, str) else plain(given)
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            self.problems.add(f"field {path!r}: {key!r} is {_shown(given)}, not a list of texts", where)
            return ()
        return tuple(found)

    def _default(self, made: dict[str, Any], keys: _Form, path: str) -> None:
        where, given = keys.place("default"), keys.take("default", MISSING)
        avro_type = made["type"]
        if given is MISSING:
            if _starts_with_null(avro_type):
                made["default"] = None
            return
        value = plain(given)
        if _starts_with_null(avro_type) and value is not None:
            # Older readers take a default as one of the first branch.
            made["type"] = avro_type = [*avro_type[1:], "null"]
        decimal = next(_decimals(avro_type), None)
        if decimal is not None and value is not None:
            value = self._decimal_default(decimal, value, path, where)
        made["default"] = value

    def _decimal_default(self, avro_type: dict[str, Any], value: Any, path: str, where: Where) -> str:
        """The default's number as Avro's bytes; its text taken as bytes would be a wildly different number."""
        try:
            number = Decimal(str(value)).scaleb(avro_type["scale"])
            unscaled = int(number)
        except (InvalidOperation, ValueError, OverflowError):  # Not a number, NaN, infinity.
            self.problems.add(f"field {path!r}: default {value!r} is not a number", where)
            return ""
        if number != unscaled or len(str(abs(unscaled))) > avro_type["precision"]:
            shape = f"decimal({avro_type['precision']},{avro_type['scale']})"
            self.problems.add(f"field {path!r}: default {value!r} does not fit {shape}", where)
            return ""
        size = avro_type.get("size") or (unscaled + (unscaled < 0)).bit_length() // 8 + 1
        try:
            return unscaled.to_bytes(size, "big", signed=True).decode("latin-1")
        except OverflowError:
            self.problems.add(f"field {path!r}: default {value!r} does not fit {size} bytes", where)
            return ""

    def _left_over(self, keys: _Form, path: str) -> None:
        for key in keys.left():
            if key in _ALL_KEYS:
                self.problems.add(f"field {path!r}: {key!r} means nothing for this type", keys.place(key), "remove it")
                continue
            guess = closest(key, _ALL_KEYS)
            cure = f"did you mean {guess!r}?" if guess else f"use {', '.join(_ALL_KEYS)}"
            self.problems.add(f"field {path!r}: unknown key {key!r}", keys.place(key), cure)


@dataclass(slots=True)
class _Form:
    """A mapping form whose keys are taken one by one; what is left at the end means nothing."""

    values: dict[str, Any]
    where: Where
    source: YamlMap | None = None
    _given_up: bool = False

    def take(self, key: str, default: Any = None) -> Any:
        return self.values.pop(key, default)

    def place(self, key: str) -> Where:
        return self.source.where(key) if self.source is not None and key in self.source else self.where

    def give_up(self) -> None:
        """The type is unknown, so which keys belong to it is unknown too."""
        self._given_up = True

    def left(self) -> list[str]:
        if not self._given_up:
            return list(self.values)
        # `2)` is what `{type: decimal(12,2)}` leaves behind.
        return [key for key in self.values if key not in _ALL_KEYS and not key.endswith(")")]


def _raw_avro(node: Any) -> AvroType:
    """Avro's JSON from YAML, in which the type null reads as nothing."""
    if node is None:
        return "null"
    if isinstance(node, list):
        return [_raw_avro(branch) for branch in node]
    if not isinstance(node, dict):
        return str(node)  # A number or a truth is no type; the parser says so by its text.
    made: dict[str, Any] = {
        key: _raw_avro(value) if key in ("type", "items", "values") else value for key, value in node.items()
    }
    if isinstance(node.get("fields"), list):
        made["fields"] = [_raw_avro(member) for member in node["fields"]]
    return made


def _decimals(avro_type: AvroType) -> Iterator[dict[str, Any]]:
    for branch in avro_type if isinstance(avro_type, list) else [avro_type]:
        if isinstance(branch, dict) and branch.get("logicalType") == "decimal":
            yield branch


def _starts_with_null(avro_type: AvroType) -> bool:
    return isinstance(avro_type, list) and avro_type[:1] == ["null"]


def _shown(value: Any) -> str:
    if isinstance(value, YamlMap):
        return "a mapping"
    return "a list" if isinstance(value, YamlList) else repr(value)


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path and step else path or step
