"""`reset`: a pipeline computes everything again, or one step gives its state up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.engine.settings import WorkerSettings
from headrace.engine.worker import PipelineWorker
from headrace.log.port import GroupNotEmpty
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.errors import UnknownName
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import make_plan
from headrace.workspace.reset import carry_out, plan_reset

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


def test_everything_is_computed_again(shop: Shop) -> None:
    """A changed step refuses its old state; after a reset the pipeline reads its sources from the beginning."""
    (shop.folder / "pipelines/totals.py").write_text(TABLE.replace("{column}", '"amount"'))
    with pytest.raises(Exception, match="another form of step"):
        shop.run(lambda worker: False)
    workspace, environment = shop.opened()
    planned = plan_reset(workspace, environment, "totals", None)
    assert planned.group == "shop.totals"
    assert "totals.aggregate_customer.changelog" in planned.emptied
    carry_out(planned, environment)
    shop.run(lambda worker: worker.status().records_in >= 30 and worker.status().state_keys == 3)


def test_one_step_begins_anew_where_the_pipeline_stands(shop: Shop) -> None:
    """`--step`: positions stay, the step's state goes."""
    workspace, environment = shop.opened()
    carry_out(plan_reset(workspace, environment, "totals", "aggregate_customer"), environment)
    shop.publish(range(30, 31))
    shop.run(lambda worker: worker.status().records_in < 10 and worker.status().state_keys == 1)


def test_a_running_pipeline_is_left_alone(shop: Shop) -> None:
    """Members of the group are seen wherever they run."""

    def refused(worker: PipelineWorker) -> bool:
        if worker.status().state != "running" or not worker.status().tasks:
            return False
        workspace, environment = shop.opened()
        with pytest.raises(GroupNotEmpty):
            plan_reset(workspace, environment, "totals", None)
        return True

    shop.run(refused)


def test_unknown_names_are_told(shop: Shop) -> None:
    """A wrong pipeline or step ends with what is known."""
    workspace, environment = shop.opened()
    with pytest.raises(UnknownName, match="no pipeline 'total'"):
        plan_reset(workspace, environment, "total", None)
    with pytest.raises(UnknownName, match="no state of a step 'aggregate'"):
        plan_reset(workspace, environment, "totals", "aggregate")
