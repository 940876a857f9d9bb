"""The ways in which records are read: all give the same, so that one suite runs them.

- `native`: by the compiled reader; left out where `headrace-native` is not installed.
- `side_by_side`: many records at once, in NumPy, however few there are.
- `one_by_one`: each record alone, the way that names what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest

from headrace.contracts import fastavro_codec
from headrace.contracts.binary import reading
from headrace.contracts.codec import Decoded
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.native import native

_ROWS_MIN = {"native": 48, "side_by_side": 1, "one_by_one": 1_000_000}

needs_native = pytest.mark.skipif(native is None, reason="headrace-native is not installed")
WAYS = [way for way in _ROWS_MIN if native is not None or way != "native"]
each_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=needs_native if way == "native" else ()) for way in _ROWS_MIN]
)


@contextmanager
def read_by(way: str) -> Iterator[None]:
    """Codecs opened in here read this way, as long as they decode in here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastavro_codec, "native", native if way == "native" else None)
        patch.setattr(reading, "VECTOR_ROWS_MIN", _ROWS_MIN[way])
        yield


def decode_by(way: str, codec: AvroCodec, values: pa.LargeBinaryArray) -> Decoded:
    """What another codec of the same schema gives, reading this way."""
    with read_by(way):
        return open_codec(codec.schema, codec._registry, codec.subject).decode(values)
