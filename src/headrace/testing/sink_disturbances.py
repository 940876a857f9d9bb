"""What is asked of connectors when others get in the way.

Owns the tests of a second member of the group, a slow target and bad rows among many; `sink_conformance` has them
among all others.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from headrace.testing.sink_harness import SESSION_TIMEOUT_MS, TOPIC, Stage, header, order, wait_until
from headrace.testing.sink_suite import Faulty, SinkSuite, needs

POISON_ROWS = 2_000


class DisturbanceTests(SinkSuite):
    """Everything arrives all the same."""

    @needs(suite=lambda suite: suite.shares_target)
    def test_second_member_takes_partitions_over(self, stage: Stage, tmp_path: Path) -> None:
        """Another member joins while the first delivers, then the first leaves: each partition goes on where it was,
        and what is delivered twice on the way changes nothing."""
        rows = [order(number) for number in range(240)]
        stage.publish(rows[:80])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode, batch={"rows_max": 10, "age_max_ms": 5})
        first, second = (stage.runner(self.connector(), config) for _ in range(2))
        with stage.running(second):
            with stage.running(first):
                wait_until(
                    lambda: all(len(each.status().positions) > 0 for each in (first, second)), "both have partitions"
                )
                stage.publish(rows[80:160])
            stage.publish(rows[160:])
            wait_until(lambda: stage.is_delivered(second), "everything delivered")
        self.check_rows(tmp_path, mode, rows)

    def test_slow_target_stays_in_the_group(self, stage: Stage, tmp_path: Path) -> None:
        """A flush that takes longer than the session of a dead member: nobody takes the partitions away."""
        seen: Counter[str] = Counter()

        def slow(moment: str) -> None:
            seen[moment] += 1
            if moment == "flushing" and seen[moment] == 1:
                time.sleep(1.2 * SESSION_TIMEOUT_MS / 1_000)

        rows = [order(number) for number in range(60)]
        stage.publish(rows)
        mode = self.modes()[0]
        runner = stage.deliver(Faulty(self.connector(), slow), self.config(tmp_path, mode))
        self.check_rows(tmp_path, mode, rows)
        assert seen["opened"] == 1
        assert runner.counters.retries == 0

    def test_one_bad_record_among_many_stays_alone(self, stage: Stage, tmp_path: Path) -> None:
        """A large batch with a record that nobody can read: that one alone is missing."""
        rows = [order(number) for number in range(POISON_ROWS)]
        stage.publish(rows[:1_000])
        stage.produce_raw([b"?"], stage.keys(rows[:1]))
        stage.publish(rows[1_000:])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode, batch={"rows_max": 10_000, "age_max_ms": 500})
        stage.deliver(self.connector(), config)
        self.check_rows(tmp_path, mode, rows)
        assert [record.value for record in stage.records(config.dead_letter_topic)] == [b"?"]

    @needs(suite=lambda suite: suite.poison is not SinkSuite.poison)
    def test_one_refused_row_among_many_stays_alone(self, stage: Stage, tmp_path: Path) -> None:
        """A row that the target does not take goes to the dead letters with the target's reason, and alone."""
        poison = self.poison()
        assert poison is not None
        rows = [order(number) for number in range(POISON_ROWS)]
        stage.publish([*rows[:1_000], poison, *rows[1_000:]])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode, batch={"rows_max": 10_000, "age_max_ms": 500})
        stage.deliver(self.connector(), config)
        self.check_rows(tmp_path, mode, rows)
        (dead,) = stage.records(config.dead_letter_topic)
        assert header(dead, "headrace.error.stage") == "deliver"
        assert header(dead, "headrace.error.topic") == TOPIC
        assert header(dead, "headrace.error.message")
