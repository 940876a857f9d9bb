"""What every connector of a relational database is asked beyond `sink_conformance`.

Owns the tests of refused rows, of tables that somebody else makes or changes, and of servers that are away. A test
module subclasses `DatabaseSink`, gives it a server, and adds what only its database does.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from headrace.contracts.arrow import to_arrow
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig
from headrace.egress.errors import DriftRefused
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import (
    Checks,
    Connector,
    ConnectorConfig,
    EgressBatch,
    HeadraceError,
    Mode,
    Operation,
    TargetInvalid,
    TargetUnavailable,
)
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract, wait_until
from headrace.testing.sink_suite import Faulty
from headrace.testing.sink_types import comparable

MANY = 10_000
LONG = "a name of more than twenty characters"
PASSWORD = "not-for-anyone"


class DatabaseSink(ABC):
    """The suite; statements are those that all databases understand."""

    connector: ClassVar[type[Connector]]
    code: ClassVar[str]
    """What the connector's codes begin with."""

    @abstractmethod
    def options(self, folder: Path) -> dict[str, Any]:
        """Options for a table `target` that is this test's own."""

    @abstractmethod
    def read(self, folder: Path) -> pa.Table:
        """All rows of that table."""

    @abstractmethod
    def execute(self, folder: Path, statement: str) -> None:
        """Run a statement where the table `target` is."""

    @abstractmethod
    def end_sessions(self, folder: Path) -> None:
        """End the connector's sessions, as an administrator does."""

    @abstractmethod
    def session(self, folder: Path) -> AbstractContextManager[Any]:
        """A session of its own, a DB-API connection without autocommit, where the table `target` is."""

    @abstractmethod
    def wrong_password(self) -> dict[str, Any]:
        """Options with a password `PASSWORD` that the server does not accept."""

    @pytest.fixture
    def stage(self, tmp_path: Path) -> Iterator[Stage]:
        stage = Stage(tmp_path, order_contract())
        yield stage
        stage.close()

    def config(self, folder: Path, mode: Mode = Mode.UPSERT, **more: Any) -> EgressConfig:
        values: dict[str, Any] = {
            "name": "out",
            "topic": TOPIC,
            "connector": "under-test",
            "mode": mode,
            "options": {**self.options(folder), **more.pop("options", {})},
            "batch": {"rows_max": 50, "age_max_ms": 20},
            "retry": {"first_ms": 1, "max_ms": 20},
            # A server may take longer to come back than ten attempts do.
            "breaker": {"failures_max": 10_000},
            **more,
        }
        return EgressConfig.model_validate(values)

    def opened(self, stage: Stage, config: EgressConfig) -> Connector:
        """A connector, opened for partition 0."""
        parts = self.parts(stage, config)
        parts[0].open(parts[1], parts[2], [0])
        return parts[0]

    def parts(self, stage: Stage, config: EgressConfig) -> tuple[Connector, ConnectorConfig, Contract]:
        target = stage.runner(self.connector(), config).target
        return target.connector, target.config, target.contract

    def raised(self, runner: EgressRunner, stop: threading.Event) -> BaseException | None:
        """What the egress ends with."""
        try:
            runner.run(stop)
        except HeadraceError as error:
            return error
        return None

    def amounts(self, folder: Path) -> dict[int, Any]:
        return {row["id"]: row["amount"] for row in comparable(self.read(folder))}

    def make_table(self, folder: Path, *more: str) -> None:
        columns = ["id bigint NOT NULL PRIMARY KEY", "customer varchar(20)", "amount double precision", *more]
        self.execute(folder, f"CREATE TABLE target ({', '.join(columns)})")

    def test_one_bad_row_of_many_costs_few_attempts(
        self, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A value too long among 10,000: it alone is refused, by halves; the column keeps its length."""
        self.make_table(tmp_path)
        connector = self.opened(stage, self.config(tmp_path))
        attempts: list[int] = []
        apply = connector._apply  # type: ignore[attr-defined]

        def counted(session: Any, table: Any, batch: EgressBatch) -> None:
            attempts.append(len(batch))
            apply(session, table, batch)

        monkeypatch.setattr(connector, "_apply", counted)
        rows = [order(number) if number != 7_777 else {**order(number), "customer": LONG} for number in range(MANY)]
        (refused,) = connector.write(batch_of(rows), {0: MANY})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (7_777, f"{self.code}.value")
        assert "too long" in refused.message.lower()
        assert LONG not in refused.message
        assert len(attempts) <= 2 * math.ceil(math.log2(MANY)) + 1
        assert set(self.amounts(tmp_path)) == set(range(MANY)) - {7_777}

    def test_what_a_constraint_refuses_is_a_dead_letter_alone(self, stage: Stage, tmp_path: Path) -> None:
        """A second unique key that clashes: the row goes to the dead letters with the server's reason, and no other row
        is changed for it."""
        self.make_table(tmp_path, "UNIQUE (customer)")
        rows = [{**order(number), "customer": f"number {number}"} for number in range(20)]
        stage.publish([*rows, {**order(100), "customer": "number 3"}])
        config = self.config(tmp_path)
        stage.deliver(self.connector(), config)
        assert comparable(self.read(tmp_path)) == expected(rows)
        (dead,) = stage.records(config.dead_letter_topic)
        assert header(dead, "headrace.error.code") == f"{self.code}.constraint"
        assert header(dead, "headrace.error.stage") == "deliver"

    def test_a_bad_row_leaves_what_came_before_of_its_key(self, stage: Stage, tmp_path: Path) -> None:
        """Two rows of a key in one batch, the second refused: the target holds the first."""
        self.make_table(tmp_path)
        connector = self.opened(stage, self.config(tmp_path))
        refused = connector.write(batch_of([order(1), order(2), {**order(1, 5.0), "customer": LONG}]), {0: 3})
        connector.flush()
        connector.close()
        assert [each.row for each in refused] == [2]
        assert self.amounts(tmp_path) == {1: "1.0", 2: "2.0"}

    def test_wrong_password_stops(self, stage: Stage, tmp_path: Path) -> None:
        """It is no use to try again; the message does not tell the password."""
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid) as caught:
            stage.deliver(self.connector(), self.config(tmp_path, options=self.wrong_password()))
        assert PASSWORD not in str(caught.value)
        assert PASSWORD not in repr(caught.value.__cause__)

    def test_an_address_that_cannot_be_read_is_not_repeated(
        self, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable holds something else than an address, a password maybe: no message shows it."""
        monkeypatch.setenv("SHOP_DATABASE", f"{PASSWORD} word")
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid) as caught:
            stage.deliver(self.connector(), self.config(tmp_path, options={"database": "${SHOP_DATABASE}"}))
        assert PASSWORD not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_missing_table_stops_where_none_may_be_made(self, stage: Stage, tmp_path: Path) -> None:
        """`create: false`."""
        self.execute(tmp_path, "CREATE TABLE other (id bigint)")
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid, match="no table"):
            stage.deliver(self.connector(), self.config(tmp_path, options={"create": False}))

    def test_a_check_changes_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """`headrace egress validate`: what fits says nothing, what does not says why; no table, no positions, no column
        is made."""
        connector, config, contract = self.parts(stage, self.config(tmp_path, options={"version_column": "seen"}))
        assert isinstance(connector, Checks)
        assert not connector.check(config, contract)
        self.execute(tmp_path, "CREATE TABLE target (id bigint NOT NULL PRIMARY KEY)")
        assert not connector.check(config, contract)
        assert self.read(tmp_path).column_names == ["id"]
        # Neither would do if it were there already.
        self.execute(tmp_path, "CREATE TABLE _headrace_positions (id bigint)")
        self.execute(tmp_path, "ALTER TABLE target ADD COLUMN amount date")
        with pytest.raises(DriftRefused, match="amount"):
            connector.check(config, contract)

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ("id bigint, customer varchar(20), amount double precision", "no primary key of id"),
            ("id bigint UNIQUE, customer varchar(20), amount double precision", "no primary key of id"),
            ("id bigint NOT NULL PRIMARY KEY, region integer NOT NULL", "'region' must have a value"),
        ],
    )
    def test_a_table_that_cannot_take_the_rows_stops(
        self, stage: Stage, tmp_path: Path, columns: str, reason: str
    ) -> None:
        """No unique key to write by, or one that takes nulls; a column that must have a value and gets none."""
        self.execute(tmp_path, f"CREATE TABLE target ({columns})")
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid, match=reason):
            stage.deliver(self.connector(), self.config(tmp_path))

    def test_a_dropped_column_comes_back(self, stage: Stage, tmp_path: Path) -> None:
        """Somebody drops a column while the egress runs: it is added again, and no row is lost."""
        stage.publish([order(1)])
        runner = stage.runner(self.connector(), self.config(tmp_path))
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first row")
            self.execute(tmp_path, "ALTER TABLE target DROP COLUMN amount")
            stage.publish([order(2), order(3)])
            wait_until(lambda: stage.is_delivered(runner), "the others")
        assert self.amounts(tmp_path) == {1: None, 2: "2.0", 3: "3.0"}

    def test_a_column_of_another_type_stops(self, stage: Stage, tmp_path: Path) -> None:
        """Somebody changes a type to one that the contract's values do not fit: nothing is written, and it says why."""
        stage.publish([order(1)])
        runner = stage.runner(self.connector(), self.config(tmp_path))
        stop = threading.Event()
        thread = threading.Thread(target=lambda: caught.append(self.raised(runner, stop)))
        caught: list[BaseException | None] = []
        thread.start()
        try:
            wait_until(lambda: stage.is_delivered(runner), "the first row")
            self.execute(tmp_path, "ALTER TABLE target DROP COLUMN amount")
            self.execute(tmp_path, "ALTER TABLE target ADD COLUMN amount date")
            stage.publish([order(2)])
            wait_until(lambda: bool(caught), "the end")
        finally:
            stop.set()
            thread.join()
        assert isinstance(caught[0], DriftRefused)
        assert "amount" in str(caught[0])
        assert self.amounts(tmp_path) == {1: None}

    def test_a_narrowed_column_is_widened_before_a_row_is_written(self, stage: Stage, tmp_path: Path) -> None:
        """Somebody gives a column a type into which the server would round in silence: no value is rounded."""
        stage.publish([order(1)])
        runner = stage.runner(self.connector(), self.config(tmp_path))
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first row")
            self.execute(tmp_path, "ALTER TABLE target DROP COLUMN amount")
            self.execute(tmp_path, "ALTER TABLE target ADD COLUMN amount integer")
            stage.publish([order(2, 2.5)])
            wait_until(lambda: stage.is_delivered(runner), "the second")
        assert self.amounts(tmp_path) == {1: None, 2: "2.5"}

    def test_a_dropped_table_is_made_again(self, stage: Stage, tmp_path: Path) -> None:
        """What was in it is gone with it; what comes goes into a new one."""
        stage.publish([order(1)])
        runner = stage.runner(self.connector(), self.config(tmp_path))
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "the first row")
            self.execute(tmp_path, "DROP TABLE target")
            stage.publish([order(2)])
            wait_until(lambda: stage.is_delivered(runner), "the second")
        assert self.amounts(tmp_path) == {2: "2.0"}

    @pytest.mark.parametrize("moment", ["written", "flushing"])
    def test_a_session_that_is_ended_delivers_again(self, stage: Stage, tmp_path: Path, moment: str) -> None:
        """An administrator ends the session between write and commit: every row is there once."""
        rows = [order(number) for number in range(60)]
        stage.publish(rows)
        left = [2]

        def end(now: str) -> None:
            if now == moment and left[0]:
                left[0] -= 1
                self.end_sessions(tmp_path)

        runner = stage.deliver(Faulty(self.connector(), end), self.config(tmp_path, Mode.APPEND))
        assert runner.counters.retries == 2
        assert comparable(self.read(tmp_path)) == expected(rows)

    def test_a_deadlock_is_tried_again(self, stage: Stage, tmp_path: Path) -> None:
        """Two sessions that wait for each other's rows: the server ends one; the egress delivers in the end."""
        self.make_table(tmp_path)
        connector = self.opened(stage, self.config(tmp_path))
        connector.write(batch_of([order(1), order(2)]), {0: 2})
        connector.flush()
        with self.session(tmp_path) as other:
            cursor = other.cursor()
            cursor.execute("UPDATE target SET customer = 'other' WHERE id = 2")
            # Heavy, so that a server that looks at the work done ends the other one.
            values = ", ".join(f"({number}, 'x', 0)" for number in range(1_000, 3_000))
            cursor.execute(f"INSERT INTO target VALUES {values}")
            connector.write(batch_of([order(1, 10.0)]), {0: 3})
            waiting = threading.Thread(
                target=lambda: cursor.execute("UPDATE target SET customer = 'other' WHERE id = 1")
            )
            waiting.start()
            with pytest.raises(TargetUnavailable, match=r"(?i)deadlock"):
                connector.write(batch_of([order(2, 20.0)]), {0: 4})
            connector.close()
            waiting.join(30.0)
            other.commit()
        stage.publish([order(1, 10.0), order(2, 20.0)])
        stage.deliver(self.connector(), self.config(tmp_path, name="again"))
        assert {number: self.amounts(tmp_path)[number] for number in (1, 2)} == {1: "10.0", 2: "20.0"}

    def test_a_stale_row_changes_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """`version_column`: rows and deletions from before what the target holds are left out; equal ones are not."""
        config = self.config(tmp_path, Mode.REPLICATE, options={"version_column": "seen"})
        connector = self.opened(stage, config)
        connector.write(batch_of([order(number, 5.0) for number in (1, 2, 3)], version=[10, 10, 10]), {0: 3})
        late = batch_of([order(1, 4.0), order(2, 6.0), order(3)], version=[9, 10, 9], deletes=[2])
        assert not connector.write(late, {0: 6})
        connector.flush()
        connector.close()
        assert self.amounts(tmp_path) == {1: "5.0", 2: "6.0", 3: "5.0"}

    def test_values_that_nobody_told_stay(self, stage: Stage, tmp_path: Path) -> None:
        """Unchanged columns of a change are left alone; where there is no row they are null."""
        connector = self.opened(stage, self.config(tmp_path))
        connector.write(batch_of([order(1), order(2)]), {0: 2})
        rows = [{**order(number, 50.0), "customer": None} for number in (1, 3)]
        unknown = {"customer": np.array([True, True, False])}
        connector.write(batch_of([*rows, order(2, 60.0)], unavailable=unknown), {0: 5})
        connector.flush()
        connector.close()
        found = {row["id"]: (row["customer"], row["amount"]) for row in comparable(self.read(tmp_path))}
        assert found == {1: ("customer 1", "50.0"), 2: ("customer 2", "60.0"), 3: (None, "50.0")}

    def test_a_truncation_empties_the_table(self, stage: Stage, tmp_path: Path) -> None:
        """Rows from before it go, staged ones too; newer ones of another partition stay."""
        config = self.config(tmp_path, Mode.REPLICATE, options={"version_column": "seen"})
        connector = self.opened(stage, config)
        connector.write(batch_of([order(1), order(2)], version=[1, 30]), {0: 2})
        connector.flush()
        rows = [order(3), order(0), order(4)]
        assert not connector.write(batch_of(rows, version=[19, 20, 21], truncates=[1]), {0: 5})
        connector.flush()
        connector.close()
        assert self.amounts(tmp_path) == {2: "2.0", 4: "4.0"}

    def test_a_truncation_needs_versions(self, stage: Stage, tmp_path: Path) -> None:
        """Without them it is refused, and the rows around it arrive."""
        connector = self.opened(stage, self.config(tmp_path, Mode.REPLICATE))
        rows = [order(1), order(0), {**order(2)}]
        (refused,) = connector.write(batch_of(rows, truncates=[1]), {0: 3})
        connector.flush()
        connector.close()
        assert (refused.row, refused.code) == (1, f"{self.code}.truncate")
        assert self.amounts(tmp_path) == {1: "1.0", 2: "2.0"}

    def test_a_version_column_of_the_contracts_name_stops(self, stage: Stage, tmp_path: Path) -> None:
        """Both would write it."""
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid, match="version_column"):
            stage.deliver(self.connector(), self.config(tmp_path, options={"version_column": "amount"}))


def batch_of(
    rows: Sequence[Mapping[str, Any]],
    *,
    version: Sequence[int] | None = None,
    deletes: Sequence[int] = (),
    truncates: Sequence[int] = (),
    unavailable: Mapping[str, Any] | None = None,
) -> EgressBatch:
    """Orders of partition 0; `deletes` and `truncates` are indexes of rows."""
    count = len(rows)
    operation = np.zeros(count, np.int8)
    operation[list(deletes)] = Operation.DELETE
    operation[list(truncates)] = Operation.TRUNCATE
    schema = pa.schema([each.with_nullable(True) for each in to_arrow(order_contract().schema)])
    return EgressBatch(
        rows=pa.Table.from_pylist([dict(row) for row in rows], schema=schema),
        key=("id",),
        operation=operation,
        partition=np.zeros(count, np.int32),
        offset=np.arange(count, dtype=np.int64),
        timestamp_ms=np.zeros(count, np.int64),
        version=np.arange(count, dtype=np.int64) if version is None else np.array(version, np.int64),
        unavailable=unavailable or {},
    )


def expected(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """These orders, for comparison."""
    return comparable(pa.Table.from_pylist([dict(row) for row in rows], schema=to_arrow(order_contract().schema)))
