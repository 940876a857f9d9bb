"""The decoder of `pgoutput`: every message comes back as it was, and bytes of any kind never do harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingress.cdc.postgres import messages as m

INT4, INT8 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**40), 2**62)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES = st.one_of(st.none(), st.just(m.UNCHANGED), st.binary(max_size=40), st.builds(m.Binary, st.binary(max_size=9)))
ROWS = st.lists(VALUES, max_size=6).map(tuple)
COLUMNS = st.builds(m.Column, NAMES, INT4, st.integers(-1, 2**31 - 1), st.booleans())
SCHEMAS = NAMES.filter(bool)


def streamed(xid: st.SearchStrategy[int | None]) -> st.SearchStrategy[m.Message]:
    """Messages that a stream prefixes with their transaction."""
    return st.one_of(
        st.builds(
            m.Relation, INT4, SCHEMAS, NAMES, st.sampled_from("dfin"), st.lists(COLUMNS, max_size=4).map(tuple), xid
        ),
        st.builds(m.Type, INT4, SCHEMAS, NAMES, xid),
        st.builds(m.Insert, INT4, ROWS, xid),
        st.builds(m.Update, INT4, ROWS, ROWS, st.booleans(), xid),
        st.builds(m.Update, INT4, ROWS, st.none(), st.just(False), xid),
        st.builds(m.Delete, INT4, ROWS, st.booleans(), xid),
        st.builds(m.Truncate, st.lists(INT4, max_size=4).map(tuple), st.integers(0, 3), xid),
        st.builds(m.LogicalMessage, INT8, NAMES, st.binary(max_size=20), st.booleans(), xid),
    )


OTHERS = st.one_of(
    st.builds(m.Begin, INT8, TIMES, INT4),
    st.builds(m.Commit, INT8, INT8, TIMES, st.integers(0, 255)),
    st.builds(m.Origin, INT8, NAMES),
    st.builds(m.StreamStart, INT4, st.booleans()),
    st.builds(m.StreamStop),
    st.builds(m.StreamCommit, INT4, INT8, INT8, TIMES, st.integers(0, 255)),
    st.builds(m.StreamAbort, INT4, INT4),
)


@settings(deadline=None)
@given(st.one_of(OTHERS, streamed(st.none())))
def test_every_message_comes_back(message: m.Message) -> None:
    """Version 1: what the server encodes is what is decoded."""
    assert m.decode(m.encode(message)) == message


@settings(deadline=None)
@given(streamed(INT4))
def test_messages_in_a_stream_bring_their_transaction(message: m.Message) -> None:
    """Version 2: the same with the id of the (sub)transaction before it."""
    assert m.decode(m.encode(message), in_stream=True) == message


@settings(deadline=None)
@given(st.one_of(OTHERS, streamed(st.none())), st.integers(0, 60), st.binary(min_size=1, max_size=3))
def test_cut_or_lengthened_messages_are_refused(message: m.Message, length: int, more: bytes) -> None:
    """A message that is not all there, or has more behind it, is told and never half read."""
    whole = m.encode(message)
    with pytest.raises(m.ProtocolBroken, match="left over"):
        m.decode(whole + more)
    if length < len(whole):
        with pytest.raises(m.ProtocolBroken):
            m.decode(whole[:length])


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(b"BCORYIUDTMSEcAx"), st.binary(max_size=60), st.booleans())
def test_any_bytes_decode_or_are_refused(kind: int, rest: bytes, in_stream: bool) -> None:
    """Hostile input gives a typed error and nothing else."""
    with suppress(m.ProtocolBroken):
        m.decode(bytes([kind]) + rest, in_stream=in_stream)


def test_a_value_of_an_unknown_kind_is_named() -> None:
    """The letter is told, for a protocol that grew."""
    with pytest.raises(m.ProtocolBroken, match="unknown kind 'x'"):
        m.decode(b"I\0\0\0\1N\0\1x")


def test_a_length_beyond_the_message_takes_no_memory() -> None:
    """A value that claims four gigabytes is cut short."""
    with pytest.raises(m.ProtocolBroken, match="cut short"):
        m.decode(b"I\0\0\0\1N\0\1t\xff\xff\xff\xff")
    with pytest.raises(m.ProtocolBroken, match="cut short"):
        m.decode(b"T\xff\xff\xff\xff\0")


def test_log_positions_as_text() -> None:
    """Both ways."""
    assert m.lsn_text(0x1_0000_00AB) == "1/AB"
    assert m.lsn_number("16/B374D848") == 0x16_B374_D848
