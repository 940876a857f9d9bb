"""Quix Streams: J1 to J4, until SIGTERM.

Not the join of two streams: `join_interval` of 3.28 looks for partners with earlier times alone, so that a row that
comes late misses those that came before it.
"""

from __future__ import annotations

import os
from typing import Any

import job
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum
from quixstreams.models import Deserializer, Serializer


class AvroDeserializer(Deserializer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._decode = job.decoder(name)

    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:
        return self._decode(value)


class AvroSerializer(Serializer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._encode = job.encoder(name)

    def __call__(self, value: dict[str, Any], ctx: Any) -> bytes:
        return self._encode(value)


linger = os.environ.get("BENCH_LINGER_MS")
application = Application(
    broker_address=job.BOOTSTRAP,
    consumer_group=job.GROUP,
    auto_offset_reset="earliest",
    state_dir=job.STATE,
    processing_guarantee=job.DELIVERY.replace("_", "-"),
    commit_interval=job.COMMIT_INTERVAL_S,
    producer_extra_config={"linger.ms": int(linger)} if linger else None,
    loglevel="WARNING",
)


def topic(number: int, schema: str) -> Any:
    return application.topic(job.INPUTS[number], key_deserializer="string", value_deserializer=AvroDeserializer(schema))


def output(schema: str) -> Any:
    return application.topic(job.OUTPUT, key_serializer="string", value_serializer=AvroSerializer(schema))


def paid(order: dict[str, Any]) -> dict[str, Any]:
    return {name: order[name] for name in ("order_id", "customer_id", "ts", "amount")}


def totals(window: dict[str, Any], key: str, *_: Any) -> dict[str, Any]:
    return {"customer_id": key, "window_start": window["start"], "total": window["total"], "n": window["n"]}


def enriched(order: dict[str, Any], customer: dict[str, Any]) -> dict[str, Any]:
    return {**paid(order), "name": customer["name"], "country": customer["country"], "tier": customer["tier"]}


orders = application.dataframe(topic(0, "order"))
if job.JOB == "filter_project":
    rows, written = orders.filter(lambda order: order["status"] == "PAID").apply(paid), output("paid_order")
elif job.JOB == "tumbling_sum":
    window = orders.tumbling_window(job.WINDOW_MS, grace_ms=job.GRACE_MS)
    rows = window.agg(total=Sum("amount"), n=Count()).current().apply(totals, metadata=True)
    written = output("total")
elif job.JOB == "customer_join":
    customers = application.dataframe(topic(1, "customer"))
    rows, written = orders.join_asof(customers, how="inner", on_merge=enriched), output("enriched_order")
else:
    raise SystemExit(f"no job {job.JOB}")
rows.to_topic(written)
application.run()
