"""Where rows lie, who is asked for them, and what HTTP says: without a broker, with workers that work when told to."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.contracts.contract import Contract
from headrace.engine.metrics import EngineMetrics
from headrace.engine.orders import Orders
from headrace.engine.queries import Answer
from headrace.testing import Driver
from headrace.workspace import tables as tables_module
from headrace.workspace.config import HttpConfig
from headrace.workspace.control import ControlTopic
from headrace.workspace.health import Health
from headrace.workspace.http_server import HttpServer
from headrace.workspace.load import Workspace, load
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus
from headrace.workspace.table_directory import Listed, Places, TableDirectory
from headrace.workspace.table_errors import TableAway, TableNotHeld, TableUnknown
from headrace.workspace.table_owners import TableOwners, address_of
from headrace.workspace.tables import Asked, Piece, Tables
from headrace.workspace.tables_http import FORWARDED, TablesHttp

HOST = "127.0.0.1"
PARTITIONS = 5
CUSTOMERS = """
topic: customers
owner: shop
kind: table
key: name
fields:
  name: string
  city: string?
"""
ORDERS = """
topic: orders
owner: shop
key: customer
time: placed_at
fields:
  order_id:  string
  customer:  string
  amount:    double
  placed_at: timestamp-millis
"""
PIPELINE = '''
import headrace as hr
from headrace import col


@hr.pipeline(owner="shop")
def totals():
    orders = hr.stream("orders")
    by_customer = orders.group_by("customer").agg(n=hr.count())
    return (
        by_customer.rename({"customer": "who"}).filter(col("n") > 0).to("by.customer"),
        orders.group_by("order_id").agg(n=hr.count()).to("by.order"),
        orders.with_columns(size=col("amount").cast(int)).group_by("size", "customer").agg(n=hr.count()).to("by.both"),
        orders.join(hr.table("customers"), on="customer", right_on="name").to("with.city", key="customer")
        if False
        else orders.join(hr.table("customers"), left_on="customer", right_on="name").to("with.city", key="customer"),
        orders.as_table("customer").to("latest"),
    )
'''
