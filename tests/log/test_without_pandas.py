"""A worker that does not use pandas does not load it; one that does has all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEFT_OUT = """
import sys
import pyarrow as pa
from headrace.log.without_pandas import leave_pandas_out
leave_pandas_out()
pa.array([b"x"])
assert "pandas" not in sys.modules
"""
LATER = """
import pandas as pd
import polars as pl
holey = pd.Series([1.0, float("nan")])
assert pa.array(holey).null_count == 1
assert pa.array(pd.Series(["x", None])).null_count == 1
assert pl.from_pandas(pd.DataFrame({"a": holey}))["a"].null_count() == 1
assert pa.table({"a": [1]}).to_pandas()["a"].tolist() == [1]
assert type(pd.__spec__.loader).__name__ != "_Telling"
"""
BEFORE = """
import pandas as pd
import pyarrow as pa
from headrace.log.without_pandas import leave_pandas_out
leave_pandas_out()
assert pa.array(pd.Series([float("nan")])).null_count == 1
"""


@pytest.mark.parametrize("program", [LEFT_OUT, LEFT_OUT + LATER, BEFORE], ids=["left out", "later", "before"])
def test_pandas_is_there_for_who_asks(program: str) -> None:
    """In a process of its own: PyArrow looks once."""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
