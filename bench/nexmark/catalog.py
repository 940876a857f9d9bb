"""The queries by name.

Owns which there are, and which of them need a tick: final results of a window come when time has passed its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bench.nexmark.events import CONTRACTS
from bench.nexmark.queries import q0, q1, q2, q3, q4, q5, q7, q8, q11, q14, q17, q18, q19, q20, q21, q22
from headrace.contracts.contract import Contract
from headrace.flow.compile import compile_pipeline
from headrace.flow.derived import derived_contract
from headrace.flow.pipeline import Pipeline
from headrace.flow.plan import CompiledPipeline


@dataclass(frozen=True)
class Query:
    """A pipeline and the same question as SQL over the tables `persons`, `auctions` and `bids`."""

    pipeline: Pipeline
    sql: str
    needs_tick: bool = False

    @property
    def name(self) -> str:
        return self.pipeline.name

    @cached_property
    def compiled(self) -> CompiledPipeline:
        """The pipeline over the contracts of the events."""
        return compile_pipeline(self.pipeline, CONTRACTS)

    @cached_property
    def result(self) -> Contract:
        """The contract of the topic it writes."""
        plan = self.compiled.plan
        return derived_contract(plan, plan.outputs[0])


QUERIES: Mapping[str, Query] = {
    query.name: query
    for query in (
        Query(q0.q0, q0.SQL),
        Query(q1.q1, q1.SQL),
        Query(q2.q2, q2.SQL),
        Query(q3.q3, q3.SQL),
        Query(q4.q4, q4.SQL),
        Query(q5.q5, q5.SQL, needs_tick=True),
        Query(q7.q7, q7.SQL, needs_tick=True),
        Query(q8.q8, q8.SQL, needs_tick=True),
        Query(q11.q11, q11.SQL, needs_tick=True),
        Query(q14.q14, q14.SQL),
        Query(q17.q17, q17.SQL),
        Query(q18.q18, q18.SQL),
        Query(q19.q19, q19.SQL),
        Query(q20.q20, q20.SQL),
        Query(q21.q21, q21.SQL),
        Query(q22.q22, q22.SQL),
    )
}
