"""Stream time, origin marks, checkpoints, and the formats of internal topics."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine import changelog, repartition
from headrace.engine.checkpoint import Checkpoint, CheckpointTooLarge, CheckpointUnreadable, Progress
from headrace.engine.operator import PARTITION, STREAM_TIME, TIME, StateChange
from headrace.engine.repartition import Marks, own_partitions
from headrace.engine.stream_time import BEFORE_ALL_MS, OriginMarks, with_stream_time
from headrace.log.port import OffsetAndMetadata, TopicPartition
from tests.engine.ways import WAYS, taking

HERE = TopicPartition("t", 3)


@pytest.mark.parametrize("way", WAYS)
@given(times=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100)), max_size=30), cut=st.integers(0, 30))
def test_stream_time_is_a_running_maximum_whatever_the_cut(way: str, times: list[tuple[int, int]], cut: int) -> None:
    """One call over all rows and two calls over two parts give the same column."""
    with taking(way):
        _check_running_maximum(times, cut)


def _check_running_maximum(times: list[tuple[int, int]], cut: int) -> None:
    frame = pl.DataFrame(times, schema={PARTITION: pl.Int32, TIME: pl.Int64}, orient="row")
    whole = with_stream_time(frame, {})[STREAM_TIME].to_list()
    clocks: dict[int, int] = {}
    parts = [with_stream_time(piece, clocks)[STREAM_TIME].to_list() for piece in (frame.head(cut), frame[cut:])]
    assert whole == parts[0] + parts[1]
    largest: dict[int, int] = {}
    for (partition, time), found in zip(times, whole, strict=True):
        largest[partition] = max(time, largest.get(partition, 0))
        assert found == largest[partition]


def test_many_short_runs_have_the_stream_time_of_few_long_ones() -> None:
    """Rows of two partitions in turn, and the same rows one partition after the other."""
    chance = random.Random(4)
    rows = [(row % 2, chance.randrange(1000)) for row in range(256)]
    schema = {PARTITION: pl.Int32, TIME: pl.Int64}
    mixed_clocks, run_clocks = {0: 500}, {0: 500}
    mixed = with_stream_time(pl.DataFrame(rows, schema=schema, orient="row"), mixed_clocks)
    runs = with_stream_time(pl.DataFrame(sorted(rows, key=lambda row: row[0]), schema=schema, orient="row"), run_clocks)
    assert mixed.sort(PARTITION, maintain_order=True).equals(runs)
    assert mixed_clocks == run_clocks
    assert run_clocks[0] >= 500


def test_closing_time_is_the_smallest_mark_of_all_live_origins() -> None:
    """Nothing closes before every origin spoke or is idle; it never goes back."""
    marks = OriginMarks(expected=3)
    marks.note({0: 100, 1: 50}, [])
    assert marks.ahead_ms() is None
    assert marks.closing_ms == BEFORE_ALL_MS
    marks.note({}, [2])
    assert marks.ahead_ms() == 50
    marks.trust(50)
    assert (marks.closing_ms, marks.ahead_ms()) == (50, None)
    marks.note({2: 10}, [])
    assert (marks.closing_ms, marks.ahead_ms()) == (50, None)
    marks.note({}, [0, 1, 2])
    assert marks.ahead_ms() == 100
    marks.trust(100)
    assert marks.closing_ms == 100


def test_an_idle_origin_that_speaks_again_holds_the_others_back() -> None:
    """What the others reached while it was idle does not count once it has rows that are older."""
    marks = OriginMarks(expected=2)
    marks.note({0: 10, 1: 10}, [])
    marks.note({}, [1])
    marks.note({0: 500}, [])
    assert marks.ahead_ms() == 500
    marks.note({1: 20}, [])
    assert (marks.closing_ms, marks.ahead_ms()) == (20, None)


@given(
    progress=st.dictionaries(
        st.integers(0, 3),
        st.builds(
            Progress,
            st.integers(5, 10**12),
            st.integers(0, 10**5),
            st.sampled_from([BEFORE_ALL_MS, 0, 10**12]),
            st.sampled_from([BEFORE_ALL_MS, 0, 10**12]),
        ),
    ),
    marks=st.dictionaries(st.integers(0, 50), st.integers(0, 2 * 10**12)),
    idle=st.frozensets(st.integers(0, 50)),
    closing=st.sampled_from([BEFORE_ALL_MS, 5]),
)
def test_a_checkpoint_survives_its_text(
    progress: dict[int, Progress], marks: dict[int, int], idle: frozenset[int], closing: int
) -> None:
    """What is committed beside an offset is what is read back."""
    offset = min((each.offset for each in progress.values()), default=5)
    kept = Checkpoint(offset, progress, closing, marks, idle)
    back = Checkpoint.from_commit(HERE, kept.to_commit(HERE))
    assert all(back.of(index) == kept.of(index) for index in range(4))
    assert (back.closing_ms, dict(back.marks_ms), back.idle) == (closing, marks, idle)


def test_a_checkpoint_of_a_hundred_origins_fits_and_too_many_are_refused() -> None:
    """The broker's limit is never met by surprise."""
    many = {origin: 1_700_000_000_000 + origin * 7919 for origin in range(128)}
    assert len(Checkpoint(1, marks_ms=many).to_commit(HERE).metadata) < 4000
    with pytest.raises(CheckpointTooLarge, match="t\\[3\\]"):
        Checkpoint(1, marks_ms={origin: origin * 10**9 for origin in range(1000)}).to_commit(HERE)


@pytest.mark.parametrize("text", ["{", "[]", '{"q": {"x": 1}}', '"hello"'])
def test_a_foreign_commit_is_refused_by_name(text: str) -> None:
    """Somebody else's text beside an offset is never taken for ours."""
    with pytest.raises(CheckpointUnreadable, match="t\\[3\\]"):
        Checkpoint.from_commit(HERE, OffsetAndMetadata(7, text))


def test_repartition_messages_carry_rows_in_order_and_marks_at_the_end() -> None:
    """Large frames are cut; only the last piece has the marks; a mark alone is a message too."""
    frame = pl.DataFrame({"k": [f"key {n}" for n in range(repartition.ROWS_PER_MESSAGE_MAX + 5)]})
    marks = Marks({0: 5, 3: 9}, frozenset({1}))
    decoded = [repartition.decode(value) for value in repartition.encode(frame, marks)]
    assert pl.concat([piece for piece, _ in decoded]).equals(frame)
    assert [each for _, each in decoded] == [Marks(), marks]
    alone = [repartition.decode(value) for value in repartition.encode(frame.clear(), marks)]
    assert [each for _, each in alone] == [marks]
    assert not list(repartition.encode(frame.clear(), Marks()))


def test_wide_rows_make_more_messages_not_larger_ones() -> None:
    """Rows that no broker would take in one record are cut by bytes; order and marks stay."""
    texts = [random.Random(n).randbytes(100_000).hex() for n in range(40)]
    frame, marks = pl.DataFrame({"k": texts}), Marks({0: 5}, frozenset({1}))
    values = list(repartition.encode(frame, marks))
    assert max(map(len, values)) <= repartition.MESSAGE_BYTES_MAX < sum(map(len, values)) / 4
    decoded = [repartition.decode(value) for value in values]
    assert pl.concat([rows for rows, _ in decoded]).equals(frame)
    assert [told for _, told in decoded] == [*[Marks()] * (len(values) - 1), marks]


def test_the_own_hash_does_not_depend_on_integer_width_or_enum() -> None:
    """The same key of another type lands in the same partition; null keys have one too."""
    keys = ["7", "8", None, "9"]
    text = pl.DataFrame({"k": keys})
    number = text.select(pl.col("k").cast(pl.Int16))
    wide = text.select(pl.col("k").cast(pl.Int64))
    symbol = text.select(pl.col("k").cast(pl.Enum(["7", "8", "9"])))
    found = [own_partitions(frame, ["k"], 16).tolist() for frame in (text, number, wide, symbol)]
    assert found[0] == found[1] == found[2] == found[3]


def test_changelog_messages_survive_their_bytes() -> None:
    """State columns, the partition's numbers and the runner's clock come back."""
    change = StateChange(2, pl.DataFrame({"k": ["a"], "n": [1]}), {"closed_until_ms": 5})
    (message,) = changelog.encode(change, "f")
    back = changelog.ChangelogReader(2).read(message)
    assert back is not None
    assert back.change.frame.equals(change.frame)
    assert (back.change.partition, back.change.meta) == (2, {"closed_until_ms": 5})


@pytest.mark.parametrize(
    ("delta_rows", "state_rows", "due"), [(99_999, 1, False), (100_000, 1, True), (100_000, 1_000_000, False)]
)
def test_a_snapshot_is_due_in_proportion_to_the_state(delta_rows: int, state_rows: int, due: bool) -> None:
    """The changelog stays within a constant factor of the state."""
    assert changelog.snapshot_is_due(delta_rows=delta_rows, state_rows=state_rows) is due
