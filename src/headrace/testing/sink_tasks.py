"""What is asked of connectors that several tasks may use at the same time.

Owns the test of `Capabilities.parallel`; `sink_conformance` has it among all others.
"""

from __future__ import annotations

from pathlib import Path

from headrace.testing.sink_harness import Stage, order, wait_until
from headrace.testing.sink_kills import committed, process
from headrace.testing.sink_suite import SinkSuite, needs

TASK_ROWS = 400


class TaskTests(SinkSuite):
    """Several at once are as good as one."""

    @needs(lambda can: can.parallel)
    def test_tasks_share_the_partitions(self, stage: Stage, tmp_path: Path) -> None:
        """Two tasks in a process that is killed, then two in this one that another member joins and leaves while rows
        come: both work, and the rows are those of one runner that nobody disturbs."""
        rows = [order(number) for number in range(TASK_ROWS)]
        stage.publish(rows[:200])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode, tasks=2, batch={"rows_max": 7, "age_max_ms": 5})
        with process(self, stage, config) as child:
            wait_until(lambda: committed(stage, config) > 20 or child.poll() is not None, "the process commits")
            assert child.poll() is None, "the process ended by itself"
        tasks, other = stage.tasks(self.connector, config), stage.runner(self.connector(), config)
        with stage.running(tasks):
            wait_until(lambda: all(each.status().positions for each in tasks.runners), "both have partitions")
            stage.publish(rows[200:300])
            with stage.running(other):
                wait_until(lambda: len(other.status().positions) > 0, "another member has partitions")
                stage.publish(rows[300:350])
            stage.publish(rows[350:])
            wait_until(lambda: stage.is_delivered(tasks), "everything delivered")
        self.check_rows(tmp_path, mode, rows)
        assert all(each.counters.flushes for each in tasks.runners)
