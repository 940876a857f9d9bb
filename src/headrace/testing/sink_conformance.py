"""The one suite that every connector passes.

A connector's test module subclasses `SinkConformance`:

    class TestPostgresSink(SinkConformance):
        connector = PostgresConnector

        def options(self, folder: Path) -> dict[str, Any]: ...
        def read(self, folder: Path) -> pa.Table: ...

- Declared capabilities choose the tests: those that need more are not collected.
- The connector runs under the real runner, on a real log, against a real target.
- A connector that says `atomic_positions` must hold each row exactly once after every crash; any other at least once,
  and in a keyed mode the right rows all the same.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.contracts.arrow import to_arrow
from headrace.contracts.contract import TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.egress.config import EgressConfig
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import EgressBatch, Mode, PositionMoved, TargetUnavailable
from headrace.testing import sink_child
from headrace.testing.sink_changes import ChangeTests
from headrace.testing.sink_disturbances import DisturbanceTests
from headrace.testing.sink_harness import ORDER, TOPIC, WORKSPACE, Stage, header, order, order_contract, wait_until
from headrace.testing.sink_kills import IS_LONG, survive_kills
from headrace.testing.sink_rewinds import RewindTests
from headrace.testing.sink_suite import Crash, Faulty, SinkSuite, needs
from headrace.testing.sink_tasks import TaskTests
from headrace.testing.sink_trials import TrialTests
from headrace.testing.sink_types import comparable, every_type_contract, every_type_rows

KILL_ROWS = 500
KILL_AFTER_MAX = 200
"""Records that a process has committed when it is killed; all processes of a mode together leave some to the last."""


class SinkConformance(ChangeTests, DisturbanceTests, RewindTests, TaskTests, TrialTests, SinkSuite):
    """All that is asked of a connector."""

    @needs(lambda can: Mode.APPEND in can.modes)
    def test_append_writes_every_record(self, stage: Stage, tmp_path: Path) -> None:
        """Mode append: one row for each record, records of the same key too, over many flushes and partitions."""
        rows = [order(number % 100, amount=number) for number in range(300)]
        stage.publish(rows)
        stage.deliver(self.connector(), self.config(tmp_path, Mode.APPEND))
        found = self.rows(tmp_path)
        assert Counter(row["amount"] for row in found) == Counter(repr(float(number)) for number in range(300))

    @needs(lambda can: Mode.UPSERT in can.modes)
    def test_upsert_holds_the_latest_row_of_each_key(self, stage: Stage, tmp_path: Path) -> None:
        """Mode upsert: the last of several records of a key wins, in one batch and across flushes; deletions stay."""
        stage.publish([order(number % 10, amount=number) for number in range(95)])
        stage.deliver(self.connector(), self.config(tmp_path, Mode.UPSERT))
        stage.publish([order(3, amount=1000.0)])
        stage.delete([{"id": 4}])
        runner = stage.deliver(self.connector(), self.config(tmp_path, Mode.UPSERT))
        latest = {number % 10: order(number % 10, amount=number) for number in range(95)} | {3: order(3, amount=1000.0)}
        assert self.rows(tmp_path) == self.expected(list(latest.values()))
        assert runner.counters.deletions_skipped == 1

    @needs(lambda can: Mode.REPLICATE in can.modes)
    def test_replicate_deletes_by_key(self, stage: Stage, tmp_path: Path) -> None:
        """Mode replicate: a tombstone removes its row, even in the batch that made it; a later row brings it back."""
        stage.publish([order(number) for number in range(20)])
        stage.delete([{"id": number} for number in (1, 2, 3, 99)])
        stage.deliver(self.connector(), self.config(tmp_path, Mode.REPLICATE))
        assert self.rows(tmp_path) == self.expected([order(number) for number in range(20) if number not in (1, 2, 3)])
        stage.publish([order(2, amount=22.0)])
        stage.delete([{"id": 5}])
        stage.deliver(self.connector(), self.config(tmp_path, Mode.REPLICATE))
        kept = [order(number) for number in range(20) if number not in (1, 2, 3, 5)]
        assert self.rows(tmp_path) == self.expected([*kept, order(2, amount=22.0)])

    @needs(lambda can: Mode.REPLICATE in can.modes)
    def test_replicate_follows_changes_of_a_database(self, tmp_path: Path) -> None:
        """Envelopes of a `change` topic: snapshot, create, update, a changed key, a deletion with empty `before`."""
        stage = Stage(tmp_path, order_contract(TopicKind.CHANGE))
        stage.publish_changes(
            [
                ("r", None, order(1)),
                ("r", None, order(2)),
                ("c", None, order(3)),
                ("u", order(1), order(1, amount=10.0)),
                ("d", order(2), None),
                ("d", {"id": 3, "customer": "", "amount": None}, None),
                ("c", None, order(30)),
            ]
        )
        stage.deliver(self.connector(), self.config(tmp_path, Mode.REPLICATE), stage.contract)
        assert self.rows(tmp_path) == self.expected([order(1, amount=10.0), order(30)])
        stage.close()

    @pytest.mark.parametrize("moment", ["opened", "written", "flushing", "flushed"])
    def test_crash_at_any_moment_loses_nothing(self, stage: Stage, tmp_path: Path, moment: str) -> None:
        """A process that dies after opening, writing, before or after a flush: the next one completes the rows."""
        rows = [order(number) for number in range(120)]
        stage.publish(rows)
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            with pytest.raises(Crash):
                stage.deliver(Faulty(self.connector(), _crash_at(moment, call=2 if moment != "opened" else 1)), config)
            stage.deliver(self.connector(), config)
            self.check_rows(folder, mode, rows)

    def test_kill_at_random_moments_loses_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """Processes killed with SIGKILL while they flush: the target ends with the rows of an undisturbed run."""
        rows = [order(number) for number in range(KILL_ROWS)]
        for mode in self.modes():
            folder = tmp_path / mode.value
            more = {"batch": {"rows_max": 7, "age_max_ms": 5}, "name": f"out-{mode.value}"}
            config = self.config(folder, mode, **more)
            if mode is self.modes()[0]:
                stage.publish(rows)
            for _ in range(self.kills):
                self.start_and_kill(stage, config)
            stage.deliver(self.connector(), self.config(folder, mode, name=f"out-{mode.value}"))
            self.check_rows(folder, mode, rows)

    @needs(lambda _: IS_LONG)
    @pytest.mark.timeout(1_800)
    def test_ten_kills_during_100_000_changes(self, tmp_path: Path) -> None:
        """SIGKILL while rows, updates and deletions come in: the target equals the source in the end."""
        print(survive_kills(self, tmp_path))

    def test_delivery_twice_changes_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """Forgotten group offsets: with atomic positions no row comes twice; a keyed mode gives the same rows again."""
        rows = [order(number) for number in range(120)]
        stage.publish(rows)
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            stage.deliver(self.connector(), config)
            stage.forget_offsets(config)
            stage.deliver(self.connector(), config)
            self.check_rows(folder, mode, rows)

    def test_poison_records_stay_alone(self, stage: Stage, tmp_path: Path) -> None:
        """Records that no codec reads go to the dead-letter topic with their bytes; all others arrive."""
        rows = [order(number) for number in range(40)]
        stage.publish(rows[:20])
        stage.produce_raw([b"\x00\xff", b"not avro at all"], stage.keys(rows[:2]))
        stage.publish(rows[20:])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode)
        stage.deliver(self.connector(), config)
        self.check_rows(tmp_path, mode, rows)
        dead = stage.records(config.dead_letter_topic)
        assert sorted(record.value or b"" for record in dead) == [b"\x00\xff", b"not avro at all"]
        assert {header(record, "headrace.error.stage") for record in dead} == {"decode"}
        assert {header(record, "headrace.error.topic") for record in dead} == {TOPIC}

    @needs(lambda can: can.alters_table)
    def test_added_column_appears(self, stage: Stage, tmp_path: Path) -> None:
        """A column that the contract gains is there for new rows and null in old ones."""
        stage.publish([order(1)])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode)
        stage.deliver(self.connector(), config)
        wider = order_contract(schema=_with_field({"name": "note", "type": ["null", "string"], "default": None}))
        stage.publish([{**order(2), "note": "new"}], contract=wider)
        stage.deliver(self.connector(), config, wider)
        found = {row["id"]: row.get("note") for row in self.rows(tmp_path)}
        assert found == {1: None, 2: "new"}

    @needs(lambda can: can.alters_table and can.modes != frozenset({Mode.APPEND}))
    def test_widened_and_renamed_columns_keep_their_values(self, stage: Stage, tmp_path: Path) -> None:
        """A float that becomes double, and a field renamed with an alias: old values stay under the new definition."""
        narrow = order_contract(schema=_with_field({"name": "rate", "type": "float"}))
        stage.publish([{**order(1), "rate": 0.5}], contract=narrow)
        config = self.config(tmp_path, Mode.UPSERT)
        stage.deliver(self.connector(), config, narrow)
        wide = order_contract(schema=_with_field({"name": "share", "aliases": ["rate"], "type": "double"}))
        stage.publish([{**order(2), "share": 0.1}], contract=wide)
        stage.deliver(self.connector(), config, wide)
        assert {row["id"]: row["share"] for row in self.rows(tmp_path)} == {1: "0.5", 2: "0.1"}

    @needs(lambda can: can.alters_table and can.modes != frozenset({Mode.APPEND}))
    def test_refused_drift_stops_with_a_reason(self, stage: Stage, tmp_path: Path) -> None:
        """`drift: {add: refuse}`: a new column stops the egress, names the column, and changes nothing."""
        stage.publish([order(1)])
        stage.deliver(self.connector(), self.config(tmp_path, Mode.UPSERT))
        wider = order_contract(schema=_with_field({"name": "note", "type": ["null", "string"], "default": None}))
        stage.publish([{**order(2), "note": "new"}], contract=wider)
        config = self.config(tmp_path, Mode.UPSERT, drift={"add": "refuse"})
        with pytest.raises(DriftRefused, match="note"):
            stage.deliver(self.connector(), config, wider)
        assert self.rows(tmp_path) == self.expected([order(1)])

    def test_unavailable_target_is_tried_again(self, stage: Stage, tmp_path: Path) -> None:
        """A target that fails now and then, in every call: all rows arrive, and retries are counted."""
        rows = [order(number) for number in range(120)]
        stage.publish(rows)
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            runner = stage.deliver(Faulty(self.connector(), _fail_often()), config)
            assert runner.counters.retries >= 1
            self.check_rows(folder, mode, rows)

    @needs(lambda can: can.atomic_positions)
    def test_open_returns_what_was_flushed(self, stage: Stage, tmp_path: Path) -> None:
        """Positions come from the target: of flushed rows, of the asked partitions, not of staged rows."""
        stage.publish([order(number) for number in range(60)])
        mode = self.modes()[0]
        stage.deliver(self.connector(), self.config(tmp_path, mode))
        runner = stage.runner(self.connector(), self.config(tmp_path, mode))
        connector, config, contract = self.opened_parts(runner)
        assert dict(connector.open(config, contract, [0, 1, 2])) == stage.ends()
        connector.close()
        assert set(connector.open(config, contract, [1])) == {1}
        connector.close()

    @needs(lambda can: can.atomic_positions)
    def test_second_process_is_found_out(self, stage: Stage, tmp_path: Path) -> None:
        """Two connectors that deliver the same offsets: the slower one's flush raises `PositionMoved`, no row twice."""
        mode = self.modes()[0]
        parts = [self.opened_parts(stage.runner(self.connector(), self.config(tmp_path, mode))) for _ in range(2)]
        batch = _batch([order(number) for number in range(3)])
        for connector, config, contract in parts:
            assert not connector.open(config, contract, [0])
            assert not connector.write(batch, {0: 3})
        parts[0][0].flush()
        with pytest.raises(PositionMoved):
            parts[1][0].flush()
        for connector, _, _ in parts:
            connector.close()
        assert self.rows(tmp_path) == self.expected([order(number) for number in range(3)])

    def test_close_drops_what_is_staged(self, stage: Stage, tmp_path: Path) -> None:
        """`close` without `flush`, twice: no row unless `write` sends, no position, and the connector opens again."""
        mode = self.modes()[0]
        connector, config, contract = self.opened_parts(stage.runner(self.connector(), self.config(tmp_path, mode)))
        connector.open(config, contract, [0])
        connector.write(_batch([order(1)]), {0: 1})
        connector.close()
        connector.close()
        assert not connector.open(config, contract, [0])
        connector.write(_batch([order(2)], first_offset=1), {0: 2})
        connector.flush()
        connector.close()
        sent = [] if connector.capabilities.stages else [order(1)]
        assert self.rows(tmp_path) == self.expected([*sent, order(2)])

    def test_every_avro_type_arrives_unchanged(self, tmp_path: Path) -> None:
        """Each Avro type at its edges, and nulls: what the target gives back is what was published."""
        stage = Stage(tmp_path, every_type_contract(TOPIC))
        stage.publish(every_type_rows(not_a_number=self.holds_not_a_number))
        stage.deliver(self.connector(), self.config(tmp_path, self.modes()[0]), stage.contract)
        records = [record.value for record in stage.records(TOPIC)]
        assert self.rows(tmp_path) == comparable(_decoded(stage, records))
        stage.close()

    def start_and_kill(self, stage: Stage, config: EgressConfig) -> None:
        """Run the egress in a process and kill it some time after its first commit."""
        factory = self.connector
        name = f"{factory.__module__}:{factory.__qualname__}"
        text = sink_child.arguments(stage.log_path, name, config, stage.contract)
        with closing(stage.log.admin()) as admin:

            def committed() -> int:
                return sum(each.offset for each in admin.group_offsets(config.group(WORKSPACE)).values())

            before = committed()
            due = min(sum(stage.ends().values()), before + random.Random(before).randint(1, KILL_AFTER_MAX))
            child = subprocess.Popen([sys.executable, "-m", "headrace.testing.sink_child", text])
            try:
                wait_until(lambda: committed() >= due or child.poll() is not None, "the child commits")
            finally:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()


def _crash_at(moment: str, *, call: int) -> Callable[[str], None]:
    seen: Counter[str] = Counter()

    def fault(now: str) -> None:
        seen[now] += 1
        if now == moment and seen[now] == call:
            raise Crash

    return fault


def _fail_often() -> Callable[[str], None]:
    """Every third call fails, then that of each moment in turn, ten times in all."""
    seen: Counter[str] = Counter()
    left = [10]

    def fault(now: str) -> None:
        seen[now] += 1
        if seen[now] % 3 == 2 and left[0]:
            left[0] -= 1
            raise TargetUnavailable(f"not just now ({now})")

    return fault


def _with_field(field: Mapping[str, Any]) -> dict[str, Any]:
    return {**ORDER, "fields": [*ORDER["fields"], dict(field)]}


def _batch(rows: Sequence[Mapping[str, Any]], *, first_offset: int = 0) -> EgressBatch:
    count = len(rows)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=to_arrow(order_contract().schema))
    return EgressBatch(
        rows=table,
        key=("id",),
        operation=np.zeros(count, np.int8),
        partition=np.zeros(count, np.int32),
        offset=np.arange(first_offset, first_offset + count, dtype=np.int64),
        timestamp_ms=np.zeros(count, np.int64),
        version=np.arange(count, dtype=np.int64),
    )


def _decoded(stage: Stage, values: Sequence[bytes | None]) -> pa.Table:
    codec = open_codec(stage.contract.schema, stage.registry, f"{TOPIC}-value")
    decoded = codec.decode(pa.array(values, pa.large_binary()))
    assert not decoded.failed, decoded.failed
    return decoded.table
