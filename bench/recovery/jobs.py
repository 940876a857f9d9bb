"""The jobs of the recovery benchmark and their data.

Owns topics, contracts, pipelines and the generators.

- `totals`: sum and count by account, for ever; its state has one key for each account.
- `passed`: rows go through unchanged, to see how long they take.
- `forwarded`: the same, at least once: rows leave at once.
- `windows`: sum and count by account and minute; its state stays as large as a minute's accounts.
- `looked_up`: rows with their account's owner, from a compacted table that is loaded first.
- Accounts come in an order of no pattern, the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.flow.compile import compile_pipeline
from headrace.flow.plan import CompiledPipeline

TOPIC = "bench.payments"
CHUNK_ROWS = 200_000
PROBE = "probe-"
BEGIN_MS = 1_700_000_000_000
STRIDE = 2_654_435_761
"""A prime: steps of it visit every account of any smaller number once."""

CONTRACT = Contract(
    topic=TOPIC,
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Payment",
            "namespace": "bench",
            "fields": [
                {"name": "account", "type": "string"},
                {"name": "amount", "type": "double"},
                {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            ],
        }
    ),
    key=("account",),
    time="paid_at",
)
ACCOUNTS = Contract(
    topic="bench.accounts",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Account",
            "namespace": "bench",
            "fields": [
                {"name": "account", "type": "string"},
                {"name": "owner", "type": "string"},
                {"name": "tier", "type": "int"},
                {"name": "since", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            ],
        }
    ),
    kind=TopicKind.TABLE,
    key=("account",),
    time="since",
)
CONTRACTS: Mapping[str, Contract] = {TOPIC: CONTRACT, ACCOUNTS.topic: ACCOUNTS}


@hr.pipeline(owner="bench")
def totals() -> Any:
    """Sum and count by account."""
    sums = hr.stream(TOPIC).group_by("account").agg(total=hr.sum("amount"), payments=hr.count())
    return sums.to("bench.totals", emit="updates")


@hr.pipeline(owner="bench")
def passed() -> Any:
    """Every row, its time with it."""
    return hr.stream(TOPIC).filter(col("amount") > 0).select("account", "amount", "paid_at").to("bench.passed")


@hr.pipeline(owner="bench", delivery="at_least_once")
def forwarded() -> Any:
    """As `passed`, without transactions."""
    return hr.stream(TOPIC).filter(col("amount") > 0).select("account", "amount", "paid_at").to("bench.forwarded")


@hr.pipeline(owner="bench")
def windows() -> Any:
    """Sum and count by account and minute."""
    grouped = hr.stream(TOPIC).group_by("account").window(hr.tumbling("60s", grace="5s"))
    return grouped.agg(total=hr.sum("amount"), payments=hr.count()).to("bench.windows", emit="updates")


@hr.pipeline(owner="bench")
def looked_up() -> Any:
    """Every row with its account's owner."""
    joined = hr.stream(TOPIC).join(hr.table(ACCOUNTS.topic), on="account")
    return joined.select("account", "amount", "owner", "tier").to("bench.looked_up")


JOBS: Mapping[str, Any] = {
    "totals": totals,
    "passed": passed,
    "forwarded": forwarded,
    "windows": windows,
    "looked_up": looked_up,
}


def compiled(job: str) -> CompiledPipeline:
    """The job, ready to run."""
    return compile_pipeline(JOBS[job], CONTRACTS)


def payments(accounts: int, rows: int, first: int = 0) -> Iterator[pl.DataFrame]:
    """So many payments in pieces, by all accounts in turn."""
    for start in range(first, first + rows, CHUNK_ROWS):
        numbers = np.arange(start, min(start + CHUNK_ROWS, first + rows), dtype=np.int64)
        account = (numbers * STRIDE) % accounts
        yield pl.DataFrame(
            {
                "account": pl.Series(account).cast(pl.String).str.zfill(8),
                "amount": (account % 997 + 1).astype(np.float64),
                "paid_at": pl.Series(BEGIN_MS + numbers // 100).cast(pl.Datetime("ms", "UTC")),
            }
        ).with_columns(pl.format("account-{}", pl.col("account")).alias("account"))


def accounts(count: int) -> pl.DataFrame:
    """The table of accounts, each once."""
    numbers = pl.select(account=pl.int_range(count)).to_series()
    return pl.DataFrame(
        {
            "account": numbers.cast(pl.String).str.zfill(8),
            "owner": pl.select(pl.format("Owner of number {}", numbers)).to_series(),
            "tier": (numbers % 5).cast(pl.Int32),
            "since": pl.repeat(BEGIN_MS, count, eager=True).cast(pl.Datetime("ms", "UTC")),
        }
    ).with_columns(pl.format("account-{}", pl.col("account")).alias("account"))


def probe(number: int) -> pl.DataFrame:
    """One payment by an account that nobody else has."""
    paid_at = pl.Series([BEGIN_MS]).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame({"account": [f"{PROBE}{number}"], "amount": [1.0], "paid_at": paid_at})


def probes_of(frame: pl.DataFrame) -> list[int]:
    """The numbers of the probes among these rows."""
    accounts = frame["account"].filter(frame["account"].str.starts_with(PROBE))
    return accounts.str.strip_prefix(PROBE).cast(pl.Int64).to_list()


def payments_at(accounts: int, times_ms: npt.NDArray[np.int64], first: int = 0) -> pl.DataFrame:
    """Payments that are made at these moments."""
    piece = pl.concat(payments(accounts, len(times_ms), first=first))
    return piece.with_columns(pl.Series("paid_at", times_ms).cast(pl.Datetime("ms", "UTC")))
