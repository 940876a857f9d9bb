"""What every connector of a relational database is asked of a database in trouble.

Owns the tests of full disks, locks, servers that take no writes, rules of tables, and positions that somebody removes.
A test module subclasses `DatabaseTroubles`, which asks all of `DatabaseSink` too.

A server in trouble is played by a trigger that raises the server's own error: it takes every road of the connector, and
no disk must be filled for it.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import Mode, TargetInvalid
from headrace.testing.sink_databases import DatabaseSink, expected
from headrace.testing.sink_harness import Stage, header, order, wait_until
from headrace.testing.sink_types import comparable


class DatabaseTroubles(DatabaseSink):
    """The suite, the one of databases in trouble among it."""

    errors_of_the_server: ClassVar[Sequence[str]]
    """That are no row's fault: it was told to wait, is full, takes no writes or starts."""
    table_lock: ClassVar[str]
    """The statement that keeps others out of the table `target`."""
    unlock: ClassVar[str] = "ROLLBACK"
    """The one that lets them in again."""

    @abstractmethod
    def raise_on_insert(self, folder: Path, error: str) -> None:
        """Have inserts into `target` raise this error of the server while the table `trouble` has rows."""

    @abstractmethod
    def few_sessions(self, folder: Path) -> dict[str, Any]:
        """Options with a user that may have one session at a time."""

    @abstractmethod
    def one_session(self, folder: Path) -> Any:
        """The one session that this user may have; to be closed."""

    def is_waiting(self, runner: EgressRunner) -> bool:
        return runner.status().state == "retrying" and runner.counters.retries >= 2

    def test_a_server_in_trouble_is_waited_for(self, stage: Stage, tmp_path: Path) -> None:
        """Disk full, read-only, deadlock, lock or statement timed out: no row is a dead letter, and all arrive once
        when it is over, in one mode or the other."""
        self.make_table(tmp_path)
        self.execute(tmp_path, "CREATE TABLE trouble (x integer)")
        for number, error in enumerate(self.errors_of_the_server):
            self.raise_on_insert(tmp_path, error)
            self.execute(tmp_path, "INSERT INTO trouble VALUES (1)")
            stage.publish([order(number)])
            runner = stage.runner(self.connector(), self.config(tmp_path, (Mode.APPEND, Mode.UPSERT)[number % 2]))
            with stage.running(runner):
                wait_until(lambda: self.is_waiting(runner), f"waiting after {error}")  # noqa: B023 - called at once
                self.execute(tmp_path, "DELETE FROM trouble")
                wait_until(lambda: stage.is_delivered(runner), "the row")  # noqa: B023 - called at once
            assert not sum(runner.counters.dead_letters.values()), error
        rows = [order(number) for number in range(len(self.errors_of_the_server))]
        assert comparable(self.read(tmp_path)) == expected(rows)

    @pytest.mark.parametrize("what", ["row", "table"])
    def test_a_lock_is_not_waited_for_for_ever(self, stage: Stage, tmp_path: Path, what: str) -> None:
        """Another session holds the row or the table: the egress gives up after `lock_timeout_s`, lets go of what it
        holds itself, and delivers when the lock is gone."""
        stage.publish([order(1)])
        config = self.config(tmp_path, options={"lock_timeout_s": 1})
        stage.deliver(self.connector(), config)
        with self.session(tmp_path) as other:
            other.cursor().execute(
                "UPDATE target SET customer = 'other' WHERE id = 1" if what == "row" else self.table_lock
            )
            stage.publish([order(1, 10.0), order(2)])
            runner = stage.runner(self.connector(), config)
            with stage.running(runner):
                wait_until(lambda: self.is_waiting(runner), "giving up")
                other.rollback()
                other.cursor().execute(self.unlock)
                wait_until(lambda: stage.is_delivered(runner), "the rows")
        assert not sum(runner.counters.dead_letters.values())
        assert comparable(self.read(tmp_path)) == expected([order(1, 10.0), order(2)])

    def test_a_server_without_a_free_session_is_waited_for(self, stage: Stage, tmp_path: Path) -> None:
        """Too many connections: it is tried again until one is free."""
        options = self.few_sessions(tmp_path)
        stage.publish([order(1)])
        other = self.one_session(tmp_path)
        runner = stage.runner(self.connector(), self.config(tmp_path, options=options))
        with stage.running(runner):
            wait_until(lambda: self.is_waiting(runner), "waiting")
            other.close()
            wait_until(lambda: stage.is_delivered(runner), "the row")
        assert set(self.amounts(tmp_path)) == {1}

    @pytest.mark.parametrize("mode", [Mode.APPEND, Mode.UPSERT, Mode.REPLICATE])
    @pytest.mark.parametrize(
        "rule",
        [
            "CONSTRAINT rule_of_the_table CHECK (customer <> 'bad')",
            "CONSTRAINT rule_of_the_table UNIQUE (customer)",
            "CONSTRAINT rule_of_the_table FOREIGN KEY (customer) REFERENCES known (customer)",
        ],
    )
    def test_a_rule_of_the_table_refuses_a_row_alone(self, stage: Stage, tmp_path: Path, mode: Mode, rule: str) -> None:
        """Of new rows and of updates: each bad row is a dead letter with the server's reason, which names the rule."""
        self.execute(tmp_path, "CREATE TABLE known (customer varchar(20) PRIMARY KEY)")
        self.execute(tmp_path, "INSERT INTO known VALUES ('customer 1'), ('customer 2'), ('good')")
        if "UNIQUE" in rule:
            self.execute(tmp_path, "INSERT INTO known VALUES ('bad')")
        self.make_table(tmp_path, rule)
        config = self.config(tmp_path, mode)
        stage.publish([order(1), order(2)])
        stage.deliver(self.connector(), config)
        bad = {**order(4 if mode is Mode.APPEND else 2, 20.0), "customer": "customer 1" if "UNIQUE" in rule else "bad"}
        stage.publish([bad, {**order(3, 30.0), "customer": "good"}])
        stage.deliver(self.connector(), config)
        (dead,) = stage.records(config.dead_letter_topic)
        assert header(dead, "headrace.error.code") == f"{self.code}.constraint"
        assert "rule_of_the_table" in (header(dead, "headrace.error.message") or "")
        assert self.amounts(tmp_path) == {1: "1.0", 2: "2.0", 3: "30.0"}

    @pytest.mark.parametrize("mode", [Mode.APPEND, Mode.UPSERT])
    def test_a_null_where_none_may_be_is_refused_alone(self, stage: Stage, tmp_path: Path, mode: Mode) -> None:
        """A column of the table takes no null, which the contract allows."""
        self.execute(
            tmp_path,
            "CREATE TABLE target"
            " (id bigint NOT NULL PRIMARY KEY, customer varchar(20), amount double precision NOT NULL)",
        )
        config = self.config(tmp_path, mode)
        stage.publish([order(1), {**order(2), "amount": None}, order(3)])
        stage.deliver(self.connector(), config)
        (dead,) = stage.records(config.dead_letter_topic)
        assert header(dead, "headrace.error.code") == f"{self.code}.constraint"
        assert set(self.amounts(tmp_path)) == {1, 3}

    def test_a_renamed_column_is_added_again(self, stage: Stage, tmp_path: Path) -> None:
        """Somebody renames a column while the egress runs: what is in it stays, what comes goes into a new one."""
        stage.publish([order(1)])
        runner = stage.runner(self.connector(), self.config(tmp_path))
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first row")
            self.execute(tmp_path, "ALTER TABLE target RENAME COLUMN amount TO total")
            stage.publish([order(2)])
            wait_until(lambda: stage.is_delivered(runner), "the second")
        found = {row["id"]: (row["total"], row["amount"]) for row in comparable(self.read(tmp_path))}
        assert found == {1: ("1.0", None), 2: (None, "2.0")}

    @pytest.mark.parametrize("how", ["DROP TABLE _headrace_positions", "DELETE FROM _headrace_positions"])
    def test_positions_that_vanish_stop(self, stage: Stage, tmp_path: Path, how: str) -> None:
        """Somebody removes them while the egress runs: it does not write everything a second time, but says so."""
        rows = [order(1), order(2)]
        stage.publish(rows)
        runner = stage.runner(self.connector(), self.config(tmp_path, Mode.APPEND))
        stop, caught = threading.Event(), list[BaseException | None]()
        thread = threading.Thread(target=lambda: caught.append(self.raised(runner, stop)))
        thread.start()
        try:
            wait_until(lambda: stage.is_delivered(runner), "the first rows")
            self.execute(tmp_path, how)
            stage.publish([order(3)])
            wait_until(lambda: bool(caught), "the end")
        finally:
            stop.set()
            thread.join()
        assert isinstance(caught[0], TargetInvalid)
        assert "removed the positions" in str(caught[0])
        assert comparable(self.read(tmp_path)) == expected(rows)
