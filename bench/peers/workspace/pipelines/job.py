"""One job of the benchmark as a pipeline: which, and over which topics, stands in the environment."""

import os

import headrace as hr
from headrace import col

INPUTS = os.environ["BENCH_INPUTS"].split(",")
OUTPUT = os.environ["BENCH_OUTPUT"]


def filter_project():
    """J1: paid orders, four columns."""
    paid = hr.stream(INPUTS[0]).filter(col("status") == "PAID")
    return paid.select("order_id", "customer_id", "ts", "amount").to(OUTPUT)


def tumbling_sum():
    """J2: sum and count by customer and minute."""
    windows = hr.stream(INPUTS[0]).group_by("customer_id").window(hr.tumbling("60s", grace="10s"))
    return windows.agg(total=hr.sum("amount"), n=hr.count()).to(OUTPUT, emit="updates")


def customer_join():
    """J3: orders with their customer."""
    joined = hr.stream(INPUTS[0]).join(hr.table(INPUTS[1]), on="customer_id")
    return joined.select("order_id", "customer_id", "ts", "amount", "name", "country", "tier").to(OUTPUT)


def payment_join():
    """SSJ: orders with the payments of the next ten seconds."""
    joined = hr.stream(INPUTS[0]).join(hr.stream(INPUTS[1]), on="customer_id", after="10s", grace="10s")
    columns = ("order_id", "customer_id", "ts", "amount", "payment_id", "paid_at", "cents")
    return joined.select(*columns).to(OUTPUT)


JOBS = {each.__name__: each for each in (filter_project, tumbling_sum, customer_join, payment_join)}

hr.pipeline(
    owner="bench",
    name=os.environ["BENCH_PIPELINE"],
    delivery=os.environ["BENCH_DELIVERY"],
    commit_interval=os.environ["BENCH_COMMIT_INTERVAL_MS"] + "ms",
)(JOBS[os.environ["BENCH_JOB"]])
