"""Stand-ins for untold values, found in columns as they are found in single values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.debezium.unavailable import PLACEHOLDER, UnavailableValues
from headrace.contracts.debezium.unavailable_columns import unavailable_rows

VALUES = UnavailableValues()
CODES = list(PLACEHOLDER.encode())
texts = st.one_of(st.sampled_from(sorted(VALUES.texts)), st.sampled_from(VALUES.items), st.text(max_size=3))
numbers = st.one_of(st.just(CODES), st.lists(st.sampled_from([95, None]), max_size=30), st.just([95] * len(CODES)))
pairs = st.lists(st.tuples(texts, st.one_of(texts, st.none())), max_size=2, unique_by=lambda pair: pair[0])
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), texts),
    "bytes": (pa.binary(), st.one_of(st.just(PLACEHOLDER.encode()), st.binary(max_size=3))),
    "texts": (pa.list_(pa.string()), st.lists(st.one_of(texts, st.none()), max_size=2)),
    "integers": (pa.list_(pa.int64()), numbers),
    "doubles": (pa.list_(pa.float64()), numbers),
    "map": (pa.map_(pa.string(), pa.string()), pairs),
    "other map": (pa.map_(pa.string(), pa.int64()), st.just([("a", 1)])),
    "number": (pa.int64(), st.integers(0, 5)),
}


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_columns_agree_with_single_values(name: str, data: st.DataObject) -> None:
    """Every type that a connector writes a stand-in in, nulls and sliced and chunked columns among them."""
    of, values = COLUMNS[name]
    plain = data.draw(st.lists(st.one_of(values, st.none()), max_size=6))
    array = pa.array(plain, of)
    expected = [(dict(value) if pa.types.is_map(of) and value is not None else value) in VALUES for value in plain]
    assert unavailable_rows(array, VALUES).tolist() == expected
    cut = data.draw(st.integers(0, len(plain)))
    assert unavailable_rows(array.slice(cut), VALUES).tolist() == expected[cut:]
    chunks = pa.chunked_array([array.slice(0, cut), array.slice(cut)])
    assert unavailable_rows(chunks, VALUES).tolist() == expected
