"""Both ways of the state: in NumPy and Polars, and in compiled code.

Owns which modules choose, and where the compiled way is skipped when it is not built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from headrace.engine import stream_time
from headrace.engine.aggregates import limbs, sums
from headrace.engine.operators import aggregate_window
from headrace.engine.state import arrays, int_keys, key_rows, slab, text_columns
from headrace.log import partitioner
from headrace.native import native

PLAIN, NATIVE = "plain", "native"
WAYS = (PLAIN, NATIVE)
_CHOOSERS = (aggregate_window, arrays, int_keys, key_rows, limbs, partitioner, slab, stream_time, sums, text_columns)


@contextlib.contextmanager
def taking(way: str) -> Iterator[None]:
    """What is made meanwhile takes this way."""
    if way == NATIVE and native is None:
        pytest.skip("headrace-native is not built, or left out by HEADRACE_NATIVE=0")
    with pytest.MonkeyPatch.context() as patch:
        for module in _CHOOSERS:
            patch.setattr(module, "native", native if way == NATIVE else None)
        yield


@pytest.fixture(scope="module", params=WAYS)
def each_way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The tests of a module, once on each way."""
    with taking(request.param):
        yield request.param
