"""Pathway: J1, raw bytes in and one Python function a row, until the end of the input.

It has no consumer group here and keeps no positions; it tells its progress itself.
"""

from __future__ import annotations

import job
import pathway as pw

decode, encode = job.decoder("order"), job.encoder("paid_order")
progress = job.Progress()


def filter_project(value: bytes) -> bytes | None:
    progress.count()
    order = decode(value)
    if order["status"] != "PAID":
        return None
    return encode({name: order[name] for name in ("order_id", "customer_id", "ts", "amount")})


if job.JOB != "filter_project":
    raise SystemExit(f"no job {job.JOB}")
settings = {"bootstrap.servers": job.BOOTSTRAP, "group.id": job.GROUP, "auto.offset.reset": "earliest"}
orders = pw.io.kafka.read(settings, job.INPUTS[0], mode="static", format="raw", autogenerate_key=True)
rows = orders.select(data=pw.apply_with_type(filter_project, bytes | None, pw.this.data))
paid = rows.filter(pw.this.data.is_not_none()).select(data=pw.unwrap(pw.this.data))
pw.io.kafka.write(paid, {"bootstrap.servers": job.BOOTSTRAP}, job.OUTPUT, format="raw")
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
