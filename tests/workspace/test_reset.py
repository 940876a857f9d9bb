"""`reset`: a pipeline computes everything again, one step gives its state up, and both are undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.restore import read_until
from headrace.engine.settings import WorkerSettings
from headrace.engine.worker import PipelineWorker
from headrace.log.port import TopicPartition
from headrace.workspace.apply import apply_plan
from headrace.workspace.components import components
from headrace.workspace.control import DesiredState, open_control
from headrace.workspace.environment import Environment, connect
from headrace.workspace.errors import PipelineRunning, PlanRefused, ResetUnfinished, UnknownName
from headrace.workspace.fleet import order
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import make_plan
from headrace.workspace.reading import Decoder, Start, read_topic
from headrace.workspace.reset import ResetTargetInvalid, Target, parse_target, plan_reset
from headrace.workspace.reset_journal import KEPT_MAX, Phase, ResetUnreadable
from headrace.workspace.resetting import NothingToUndo, Resetter
from headrace.workspace.runtime import Runtime
from headrace.workspace.status import read_statuses

from .conftest import WriteWorkspace

TABLE = '''
import headrace as hr


@hr.pipeline(owner="shop")
def totals():
    """Revenue of each customer."""
    return hr.stream("orders").group_by("customer").agg(orders=hr.count({column})).to("customers.revenue")
'''
ORDER = '{{"order_id": "{n}", "customer": "c{c}", "amount": 1.5, "placed_at": "2024-05-01T08:00:00Z"}}'


class Shop:
    """A workspace, published to and run in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def opened(self) -> tuple[Workspace, Environment]:
        workspace = load(self.folder)
        return workspace, connect(workspace.file, workspace.contracts, None).__enter__()

    def publish(self, numbers: range) -> None:
        from headrace.ingress.batch_publisher import BatchPublisher
        from headrace.ingress.files import publish_file

        workspace, environment = self.opened()
        apply_plan(make_plan(workspace, environment), workspace, environment)
        lines = self.folder / "orders.jsonl"
        lines.write_text("\n".join(ORDER.format(n=n, c=n % 3) for n in numbers))
        with BatchPublisher(environment, name="test") as publisher:
            publish_file(publisher, "orders", lines)

    def run(self, until: Callable[[PipelineWorker], bool]) -> None:
        workspace, environment = self.opened()
        apply_plan(make_plan(workspace, environment), workspace, environment)
        worker = PipelineWorker(
            workspace.pipelines[0],
            contracts=workspace.topics,
            registry=environment.registry,
            log=environment.log,
            settings=WorkerSettings(workspace=workspace.name, instance="one"),
        )
        stop, failed = threading.Event(), []

        def work() -> None:
            try:
                worker.run(stop)
            except Exception as error:  # noqa: BLE001 - raised again below
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 10
        try:
            while not failed and not until(worker):
                assert time.monotonic() < deadline, worker.status()
                time.sleep(0.05)
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]


@pytest.fixture
def shop(write_workspace: WriteWorkspace) -> Shop:
    shop = Shop(write_workspace(**{"pipelines/totals.py": TABLE.replace("{column}", "")}))
    shop.publish(range(30))
    shop.run(lambda worker: worker.status().state_keys == 3 and worker.status().commits > 1)
    return shop


def resetter(shop: Shop, **options: Any) -> Resetter:
    workspace, environment = shop.opened()
    return Resetter(workspace, environment, "totals", **options)


def orders_counted(shop: Shop) -> dict[str, int]:
    """The newest row of each customer in the output table."""
    workspace, environment = shop.opened()
    decoder = Decoder(workspace.topics["customers.revenue"], environment.registry)
    rows = [row for rows in read_topic(environment.log, "customers.revenue", decoder, start=Start()) for row in rows]
    return {row.value["customer"]: row.value["orders"] for row in rows}  # type: ignore[index, call-overload, misc]


Held = dict[str, list[tuple[int, bytes | None, bytes | None]]]


def held(shop: Shop) -> tuple[Held, set[TopicPartition]]:
    """What lies in the internal topics, rows processed already left out; and where the group stands."""
    _, environment = shop.opened()
    log = environment.log
    with closing(log.admin()) as admin:
        committed = admin.group_offsets("shop.totals")
        names = [name for name in admin.topics() if name.endswith((".changelog", ".repartition"))]
    found: Held = {}
    for name in names:
        here = [TopicPartition(name, number) for number in range(2)]
        with closing(log.consumer()) as consumer:
            ends = consumer.end_offsets(here)
            starts = {
                **consumer.beginning_offsets(here),
                **{each: committed[each].offset for each in here if each in committed},
            }
        rows = [
            (int(batch.partition[row]), batch.key[row].as_py(), batch.value[row].as_py())
            for batch in read_until(log, ends, lambda count: None, starts)
            for row in range(len(batch))
        ]
        found[name] = sorted(rows, key=lambda row: row[0])
    return found, set(committed)


class Fleet:
    """The workspace's components in this process, following the control topic."""

    def __init__(self, shop: Shop) -> None:
        workspace, environment = shop.opened()
        self.control = open_control(environment).watching()
        chosen = components(workspace, environment, "host-0", control=self.control)
        self.runtime = Runtime(workspace.root, environment.name, "host-0", chosen, wanted=self.control.wanted)
        self.thread = threading.Thread(target=self.runtime.run)

    def __enter__(self) -> Fleet:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.stop.set()
        self.thread.join(20)
        self.control.close()
        assert not self.thread.is_alive()


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def state_of(shop: Shop) -> str:
    return next((each.state.value for each in read_statuses(shop.folder)), "none")


def test_everything_is_computed_again(shop: Shop) -> None:
    """A changed step refuses its old state; after a reset the pipeline reads its sources from the beginning, into a
    changelog that is another topic."""
    (shop.folder / "pipelines/totals.py").write_text(TABLE.replace("{column}", '"amount"'))
    with pytest.raises(Exception, match="another form of step"):
        shop.run(lambda worker: False)
    _, environment = shop.opened()
    with closing(environment.log.admin()) as admin:
        before = admin.topics()["totals.aggregate_customer.changelog"]
        folder, journal = resetter(shop).reset(Target())
        after = admin.topics()["totals.aggregate_customer.changelog"]
    assert before.topic_id != after.topic_id
    assert (before.partitions, dict(before.config)) == (after.partitions, dict(after.config))
    assert [each.name for each in journal.remade] == ["totals.aggregate_customer.changelog"]
    assert (journal.phase, folder.parent.parent.name) == (Phase.DONE, "dev")
    shop.run(lambda worker: worker.status().records_in >= 30 and worker.status().state_keys == 3)


def test_one_step_begins_anew_where_the_pipeline_stands(shop: Shop) -> None:
    """`--step`: positions stay, the step's state goes."""
    _, journal = resetter(shop).reset(Target(step="aggregate_customer"))
    assert journal.positions is None
    shop.publish(range(30, 31))
    shop.run(lambda worker: worker.status().records_in < 10 and worker.status().state_keys == 1)


def test_who_does_not_stop_is_left_alone(shop: Shop) -> None:
    """A member that follows no orders is seen wherever it runs: nothing is changed, and the order is taken back."""

    def refused(worker: PipelineWorker) -> bool:
        if worker.status().state != "running" or not worker.status().tasks:
            return False
        before = held(shop)[1]
        with pytest.raises(PipelineRunning, match="has members"):
            resetter(shop, stop_timeout_s=0.3).reset(Target())
        assert held(shop)[1] == before
        assert resetter(shop).kept() == []
        _, environment = shop.opened()
        with open_control(environment) as control:
            assert control.desired("pipeline", "totals").state is DesiredState.RUNNING
        return True

    shop.run(refused)


def test_unknown_names_are_told(shop: Shop) -> None:
    """A wrong pipeline or step ends with what is known."""
    workspace, environment = shop.opened()
    with pytest.raises(UnknownName, match="no pipeline 'total'"):
        plan_reset(workspace, environment, "total", Target())
    with pytest.raises(UnknownName, match="no state of a step 'aggregate'"):
        resetter(shop).reset(Target(step="aggregate"))
    assert resetter(shop).kept() == []


@pytest.mark.parametrize("before", [DesiredState.RUNNING, DesiredState.PAUSED])
def test_a_running_pipeline_is_stopped_and_goes_on(shop: Shop, before: DesiredState) -> None:
    """Its workers follow the order, and afterwards work, or stand still, as before; the results are written again."""
    workspace, environment = shop.opened()
    with Fleet(shop):
        order(workspace, environment, ["totals"], before, reason="test")
        until(lambda: state_of(shop) == before.value)
        resetter(shop).reset(Target())
        until(lambda: state_of(shop) == before.value)
        with closing(environment.log.admin()) as admin:
            if before is DesiredState.RUNNING:
                until(lambda: bool(admin.group_offsets("shop.totals")))
            else:
                here = admin.group_offsets("shop.totals")
                assert not any(kept.offset for place, kept in here.items() if place.topic == "orders")
                order(workspace, environment, ["totals"], DesiredState.RUNNING, reason="test")
        shop.publish(range(30, 33))
        until(lambda: orders_counted(shop) == {"c0": 11, "c1": 11, "c2": 11})


def test_a_reset_to_offsets_and_to_a_time(shop: Shop) -> None:
    """Positions are set as asked; partitions that are not named stay. What is not there is refused."""
    workspace, environment = shop.opened()
    with closing(environment.log.admin()) as admin:
        before = admin.group_offsets("shop.totals")
        here, other = TopicPartition("orders", 0), TopicPartition("orders", 1)
        resetter(shop).reset(parse_target(None, None, "orders:0=3"))
        after = admin.group_offsets("shop.totals")
        assert {each: after[each].offset for each in after} == {here: 3, other: before[other].offset}
        resetter(shop).reset(parse_target(None, "2099-01-01T00:00:00Z", None))
        ends = admin.end_offsets([here, other])
        assert {each: kept.offset for each, kept in admin.group_offsets("shop.totals").items()} == ends
    for wrong, match in (("orders:0=9999", "is not there"), ("orders:7=0", "reads no partition"), ("o=1", "no offset")):
        with pytest.raises(ResetTargetInvalid, match=match):
            plan_reset(workspace, environment, "totals", parse_target(None, None, wrong))
    with pytest.raises(ResetTargetInvalid, match="no time"):
        parse_target(None, "latest", None)


def test_an_undo_brings_back_state_and_positions(shop: Shop) -> None:
    """Whatever the pipeline computed since: its topics and positions are as they were, and it counts on from there."""
    before = held(shop)
    resetter(shop).reset(Target(time_ms=4_000_000_000_000))
    shop.publish(range(30, 36))
    shop.run(lambda worker: worker.status().state_keys == 3)
    assert orders_counted(shop) == {"c0": 2, "c1": 2, "c2": 2}
    _, journal = resetter(shop).undo()
    assert journal.phase is Phase.UNDONE
    assert held(shop) == before
    shop.run(lambda worker: worker.status().state_keys == 3 and orders_counted(shop) == {"c0": 12, "c1": 12, "c2": 12})
    with pytest.raises(NothingToUndo):
        resetter(shop).undo()


def test_rows_between_steps_come_back_where_they_were(shop: Shop) -> None:
    """Rows that were not processed yet lie at other offsets after an undo; the position moves with them."""
    _, environment = shop.opened()
    here = TopicPartition("totals.repartition_customer.repartition", 0)
    with closing(environment.log.admin()) as admin:
        (topic,) = [name for name in admin.topics() if name.endswith(".repartition")]
        positions = {each: kept for each, kept in admin.group_offsets("shop.totals").items() if each.topic == topic}
        back = {each: kept._replace(offset=0, metadata="") for each, kept in positions.items()}
        # As if nothing of them were processed.
        admin.alter_group_offsets("shop.totals", back)
        before = held(shop)
        assert len(before[0][topic]) > 0
        resetter(shop).reset(Target())
        resetter(shop).undo()
        moved = {each: kept.offset for each, kept in admin.group_offsets("shop.totals").items() if each.topic == topic}
    assert held(shop) == before
    assert all(offset > 0 for offset in moved.values()), here


class Crash(BaseException):
    """As a killed process: nothing catches it."""


CHANGES = ("delete_topics", "create_topics", "delete_records", "alter_group_offsets", "delete_group")


class Crashing:
    """An environment's log whose admin dies at a numbered change, before or after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.changes = at, after, 0

    def on(self, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        make = environment.log.admin

        def admin() -> Any:
            made = make()
            for name in CHANGES:
                monkeypatch.setattr(made, name, self._counted(getattr(made, name)))
            return made

        monkeypatch.setattr(environment.log, "admin", admin)

    def _counted(self, call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            self.changes += 1
            if self.changes == self.at and not self.after:
                raise Crash
            call(*arguments)
            if self.changes == self.at:
                raise Crash

        return counted


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("undo", [False, True])
def test_a_crash_anywhere_is_finished_or_undone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, undo: bool, after: bool
) -> None:
    """At every change of a reset the process dies; the same command again ends where an undisturbed one does, and
    `--undo` where it began. In between the pipeline is stopped, and cannot be resumed."""
    workspace, environment = shop.opened()
    before, at = held(shop), 0
    while True:
        at += 1
        crashing, dying = Crashing(at, after=after), resetter(shop)
        crashing.on(dying.environment, monkeypatch)
        try:
            dying.reset(Target())
        except Crash:
            pass
        else:
            break
        if resetter(shop).broke_off():
            with pytest.raises(ResetUnfinished):
                order(workspace, environment, ["totals"], DesiredState.RUNNING, reason="test")
            with pytest.raises(ResetUnfinished):
                resetter(shop).reset(Target(step="aggregate_customer"))
        elif undo:
            continue
        if undo:
            resetter(shop).undo()
            assert held(shop) == before, at
        else:
            resetter(shop).reset(Target())
            assert held(shop)[1] == set()
            resetter(shop).undo()
            assert held(shop) == before, at
        with open_control(environment) as control:
            assert control.desired("pipeline", "totals").state is DesiredState.RUNNING
    assert at > 4


def test_a_crash_in_an_undo_is_finished(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every change of an undo the process dies; `reset` or `reset --undo` again ends it."""
    before, at = held(shop), 0
    while True:
        at += 1
        resetter(shop).reset(Target())
        crashing, dying = Crashing(at, after=False), resetter(shop)
        crashing.on(dying.environment, monkeypatch)
        try:
            dying.undo()
        except Crash:
            assert resetter(shop).broke_off()
            if at % 2:
                resetter(shop).undo()
            else:
                resetter(shop).reset(Target())
            assert held(shop) == before, at
        else:
            break
    assert at > 4
    assert held(shop) == before


def test_damage_is_seen_before_anything_changes(shop: Shop) -> None:
    """A copy with a flipped byte, or a journal with another text, is refused by its checksum."""
    folder, _ = resetter(shop).reset(Target())
    before = held(shop)
    copy = next(folder.glob("*.changelog.arrows"))
    raw = bytearray(copy.read_bytes())
    raw[len(raw) // 2] ^= 1
    copy.write_bytes(raw)
    with pytest.raises(ResetUnreadable, match="damaged"):
        resetter(shop).undo()
    assert held(shop) == before
    journal = folder / "reset.json"
    journal.write_text(journal.read_text().replace('"offset": ', '"offset": 1'))
    with pytest.raises(ResetUnreadable, match="checksum"):
        resetter(shop).undo()


def test_a_reset_of_another_machine_is_not_meddled_with(shop: Shop) -> None:
    """The order to stop tells who gave it; only with a word of its own another machine begins anew."""
    _, environment = shop.opened()
    with open_control(environment) as control:
        control.set_desired("pipeline", "totals", "stopped", reason="headrace reset on elsewhere, 20260101T000000Z")
        with pytest.raises(ResetUnfinished, match="elsewhere"):
            resetter(shop).reset(Target())
        resetter(shop, take_over=True).reset(Target())
        assert control.desired("pipeline", "totals").state is DesiredState.RUNNING


def test_few_resets_are_kept(shop: Shop) -> None:
    """The newest ones; each can be undone after the one behind it."""
    for _ in range(KEPT_MAX + 2):
        resetter(shop).reset(Target())
    kept = resetter(shop).kept()
    assert len(kept) == KEPT_MAX
    resetter(shop).undo()
    assert [journal.phase for _, journal in resetter(shop).kept()][-2:] == [Phase.DONE, Phase.UNDONE]


@pytest.mark.parametrize("undo", [False, True])
def test_a_reset_that_changed_nothing_is_called_off(shop: Shop, monkeypatch: pytest.MonkeyPatch, undo: bool) -> None:
    """Killed while it waited for workers, or copied: `--undo` lets the pipeline go on and touches nothing else, an
    earlier reset neither; the same command again begins anew."""
    workspace, environment = shop.opened()
    resetter(shop).reset(Target())
    before, first = held(shop), resetter(shop).kept()[0][0]
    dying = resetter(shop)
    monkeypatch.setattr(Resetter, "_copied", lambda *_: (_ for _ in ()).throw(Crash))
    monkeypatch.setattr(Resetter, "_go_on", lambda *_: False)
    with pytest.raises(Crash):
        dying.reset(Target())
    monkeypatch.undo()
    with pytest.raises(ResetUnfinished):
        order(workspace, environment, ["totals"], DesiredState.RUNNING, reason="test")
    if undo:
        resetter(shop).undo()
        assert [folder for folder, _ in resetter(shop).kept()] == [first]
    else:
        resetter(shop).reset(Target())
        assert [journal.phase for _, journal in resetter(shop).kept()] == [Phase.DONE, Phase.DONE]
    assert held(shop) == before
    with open_control(environment) as control:
        assert control.desired("pipeline", "totals").state is DesiredState.RUNNING


def test_a_source_that_grew(shop: Shop) -> None:
    """State of fewer partitions stops the pipeline; a reset makes everything as wide as the sources are now."""
    _, environment = shop.opened()
    with closing(environment.log.admin()) as admin:
        admin.add_partitions("orders", 3)
        with pytest.raises(PlanRefused, match="run `headrace reset totals`"):
            shop.run(lambda worker: False)
        resetter(shop).reset(Target())
        widths = {name: topic.partitions for name, topic in admin.topics().items() if name.startswith("totals.")}
    assert widths["totals.aggregate_customer.changelog"] == 3
    shop.publish(range(30, 33))
    shop.run(lambda worker: orders_counted(shop) == {"c0": 11, "c1": 11, "c2": 11})
