"""Parquet files in S3 where something is wrong: with the network, the keys, the bucket, the store, or another process.

The store is a stand-in (moto, in a process of its own), or one that answers nothing but a status.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.contracts.arrow import to_arrow
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.sdk import ConnectorConfig, EgressBatch, EgressError, PositionMoved, TargetInvalid
from headrace.egress.sdk import TargetUnavailable as Unavailable
from headrace.testing.s3_service import REGION, S3Store, s3_stand_in
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace.testing.unsteady_link import UnsteadyLink
from headrace_parquet import ParquetConnector, ParquetOptions, bucket
from headrace_parquet.bucket import Page, newest_first_offset

KEYS = {"access_key_id": "${LAKE_KEY_ID}", "secret_access_key": "${LAKE_KEY}"}


class Target:
    """A bucket, and an egress into it."""

    def __init__(self, store: S3Store) -> None:
        self._store, self.bucket = store, store.new_bucket()
        self.client = store.client()

    def config(self, endpoint: str | None = None, **more: Any) -> EgressConfig:
        options = {
            "path": f"s3://{self.bucket}/lake/",
            "endpoint": endpoint or self._store.endpoint,
            "region": REGION,
            **KEYS,
            **more,
        }
        return egress(options)

    def names(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return [each["Key"] for each in listed if each["Key"].endswith(".parquet")]

    def ids(self) -> list[int]:
        files = [self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read() for name in self.names()]
        return sorted(row for file in files for row in pq.read_table(io.BytesIO(file))["id"].to_pylist())


def egress(options: dict[str, Any]) -> EgressConfig:
    return EgressConfig.model_validate(
        {
            "name": "out",
            "topic": TOPIC,
            "connector": "parquet",
            "mode": "append",
            "options": options,
            "batch": {"rows_max": 50, "age_max_ms": 20},
            "retry": {"first_ms": 1, "max_ms": 50},
        }
    )


def given_to(connector: ParquetConnector, config: EgressConfig) -> ConnectorConfig:
    return connector_config(config, connector)


def opened(config: EgressConfig) -> tuple[ParquetConnector, dict[int, int]]:
    connector = ParquetConnector()
    return connector, dict(connector.open(given_to(connector, config), order_contract(), [0]))


def batch(first: int, last: int) -> EgressBatch:
    """Offsets of partition 0, both included, with ids as their offsets."""
    offsets = np.arange(first, last + 1, dtype=np.int64)
    rows = pa.Table.from_pylist([order(each) for each in offsets.tolist()], schema=to_arrow(order_contract().schema))
    zeros = np.zeros(len(offsets), np.int32)
    return EgressBatch(
        rows=rows,
        key=("id",),
        operation=zeros.astype(np.int8),
        partition=zeros,
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )


def flushed(connector: ParquetConnector, first: int, last: int) -> None:
    connector.write(batch(first, last), {0: last + 1})
    connector.flush()


@pytest.fixture
def target(s3_store: S3Store) -> Target:
    return Target(s3_store)


@pytest.fixture
def link(s3_store: S3Store) -> Iterator[UnsteadyLink]:
    host, _, port = s3_store.endpoint.removeprefix("http://").partition(":")
    with UnsteadyLink(host, int(port)) as link:
        yield link


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """The URL of a store that answers every request so."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("ETag", '"tag"')
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_names_are_first_offsets_and_the_file_tells_its_last(target: Target) -> None:
    """What the page says of names; the next process goes on after the last offset, rows or none."""
    connector, positions = opened(target.config())
    assert positions == {}
    connector.write(batch(3, 5), {0: 9})
    connector.flush()
    flushed(connector, 9, 9)
    assert target.names() == [f"lake/orders/0/{first:020d}.parquet" for first in (0, 9)]
    assert opened(target.config())[1] == {0: 10}


def test_of_two_processes_with_batches_of_different_size_one_gets_in(target: Target) -> None:
    """Both go on from one offset, one with more rows than the other: no overlap, whoever is first."""
    flushed(opened(target.config())[0], 0, 4)
    (one, _), (other, _) = opened(target.config()), opened(target.config())
    flushed(one, 5, 14)
    with pytest.raises(PositionMoved):
        flushed(other, 5, 9)
    assert target.ids() == list(range(15))
    assert opened(target.config())[1] == {0: 15}


def test_a_put_that_is_cut_leaves_nothing(target: Target, link: UnsteadyLink) -> None:
    """The connection ends within the file: no object, no upload in parts, and the next try delivers each row once."""
    connector, _ = opened(target.config(link.url))
    link.cut_requests(after_bytes=1_500)
    with pytest.raises(Unavailable):
        flushed(connector, 0, 999)
    assert link.broken > 0
    link.mend()
    assert target.names() == []
    assert "Uploads" not in target.client.list_multipart_uploads(Bucket=target.bucket)
    connector, positions = opened(target.config(link.url))
    assert positions == {}
    flushed(connector, 0, 999)
    assert target.ids() == list(range(1_000))


def test_a_lost_answer_delivers_once(target: Target, link: UnsteadyLink) -> None:
    """The object is there, its answer is not: whatever the flush says, the next process knows where to go on."""
    connector, _ = opened(target.config(link.url))
    link.lose_replies()
    with pytest.raises((PositionMoved, Unavailable)):
        flushed(connector, 0, 9)
    assert link.broken > 0
    link.mend()
    connector, positions = opened(target.config(link.url))
    assert positions == {0: 10}
    flushed(connector, 10, 19)
    assert target.ids() == list(range(20))


def test_a_store_that_is_down_is_tried_until_it_is_back(
    stage: Stage, target: Target, link: UnsteadyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The egress says `retrying` and why, and delivers everything once the store answers."""
    monkeypatch.setattr(bucket, "RETRIES_MAX", 0)
    runner = stage.runner(ParquetConnector(), target.config(link.url))
    stage.publish([order(number) for number in range(20)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        link.go_down()
        stage.publish([order(number) for number in range(20, 40)])
        wait_until(lambda: runner.counters.retries >= 3, "tried again and again")
        assert isinstance(runner.status().error, Unavailable)
        link.come_back()
        wait_until(lambda: stage.is_delivered(runner), "delivered after it came back")
    assert target.ids() == list(range(40))


def test_wrong_keys_stop_with_the_reason(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """403: the egress ends, and names the store's own code but no key."""
    monkeypatch.setenv("LAKE_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("LAKE_KEY", "wrong-secret")
    with s3_stand_in() as store:
        target = Target(store)
        store.demand_keys()
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid, match="403 InvalidAccessKeyId") as raised:
            stage.deliver(ParquetConnector(), target.config())
    assert "WRONG" not in str(raised.value)
    assert "wrong-secret" not in str(raised.value)
    assert "keys" in raised.value.cure


def test_a_missing_bucket_stops_with_the_reason(stage: Stage, target: Target) -> None:
    """404: nothing is made, since a bucket's place and rights are its owner's."""
    stage.publish([order(1)])
    with pytest.raises(TargetInvalid, match="404 NoSuchBucket") as raised:
        stage.deliver(ParquetConnector(), target.config(path="s3://nobody-has-this/lake"))
    assert "make the bucket" in raised.value.cure


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "Unauthorized", TargetInvalid),
        (403, "AccessDenied", TargetInvalid),
        (301, "PermanentRedirect", TargetInvalid),
        (400, "EntityTooLarge", TargetInvalid),
        (400, "ExpiredToken", Unavailable),
        (403, "RequestTimeTooSkewed", Unavailable),
        (501, "NotImplemented", TargetInvalid),
        (429, "TooManyRequests", Unavailable),
        (503, "SlowDown", Unavailable),
        (403, "QuotaExceeded", Unavailable),
        (400, "XMinioAdminBucketQuotaExceeded", Unavailable),
        (507, "InsufficientStorage", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
def test_answers_of_a_store(
    status: int, code: str, kind: type[EgressError], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which answers stop the egress, and which are tried again."""
    monkeypatch.setattr(bucket, "RETRIES_MAX", 0)
    with answering(status, code) as url, pytest.raises(kind):
        opened(target.config(url))


def test_a_store_that_takes_a_name_twice_is_refused(target: Target) -> None:
    """One that ignores If-None-Match says yes to everything; it is found out before a row is written."""
    with answering(200, "") as url, pytest.raises(TargetInvalid, match="ignores If-None-Match"):
        opened(target.config(url))


def test_a_file_of_somebody_else_in_our_name_stops(target: Target) -> None:
    """A newest file without its last offset: the egress asks, since it cannot know where to go on."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1]}), sink)
    target.client.put_object(Bucket=target.bucket, Key=f"lake/orders/0/{7:020d}.parquet", Body=sink.getvalue())
    with pytest.raises(TargetInvalid, match="not written by this connector"):
        opened(target.config())


def test_older_files_may_go(target: Target) -> None:
    """Retention of the lake removes all but the newest file of a partition: positions stay."""
    connector, _ = opened(target.config())
    for first in (0, 10, 20):
        flushed(connector, first, first + 9)
    for name in target.names()[:-1]:
        target.client.delete_object(Bucket=target.bucket, Key=name)
    assert opened(target.config())[1] == {0: 30}


def test_the_newest_file_is_found_over_many_pages(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing two names at a time, other objects among them."""
    monkeypatch.setattr(bucket, "PAGE_OBJECTS", 2)
    connector, _ = opened(target.config())
    for first in range(0, 110, 10):
        flushed(connector, first, first + 9)
    for name in ("00000000000000000015.csv", "99999999999999999999.parquet.bak", "_notes", "abc.parquet"):
        target.client.put_object(Bucket=target.bucket, Key=f"lake/orders/0/{name}", Body=b"x")
    assert opened(target.config())[1] == {0: 110}


@given(st.sets(st.integers(0, 2**63 - 1), max_size=40), st.integers(1, 5))
def test_the_search_finds_the_largest_offset(offsets: set[int], size: int) -> None:
    """Whatever the gaps are, in a bounded number of pages."""
    ordered, pages = sorted(offsets), []

    def page(after: int | None) -> Page:
        pages.append(after)
        found = [each for each in ordered if after is None or each > after]
        return Page(found[:size], len(found) <= size)

    assert newest_first_offset(page) == max(offsets, default=None)
    assert len(pages) <= 130


def test_a_million_files_take_few_pages() -> None:
    """Of 1,000 names each, as S3 gives them."""
    offsets = np.cumsum(np.random.default_rng(8).integers(1, 2_000, 1_000_000))
    pages = []

    def page(after: int | None) -> Page:
        pages.append(after)
        start = 0 if after is None else int(np.searchsorted(offsets, after, side="right"))
        return Page(offsets[start : start + 1_000].tolist(), start + 1_000 >= len(offsets))

    assert newest_first_offset(page) == int(offsets[-1])
    assert len(pages) <= 25


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": "s3://b", "access_key_id": "AKIA123", "secret_access_key": "${KEY}"}, "does not belong in a file"),
        ({"path": "s3://b", "access_key_id": "${KEY_ID}"}, "go together"),
        ({"path": "gs://bucket/x"}, "s3://bucket/prefix"),
        ({"path": "s3://"}, "s3://bucket/prefix"),
        ({"path": "folder", "endpoint": "http://127.0.0.1:1"}, "endpoint needs a path that begins with s3://"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], reason: str) -> None:
    """Refused when the file is read, without repeating a key."""
    with pytest.raises(ValidationError, match=reason):
        ParquetOptions.model_validate(options)


def test_a_variable_that_is_not_set_stops(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name."""
    monkeypatch.delenv("LAKE_KEY", raising=False)
    with pytest.raises(TargetInvalid, match="LAKE_KEY is not set") as raised:
        opened(target.config())
    assert raised.value.cure == "export LAKE_KEY"


def checked(config: EgressConfig) -> list[str]:
    connector = ParquetConnector()
    return list(connector.check(given_to(connector, config), order_contract()))


def test_a_check_tells_what_stands_in_the_way(target: Target) -> None:
    """A bucket that is not there, a newest file of somebody else's; nothing is put, and no older file is asked."""
    with pytest.raises(TargetInvalid, match="NoSuchBucket") as raised:
        checked(target.config(path="s3://nowhere-to-be-found/lake"))
    assert "make the bucket" in raised.value.cure
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1]}), sink)
    for partition, first in ((2, 7), (11, 7)):
        name = f"lake/orders/{partition}/{first:020d}.parquet"
        target.client.put_object(Bucket=target.bucket, Key=name, Body=sink.getvalue())
        with pytest.raises(TargetInvalid, match=f"{name} was not written by this connector"):
            checked(target.config())
        target.client.delete_object(Bucket=target.bucket, Key=name)
    assert checked(target.config()) == []
    assert "Contents" not in target.client.list_objects_v2(Bucket=target.bucket)


@pytest.mark.parametrize(("status", "code"), [(403, "InvalidAccessKeyId"), (403, "AccessDenied")])
def test_a_check_tells_wrong_keys(target: Target, status: int, code: str) -> None:
    """With the store's code, and without the keys."""
    with answering(status, code) as url, pytest.raises(TargetInvalid, match=f"{status} {code}") as raised:
        checked(target.config(url))
    assert "stand-in" not in str(raised.value)
    assert "keys that may list" in raised.value.cure


def test_an_explanation_of_s3_needs_no_keys(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks neither the store nor the environment, and shows variables as the file has them."""
    monkeypatch.delenv("LAKE_KEY", raising=False)
    connector, config = ParquetConnector(), target.config("http://127.0.0.1:9", path="s3://${LAKE_BUCKET}/lake/")
    (line,) = connector.explain(given_to(connector, config), order_contract(), batch(0, 9))
    assert line.startswith("write s3://${LAKE_BUCKET}/lake/orders/0/*.parquet -- 10 rows")
