"""Large transactions that the server sends while they are under way: only what commits goes out, whole and in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingress.cdc.postgres import messages as m
from headrace.ingress.cdc.postgres import streamed
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.ingress.cdc.postgres.source import PostgresSource
from headrace.ingress.cdc.postgres.streamed import SpoolFull, TransactionFeed
from tests.ingress.postgres.bank import Bank

NO_LIMIT = 1 << 40
SMALL = "options='-c logical_decoding_work_mem=64kB'"
"""The server sends transactions of more than 64 kB while they are under way."""


class Given:
    """Messages of a connection."""

    def __init__(self, *sent: bytes) -> None:
        self._sent = iter(enumerate(sent, 1))

    def receive(self) -> tuple[int, bytes] | None:
        return next(self._sent, None)


def row(number: int, xid: int | None = None) -> m.Insert:
    return m.Insert(1, (str(number).encode(),), xid)


def told(feed: TransactionFeed) -> list[m.Message]:
    """Everything that the feed passes on."""
    found: list[m.Message] = []
    while (received := feed.receive()) is not None or feed.is_busy:
        if received is not None:
            found.append(m.decode(received[1]))
    return found


def sent(*given_messages: m.Message) -> Iterator[bytes]:
    return (m.encode(each) for each in given_messages)


def test_a_streamed_transaction_comes_whole_at_its_commit() -> None:
    """Between its blocks another one commits, which comes first; parts that were rolled back do not come."""
    relation = m.Relation(1, "public", "t", "d", (m.Column("id", 20, -1, True),), 8)
    feed = TransactionFeed(
        Given(
            *sent(m.StreamStart(7, True), m.Origin(3, "elsewhere"), row(1, 7), relation, row(2, 8), m.StreamStop()),
            *sent(m.Begin(50, 2_000_000_000_000_000, 9), row(10), m.Commit(50, 51, 2_000_000_000_000_000)),
            *sent(m.StreamStart(7, False), row(3, 7), m.StreamStop(), m.StreamAbort(7, 8)),
            *sent(m.StreamStart(11, True), row(99, 11), m.StreamStop(), m.StreamAbort(11, 11)),
            *sent(m.StreamCommit(7, 60, 61, 2_000_000_000_000_001)),
        ),
        NO_LIMIT,
    )
    shape = m.Relation(1, "public", "t", "d", (m.Column("id", 20, -1, True),))
    assert told(feed) == [
        m.Begin(50, 2_000_000_000_000_000, 9),
        row(10),
        m.Commit(50, 51, 2_000_000_000_000_000),
        m.Begin(60, 2_000_000_000_000_001, 7),
        row(1),
        shape,
        row(3),
        m.Commit(60, 61, 2_000_000_000_000_001),
    ]
    assert feed.spooled_bytes == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99)), max_size=4)),
        max_size=8,
    ),
    st.sets(st.integers(1, 3)),
    st.sets(st.tuples(st.integers(1, 3), st.integers(1, 2))),
)
def test_any_mixture_of_blocks(
    blocks: list[tuple[int, list[tuple[int, int]]]], aborted: set[int], parts: set[tuple[int, int]]
) -> None:
    """Whatever is interleaved: the rows of each committed transaction in their order, without its aborted parts."""
    stream: list[m.Message] = []
    expected: dict[int, list[m.Message]] = {}
    for xid, rows in blocks:
        stream.append(m.StreamStart(xid, xid not in expected))
        kept = expected.setdefault(xid, [])
        for part, number in rows:
            stream.append(row(number, xid * 10 + part if part else xid))
            if (xid, part) not in parts:
                kept.append(row(number))
        stream.append(m.StreamStop())
    stream += [m.StreamAbort(xid, xid * 10 + part) for xid, part in sorted(parts) if xid in expected]
    stream += [
        m.StreamAbort(xid, xid) if xid in aborted else m.StreamCommit(xid, xid, xid, m.EPOCH_US) for xid in expected
    ]
    feed = TransactionFeed(Given(*sent(*stream)), NO_LIMIT)
    wanted = [
        [m.Begin(xid, m.EPOCH_US, xid), *rows, m.Commit(xid, xid, m.EPOCH_US)]
        for xid, rows in expected.items()
        if xid not in aborted
    ]
    assert told(feed) == list(itertools.chain.from_iterable(wanted))
    assert feed.spooled_bytes == 0


def test_others_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction of gigabytes does not hold the thread: after so many bytes the feed comes back and is busy."""
    monkeypatch.setattr(streamed, "ABSORBED_BYTES_MAX", 100)
    blocks = [m.StreamStart(7, True), *(row(number, 7) for number in range(20)), m.StreamStop()]
    feed = TransactionFeed(Given(*sent(*blocks)), NO_LIMIT)
    assert feed.receive() is None
    assert feed.is_busy
    assert told(feed) == []
    assert not feed.is_busy
    feed.close()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([m.StreamStop()], "had not begun"),
        ([m.StreamStart(1, False)], "went on with transaction 1 wrongly"),
        ([m.StreamStart(1, True), m.StreamStop(), m.StreamStart(1, True)], "began transaction 1 wrongly"),
        ([m.StreamCommit(1, 1, 1, m.EPOCH_US)], "of which it has told nothing"),
        ([m.StreamStart(1, True), m.Commit(1, 1, m.EPOCH_US)], "inside a streamed transaction"),
    ],
)
def test_what_does_not_belong_is_told(stream: list[m.Message], message: str) -> None:
    """A server that breaks the protocol stops the ingress."""
    feed = TransactionFeed(Given(*sent(*stream)), NO_LIMIT)
    with pytest.raises(m.ProtocolBroken, match=message):
        told(feed)
    feed.close()


def test_files_have_a_limit() -> None:
    """All of them together."""
    feed = TransactionFeed(Given(*sent(m.StreamStart(1, True), *(row(number, 1) for number in range(9)))), 100)
    with pytest.raises(SpoolFull, match="more than 100 bytes"):
        told(feed)
    feed.close()


def feed_of(cdc: PostgresCdc) -> Any:
    source = cdc._source
    assert isinstance(source, PostgresSource)
    return source._feed


def fill(bank: Bank, connection: psycopg.Connection[Any], first: int, last: int) -> None:
    connection.execute(
        f"INSERT INTO accounts SELECT n, repeat('x', 50), n FROM generate_series({first}, {last}) n".encode()
    )


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("spool_mb_max", [0, 100])
def test_large_transactions_on_a_server(bank: Bank, spool_mb_max: int) -> None:
    """One that commits behind a later small one, with parts rolled back; one that aborts; a death before, while and
    after it is handed out: the topic is the same whether or not the server sends them early."""
    more = {"database": f"{bank.url} {SMALL}", "batch_rows_max": 700}
    cdc = bank.cdc(spool_mb_max=spool_mb_max, **more)
    bank.insert((1, "first", 0))
    bank.drain(cdc)
    with psycopg.connect(bank.url) as large, psycopg.connect(bank.url) as lost:
        fill(bank, large, 1_000, 2_999)
        large.execute("SAVEPOINT part")
        fill(bank, large, 3_000, 4_999)
        large.execute("ROLLBACK TO SAVEPOINT part")
        large.execute("UPDATE accounts SET cents = -1 WHERE id < 1010")
        fill(bank, lost, 5_000, 7_000)
        bank.insert((2, "between", 0))
        bank.drain(cdc)
        assert (feed_of(cdc).spooled_bytes > 100_000) == (spool_mb_max > 0)
        assert [(row or {})["id"] for _, _, row in bank.told()] == [1, 2]
        bank.kill(cdc)
        cdc = bank.drain(bank.cdc(spool_mb_max=spool_mb_max, setup=False, **more))
        lost.rollback()
        large.commit()
        large.execute("INSERT INTO accounts VALUES (3, 'after', 0)")
        large.commit()
    while cdc.position is None or cdc.position.open is None:
        cdc.step()
    assert 0 < len(bank.told()) - 2 < 2_000
    bank.kill(cdc)
    cdc = bank.drain(bank.cdc(spool_mb_max=100 - spool_mb_max, setup=False, **more))
    assert [(row or {})["id"] for operation, _, row in bank.told() if operation != "u"] == [
        *(1, 2),
        *range(1_000, 3_000),
        3,
    ]
    assert bank.replica() == bank.source()
    places = bank.places()
    assert len(set(places)) == len(places)
    assert places == sorted(places)
    assert feed_of(cdc).spooled_bytes == 0


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_a_full_disk_is_left_to_the_server(bank: Bank) -> None:
    """Beyond the limit the stream begins again, and large transactions come after their commit."""
    cdc = bank.cdc(spool_mb_max=1, database=f"{bank.url} {SMALL}")
    bank.drain(cdc)
    with psycopg.connect(bank.url) as large:
        fill(bank, large, 1, 12_000)
        bank.execute("CREATE TABLE other ()")
        bank.drain(cdc)
        assert feed_of(cdc).spooled_bytes == 0
        large.commit()
    bank.drain(cdc)
    assert bank.replica() == bank.source()
    assert len(bank.told()) == 12_000
