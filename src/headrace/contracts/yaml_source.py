"""YAML files as values that know where they stand.

Owns the reading of every YAML file of a workspace.

- Each mapping, list item and key has a `Where`, so that every error can name file and line.
- Scalars are read by YAML 1.2's rules: only `true` and `false` are booleans (a country may be `NO`, a step `on`), a
  leading zero or a colon makes no number, a date is text.
- A key stands once, is text, and a file holds one document.
- Nothing in a file is run, and a file cannot grow while it is read (aliases are bounded).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from headrace.errors import HeadraceError, Where

FILE_BYTES_MAX = 10 * 1024 * 1024
"""Largest file read; people write less."""

NODES_MAX = 200_000
"""Values in one file, aliases counted as often as they are used."""


class YamlInvalid(HeadraceError):
    """A file that cannot be read as YAML, or not as the YAML asked for."""

    code = "contracts.yaml_invalid"


class UnknownKey(NamedTuple):
    """A key that means nothing where it stands."""

    key: str
    where: Where
    suggestion: str | None
    """The known key that it looks like."""

    @property
    def cure(self) -> str:
        return f"did you mean {self.suggestion!r}?" if self.suggestion else ""


class YamlList:
    """A list; its items are scalars, `YamlMap`s or `YamlList`s."""

    def __init__(self, items: list[Any], places: list[Where], place: Where) -> None:
        self._items, self._places, self._place = items, places, place

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]

    def where(self, index: int | None = None) -> Where:
        """Where the item stands; without an index, where the list begins."""
        return self._place if index is None else self._places[index]

    def plain(self) -> list[Any]:
        """The list as ordinary Python values."""
        return [plain(item) for item in self._items]


class YamlMap:
    """A mapping with text keys, in the file's order."""

    def __init__(self, values: dict[str, Any], places: dict[str, Where], place: Where) -> None:
        self._values, self._places, self._place = values, places, place

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value: a scalar, a `YamlMap` or a `YamlList`."""
        return self._values.get(key, default)

    def items(self) -> Iterable[tuple[str, Any]]:
        return self._values.items()

    def where(self, key: str | None = None) -> Where:
        """Where the key stands; without a key, or for a missing one, where the mapping begins."""
        return self._place if key is None else self._places.get(key, self._place)

    def unknown_keys(self, allowed: Iterable[str]) -> list[UnknownKey]:
        """The keys that are not `allowed`, each with the allowed one it looks like."""
        known = list(allowed)
        return [UnknownKey(key, self.where(key), closest(key, known)) for key in self._values if key not in known]

    def plain(self) -> dict[str, Any]:
        """The mapping as ordinary Python values."""
        return {key: plain(value) for key, value in self._values.items()}


def read_yaml(path: Path) -> YamlMap:
    """The mapping in a file. Raises `YamlInvalid`."""
    file = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise YamlInvalid(f"cannot be read: {error.strerror}", where=Where(file)) from None
    if len(data) > FILE_BYTES_MAX:
        raise YamlInvalid(f"larger than {FILE_BYTES_MAX} bytes", where=Where(file))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlInvalid("is not UTF-8 text", where=Where(file, line), cure="save the file as UTF-8") from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> YamlMap:
    """The mapping in a text; `file` is its name in errors. Raises `YamlInvalid`."""
    node = _compose(text, file)
    if node is None:
        raise YamlInvalid("is empty", where=Where(file))
    if not isinstance(node, yaml.MappingNode):
        raise YamlInvalid(f"holds {_kind(node)}, not keys with values", where=_where(node, file))
    found = _Reader(file).value(node)
    assert isinstance(found, YamlMap)
    return found


def plain(value: Any) -> Any:
    """A value of `YamlMap` or `YamlList` as ordinary Python."""
    return value.plain() if isinstance(value, YamlMap | YamlList) else value


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is likely a slip of."""
    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


_SPECIAL = {".inf": "inf", "-.inf": "-inf", ".nan": "nan"}


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlInvalid(
            f"not YAML: {words}", where=Where(file, mark.line + 1 if mark else 0), cure=_cure(words)
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlInvalid(f"not YAML: {error.reason}", where=Where(file, line)) from None
    except RecursionError:
        raise YamlInvalid("nested too deeply", where=Where(file)) from None
    return node


def _cure(words: str) -> str:
    if "\\t" in words:
        return "indent with spaces, not tabs"
    if "but got '?'" in words:
        return 'quote a text that ends in "?" between { } or [ ]'
    if "mapping values are not allowed" in words:
        return "quote a text that holds ': '"
    return ""


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._nodes = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise YamlInvalid(f"holds more than {NODES_MAX} values", where=self._where(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise YamlInvalid("an alias stands inside what it refers to", where=self._where(node))
        self._open.add(id(node))
        try:
            return self._mapping(node) if isinstance(node, yaml.MappingNode) else self._list(node)
        except RecursionError:
            raise YamlInvalid("nested too deeply", where=self._where(node)) from None
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode) -> YamlMap:
        values: dict[str, Any] = {}
        places: dict[str, Where] = {}
        for key_node, value_node in node.value:
            key, place = self._key(key_node), self._where(key_node)
            if key in values:
                raise YamlInvalid(
                    f"key {key!r} stands twice, first on line {places[key].line}", where=place, cure="keep one"
                )
            places[key] = place
            values[key] = self.value(value_node)
        return YamlMap(values, places, self._where(node))

    def _list(self, node: Any) -> YamlList:
        return YamlList(
            [self.value(item) for item in node.value], [self._where(item) for item in node.value], self._where(node)
        )

    def _key(self, node: yaml.Node) -> str:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = node.value if isinstance(node, yaml.ScalarNode) else _kind(node)
            raise YamlInvalid(f"key {shown} is not text", where=self._where(node), cure=f'write "{shown}"')
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "str":
            return node.value
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return node.value.lower() == "true"
            if kind == "int":
                return int(node.value, 0)
            if kind == "float":
                text: str = node.value
                return float(_SPECIAL.get(text.lower().lstrip("+"), text))
        except ValueError:
            raise YamlInvalid(f"{node.value!r} is no {kind}", where=self._where(node)) from None
        raise YamlInvalid(f"tag {node.tag!r} is not supported", where=self._where(node), cure="leave the tag out")

    def _where(self, node: yaml.Node) -> Where:
        return _where(node, self._file)


def _where(node: yaml.Node, file: str) -> Where:
    return Where(file, node.start_mark.line + 1)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "one value"
