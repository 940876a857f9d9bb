"""Worker processes die, stand still, are too slow or come twice: topics and tables stay exact, and the work goes on.

One broker and one scene for all tests that leave both well: each applies its faults under load and ends with a verdict.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.harness import wait_until
from tests.faults import workers
from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.catalogue import named, put_up_with
from tests.faults.scene import Scene, open_scene
from tests.faults.verdict import Topics

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-workers"),
    pytest.mark.timeout(240),
]

SESSION_S = 3.0
BROKER = {
    "group.consumer.session.timeout.ms": str(int(SESSION_S * 1000)),
    "group.consumer.heartbeat.interval.ms": "300",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """With short sessions: a dead member is missed soon."""
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka", BROKER) as broker:
        yield broker


@pytest.fixture(scope="module")
def shared_scene(broker: OwnBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two workers, each in a fleet of its own, with short times: what is slow is soon too slow."""
    with open_scene(
        tmp_path_factory.mktemp("workers") / "scene",
        broker.bootstrap,
        workers=1,
        variables=workers.SHORT_TIMES_VARIABLES,
        resources={**broker.resources, "session_s": SESSION_S},
    ) as scene:
        scene.start(1)
        yield scene
        if scene.is_well:
            scene.finish()


def rows_out(scene: Scene) -> int:
    """What the last worker of the only slot wrote for one of the pipelines."""
    (found,) = [each for each in scene.statuses() if each.name == scene.names.pipelines[1]]
    return found.records_out


def test_kill_in_a_batch(scene: Scene) -> None:
    """kill -9 while a batch is being processed, its transaction open."""
    put_up_with(scene, "kill -9 in a batch")


def test_kill_before_offsets(scene: Scene) -> None:
    """kill -9 when everything is produced and no position was sent."""
    put_up_with(scene, "kill -9 after produce, before offsets")


def test_kill_between_offsets_and_commit(scene: Scene) -> None:
    """kill -9 when positions were sent and not yet committed: they are pending on the broker."""
    put_up_with(scene, "kill -9 between offsets and commit")


def test_kill_after_the_commit(scene: Scene) -> None:
    """kill -9 of a worker that never hears that its commit is done: the next one must not do it again."""
    put_up_with(scene, "kill -9 after the commit was sent")


def test_commit_answered_late(scene: Scene) -> None:
    """The commit's answer does not come in time, five times: it is asked for again, not guessed, and not aborted."""
    put_up_with(scene, *["commit answered late"] * 5)
    taken = [each for each in scene.events("taken") if each["point"] == "late_reply"]
    assert len(taken) == 5


def test_kills_at_any_moment(scene: Scene) -> None:
    """One worker, then all of them at once, while the first ones are not yet back."""
    put_up_with(scene, "kill -9 at any moment", "kill -9 of all workers", "kill -9 at any moment")


def test_the_supervisor_is_killed(scene: Scene) -> None:
    """Its workers drain by themselves and leave nothing behind."""
    put_up_with(scene, "kill -9 of the supervisor")


def test_stopped_past_its_session(scene: Scene) -> None:
    """SIGSTOP with records produced, until others have its partitions, then SIGCONT: it is fenced, writes nothing."""
    pid = scene.arm("stop_before_offsets").wait(workers.POINT_TIMEOUT_S)
    workers._resume_later(scene, pid)
    scene.settle()
    assert scene.events("lost", pid), "no partition was lost: the worker was not away for long enough"


def test_stopped_before_its_commit(scene: Scene) -> None:
    """SIGSTOP with positions sent: nobody goes past them until the transaction is decided, one way or the other."""
    put_up_with(scene, "SIGSTOP past the session, before the commit")


def test_partitions_lost_not_revoked(scene: Scene) -> None:
    """A member that was given up by its group drops its partitions without committing, and joins again."""
    before = len(scene.events("lost"))
    put_up_with(scene, "SIGSTOP past the session, at any moment")
    assert len(scene.events("lost")) > before


def test_a_batch_longer_than_the_poll_interval(scene: Scene) -> None:
    """The client leaves the group behind the worker's back; what the worker was at is given up and done again."""
    before = len(scene.events("lost")) + len(scene.events("revoked"))
    put_up_with(scene, "batch longer than max.poll.interval.ms")
    assert len(scene.events("lost")) + len(scene.events("revoked")) > before


def test_a_transaction_held_beyond_its_timeout(scene: Scene) -> None:
    """The broker aborts it: the worker is fenced, makes a new producer and does the work again."""
    put_up_with(scene, "transaction timeout")


def test_two_processes_with_one_transactional_id(scene: Scene) -> None:
    """They fence each other for as long as both run, and nothing comes twice; the one that stays recovers."""
    put_up_with(scene, "two processes with one transactional id")
    assert "was replaced by a newer one" in scene.log_tail(10_000_000), "nobody was fenced: the fault did not happen"


def test_rebalance_in_a_transaction(scene: Scene) -> None:
    """A worker joins and leaves while transactions are open: what was in hand is committed before it is handed over."""
    put_up_with(scene, "rebalance in a transaction")
    assert any(each["in_transaction"] for each in scene.events("revoked")), "no revocation met an open transaction"


def test_one_to_three_to_one(scene: Scene) -> None:
    """Workers come and go under load."""
    put_up_with(scene, "workers 1 to 3 to 1")


def test_sigterm_in_a_batch(broker: OwnBroker, tmp_path: Path) -> None:
    """The worker finishes the batch, commits, leaves, ends with 0; the next one does nothing again."""
    with open_scene(tmp_path / "scene", broker.bootstrap, workers=1) as scene:
        scene.settle()
        scene.arm("term_in_batch").wait()
        (fleet,) = scene.fleets
        assert fleet.process.wait(60) == 0
        scene.fleets.remove(fleet)
        before = rows_out(scene)
        scene.start(1)
        scene.settle(then_go_on=False)
        topics = Topics(scene.environment, scene.workspace)
        outputs = ("orders.enriched", "customers.totals")
        committed = sum(topics.rows(scene.names.topic(output)).height for output in outputs)
        # The status lags behind by a second. It counts what was written, committed or not.
        wait_until(lambda: before + rows_out(scene) >= committed, "the status tells of every row")
        assert before + rows_out(scene) == committed, "rows were written again after a drain"
        scene.finish()


def test_at_least_once_repeats_and_loses_nothing(broker: OwnBroker, tmp_path: Path) -> None:
    """Without transactions, workers killed: every row is there, perhaps more than once, and none is made up."""
    with open_scene(tmp_path / "scene", broker.bootstrap, delivery="at_least_once") as scene:
        generator = random.Random(3)
        for name in ("kill -9 in a batch", "kill -9 at any moment"):
            named(name).apply(scene, generator)
            scene.settle()
        scene.finish()
