"""Bytewax: J1 and J2, until the end of the input. Started as `python -m bytewax.run bytewax_worker:flow`.

It has no consumer group: it keeps its positions beside its state, and tells its progress itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import job
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow

BATCH_RECORDS = 1_000
ALIGN_TO = datetime(2026, 1, 1, tzinfo=UTC)

decode = job.decoder("order")
progress = job.Progress()
flow = Dataflow("peer")
orders = op.input("in", flow, KafkaSource([job.BOOTSTRAP], job.INPUTS, tail=not job.ENDS, batch_size=BATCH_RECORDS))


def row_of(message: Any) -> dict[str, Any]:
    progress.count()
    return decode(message.value)


if job.JOB == "filter_project":
    encode = job.encoder("paid_order")

    def filter_project(message: Any) -> KafkaSinkMessage | None:
        order = row_of(message)
        if order["status"] != "PAID":
            return None
        row = {name: order[name] for name in ("order_id", "customer_id", "ts", "amount")}
        return KafkaSinkMessage(message.key, encode(row))

    results = op.filter_map("filter_project", orders, filter_project)
elif job.JOB == "tumbling_sum":
    encode = job.encoder("total")

    def keyed(message: Any) -> tuple[str, dict[str, Any]]:
        order = row_of(message)
        return order["customer_id"], order

    def message_of(item: Any) -> KafkaSinkMessage:
        key, (number, (total, n)) = item
        start = int(ALIGN_TO.timestamp() * 1000) + number * job.WINDOW_MS
        return KafkaSinkMessage(
            key.encode(), encode({"customer_id": key, "window_start": start, "total": total, "n": n})
        )

    totals = windowing.fold_window(
        "totals",
        op.map("keyed", orders, keyed),
        windowing.EventClock(
            lambda order: datetime.fromtimestamp(order["ts"] / 1000, UTC),
            wait_for_system_duration=timedelta(milliseconds=job.GRACE_MS),
        ),
        windowing.TumblingWindower(length=timedelta(milliseconds=job.WINDOW_MS), align_to=ALIGN_TO),
        lambda: (0.0, 0),
        lambda total, order: (total[0] + order["amount"], total[1] + 1),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
    )
    results = op.map("message", totals.down, message_of)
else:
    raise SystemExit(f"no job {job.JOB}")
op.output("out", results, KafkaSink([job.BOOTSTRAP], job.OUTPUT))
