"""Orders to components at work, through the control topic."""

from __future__ import annotations

from pathlib import Path

from headrace.workspace.control import DesiredState
from headrace.workspace.fleet import order, wait_followed
from headrace.workspace.status import ComponentState, ComponentStatus, read_statuses

from .conftest import WriteWorkspace
from .test_reset import TABLE, Fleet, Shop, orders_counted, until

EGRESS = """
topic: orders
connector: parquet
mode: append
options:
  path: {path}
"""


def status_of(shop: Shop, name: str) -> ComponentStatus | None:
    return next((each for each in read_statuses(shop.folder) if each.name == name), None)


def delivered(shop: Shop) -> int:
    status = status_of(shop, "archive")
    return 0 if status is None else status.records_in


def test_an_egress_and_a_pipeline_stand_still_alone(write_workspace: WriteWorkspace, tmp_path: Path) -> None:
    """A paused egress delivers nothing while the pipeline goes on, and all of it when it is resumed."""
    files = {
        "pipelines/totals.py": TABLE.replace("{column}", ""),
        "egress/archive.yaml": EGRESS.format(path=tmp_path / "out"),
    }
    shop = Shop(write_workspace(**files))
    shop.publish(range(3))
    workspace, environment = shop.opened()

    def say(name: str, state: DesiredState) -> None:
        ordered = order(workspace, environment, [name], state, reason="test")
        assert wait_followed(environment, ordered, 20) == []

    with Fleet(shop):
        until(lambda: delivered(shop) == 3)
        say("archive", DesiredState.PAUSED)
        status = status_of(shop, "archive")
        assert status is not None
        assert status.state is ComponentState.PAUSED
        shop.publish(range(3, 6))
        until(lambda: orders_counted(shop) == {"c0": 2, "c1": 2, "c2": 2})
        assert delivered(shop) == 3
        say("totals", DesiredState.PAUSED)
        say("archive", DesiredState.RUNNING)
        shop.publish(range(6, 9))
        until(lambda: delivered(shop) == 9)
        assert orders_counted(shop) == {"c0": 2, "c1": 2, "c2": 2}
        say("totals", DesiredState.RUNNING)
        until(lambda: orders_counted(shop) == {"c0": 3, "c1": 3, "c2": 3})
