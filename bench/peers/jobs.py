"""The jobs by name: what each reads, does and writes.

Owns the catalogue. How a system does a job is in `workers/` and `workspace/`; what comes out is in `oracle`.

| job | what |
|---|---|
| J1 | filter and project, Avro to Avro |
| J2 | sum and count by customer and minute, at least once |
| J3 | orders with their customer from a compacted table |
| J4 | J2, exactly once |
| SSJ | orders with the payments of the same customer of the next ten seconds |
| L1, L1-EOS | latency of J1 at a fixed rate, at least and exactly once |
| RESTORE | the state of 5 million keys comes back from its changelog |
| TABLE | a compacted table of a million rows is loaded to be looked up |
| NEXMARK, NEXMARK-KAFKA | the queries of bench/nexmark |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"
MANY_KEYS = 100_000

Kind = Literal["throughput", "latency", "restore", "nexmark"]


@dataclass(frozen=True, slots=True)
class Job:
    """One job."""

    name: str
    task: str
    """Its name in the workers."""
    keys: tuple[int, ...]
    """One measurement for each."""
    inputs: tuple[str, ...]
    """Kinds of data: `orders` first."""
    schema: str
    """Of what it writes."""
    delivery: str = AT_LEAST_ONCE
    kind: Kind = "throughput"
    commit_intervals_ms: tuple[int, ...] = ()
    """Instead of the interval of all jobs; one measurement for each."""


JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        Job("J1", "filter_project", (1_000,), ("orders",), "paid_order"),
        Job("J2", "tumbling_sum", (1_000, MANY_KEYS, 1_000_000), ("orders",), "total"),
        Job("J3", "customer_join", (MANY_KEYS,), ("orders", "customers"), "enriched_order"),
        Job("J4", "tumbling_sum", (1_000, MANY_KEYS), ("orders",), "total", EXACTLY_ONCE),
        Job("SSJ", "payment_join", (MANY_KEYS,), ("orders", "payments"), "order_payment"),
        Job("L1", "filter_project", (1_000,), ("orders",), "paid_order", kind="latency"),
        Job(
            "L1-EOS",
            "filter_project",
            (1_000,),
            ("orders",),
            "paid_order",
            EXACTLY_ONCE,
            "latency",
            commit_intervals_ms=(100, 20),
        ),
        Job("RESTORE", "account_totals", (5_000_000,), ("payments",), "", EXACTLY_ONCE, "restore"),
        Job("TABLE", "looked_up", (1_000_000,), (), "", EXACTLY_ONCE, "restore"),
        Job("NEXMARK", "", (0,), (), "", EXACTLY_ONCE, "nexmark"),
        Job("NEXMARK-KAFKA", "", (0,), (), "", EXACTLY_ONCE, "nexmark"),
    )
}
