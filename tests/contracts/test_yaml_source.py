"""YAML with places: values, lines, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.yaml_source import NODES_MAX, YamlInvalid, YamlList, YamlMap, parse_yaml, read_yaml
from headrace.errors import Where


def test_every_key_and_item_knows_its_line() -> None:
    """Nested mappings and lists, in block and flow style, comments and blank lines included."""
    source = parse_yaml("# head\na: 1\n\nb:\n  c: [x,\n    y]\n  d: {e: 2}\n", "f.yaml")
    assert source.where("a") == Where("f.yaml", 2)
    inner = source["b"]
    assert isinstance(inner, YamlMap)
    assert inner.where("c").line == 5
    assert isinstance(inner["c"], YamlList)
    assert [inner["c"].where(index).line for index in range(2)] == [5, 6]
    assert inner["d"].where("e").line == 7
    assert source.where("missing") == source.where() == Where("f.yaml", 2)
    assert source.plain() == {"a": 1, "b": {"c": ["x", "y"], "d": {"e": 2}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-7", -7),
        ("0x1f", 31),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("2024-01-01", "2024-01-01"),
        ("12a", "12a"),
        ('"12"', "12"),
        ("7d", "7d"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    """A country code is no truth value, a time of day no number of seconds."""
    found = parse_yaml(f"a: {text}", "f.yaml")["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: b: c", 1, "quote a text that holds ': '"),
        ("a:\n\tb: 1", 2, "spaces, not tabs"),
        ("a: 1\nb: 2\na: 3", 3, "'a' stands twice, first on line 1"),
        ("a: [1", 1, "expected ',' or ']'"),
        ("a: {b: string?}", 1, 'ends in "?"'),
        ("- 1", 1, "a list"),
        ("just text", 1, "one value"),
        ("", 0, "is empty"),
        ("# only a comment", 0, "is empty"),
        ("a: *b", 1, "undefined alias"),
        ("a: &b [*b]", 1, "inside what it refers to"),
        ("x: 1\n1: 2", 2, "key 1 is not text"),
        ("true: 2", 1, "key true is not text"),
        ("? [a]\n: 1", 1, "not text"),
        ("a: !!python/object:os.system x", 1, "is not supported"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: 1\nb: \x01", 2, "special characters"),
        ("a: " + "[" * 5000, 0, "too deeply"),
    ],
)
def test_mistakes_name_their_line(text: str, line: int, words: str) -> None:
    """And say what to do where that is known."""
    with pytest.raises(YamlInvalid) as caught:
        parse_yaml(text, "f.yaml")
    assert caught.value.where == Where("f.yaml", line)
    assert words in str(caught.value)
    assert str(caught.value).startswith("f.yaml")


def test_aliases_cannot_make_a_file_grow() -> None:
    """Nine lines that mean a thousand million values are refused, quickly."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(YamlInvalid, match=str(NODES_MAX)):
        parse_yaml("\n".join(lines), "f.yaml")


def test_files(tmp_path: Path) -> None:
    """A missing file, a folder, bytes that are not text, and a byte order mark."""
    with pytest.raises(YamlInvalid, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(YamlInvalid, match="cannot be read"):
        read_yaml(tmp_path)
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(YamlInvalid, match=r"f\.yaml:2: is not UTF-8"):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path).plain() == {"a": 1}


def test_unknown_keys_come_with_a_guess() -> None:
    """The nearest allowed key, or none."""
    source = parse_yaml("topic: x\nretenton: 1\nzzz: 2", "f.yaml")
    found = source.unknown_keys(["topic", "retention"])
    assert [(each.key, each.where.line, each.suggestion) for each in found] == [
        ("retenton", 2, "retention"),
        ("zzz", 3, None),
    ]
    assert found[0].cure == "did you mean 'retention'?"


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_json_is_yaml(value: dict[str, Any]) -> None:
    """As YAML 1.2 says."""
    assert parse_yaml(json.dumps(value, ensure_ascii=False), "f.yaml").plain() == value
