"""Files of rows: all of a good file, nothing of a bad one, and every bad row told by its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.ingress import file_chunks
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.file_chunks import FileUnreadable
from headrace.ingress.files import BadRows, FileProgress, publish_file
from headrace.ingress.violations import NotPublishable
from tests.ingress.shop import NOW_MS, Shop, order

AT = datetime.fromtimestamp(NOW_MS / 1000, UTC)


@pytest.fixture
def publisher(shop: Shop) -> Iterator[BatchPublisher]:
    with BatchPublisher(shop.environment, clock=lambda: NOW_MS) as publisher:
        yield publisher


def jsonl(folder: Path, rows: list[Any]) -> Path:
    path = folder / "orders.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def found(shop: Shop) -> list[tuple[Any, ...]]:
    return sorted(
        (row["id"], row["amount"], row["note"], row["pieces"], row["placed_at"]) for row in shop.rows("orders")
    )


def test_the_three_formats_say_the_same(shop: Shop, publisher: BatchPublisher, tmp_path: Path) -> None:
    """JSON lines, CSV and Parquet of the same rows become the same records."""
    expected = [("o-1", 1.5, None, 1, AT), ("o-2", 2.0, 'a, "b"\nc', 4, AT)]
    text = AT.isoformat()
    (tmp_path / "o.csv").write_text(
        f'id,amount,note,pieces,placed_at\no-1,1.5,,1,{text}\no-2,2,"a, ""b""\nc",4,{text}\n'
    )
    rows = [{"id": "o-1", "amount": 1.5, "placed_at": text}, order(2, note='a, "b"\nc', pieces=4)]
    columns = {
        "id": ["o-1", "o-2"],
        "amount": [1.5, 2.0],
        "note": [None, 'a, "b"\nc'],
        "pieces": pa.array([1, 4], pa.int64()),
        "placed_at": pa.array([AT, AT], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "o.parquet")
    for number, path in enumerate((jsonl(tmp_path, rows), tmp_path / "o.csv", tmp_path / "o.parquet"), start=1):
        report = publish_file(publisher, "orders", path)
        assert (report.published, report.bad) == (2, 0)
        assert found(shop) == sorted(expected * number)


def test_a_bad_row_keeps_the_whole_file_back(shop: Shop, publisher: BatchPublisher, tmp_path: Path) -> None:
    """Nothing is published; the error names file, line, field and how to go on."""
    path = jsonl(tmp_path, [order(1), "", order(2, amount="x"), "{not json", order(4), "[1]"])
    with pytest.raises(BadRows) as raised:
        publish_file(publisher, "orders", path)
    assert str(raised.value) == (
        f"{path}:3: field 'amount' is str, not double (and 2 more bad rows); nothing was published;"
        " mend the rows, or publish the good ones with --skip-bad"
    )
    assert [(bad.where.line, bad.field) for bad in raised.value.report.bad_rows] == [(3, "amount"), (4, ""), (6, "")]
    assert shop.records("orders") == []


def test_bad_rows_can_be_skipped(shop: Shop, publisher: BatchPublisher, tmp_path: Path) -> None:
    """The good rows are published, the bad ones reported."""
    path = jsonl(tmp_path, [order(1), {"id": "o-2"}, order(3)])
    report = publish_file(publisher, "orders", path, skip_bad=True)
    assert (report.published, report.bad) == (2, 1)
    assert str(report.bad_rows[0]) == f"{path}:2: field 'amount' is missing"
    assert [row[0] for row in found(shop)] == ["o-1", "o-3"]


def test_a_long_file_goes_in_chunks(
    shop: Shop, publisher: BatchPublisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several chunks arrive in order, lines count on, progress ends at the file's size."""
    monkeypatch.setattr(file_chunks, "CHUNK_ROWS", 10)
    path = jsonl(tmp_path, [{"page": str(number)} for number in range(95)])
    seen: list[FileProgress] = []
    report = publish_file(publisher, "clicks", path, progress=seen.append)
    assert report.published == 95
    assert sorted(int(row["page"]) for row in shop.rows("clicks")) == list(range(95))
    for phase in ("check", "publish"):
        told = [each for each in seen if each.phase == phase]
        assert len(told) == 10
        assert (told[-1].rows, told[-1].bytes_done, told[-1].bytes_total) == (
            95,
            path.stat().st_size,
            path.stat().st_size,
        )
    bad = jsonl(tmp_path, [{"page": str(number) if number != 77 else 1} for number in range(95)])
    with pytest.raises(BadRows, match=r"orders.jsonl:78: field 'page'"):
        publish_file(publisher, "clicks", bad)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,amount\no-1\n", "a.csv:2: has 1 cells, the header has 2"),
        ("a.csv", "id,colour\no-1,red\n", "a.csv:1: column 'colour' is not in the contract"),
        ("a.csv", "id,id\no-1,o-2\n", "a.csv:1: column 'id' is there twice"),
        ("a.csv", "id,amount,placed_at\no-1,1e,2023\n", "a.csv:2: field 'amount' is not a number"),
        ("a.csv", "id,amount,placed_at\no-1,1,\n", "a.csv:2: field 'placed_at'"),
        ("a.csv", "note,id,amount,placed_at\n\udcff,o-1,1,2023-01-01\n", "a.csv:2: field 'note'"),
        ("a.jsonl", '{"id": "\udcff"}\n', "a.jsonl:1: is not UTF-8 text"),
        ("a.parquet", "no parquet", "a.parquet: not readable as Parquet"),
        ("a.txt", "x", "the ending '.txt' tells no format; name the format: jsonl, csv or parquet"),
    ],
)
def test_files_that_are_wrong(
    shop: Shop, publisher: BatchPublisher, tmp_path: Path, name: str, text: str, message: str
) -> None:
    """Each is told with the place; nothing of it is published."""
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises((BadRows, FileUnreadable)) as raised:
        publish_file(publisher, "orders", tmp_path / name)
    assert message in str(raised.value)
    assert shop.records("orders") == []


def test_a_file_that_is_not_there(publisher: BatchPublisher, tmp_path: Path) -> None:
    """A missing file, and a topic that may not be published, before anything is read."""
    with pytest.raises(FileUnreadable, match=r"none\.jsonl: No such file"):
        publish_file(publisher, "orders", tmp_path / "none.jsonl")
    with pytest.raises(NotPublishable):
        publish_file(publisher, "items", tmp_path / "none.jsonl")
