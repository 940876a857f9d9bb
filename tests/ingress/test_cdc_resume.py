"""Capture goes on where it was: no change missed, none twice, whatever dies and whenever."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.ingress.cdc.errors import CaptureMissing, PositionLost
from headrace.ingress.cdc.sqlite import SqliteCdc
from headrace.log.embedded.producer import EmbeddedProducer
from headrace.log.port import Fenced, LogUnavailable
from headrace.testing.sink_harness import wait_until
from tests.ingress.fleet import AIRLINES, Fleet, plane


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


class Died(BaseException):
    """The end of the process."""


def test_a_restart_goes_on_behind_the_last_change(fleet: Fleet) -> None:
    """Changes that were made while nobody captured come when somebody does; nothing comes again."""
    fleet.insert(("N1", "Airbus", 1))
    fleet.drain().close()
    fleet.insert(("N2", "Airbus", 2))
    fleet.execute("DELETE FROM planes WHERE tailnum = 'N1'")
    fleet.drain()
    assert fleet.told() == [
        ("r", None, plane("N1", "Airbus", 1)),
        ("c", None, plane("N2", "Airbus", 2)),
        ("d", plane("N1", "Airbus", 1), None),
    ]


def test_a_snapshot_under_way_goes_on_with_the_next_row(fleet: Fleet) -> None:
    """Killed after some chunks: the next process takes the rest, no row of the first chunks again."""
    fleet.insert(*((f"N{number:03}", None, number) for number in range(100)))
    first = fleet.cdc(batch_rows_max=10)
    for _ in range(4):
        first.step()
    assert first.status().snapshots_open == ("planes",)
    fleet.drain(batch_rows_max=10)
    assert [row["after"]["seats"] for row in fleet.envelopes()] == list(range(100))


def test_changes_during_the_snapshot(fleet: Fleet) -> None:
    """Rows before, at and behind the snapshot's place change, move and go: the replica is the source, with no row
    twice in the snapshot."""
    fleet.insert(*((f"N{number:03}", None, number) for number in range(40)))
    cdc = fleet.cdc(batch_rows_max=10)
    cdc.step()
    cdc.step()
    fleet.execute(
        "UPDATE planes SET maker = 'seen' WHERE tailnum = 'N005'",
        "UPDATE planes SET maker = 'the last one seen' WHERE tailnum = 'N019'",
        "UPDATE planes SET maker = 'the next one' WHERE tailnum = 'N020'",
        "UPDATE planes SET maker = 'unseen' WHERE tailnum = 'N035'",
        "DELETE FROM planes WHERE tailnum IN ('N006', 'N036')",
        "UPDATE planes SET tailnum = 'N999' WHERE tailnum = 'N007'",
        "UPDATE planes SET tailnum = 'N0005' WHERE tailnum = 'N037'",
        "INSERT INTO planes VALUES ('N0155', 'new', 1000)",
    )
    fleet.drain(cdc)
    assert fleet.replica() == fleet.source()
    read = [row["after"]["tailnum"] for row in fleet.envelopes() if row["op"] == "r"]
    assert len(read) == len(set(read))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("error", [Died, LogUnavailable])
def test_a_commit_of_unknown_outcome_is_looked_up(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, moment: str, error: type[BaseException]
) -> None:
    """The process dies, or the log goes away, just before or just after a commit took effect: each change once."""
    fleet.drain().close()
    commit = EmbeddedProducer.commit
    left = [2]

    def failing(self: EmbeddedProducer, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0 and moment == "before":
            raise error("now")
        commit(self, *arguments)
        if left[0] == 0:
            raise error("now")

    fleet.insert(*((f"N{number}", None, number) for number in range(10)))
    cdc = fleet.cdc()
    monkeypatch.setattr(EmbeddedProducer, "commit", failing)
    with pytest.raises(error):
        fleet.drain(cdc)
    assert left[0] == 0, "the claim was the first commit, the changes the second"
    fleet.drain(fleet.cdc() if error is Died else cdc)
    assert fleet.sequences() == list(range(1, 11))


def test_the_log_being_away_is_sat_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` tries again with backoff, says so in its status, and goes on without gap or double."""
    fleet.insert(("N0", None, 0))
    begin, left = EmbeddedProducer.begin, [4]

    def failing(self: EmbeddedProducer) -> None:
        left[0] -= 1
        if left[0] > 0:
            raise LogUnavailable("away")
        begin(self)

    monkeypatch.setattr(EmbeddedProducer, "begin", failing)
    cdc, stop = fleet.cdc(), threading.Event()
    thread = threading.Thread(target=cdc.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: len(fleet.changes()) == 1, "the snapshot")
        assert cdc.counters.retries == 3
        fleet.insert(("N1", None, 1))
        wait_until(lambda: len(fleet.changes()) == 2, "the change")
        assert cdc.status().state == "running"
    finally:
        stop.set()
        thread.join(20)
    assert cdc.status().state == "stopped"
    assert fleet.sequences() == [1]


def test_a_newer_process_takes_over(fleet: Fleet) -> None:
    """Two processes of one ingress: the older is fenced at its next write and publishes nothing more."""
    fleet.insert(("N1", None, 1))
    old = fleet.drain()
    new = fleet.drain()
    fleet.insert(("N2", None, 2))
    with pytest.raises(Fenced):
        old.step()
    fleet.drain(new)
    fleet.insert(("N3", None, 3))
    fleet.drain(new)
    assert fleet.sequences() == [1, 2]


def test_missing_triggers_stop_the_capture(fleet: Fleet) -> None:
    """Somebody dropped a trigger, so changes may be missed: stop, say what to run; then the table is taken anew and
    its changes go on."""
    fleet.insert(("N1", None, 1), ("N2", None, 2))
    cdc = fleet.drain()
    fleet.execute("DROP TRIGGER _headrace_fleet_planes_update", "UPDATE planes SET maker = 'missed'")
    fleet.insert(("N3", None, 3))
    with pytest.raises(CaptureMissing, match=r"the triggers of table 'planes' are missing .* run `headrace apply`"):
        cdc.step()
    assert cdc.missing() == ["planes"]
    fleet.drain()
    assert fleet.replica() == fleet.source()
    assert fleet.source()["N1"]["maker"] == "missed"


def test_a_repeated_setup_changes_nothing(fleet: Fleet) -> None:
    """`headrace apply` twice: no new snapshot."""
    fleet.insert(("N1", None, 1))
    cdc = fleet.drain()
    assert cdc.setup() == []
    fleet.drain()
    assert len(fleet.changes()) == 1


@pytest.mark.parametrize("how", ["older copy", "other database"])
def test_a_database_that_is_not_the_one_it_was(fleet: Fleet, how: str) -> None:
    """An older backup or another file would leave a gap that nobody sees: refused, with what can be done."""
    fleet.drain().close()
    state = "_headrace_fleet_state"
    fleet.insert(("N1", None, 1))
    fleet.drain().close()
    fleet.execute(f"UPDATE {state} SET " + ("last = 0" if how == "older copy" else "database_id = 'x'"))
    with pytest.raises(PositionLost, match="another database, or an older copy"):
        fleet.drain()
    assert len(fleet.changes()) == 1


Statement = tuple[str, int, int]
STATEMENTS = st.tuples(
    st.sampled_from(["insert", "replace", "update", "unique", "rekey", "delete", "step", "die", "vanish"]),
    st.integers(0, 7),
    st.integers(0, 7),
)


def apply_statement(fleet: Fleet, statement: Statement, tag: int) -> None:
    kind, key, other = statement
    sql = {
        "insert": f"INSERT OR IGNORE INTO planes VALUES ('N{key}', 'i{tag}', {other})",
        "replace": f"REPLACE INTO planes VALUES ('N{key}', 'r{tag}', {other})",
        "update": f"UPDATE planes SET maker = 'u{tag}' WHERE tailnum >= 'N{key}'",
        "unique": f"UPDATE OR REPLACE planes SET seats = {other} WHERE tailnum = 'N{key}'",
        "rekey": f"UPDATE OR REPLACE planes SET tailnum = 'N{other}' WHERE tailnum = 'N{key}'",
        "delete": f"DELETE FROM planes WHERE tailnum <= 'N{key}'",
    }[kind]
    fleet.execute(sql)


def die_in_commit(cdc: SqliteCdc, *, after: bool) -> None:
    """One step whose process ends around the commit of its transaction."""
    commit: Callable[..., None] = EmbeddedProducer.commit

    def dying(self: EmbeddedProducer, *arguments: Any) -> None:
        if after:
            commit(self, *arguments)
        raise Died

    patch = pytest.MonkeyPatch()
    patch.setattr(EmbeddedProducer, "commit", dying)
    try:
        cdc.step()
    except Died:
        pass
    finally:
        patch.undo()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.integers(0, 8), statements=st.lists(STATEMENTS, max_size=25), seed=st.integers(0, 9))
def test_any_history_and_any_deaths(rows: int, statements: list[Statement], seed: int) -> None:
    """Random statements between single steps, processes that die around a commit or vanish: in the end a reader of the
    topic has the table, every image before was the reader's own row, and no change came twice."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, closing(Fleet(Path(folder))) as fleet:
        fleet.insert(*((f"N{number}", None, number) for number in range(rows)))
        cdc = fleet.cdc(batch_rows_max=2)
        for tag, statement in enumerate(statements):
            if statement[0] == "step":
                cdc.step()
            elif statement[0] == "die":
                die_in_commit(cdc, after=generator.random() < 0.5)
                cdc = fleet.cdc(batch_rows_max=2)
            elif statement[0] == "vanish":
                cdc = fleet.cdc(batch_rows_max=2)
            else:
                apply_statement(fleet, statement, tag)
        fleet.drain(cdc)
        assert fleet.replica() == fleet.source()
        sequences = fleet.sequences()
        assert sequences == sorted(set(sequences))


def test_a_table_that_joins_later(tmp_path: Path) -> None:
    """A second table is added to a running ingress and changed before its snapshot begins: its rows once, its changes
    once, the first table undisturbed."""
    with closing(Fleet(tmp_path)) as fleet:
        fleet.insert(("N1", None, 1))
        fleet.drain().close()
        fleet.execute("CREATE TABLE airlines (code TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL)")
        fleet.execute("INSERT INTO airlines VALUES ('AA', 'American'), ('UA', 'United')")
        both = fleet.with_airlines()
        both.setup()
        fleet.execute("UPDATE airlines SET name = 'United Airlines' WHERE code = 'UA'")
        fleet.insert(("N2", None, 2))
        fleet.drain(both)
        fleet.execute("DELETE FROM airlines WHERE code = 'AA'")
        fleet.drain(both)
        told = fleet.decoded("airlines", AIRLINES.value_schema)
        assert [(row["op"], (row["after"] or row["before"])["name"]) for row in told] == [
            ("r", "American"),
            ("r", "United Airlines"),
            ("d", "American"),
        ]
        assert [operation for operation, _, _ in fleet.told()] == ["r", "c"]
