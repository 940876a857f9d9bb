"""headrace: stream processing on Kafka topics with contracts.

The public names, each loaded from its room when it is first used: a service that only publishes loads no engine, and
`headrace --help` loads no Polars. No room imports this module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polars import col as col
    from polars import lit as lit
    from polars import when as when

    from headrace.errors import Fault as Fault
    from headrace.errors import HeadraceError as HeadraceError
    from headrace.errors import Where as Where
    from headrace.flow.aggregates import collect as collect
    from headrace.flow.aggregates import count as count
    from headrace.flow.aggregates import count_distinct as count_distinct
    from headrace.flow.aggregates import first as first
    from headrace.flow.aggregates import last as last
    from headrace.flow.aggregates import max as max
    from headrace.flow.aggregates import mean as mean
    from headrace.flow.aggregates import min as min
    from headrace.flow.aggregates import quantile as quantile
    from headrace.flow.aggregates import std as std
    from headrace.flow.aggregates import sum as sum
    from headrace.flow.aggregates import top_k as top_k
    from headrace.flow.aggregates import var as var
    from headrace.flow.aggregator import Aggregator as Aggregator
    from headrace.flow.broadcast import broadcast as broadcast
    from headrace.flow.errors import PipelineInvalid as PipelineInvalid
    from headrace.flow.pipeline import pipeline as pipeline
    from headrace.flow.processor import Processor as Processor
    from headrace.flow.processor import ProcessorContext as ProcessorContext
    from headrace.flow.rows import Table as Table
    from headrace.flow.rows import table as table
    from headrace.flow.stream import Stream as Stream
    from headrace.flow.stream import stream as stream
    from headrace.flow.suppression import at_most as at_most
    from headrace.flow.suppression import until as until
    from headrace.flow.suppression import until_closed as until_closed
    from headrace.flow.windows import hopping as hopping
    from headrace.flow.windows import session as session
    from headrace.flow.windows import sliding as sliding
    from headrace.flow.windows import tumbling as tumbling
    from headrace.ingress.outbox import Outbox as Outbox
    from headrace.ingress.publisher import Publisher as Publisher

_HOMES = {
    "Aggregator": "headrace.flow.aggregator",
    "Fault": "headrace.errors",
    "HeadraceError": "headrace.errors",
    "Outbox": "headrace.ingress.outbox",
    "PipelineInvalid": "headrace.flow.errors",
    "Processor": "headrace.flow.processor",
    "ProcessorContext": "headrace.flow.processor",
    "Publisher": "headrace.ingress.publisher",
    "Stream": "headrace.flow.stream",
    "Table": "headrace.flow.rows",
    "Where": "headrace.errors",
    "at_most": "headrace.flow.suppression",
    "broadcast": "headrace.flow.broadcast",
    "col": "polars",
    "collect": "headrace.flow.aggregates",
    "count": "headrace.flow.aggregates",
    "count_distinct": "headrace.flow.aggregates",
    "first": "headrace.flow.aggregates",
    "hopping": "headrace.flow.windows",
    "last": "headrace.flow.aggregates",
    "lit": "polars",
    "max": "headrace.flow.aggregates",
    "mean": "headrace.flow.aggregates",
    "min": "headrace.flow.aggregates",
    "pipeline": "headrace.flow.pipeline",
    "quantile": "headrace.flow.aggregates",
    "session": "headrace.flow.windows",
    "sliding": "headrace.flow.windows",
    "std": "headrace.flow.aggregates",
    "stream": "headrace.flow.stream",
    "sum": "headrace.flow.aggregates",
    "table": "headrace.flow.rows",
    "top_k": "headrace.flow.aggregates",
    "tumbling": "headrace.flow.windows",
    "until": "headrace.flow.suppression",
    "until_closed": "headrace.flow.suppression",
    "var": "headrace.flow.aggregates",
    "when": "polars",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
