"""Targets of `python -m bench egress`: one function each. Here are databases and files.

A function takes a folder and the mode, and yields a `Target`: how headrace's connector reaches it, how many rows it
holds, and what else writes the same rows for comparison. `TARGETS` names them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import egress_services as services
from bench.egress_target import NAIVE_ROWS_MAX, Rival, Row, Target
from bench.peers.installing import ROOT, WORKERS, python_of
from headrace.egress.sdk import Mode

NAIVE_COMMIT_ROWS = 1_000
NAIVE_APPEND_ROWS = 100
NAIVE_APPENDS_MAX = 20
"""Each makes its table's list of snapshots longer, and the next one slower."""
PEER_TIMEOUT_S = 600.0


@contextmanager
def postgres(folder: Path, mode: Mode) -> Iterator[Target]:
    """A server of this run alone; beside a loop and Quix Streams' sink."""
    import psycopg

    from headrace.testing.postgres import running_postgres

    with running_postgres() as server, psycopg.connect(server.url, autocommit=True) as admin:

        def quix(rows: Sequence[Row], keys: int) -> float:
            parts = urlsplit(server.url)
            done = subprocess.run(
                [
                    *(str(python_of("quix_postgres")), str(WORKERS / "quix_postgres_sink.py"), str(parts.hostname)),
                    *(str(parts.port), "quix", str(len(rows)), str(keys), mode.value),
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                timeout=PEER_TIMEOUT_S,
                check=True,
            )
            return float(json.loads(done.stdout.splitlines()[-1])["seconds"])

        admin.execute(f"CREATE TABLE naive (id bigint {_key(mode)}, customer text, amount float8, note text)")
        otherwise = (
            " ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, amount = excluded.amount,"
            " note = excluded.note"
        )
        statement = "INSERT INTO naive VALUES (%(id)s, %(customer)s, %(amount)s, %(note)s)"
        with psycopg.connect(server.url) as client:
            naive = _loop(client, statement + (otherwise if mode is Mode.UPSERT else ""))
            yield Target(
                {"database": server.url, "table": "target"},
                lambda: _first(admin.execute("SELECT count(*) FROM target").fetchone()),
                {"naive": Rival(naive, NAIVE_ROWS_MAX), "quix": Rival(quix)},
            )


@contextmanager
def mysql(folder: Path, mode: Mode) -> Iterator[Target]:
    """A MariaDB server of this run alone; beside a loop."""
    import pymysql

    from headrace.ingress.cdc.mysql.connection import settings_of
    from headrace.testing.mariadb import running_mariadb
    from headrace.testing.sink_mysql import execute, make_database

    with running_mariadb() as server:
        url = make_database(server.url, folder)
        execute(url, f"CREATE TABLE naive (id bigint {_key(mode)}, customer text, amount double, note text)")
        otherwise = " ON DUPLICATE KEY UPDATE customer = VALUES(customer), amount = VALUES(amount), note = VALUES(note)"
        statement = "INSERT INTO naive VALUES (%(id)s, %(customer)s, %(amount)s, %(note)s)"
        with pymysql.connect(**settings_of(url), database=url.rpartition("/")[2]) as client:
            naive = _loop(client, statement + (otherwise if mode is Mode.UPSERT else ""))
            yield Target(
                {"database": url, "table": "target"},
                lambda: int(execute(url, "SELECT count(*) FROM target")[0][0]),
                {"naive": Rival(naive, NAIVE_ROWS_MAX)},
            )


@contextmanager
def duckdb(folder: Path, mode: Mode) -> Iterator[Target]:
    """A file; beside a loop into another one."""
    import duckdb as client

    path = folder / "target.duckdb"

    def count() -> int:
        with client.connect(str(path), read_only=True) as connection:
            return _first(connection.execute("SELECT count(*) FROM target").fetchone())

    with client.connect(str(folder / "naive.duckdb")) as connection:
        connection.execute(f"CREATE TABLE naive (id bigint {_key(mode)}, customer text, amount double, note text)")
        insert = "INSERT OR REPLACE" if mode is Mode.UPSERT else "INSERT"
        naive = _loop(connection, f"{insert} INTO naive VALUES ($id, $customer, $amount, $note)", begin=True)
        yield Target({"path": path, "table": "target"}, count, {"naive": Rival(naive, NAIVE_ROWS_MAX)})


@contextmanager
def parquet(folder: Path, mode: Mode) -> Iterator[Target]:
    """Files. A file of one row each is no way to compare with."""
    import pyarrow.dataset as dataset

    path = folder / "files"
    yield Target({"path": path}, lambda: int(dataset.dataset(path, format="parquet").count_rows()))


@contextmanager
def iceberg(folder: Path, mode: Mode) -> Iterator[Target]:
    """A catalog in SQLite and files on disk; beside an append of pyiceberg for each hundred rows."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    place = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake")}
    with closing(SqlCatalog("naive", **place)) as catalog:

        def naive(rows: Sequence[Row], keys: int) -> float:
            columns = [("id", pa.int64()), ("customer", pa.string()), ("amount", pa.float64()), ("note", pa.string())]
            catalog.create_namespace("bench")
            table = catalog.create_table("bench.naive", pa.schema(columns))
            started_s = time.perf_counter()
            for start in range(0, len(rows), NAIVE_APPEND_ROWS):
                table.append(pa.Table.from_pylist(rows[start : start + NAIVE_APPEND_ROWS], pa.schema(columns)))
            return time.perf_counter() - started_s

        def count() -> int:
            with closing(SqlCatalog("headrace", **place)) as opened:
                return int(opened.load_table("bench.target").scan().count())

        rival = Rival(naive, NAIVE_APPEND_ROWS * NAIVE_APPENDS_MAX)
        yield Target({**place, "table": "bench.target"}, count, {"naive": rival})


TARGETS: Mapping[str, Callable[[Path, Mode], AbstractContextManager[Target]]] = {
    "postgres": postgres,
    "mysql": mysql,
    "duckdb": duckdb,
    "parquet": parquet,
    "iceberg": iceberg,
    "redis": services.redis,
    "opensearch": services.opensearch,
    "http": services.http("row"),
    "http/5ms": services.http("row", answer_ms=5),
    "http/ndjson": services.http("ndjson"),
}


def _loop(client: Any, statement: str, *, begin: bool = False) -> Callable[[Sequence[Row], int], float]:
    """One statement a row, a commit every thousand."""

    def write(rows: Sequence[Row], keys: int) -> float:
        cursor = client.cursor() if hasattr(client, "cursor") and not begin else client
        started_s = time.perf_counter()
        for start in range(0, len(rows), NAIVE_COMMIT_ROWS):
            if begin:
                client.begin()
            for row in rows[start : start + NAIVE_COMMIT_ROWS]:
                cursor.execute(statement, row)
            client.commit()
        return time.perf_counter() - started_s

    return write


def _key(mode: Mode) -> str:
    return "PRIMARY KEY" if mode is Mode.UPSERT else ""


def _first(row: tuple[Any, ...] | None) -> int:
    assert row is not None
    return int(row[0])
