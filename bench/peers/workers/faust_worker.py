"""Faust: J1 and J2, until SIGTERM. Started as `faust_worker.py worker`."""

from __future__ import annotations

from datetime import timedelta

import faust
import job

decode = job.decoder("order")
application = faust.App(
    job.GROUP,
    broker=f"kafka://{job.BOOTSTRAP}",
    key_serializer="raw",
    value_serializer="raw",
    datadir=job.STATE,
    store="rocksdb://" if job.JOB == "tumbling_sum" else "memory://",
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=job.COMMIT_INTERVAL_S,
    topic_disable_leader=True,
    topic_partitions=job.PARTITIONS,
    topic_replication_factor=1,
    web_enabled=False,
)
orders = application.topic(job.INPUTS[0], key_type=bytes, value_type=bytes)
output = application.topic(job.OUTPUT, key_type=bytes, value_type=bytes)

if job.JOB == "filter_project":
    encode = job.encoder("paid_order")

    @application.agent(orders)
    async def filter_project(stream):
        async for key, value in stream.items():
            order = decode(value)
            if order["status"] == "PAID":
                row = {name: order[name] for name in ("order_id", "customer_id", "ts", "amount")}
                await output.send(key=key, value=encode(row))

elif job.JOB == "tumbling_sum":
    encode = job.encoder("total")
    schema = faust.Schema(key_type=str, value_type=None, key_serializer="json", value_serializer="json")
    table = application.Table("totals", default=lambda: [0.0, 0], partitions=job.PARTITIONS, schema=schema)
    sums = table.tumbling(timedelta(milliseconds=job.WINDOW_MS), expires=timedelta(days=2))

    @application.agent(orders)
    async def tumbling_sum(stream):
        async for key, value in stream.items():
            order = decode(value)
            customer, start = order["customer_id"], order["ts"] // job.WINDOW_MS * job.WINDOW_MS
            total, n = sums[customer].value()
            sums[customer] = [total + order["amount"], n + 1]
            row = {"customer_id": customer, "window_start": start, "total": total + order["amount"], "n": n + 1}
            await output.send(key=key, value=encode(row))

else:
    raise SystemExit(f"no job {job.JOB}")

if __name__ == "__main__":
    application.main()
