"""Schema changes that are compatible, yet change what the bytes mean.

Owns the warnings beside a compatibility verdict; refuses nothing.

- A warning is about a pair of types that Avro reads without complaint.
- Each place is reported once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from headrace.contracts.avro import NAMED, AvroSchema, AvroType, logical_type
from headrace.contracts.compatibility import dereferenced, kind_of, matching_field, names_match


class Warned(NamedTuple):
    """A change that no compatibility mode refuses, but a person should see."""

    code: str
    """`logical_type_changed`, `decimal_scale_changed`, `decimal_precision_reduced` or `ambiguous_alias`."""
    path: str
    message: str

    def sentence(self) -> str:
        """The warning on one line."""
        return f"field {self.path}: {self.message}" if self.path else f"whole schema: {self.message}"


def warnings(new: AvroSchema, old: AvroSchema) -> tuple[Warned, ...]:
    """What `new` would silently understand otherwise than `old` meant it."""
    return tuple(dict.fromkeys(_Comparison(new, old).pair(new.resolved, old.resolved, "")))


class _Comparison:
    def __init__(self, new: AvroSchema, old: AvroSchema) -> None:
        self._new, self._old = new, old
        self._seen: set[tuple[int, int]] = set()

    def pair(self, new: AvroType, old: AvroType, path: str) -> Iterator[Warned]:
        new, old = dereferenced(new, self._new), dereferenced(old, self._old)
        if not isinstance(new, str) and not isinstance(old, str):
            if (id(new), id(old)) in self._seen:
                return
            self._seen.add((id(new), id(old)))
        if isinstance(new, list) or isinstance(old, list):
            yield from self._branches(new, old, path)
            return
        yield from _meaning(new, old, path)
        kind = kind_of(new)
        if kind != kind_of(old) or isinstance(new, str) or isinstance(old, str):
            return
        if kind == "array":
            yield from self.pair(new["items"], old["items"], f"{path}[]")
        elif kind == "map":
            yield from self.pair(new["values"], old["values"], f"{path}{{}}")
        elif kind == "record":
            yield from self._fields(new, old, path)

    def _branches(self, new: AvroType, old: AvroType, path: str) -> Iterator[Warned]:
        new_branches = new if isinstance(new, list) else [new]
        for each in old if isinstance(old, list) else [old]:
            old_branch = dereferenced(each, self._old)
            for candidate in new_branches:
                if _same_branch(dereferenced(candidate, self._new), old_branch):
                    yield from self.pair(candidate, old_branch, path)
                    break

    def _fields(self, new: dict[str, Any], old: dict[str, Any], path: str) -> Iterator[Warned]:
        old_fields = {each["name"]: each for each in old["fields"]}
        new_names = {each["name"] for each in new["fields"]}
        for new_field in new["fields"]:
            here = f"{path}.{new_field['name']}" if path else new_field["name"]
            sources = [name for name in (new_field["name"], *new_field.get("aliases", ())) if name in old_fields]
            if len(set(sources)) > 1:
                yield Warned(
                    "ambiguous_alias",
                    here,
                    f"it matches several old fields ({', '.join(sources)}); Java's readers fail on this, "
                    f"others take {sources[0]}; drop the alias",
                )
            old_field = matching_field(new_field, old_fields)
            if old_field is not None and old_field["name"] in new_names - {new_field["name"]}:
                yield Warned(
                    "ambiguous_alias",
                    here,
                    f"its alias {old_field['name']!r} is the name of another field, which takes the old value here "
                    "and loses it in Java's readers; drop the alias",
                )
                continue
            if old_field is not None:
                yield from self.pair(new_field["type"], old_field["type"], here)


def _same_branch(new: AvroType, old: AvroType) -> bool:
    if kind_of(new) != kind_of(old):
        return False
    if isinstance(new, dict) and isinstance(old, dict) and kind_of(new) in NAMED:
        return names_match(new, old)
    return True


def _meaning(new: AvroType, old: AvroType, path: str) -> Iterator[Warned]:
    new_logical, old_logical = logical_type(new), logical_type(old)
    if new_logical != old_logical:
        yield Warned(
            "logical_type_changed",
            path,
            f"was {old_logical or _plain(old)}, is now {new_logical or _plain(new)}: "
            "old values are read as they are, without conversion; add a new field instead",
        )
    elif new_logical == "decimal" and isinstance(new, dict) and isinstance(old, dict):
        yield from _decimal(new, old, path)


def _decimal(new: dict[str, Any], old: dict[str, Any], path: str) -> Iterator[Warned]:
    new_scale, old_scale = new.get("scale", 0), old.get("scale", 0)
    if new_scale != old_scale:
        yield Warned(
            "decimal_scale_changed",
            path,
            f"the decimal's scale was {old_scale} and is now {new_scale}: readers that do not convert are wrong "
            f"by a factor of {10 ** abs(new_scale - old_scale)}; add a new field instead",
        )
    elif new["precision"] < old["precision"]:
        yield Warned(
            "decimal_precision_reduced",
            path,
            f"the decimal's precision was {old['precision']} and is now {new['precision']}: "
            "longer old values do not fit",
        )


def _plain(node: AvroType) -> str:
    return f"plain {kind_of(node)}"
