"""What must have come of the input, and whether it has.

Owns reading the topics of a scene and the oracle over them.

- The oracle reads the input topics, so it knows what the broker holds and nothing of what the workers did.
- `missing` may heal while workers go on; `wrong` never does.
- At least once, rows may be there more often and counts may be higher; none may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.contracts.contract import Contract
from headrace.contracts.polars_types import to_polars
from headrace.engine.operator import PARTITION, TIME
from headrace.engine.topic_reader import TopicReader
from headrace.log.port import RecordBatch, TopicPartition
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from tests.faults.workload import GRACE_MS, LARGE, WINDOW_MS, Names

SHOWN = 5
"""Rows of each difference that a message shows."""
READ_PATIENCE_ROUNDS = 200


@dataclass(slots=True)
class Verdict:
    """Differences between what is there and what must be."""

    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is none."""
        return not self.missing and not self.wrong

    def __str__(self) -> str:
        return "; ".join([*self.wrong, *self.missing]) or "no difference"

    def compare(self, what: str, found: pl.DataFrame, expected: pl.DataFrame, *, more_is_wrong: bool = True) -> None:
        """Note the difference of two bags of rows."""
        columns = expected.columns
        count = pl.len().cast(pl.Int64)
        here = found.select(columns).cast(dict(expected.schema)).group_by(columns).agg(found=count)
        due = expected.group_by(columns).agg(due=count)
        both = due.join(here, on=columns, how="full", coalesce=True, nulls_equal=True)
        both = both.with_columns(pl.col("found", "due").fill_null(0))
        self._note(self.missing, f"{what}: missing", both.filter(pl.col("found") < pl.col("due")))
        extra = pl.col("found") > pl.col("due") if more_is_wrong else pl.col("due") == 0
        self._note(self.wrong, f"{what}: too many", both.filter(extra))

    def _note(self, where: list[str], what: str, rows: pl.DataFrame) -> None:
        if rows.height:
            where.append(f"{what} {rows.height} rows, such as {rows.head(SHOWN).to_dicts()}")

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


def _empty(contract: Contract) -> pl.DataFrame:
    return pl.DataFrame(schema={**to_polars(contract.value_schema), PARTITION: pl.Int32, TIME: pl.Int64})


class Topics:
    """Everything read-committed in a scene's topics."""

    def __init__(self, environment: Environment, workspace: Workspace) -> None:
        self._environment = environment
        self._contracts = {**workspace.contracts, **workspace.topics}

    def rows(self, topic: str, *, like: str | None = None, bad: list[bytes | None] | None = None) -> pl.DataFrame:
        """All rows by partition and offset, with system columns; `like` names the topic whose contract they follow.
        Values that are no rows are added to `bad`, or fail."""
        reader = TopicReader(self._contracts[like or topic], self._environment.registry)
        frames = [_empty(reader.contract)]
        for batch in self.batches(topic):
            found = reader.read(batch)
            assert bad is not None or not found.bad, found.bad
            (bad if bad is not None else []).extend(batch.value[each.row].as_py() for each in found.bad)
            frames.append(found.frame)
        return pl.concat(frames[1:] or frames)

    def batches(self, topic: str) -> list[RecordBatch]:
        """All records by partition and offset."""
        log = self._environment.log
        admin, consumer = log.admin(), log.consumer()
        try:
            partitions = admin.topics(internal=True)[topic].partitions
            here = [TopicPartition(topic, number) for number in range(partitions)]
            begins, ends = consumer.beginning_offsets(here), consumer.end_offsets(here)
            here = [each for each in here if ends[each] > begins[each]]
            consumer.assign(dict.fromkeys(here, -2))
            batches: list[RecordBatch] = []
            for _ in range(READ_PATIENCE_ROUNDS):
                if all(position >= ends[each] for each, position in consumer.position(here).items()):
                    return batches
                batches.extend(consumer.poll(100_000, 0.3))
            raise AssertionError(f"{topic} cannot be read to its end")
        finally:
            consumer.close()
            admin.close()


def judge(environment: Environment, workspace: Workspace, *, at_least: bool = False, ended: bool = False) -> Verdict:
    """Compare everything. `ended`: the rows that close all windows were published and processed."""
    topics, names, verdict = Topics(environment, workspace), Names(workspace.name), Verdict()

    def rows(topic: str) -> pl.DataFrame:
        return topics.rows(names.topic(topic))

    bytes_sent: list[bytes | None] = []
    bytes_kept: list[bytes | None] = []
    orders = topics.rows(names.topic("orders"), bad=bytes_sent)
    exact = not at_least
    good, bad = orders.filter(pl.col("note") != "bad"), orders.filter(pl.col("note") == "bad")
    large = orders.filter(pl.col("amount") >= LARGE).select("order_id", "customer", "amount")
    verdict.compare("orders.large", rows("orders.large"), large, more_is_wrong=exact)
    priced = good.select("order_id", "customer", price=pl.col("amount") * 3)
    verdict.compare("orders.priced", rows("orders.priced"), priced, more_is_wrong=exact)
    letters = topics.rows(names.dead_letters, like=names.topic("orders"), bad=bytes_kept)
    verdict.compare("dead letters", letters, bad.select("order_id"), more_is_wrong=exact)
    kept, sent = (pl.DataFrame({"value": each}, schema={"value": pl.Binary}) for each in (bytes_kept, bytes_sent))
    verdict.compare("dead letters of what is no order", kept, sent, more_is_wrong=exact)
    enriched = _enriched(orders, rows("customers"))
    verdict.compare("orders.enriched", rows("orders.enriched"), enriched, more_is_wrong=exact)
    _judge_totals(verdict, rows("customers.totals"), orders, exact=exact)
    _judge_windows(verdict, rows("sales.by_minute"), orders, exact=exact, ended=ended)
    return verdict


def _enriched(orders: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    """Each order with the newest tier that is not newer than the order."""
    tiers = customers.sort("changed_at").select("customer", "changed_at", "tier")
    found = orders.sort("placed_at").join_asof(
        tiers, left_on="placed_at", right_on="changed_at", by="customer", check_sortedness=False
    )
    return found.select("order_id", "customer", "amount", "tier")


def _judge_totals(verdict: Verdict, updates: pl.DataFrame, orders: pl.DataFrame, *, exact: bool) -> None:
    """The table's last rows equal a recount, and no update ever counted less than the one before it."""
    recount = orders.group_by("customer").agg(orders=pl.len().cast(pl.Int64), amount=pl.col("amount").sum())
    last = updates.unique("customer", keep="last", maintain_order=True).select("customer", "orders", "amount")
    both = recount.join(last, on="customer", how="full", coalesce=True, suffix="_found")
    found, due = pl.col("orders_found").fill_null(0), pl.col("orders").fill_null(0)
    verdict._note(verdict.missing, "customers.totals: behind", both.filter(found < due))
    if exact:
        differs = (found > due) | ((found == due) & (pl.col("amount_found") != pl.col("amount")))
        verdict._note(verdict.wrong, "customers.totals: differ from a recount", both.filter(differs))
        falls = updates.filter((pl.col("orders").diff() <= 0).over("customer"))
        verdict._note(verdict.wrong, "customers.totals: counted backwards", falls)


def _judge_windows(verdict: Verdict, found: pl.DataFrame, orders: pl.DataFrame, *, exact: bool, ended: bool) -> None:
    """Closed windows equal a recount; those that must be closed are there, and none is there twice or too early."""
    window_start = (pl.col(TIME) // WINDOW_MS * WINDOW_MS).cast(pl.Datetime("ms", "UTC"))
    recount = orders.with_columns(window_start=window_start).group_by("product", "window_start")
    due = recount.agg(orders=pl.len().cast(pl.Int64), amount=pl.col("amount").sum())
    times = orders.group_by(PARTITION).agg(pl.col(TIME).max())[TIME]
    if not len(times):
        return
    closes_ms = pl.col("window_start").dt.epoch("ms") + WINDOW_MS + GRACE_MS
    first, last = times.min(), times.max()
    must = due.filter(closes_ms <= first)
    keys = ["product", "window_start"]
    there = found.select(due.columns).cast(dict(due.schema))
    if ended:
        verdict.require(bool(must.height), "no window had to close: the test proves nothing")
    open_still = there.filter(closes_ms > last)
    verdict._note(verdict.wrong, "sales.by_minute: windows that are open", open_still)
    if exact:
        verdict.compare("sales.by_minute", there, must.vstack(_early(there, due, first, closes_ms)))
    else:
        verdict._note(verdict.missing, "sales.by_minute: missing", must.join(there, on=keys, how="anti"))
        low = there.join(due, on=keys, how="left", suffix="_due").filter(pl.col("orders") < pl.col("orders_due"))
        verdict._note(verdict.wrong, "sales.by_minute: counted too little", low)


def _early(there: pl.DataFrame, due: pl.DataFrame, first_ms: object, closes_ms: pl.Expr) -> pl.DataFrame:
    """Windows that some partitions have passed and others not: they may be closed, and are then right, once."""
    may = due.filter(closes_ms > first_ms)
    return may.join(there.select("product", "window_start").unique(), on=["product", "window_start"], how="semi")


def shown(problems: Sequence[str]) -> str:
    """Problems as the end of a message."""
    return "\n".join(f"- {problem}" for problem in problems)
