"""`docs/contracts.md` tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from headrace.contracts import compatibility_warnings
from headrace.contracts.avro import PRIMITIVES
from headrace.contracts.avro_logical import UNDERLYING
from headrace.contracts.field_forms import KEYS as FIELD_KEYS
from headrace.contracts.field_forms import TYPE_KEYS, TYPE_NAMES
from headrace.contracts.load import KEYS, load_contract
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.registry_confluent import ATTEMPTS_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
CONTRACTS = re.findall(r"^```yaml\n(topic:.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", CONTRACTS)
def test_the_examples_are_contracts(tmp_path: Path, text: str) -> None:
    """Each one loads as it stands."""
    (tmp_path / "c.yaml").write_text(text)
    assert load_contract(tmp_path / "c.yaml").schema.fields


def test_there_are_examples() -> None:
    """Or the test above would prove nothing."""
    assert len(CONTRACTS) == 2


def test_every_key_type_and_mode_is_documented() -> None:
    """What a file may say is on the page, in code type."""
    words = set(re.findall(r"`([^`\n]+)`", PAGE))
    words |= {re.split(r"[(<]", word)[0] for word in words}
    assert set(KEYS) <= words
    assert FIELD_KEYS.union(*TYPE_KEYS.values()) <= words
    assert set(TYPE_NAMES) <= words
    assert {mode.value for mode in CompatibilityMode} <= words


def test_codes_and_numbers_are_those_of_the_code() -> None:
    """Reason codes, warning codes, the number of attempts."""
    source = Path(compatibility_warnings.__file__ or "").read_text(encoding="utf-8")
    for code in re.findall(r'Warned\(\n\s+"(\w+)"', source):
        assert f"`{code}`" in PAGE
    source = (Path(compatibility_warnings.__file__ or "").parent / "compatibility.py").read_text(encoding="utf-8")
    codes = re.findall(r'Difference\(\n\s+"(\w+)"', source)
    assert len(set(codes)) == 6
    for code in codes:
        assert f"`{code}`" in PAGE
    assert f"up to {ATTEMPTS_MAX} times" in PAGE


def test_every_code_of_a_failed_row_is_documented() -> None:
    """Those in the tables are those that the code can give."""
    sources = Path(compatibility_warnings.__file__ or "").parents[1].rglob("*.py")
    text = "".join(each.read_text(encoding="utf-8") for each in sources)
    codes = set(re.findall(r'"((?:decode|encode)\.\w+)"', text))
    codes |= {f"{kind}.{code}" for code in re.findall(r'BadValue\(\s*"(\w+)"', text) for kind in ("decode", "encode")}
    codes |= {f"encode.{code}" for code in re.findall(r'problems\.add\(\w+(?:\[[^\]]*\])?, "(\w+)"', text)}
    told = set(re.findall(r"^\|`((?:decode|encode)\.\w+)`\|", PAGE, re.MULTILINE))
    # What is wrong with one text or number is told by a wider code when it is written.
    inner = {"encode.invalid", "encode.schema_resolution", "decode.out_of_range"}
    assert told == codes - inner


def test_every_type_has_its_columns() -> None:
    """The mapping's table names each Avro type, and the Arrow and Polars types of the code."""
    table = PAGE.split("## Types as columns")[1].split("## ")[0]
    for name in [*PRIMITIVES, *UNDERLYING, "fixed", "enum", "record", "array", "map"]:
        short = re.sub(r"^(local-)?timestamp-(?=micros|nanos)", "-", name)
        assert f"`{name}`" in table or f"`{short}`" in table
    for dtype in (pl.Decimal, pl.Enum, pl.Datetime, pl.Time, pl.Date, pl.List, pl.Struct, pl.Binary, pl.String):
        assert f"`{dtype.__name__}`" in table
